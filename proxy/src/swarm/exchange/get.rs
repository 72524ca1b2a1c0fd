//! Getting one piece from one peer: its statement is checked first, its bytes are hashed while they are written, and
//! every wait has an end.

use std::{net::SocketAddr, time::Duration};

use super::super::{
    frame::{self, Answer, FrameError, Request, code},
    pool::{AskError, Pool},
};
use crate::{
    oci::digest::Digest,
    store::{
        PieceWriter, StoreError,
        piece::{Layout, Statement},
    },
};
use bytes::Bytes;
use fixedbitset::FixedBitSet;
use iroh::{
    EndpointId,
    endpoint::{ReadError, ReadExactError},
};

/// How much is gathered before a thread that may wait for the disk hashes and writes it, in bytes.
const BATCH: usize = 256 << 10;
/// How much is hashed and written at once: what stays in a processor's cache.
const PORTION: usize = 64 << 10;
/// Datagrams' worth of bytes taken from a stream at once.
const CHUNKS: usize = 64;
/// How long a peer that is watched may have nothing new; then the watch is not worth its stream.
const QUIET: Duration = Duration::from_secs(600);
/// A peer slower than this, in bytes per second, is no help and gets none.
pub const SLOWEST: u64 = 128 << 10;

/// Why a piece did not come.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GetError {
    /// The peer cannot be reached or went away.
    #[error("the peer is gone")]
    Gone,
    /// The members found that the peer is gone, or it has started again.
    #[error("the peer has left")]
    Left,
    /// The peer was silent for too long, or far too slow.
    #[error("the peer stalled")]
    Stall,
    /// The bytes are not those of the statement.
    #[error("the bytes are not what was stated")]
    Corrupt,
    /// The statement is about something else or not signed, or the answer makes no sense.
    #[error("the peer lied")]
    Lied,
    /// The peer has too many others in line.
    #[error("the peer is busy")]
    Busy,
    /// The peer does not have the piece.
    #[error("the peer has not got it")]
    NotHere,
    /// The piece was stated by a node whose pieces were wrong before.
    #[error("the piece comes from a node in quarantine")]
    Quarantined,
    /// Our own store failed; no peer is to blame.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<AskError> for GetError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Busy => Self::Busy,
            AskError::Unreachable | AskError::Connection(_) => Self::Gone,
            AskError::Frame(error) => error.into(),
        }
    }
}

impl From<FrameError> for GetError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Late => Self::Stall,
            FrameError::TooLong(_) | FrameError::Malformed => Self::Lied,
            // A reset overtakes what was sent before it, so it may be seen here as well as among the bytes.
            FrameError::Read(ReadExactError::ReadError(error)) => error.into(),
            FrameError::Read(_) | FrameError::Write(_) => Self::Gone,
        }
    }
}

impl From<ReadError> for GetError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Reset(reset) if reset == code::CORRUPT.into() => Self::Corrupt,
            ReadError::Reset(reset) if reset == code::TOO_SLOW.into() => Self::Stall,
            ReadError::Reset(reset) if reset == code::BUSY.into() => Self::Busy,
            _ => Self::Gone,
        }
    }
}

/// Tells `has` which pieces `peer` has of a blob, and again whenever it has more, until it has all, `has` says no more, or
/// it has nothing of it.
pub(crate) async fn follow<F: Future<Output = bool>>(
    pool: &Pool,
    peer: SocketAddr,
    blob: Digest,
    layout: Layout,
    has: impl Fn(FixedBitSet) -> F,
) -> Result<(), GetError> {
    let mut reply = pool.open(peer, &Request::Watch(blob)).await?;
    let mut patience = frame::FRAME_DEADLINE;
    loop {
        let received = tokio::select! {
            received = frame::receive(&mut reply.stream, patience) => received,
            () = pool.left(peer) => return Err(GetError::Left),
        };
        let pieces = match received {
            Ok(Answer::Map(Some(pieces))) if pieces.size == layout.size() => pieces.to_set().ok_or(GetError::Lied)?,
            Ok(Answer::Map(None)) => return Err(GetError::NotHere),
            Ok(Answer::Map(Some(_))) => FixedBitSet::with_capacity(layout.count() as usize),
            Ok(_) => return Err(GetError::Lied),
            // It said all that it will say.
            Err(FrameError::Read(ReadExactError::FinishedEarly(0))) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if !has(pieces).await {
            return Ok(());
        }
        // A peer that dies is noticed by its connection.
        patience = QUIET;
    }
}

/// What is wanted of whom.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Want {
    /// Whom to ask.
    pub(crate) peer: SocketAddr,
    /// For a piece of which blob.
    pub(crate) blob: Digest,
    /// How it is cut.
    pub(crate) layout: Layout,
    /// Silence that counts as a stall.
    pub(crate) patience: Duration,
}

/// Fetches the piece of `writer` and finishes it; how many bytes came. Ends within the patience for each wait and, over
/// all, the time the piece takes at [`SLOWEST`]; at once when the members find that the peer is gone. `came` is told before
/// anybody can see the piece, and before it is known to be right.
pub(crate) async fn piece(
    pool: &Pool,
    want: Want,
    writer: PieceWriter,
    is_quarantined: impl Fn(&EndpointId) -> bool,
    came: impl FnOnce() + Send + 'static,
) -> Result<u64, GetError> {
    let length = writer.remaining();
    let limit = want.patience + Duration::from_secs(length / SLOWEST);
    let all = transfer(pool, want, writer, is_quarantined, came);
    tokio::select! {
        came = tokio::time::timeout(limit, all) => came.map_err(|_| GetError::Stall)??,
        // Its own silence might be a long line.
        () = pool.left(want.peer) => return Err(GetError::Left),
    }
    Ok(length)
}

async fn transfer(
    pool: &Pool,
    want: Want,
    mut writer: PieceWriter,
    is_quarantined: impl Fn(&EndpointId) -> bool,
    came: impl FnOnce() + Send + 'static,
) -> Result<(), GetError> {
    let (index, mut came) = (writer.index(), Some(came));
    let mut reply = pool.open(want.peer, &Request::Piece { blob: want.blob, index }).await?;
    let statement = match frame::receive(&mut reply.stream, want.patience).await? {
        Answer::Piece(Some(statement)) => statement,
        Answer::Piece(None) => return Err(GetError::NotHere),
        _ => return Err(GetError::Lied),
    };
    if is_quarantined(&check(&statement, want, index)?) {
        return Err(GetError::Quarantined);
    }
    let mut left = writer.remaining();
    let mut chunks = [const { Bytes::new() }; CHUNKS];
    while left > 0 {
        let (mut batch, mut length) = (Vec::new(), 0);
        while left > 0 && length < BATCH {
            let reading = tokio::time::timeout(want.patience, reply.stream.read_many_chunks(&mut chunks)).await;
            let count = reading.map_err(|_| GetError::Stall)??.ok_or(GetError::Lied)?;
            reply.came();
            for chunk in chunks.iter_mut().take(count).map(std::mem::take) {
                left = left.checked_sub(chunk.len() as u64).ok_or(GetError::Lied)?;
                length += chunk.len();
                batch.push(chunk);
            }
        }
        // Hashing and writing may wait for the disk; what arrives meanwhile waits in the stream's window.
        let (last, stated) = (came.take_if(|_| left == 0), statement.clone());
        let written = tokio::task::spawn_blocking(move || {
            write(&mut writer, batch)?;
            let Some(came) = last else { return Ok(Some(writer)) };
            came();
            writer.finish(&stated).map(|()| None)
        });
        match written.await.map_err(|_| GetError::Gone)? {
            Ok(Some(unfinished)) => writer = unfinished,
            Ok(None) => return Ok(()),
            Err(StoreError::WrongPiece { .. }) => return Err(GetError::Corrupt),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Writes what came in portions that stay in a processor's cache.
fn write(writer: &mut PieceWriter, batch: Vec<Bytes>) -> Result<(), StoreError> {
    let mut portion = Vec::with_capacity(PORTION);
    for chunk in batch {
        if portion.len() + chunk.len() > PORTION {
            writer.write(&portion)?;
            portion.clear();
        }
        portion.extend_from_slice(&chunk);
    }
    writer.write(&portion)
}

/// The statement is about the piece that was asked for and its sealer signed it; who that is.
fn check(statement: &Statement, want: Want, index: u32) -> Result<EndpointId, GetError> {
    if (statement.blob, statement.size, statement.index) != (want.blob, want.layout.size(), index) {
        return Err(GetError::Lied);
    }
    statement.verify().map_err(|_| GetError::Lied)
}
