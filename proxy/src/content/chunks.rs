//! Taking chunks out of the store for a client. What the page cache has is read here and now: a thread that may wait for
//! the disk costs more than the reading, and is asked only when there is something to wait for.

use bytes::{Bytes, BytesMut};

use super::blocking;
use crate::store::{Source, StoreError};

/// How much is read and sent at once, in bytes: four TLS records, and little enough that they are still in the
/// processor's cache when they are enciphered.
const CHUNK: u64 = 64 << 10;

/// Reads from one source for one client. The memory of a chunk is used again once the client's connection has let go of
/// it.
#[derive(Debug, Default)]
pub(super) struct Chunks(BytesMut);

impl Chunks {
    /// The next bytes at `offset`, of at most `length`, which is not 0.
    ///
    /// # Errors
    /// When they cannot be read or are not there.
    pub(super) async fn next(&mut self, source: &Source, offset: u64, length: u64) -> Result<Bytes, StoreError> {
        let mut buffer = std::mem::take(&mut self.0);
        buffer.resize(CHUNK.min(length) as usize, 0);
        let read = match source.read_cached(offset, &mut buffer) {
            Some(read) => read,
            None => {
                let source = source.clone();
                let reading = blocking(move || (source.read_at(offset, &mut buffer), buffer)).await;
                let (read, returned) = reading.ok_or(StoreError::Missing { offset })?;
                buffer = returned;
                read?
            }
        };
        if read == 0 {
            return Err(StoreError::Missing { offset });
        }
        buffer.truncate(read);
        let chunk = buffer.split().freeze();
        self.0 = buffer;
        Ok(chunk)
    }
}
