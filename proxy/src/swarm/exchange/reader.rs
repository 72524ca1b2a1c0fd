//! Reading a piece to give it away: in chunks, hashed on the way, the last chunk only when all of them are right. What the
//! page cache has is read here and now; a thread that may wait for the disk is asked only when there is something to wait
//! for.

use bytes::{Bytes, BytesMut};

use crate::store::{Source, StoreError, piece::Statement};

/// How much is read and sent at once, in bytes.
const CHUNK: u64 = 64 << 10;

/// Why a piece cannot be given away to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The bytes are not those of the statement.
    #[error("its bytes are not what was stated")]
    Corrupt,
    /// The disk failed, or the blob went away.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One piece on its way out.
#[derive(Debug)]
pub(super) struct Reader {
    source: Source,
    statement: Statement,
    at: u64,
    end: u64,
    hasher: blake3::Hasher,
}

impl Reader {
    /// `None` when the piece, or what was stated about it, is not here.
    pub(super) fn open(source: Source, index: u32) -> Option<Self> {
        if !source.has(index) {
            return None;
        }
        let statement = source.statement(index).ok().flatten()?;
        let range = source.layout().range(index);
        Some(Self { source, statement, at: range.start, end: range.end, hasher: blake3::Hasher::new() })
    }

    pub(super) fn statement(&self) -> &Statement {
        &self.statement
    }

    /// How many bytes are still to be read.
    pub(super) fn remaining(&self) -> u64 {
        self.end - self.at
    }

    /// The next chunk, `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        if self.at == self.end {
            return Ok(None);
        }
        let mut chunk = BytesMut::zeroed(CHUNK.min(self.end - self.at) as usize);
        let length = match self.source.read_cached(self.at, &mut chunk) {
            Some(length) => length,
            None => {
                let (source, at) = (self.source.clone(), self.at);
                let reading = tokio::task::spawn_blocking(move || (source.read_at(at, &mut chunk), chunk));
                let missing = |_| StoreError::Missing { offset: at };
                let (length, read) = reading.await.map_err(missing)?;
                chunk = read;
                length?
            }
        };
        if length == 0 {
            return Err(ReadError::Store(StoreError::Missing { offset: self.at }));
        }
        chunk.truncate(length);
        self.hasher.update(&chunk);
        self.at += length as u64;
        if self.at == self.end && *self.hasher.finalize().as_bytes() != self.statement.blake3 {
            return Err(ReadError::Corrupt);
        }
        Ok(Some(chunk.freeze()))
    }
}
