//! A complete blob, open for reading. It can be read to its end even when it is evicted meanwhile.

use std::{fs::File, os::unix::fs::FileExt, path::PathBuf};

use super::{
    cached,
    error::StoreError,
    map::PieceMap,
    piece::{Layout, Statement},
};
use crate::oci::digest::Digest;

/// How much is read at once to be hashed, in bytes: it stays in the processor's cache.
const READ: usize = 64 << 10;

/// A blob whose sha256 was verified before it got here.
#[derive(Debug)]
pub struct Blob {
    digest: Digest,
    layout: Layout,
    file: File,
    path: PathBuf,
    map: Option<PieceMap>,
    lent: bool,
}

impl Blob {
    /// A file of our own.
    pub(super) fn new(digest: Digest, layout: Layout, file: File, path: PathBuf, map: Option<PieceMap>) -> Self {
        let map = map.filter(|map| map.layout() == layout);
        Self { digest, layout, file, path, map, lent: false }
    }

    /// Somebody else's file, of which no more is believed than the map says.
    pub(super) fn lent(digest: Digest, layout: Layout, file: File, path: PathBuf, map: PieceMap) -> Self {
        Self { lent: true, ..Self::new(digest, layout, file, path, Some(map)) }
    }

    pub(super) fn is_lent(&self) -> bool {
        self.lent
    }

    /// Its name.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        self.layout.size()
    }

    /// How it is cut into pieces.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Reads at `offset` until `buffer` is full or the blob ends; how many bytes there were. Blocks for the disk.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, StoreError> {
        let left = self.size().saturating_sub(offset).min(buffer.len() as u64) as usize;
        self.file.read_exact_at(&mut buffer[..left], offset).map_err(StoreError::io("read", &self.path))?;
        Ok(left)
    }

    /// As [`read_at`](Self::read_at), but only what is in memory, and never blocks. `None`: nothing is, or it cannot be told.
    pub fn read_cached(&self, offset: u64, buffer: &mut [u8]) -> Option<usize> {
        let left = self.size().saturating_sub(offset).min(buffer.len() as u64) as usize;
        cached::read(&self.file, offset, &mut buffer[..left])
    }

    /// Reads piece `index` and compares it with its statement: whether it is what was verified when the blob came. A piece
    /// whose statement was lost cannot be told: it counts in a file of our own, and not in somebody else's. Blocks for the
    /// disk.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn is_intact(&self, index: u32) -> Result<bool, StoreError> {
        let Some(statement) = self.statement(index)? else { return Ok(!self.lent) };
        let range = self.layout.range(index);
        let (mut at, mut buffer, mut hasher) = (range.start, vec![0; READ], blake3::Hasher::new());
        while at < range.end {
            let wanted = buffer.len().min((range.end - at) as usize);
            let read = self.read_at(at, &mut buffer[..wanted])?;
            hasher.update(&buffer[..read]);
            at += read as u64;
        }
        Ok(*hasher.finalize().as_bytes() == statement.blake3)
    }

    /// What was stated about piece `index`; `None` when its slot was lost. Without it a peer cannot be served.
    pub fn statement(&self, index: u32) -> Result<Option<Statement>, StoreError> {
        if index >= self.layout.count() {
            return Err(StoreError::NoSuchPiece(index));
        }
        let Some(map) = &self.map else { return Ok(None) };
        map.read(index).map_err(StoreError::io("read the piece map of", &self.path))
    }

    /// All statements, in the order of the pieces.
    pub fn statements(&self) -> Result<Vec<Option<Statement>>, StoreError> {
        match &self.map {
            Some(map) => map.read_all().map_err(StoreError::io("read the piece map of", &self.path)),
            None => Ok(vec![None; self.layout.count() as usize]),
        }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn path(&self) -> &std::path::Path {
        &self.path
    }
}
