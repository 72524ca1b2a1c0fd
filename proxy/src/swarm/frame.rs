//! What peers say to each other: postcard frames with a length before them, bounded before a byte is allocated, and a
//! deadline on each.
//!
//! One request per QUIC stream: a frame each way, and for a piece its bytes after the frame. New variants go to the end
//! of the enums; a change to an old one is a new ALPN.

mod member;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, ops::Range, time::Duration};

use fixedbitset::FixedBitSet;
use iroh::endpoint::{ReadExactError, RecvStream, SendStream, WriteError};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub(crate) use self::member::{Ask, Compare, Differ, Hello, MAX_NEWS, Word};
use super::order::{MAX_TEXT, Pulling};
use crate::{
    oci::digest::Digest,
    store::{
        MAX_NAME, Provenance,
        piece::{Layout, Statement},
    },
};

/// The protocol and its version.
pub(crate) const ALPN: &[u8] = b"waylay/swarm/2";
/// The longest frame, in bytes, without the four of its length.
pub(crate) const MAX_FRAME: usize = 64 << 10;
/// The most members of a cluster.
pub(crate) const MAX_MEMBERS: usize = 16_384;
/// The most providers in one answer.
pub(crate) const MAX_PROVIDERS: usize = 16;
/// The most provenance pairs told with one blob.
pub(crate) const MAX_TOLD: usize = 8;
/// The longest zone label, in bytes.
pub(crate) const MAX_ZONE: usize = 64;
/// The most blobs in one announcement.
pub(crate) const MAX_HOLDINGS: usize = 256;
/// How long a frame may take once it is due.
pub const FRAME_DEADLINE: Duration = Duration::from_secs(2);

/// Reset codes of a stream.
pub(crate) mod code {
    /// The bytes on disk are not what was stated about them; the sender noticed.
    pub(crate) const CORRUPT: u32 = 1;
    /// The request made no sense.
    pub(crate) const BAD_REQUEST: u32 = 2;
    /// The other side took too long.
    pub(crate) const TOO_SLOW: u32 = 3;
    /// Closing a connection that nobody uses.
    pub(crate) const IDLE: u32 = 4;
    /// The other side has more connections than one member needs.
    pub(crate) const TOO_MANY: u32 = 5;
    /// Too many wait in line already.
    pub(crate) const BUSY: u32 = 6;
    /// The other side is not a member.
    pub(crate) const STRANGER: u32 = 403;
}

/// What one node asks of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// About who is a member; answered by [`Answer::Member`].
    Member(Ask),
    /// To an owner: what the asker holds and no longer holds; answered by [`Answer::Noted`].
    Announce(Announce),
    /// To an owner: who has this? Answered by [`Answer::Located`].
    Query(Digest),
    /// Give me a piece; answered by [`Answer::Piece`] and its bytes.
    Piece {
        /// Of which blob.
        blob: Digest,
        /// Which piece.
        index: u32,
    },
    /// To an owner, again and again while a blob comes: what the asker has and takes of it, and may it take more from the
    /// registry? Answered by [`Answer::Joined`].
    Join(Join),
    /// Which pieces do you have, and tell me of each further one; answered by one [`Answer::Map`] after the other.
    Watch(Digest),
    /// Pull this image for yourself; answered by [`Answer::Pulling`] now and then until it is done.
    Pull(String),
}

/// The answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// About who is a member.
    Member(Word),
    /// The announcement is in the books. Carries the boot epoch of the owner: a new one means tell me everything again.
    Noted(u64),
    /// What is known of the blob; `None` when nothing is.
    Located(Option<Record>),
    /// The pieces held; `None` when there is nothing of the blob.
    Map(Option<Pieces>),
    /// The piece follows; `None` when it is not here.
    Piece(Option<Statement>),
    /// What the crowd's owner has for the asker; `None` when it will not have it in the crowd.
    Joined(Option<Joined>),
    /// How the pull that was asked for goes on.
    Pulling(Pulling),
}

/// One of a crowd that brings the same blob tells the owner how it stands. Everything is told each time, so an owner that
/// knows nothing yet knows all after one round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// Which blob.
    pub blob: Digest,
    /// Its length in bytes, by the manifest that lists it or the registry's own answer.
    pub size: u64,
    /// Held by the asker.
    pub held: Pieces,
    /// On the way to it by a lease.
    pub fetching: Pieces,
    /// Wanted, and with none of the asker's neighbours in its zone.
    pub unseen: Pieces,
    /// How the registry can be asked.
    pub registry: Reach,
    /// The asker's zone; empty where there are none.
    pub zone: String,
    /// How many neighbours it has in this crowd.
    pub neighbours: u16,
    /// By which registry's word it may have the blob. A crowd is of one registry: what that has never served is not given
    /// to those who have only its word.
    pub served_by: String,
    /// The boot epoch of the owner that answered it last, 0 for none: another one than ours means that there was a crowd
    /// before we knew of it.
    pub owner: u64,
}

/// Whether and how the asker can take pieces from the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reach {
    /// Not now: it has enough to do, or was refused.
    No,
    /// By ranges.
    Ranges {
        /// Bytes per second that its last leases came with, 0 before the first.
        rate: u64,
    },
    /// The registry ignores ranges and gives the whole only.
    Whole,
}

/// An owner's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// Take these from the registry.
    pub lease: Option<Range<u32>>,
    /// Take these from members in other zones.
    pub imports: Option<Range<u32>>,
    /// Further neighbours.
    pub neighbours: Vec<SocketAddr>,
    /// Ask again after so many milliseconds at the latest.
    pub again: u32,
    /// The owner's boot epoch.
    pub owner: u64,
}

/// Changes of what a node holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announce {
    /// Held now.
    pub held: Vec<Holding>,
    /// No longer held.
    pub gone: Vec<Digest>,
}

/// One blob that a node holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// Which.
    pub blob: Digest,
    /// Its whole length in bytes.
    pub size: u64,
    /// All of it, or a part that grows.
    pub complete: bool,
    /// Where a registry served it.
    pub provenance: Vec<Provenance>,
}

/// What an owner knows of a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its length in bytes, as its providers say.
    pub size: u64,
    /// Some that have it, wholly (`true`) or in part.
    pub providers: Vec<(SocketAddr, bool)>,
    /// Where registries served it.
    pub provenance: Vec<Provenance>,
}

/// A set of pieces of a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pieces {
    /// The blob's length in bytes; the number of pieces follows from it.
    pub size: u64,
    /// `None` for all of them, else one bit for each, lowest first.
    pub bits: Option<Vec<u64>>,
}

/// Why a frame did not come or go.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// Longer than any frame.
    #[error("a frame of {0} bytes was announced")]
    TooLong(u64),
    /// Not a frame of this protocol, or with more entries than allowed.
    #[error("a frame makes no sense")]
    Malformed,
    /// It did not come, or was not taken, in time.
    #[error("a frame took too long")]
    Late,
    /// The stream or connection ended.
    #[error("the connection ended: {0}")]
    Read(#[from] ReadExactError),
    /// The stream or connection ended.
    #[error("the connection ended: {0}")]
    Write(#[from] WriteError),
}

/// A frame that knows its bounds.
pub(crate) trait Bounded {
    /// Whether every list is as short as it has to be and every number sane.
    fn is_bounded(&self) -> bool;
}

impl Bounded for Request {
    fn is_bounded(&self) -> bool {
        match self {
            Self::Member(ask) => ask.is_bounded(),
            Self::Announce(announce) => {
                announce.held.len() <= MAX_HOLDINGS
                    && announce.gone.len() <= MAX_HOLDINGS
                    && announce.held.iter().all(Bounded::is_bounded)
            }
            Self::Query(_) | Self::Piece { .. } | Self::Watch(_) => true,
            Self::Pull(image) => image.len() <= MAX_TEXT,
            Self::Join(join) => {
                let fits = |pieces: &Pieces| pieces.size == join.size && pieces.to_set().is_some();
                let named = join.zone.len() <= MAX_ZONE && join.served_by.len() <= MAX_NAME;
                named && fits(&join.held) && fits(&join.fetching) && fits(&join.unseen)
            }
        }
    }
}

impl Bounded for Answer {
    fn is_bounded(&self) -> bool {
        match self {
            Self::Member(word) => word.is_bounded(),
            Self::Located(Some(record)) => {
                Layout::new(record.size).is_ok()
                    && record.providers.len() <= MAX_PROVIDERS
                    && are_told(&record.provenance)
            }
            Self::Map(Some(pieces)) => pieces.to_set().is_some(),
            Self::Joined(Some(joined)) => joined.neighbours.len() <= MAX_PROVIDERS,
            Self::Pulling(pulling) => pulling.is_bounded(),
            Self::Noted(_) | Self::Located(None) | Self::Map(None) | Self::Joined(None) | Self::Piece(_) => true,
        }
    }
}

impl Bounded for Holding {
    fn is_bounded(&self) -> bool {
        Layout::new(self.size).is_ok() && are_told(&self.provenance)
    }
}

fn are_told(provenance: &[Provenance]) -> bool {
    provenance.len() <= MAX_TOLD && provenance.iter().all(Provenance::is_bounded)
}

impl Pieces {
    /// All pieces of a blob.
    pub fn all(size: u64) -> Self {
        Self { size, bits: None }
    }

    /// These pieces of a blob.
    pub fn some(size: u64, set: &FixedBitSet) -> Self {
        let bits = (0..set.len().div_ceil(64))
            .map(|word| (0..64).fold(0, |bits, bit| bits | u64::from(set.contains(word * 64 + bit)) << bit))
            .collect();
        Self { size, bits: Some(bits) }
    }

    /// The set, as long as the blob has pieces; `None` when the message contradicts itself.
    pub fn to_set(&self) -> Option<FixedBitSet> {
        let count = Layout::new(self.size).ok()?.count() as usize;
        let mut set = FixedBitSet::with_capacity(count);
        match &self.bits {
            None => set.insert_range(..),
            Some(bits) if bits.len() == count.div_ceil(64) => {
                for index in 0..count {
                    set.set(index, bits[index / 64] >> (index % 64) & 1 == 1);
                }
            }
            Some(_) => return None,
        }
        Some(set)
    }
}

/// Sends one frame.
pub(crate) async fn send<T: Serialize>(stream: &mut SendStream, message: &T) -> Result<(), FrameError> {
    send_within(stream, message, FRAME_DEADLINE).await
}

/// Sends one frame that may wait for so long behind others.
pub(crate) async fn send_within<T: Serialize>(
    stream: &mut SendStream,
    message: &T,
    deadline: Duration,
) -> Result<(), FrameError> {
    let bytes = encode(message)?;
    tokio::time::timeout(deadline, stream.write_all(&bytes)).await.map_err(|_| FrameError::Late)??;
    Ok(())
}

/// Receives one frame, within `deadline`.
pub(crate) async fn receive<T: DeserializeOwned + Bounded>(
    stream: &mut RecvStream,
    deadline: Duration,
) -> Result<T, FrameError> {
    let read = async {
        let mut length = [0; 4];
        stream.read_exact(&mut length).await?;
        let length = bounded(length)?;
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).await?;
        decode(&bytes)
    };
    tokio::time::timeout(deadline, read).await.map_err(|_| FrameError::Late)?
}

fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let bytes = postcard::to_extend(message, vec![0; 4]).map_err(|_| FrameError::Malformed)?;
    let length = bytes.len() - 4;
    if length > MAX_FRAME {
        return Err(FrameError::TooLong(length as u64));
    }
    let mut bytes = bytes;
    bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(bytes)
}

fn bounded(length: [u8; 4]) -> Result<usize, FrameError> {
    let length = u32::from_le_bytes(length);
    if length as usize > MAX_FRAME {
        return Err(FrameError::TooLong(length.into()));
    }
    Ok(length as usize)
}

fn decode<T: DeserializeOwned + Bounded>(bytes: &[u8]) -> Result<T, FrameError> {
    match postcard::take_from_bytes::<T>(bytes) {
        Ok((message, [])) if message.is_bounded() => Ok(message),
        _ => Err(FrameError::Malformed),
    }
}

/// What a fuzzer does with a frame (`super::fuzz_frame`).
#[cfg(any(fuzzing, test))]
pub(super) fn fuzz(bytes: &[u8]) {
    fn again<T: Serialize + DeserializeOwned + Bounded + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
        let Ok(read) = decode::<T>(bytes) else { return };
        assert!(read.is_bounded());
        let again = encode(&read).ok().and_then(|written| decode::<T>(&written[4..]).ok());
        assert_eq!(again, Some(read), "what was read fits a frame, and is the same when it is read again");
    }
    if let Some((length, _)) = bytes.split_first_chunk::<4>() {
        assert!(
            bounded(*length).is_ok_and(|length| length <= MAX_FRAME)
                || u32::from_le_bytes(*length) as usize > MAX_FRAME
        );
    }
    if bytes.len() <= MAX_FRAME {
        again::<Request>(bytes);
        again::<Answer>(bytes);
    }
}
