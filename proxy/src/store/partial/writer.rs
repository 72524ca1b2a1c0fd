//! Writing one piece: bytes go to disk and through BLAKE3 as they come, and count only when the statement agrees.

use std::sync::Arc;

use super::Partial;
use crate::store::{error::StoreError, piece::Statement};

/// The right to write one piece. Dropped before [`finish`](Self::finish), nothing has happened and another may try.
#[derive(Debug)]
pub struct PieceWriter {
    partial: Arc<Partial>,
    index: u32,
    done: u64,
    hasher: blake3::Hasher,
}

impl PieceWriter {
    pub(super) fn new(partial: Arc<Partial>, index: u32) -> Self {
        Self { partial, index, done: 0, hasher: blake3::Hasher::new() }
    }

    /// Which piece.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// How many bytes are still to come.
    pub fn remaining(&self) -> u64 {
        self.partial.layout.len(self.index) - self.done
    }

    /// Appends to the piece, never beyond its end. Blocks for the page cache; call it off the reactor.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let range = self.partial.layout.range(self.index);
        if bytes.len() as u64 > self.remaining() {
            return Err(self.length(self.done + bytes.len() as u64));
        }
        self.partial.file.write_all_at(bytes, range.start + self.done).map_err(self.partial.io("write"))?;
        self.hasher.update(bytes);
        self.done += bytes.len() as u64;
        Ok(())
    }

    /// BLAKE3 of what was written so far: what the node that takes a piece from a registry states.
    pub fn blake3(&self) -> [u8; 32] {
        self.hasher.finalize().into()
    }

    /// Makes the piece count. Fails, and the piece stays missing, unless it is whole and `statement` is about it: this
    /// blob, this size, this index, these bytes. The signature is the caller's to check.
    pub fn finish(self, statement: &Statement) -> Result<(), StoreError> {
        let partial = &self.partial;
        if self.remaining() > 0 {
            return Err(self.length(self.done));
        }
        let about = (statement.blob, statement.size, statement.index, statement.blake3);
        if about != (partial.digest, partial.layout.size(), self.index, self.blake3()) {
            return Err(StoreError::WrongPiece { digest: partial.digest, index: self.index });
        }
        // After the bytes: a slot in the map never speaks of bytes that were not written.
        partial.map.write(statement).map_err(partial.io("write the piece map of"))?;
        {
            let mut state = partial.state();
            if let Some(failed) = &state.failed {
                return Err(failed.clone());
            }
            state.insert(self.index);
        }
        partial.changed.send_replace(());
        partial.hash_on();
        Ok(())
    }

    fn length(&self, got: u64) -> StoreError {
        StoreError::Length { index: self.index, expected: self.partial.layout.len(self.index), got }
    }
}

impl Drop for PieceWriter {
    fn drop(&mut self) {
        self.partial.state().taken.remove(self.index as usize);
        self.partial.changed.send_replace(());
    }
}
