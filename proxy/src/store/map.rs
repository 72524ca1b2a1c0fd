//! The piece map of one blob on disk: a header, then one slot per piece with its statement. It stays when the blob is
//! complete, because peers need the piece hashes.
//!
//! Each slot has its own checksum, which covers blob and index too: a torn, moved or never written slot is not believed.

use std::{io, os::unix::fs::FileExt, path::Path};

use super::{
    disk::DiskFile,
    piece::{Layout, Statement},
};
use crate::oci::digest::Digest;

const MAGIC: &[u8; 8] = b"waylaymp";
const FORMAT: u32 = 1;
/// Magic 8, format 4, zero 4, blob 32, size 8, piece size 8, checksum 8.
const HEADER: usize = 72;
/// BLAKE3 32, sealer 32, signature 64, checksum 8.
const SLOT: usize = 136;

/// An open piece map.
#[derive(Debug)]
pub(super) struct PieceMap {
    file: DiskFile,
    blob: Digest,
    layout: Layout,
}

impl PieceMap {
    /// Makes an empty map, replacing what was there.
    pub(super) fn create(path: &Path, blob: Digest, layout: Layout) -> io::Result<Self> {
        let file = DiskFile::create(path)?;
        file.write_all_at(&header(&blob, &layout), 0)?;
        Ok(Self { file, blob, layout })
    }

    /// Opens the map of `blob`; `None` when there is none or its header is not what it should be.
    pub(super) fn open(path: &Path, blob: Digest) -> io::Result<Option<Self>> {
        let file = match DiskFile::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut found = [0; HEADER];
        match file.file().read_exact_at(&mut found, 0) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let mut size = [0; 8];
        size.copy_from_slice(&found[48..56]);
        let Ok(layout) = Layout::new(u64::from_le_bytes(size)) else { return Ok(None) };
        Ok((found == header(&blob, &layout)).then_some(Self { file, blob, layout }))
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    /// The statement about piece `index`; `None` when the slot is empty or torn.
    pub(super) fn read(&self, index: u32) -> io::Result<Option<Statement>> {
        let mut slot = [0; SLOT];
        match self.file.file().read_exact_at(&mut slot, at(index)) {
            Ok(()) => Ok(self.decode(index, &slot)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All statements, in the order of the pieces.
    pub(super) fn read_all(&self) -> io::Result<Vec<Option<Statement>>> {
        (0..self.layout.count()).map(|index| self.read(index)).collect()
    }

    /// Writes the statement into its slot, not synced.
    pub(super) fn write(&self, statement: &Statement) -> io::Result<()> {
        let mut slot = [0; SLOT];
        slot[..32].copy_from_slice(&statement.blake3);
        slot[32..64].copy_from_slice(&statement.sealer);
        slot[64..128].copy_from_slice(&statement.signature);
        let sum = self.checksum(statement.index, &slot[..128]);
        slot[128..].copy_from_slice(&sum);
        self.file.write_all_at(&slot, at(statement.index))
    }

    /// Empties a slot.
    pub(super) fn clear(&self, index: u32) -> io::Result<()> {
        self.file.write_all_at(&[0; SLOT], at(index))
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn decode(&self, index: u32, slot: &[u8; SLOT]) -> Option<Statement> {
        if slot[128..] != self.checksum(index, &slot[..128]) {
            return None;
        }
        let mut statement = Statement {
            blob: self.blob,
            size: self.layout.size(),
            index,
            blake3: [0; 32],
            sealer: [0; 32],
            signature: [0; 64],
        };
        statement.blake3.copy_from_slice(&slot[..32]);
        statement.sealer.copy_from_slice(&slot[32..64]);
        statement.signature.copy_from_slice(&slot[64..128]);
        Some(statement)
    }

    fn checksum(&self, index: u32, body: &[u8]) -> [u8; 8] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.blob.as_bytes()).update(&index.to_le_bytes()).update(body);
        first8(&hasher.finalize())
    }
}

fn at(index: u32) -> u64 {
    HEADER as u64 + u64::from(index) * SLOT as u64
}

fn header(blob: &Digest, layout: &Layout) -> [u8; HEADER] {
    let mut out = [0; HEADER];
    out[..8].copy_from_slice(MAGIC);
    out[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    out[16..48].copy_from_slice(blob.as_bytes());
    out[48..56].copy_from_slice(&layout.size().to_le_bytes());
    out[56..64].copy_from_slice(&layout.piece_size().to_le_bytes());
    let sum = first8(&blake3::hash(&out[..64]));
    out[64..].copy_from_slice(&sum);
    out
}

fn first8(hash: &blake3::Hash) -> [u8; 8] {
    let mut out = [0; 8];
    out.copy_from_slice(&hash.as_bytes()[..8]);
    out
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use iroh_base::SecretKey;

    use super::*;

    #[test]
    fn a_torn_or_moved_slot_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        let blob = Digest::of(b"blob");
        let layout = Layout::new(1 << 20).unwrap();
        let map = PieceMap::create(&path, blob, layout).unwrap();
        let key = SecretKey::from_bytes(&[1; 32]);
        let statements: Vec<_> =
            (0..4).map(|index| Statement::sign(&key, blob, 1 << 20, index, [index as u8; 32])).collect();
        for statement in &statements[..3] {
            map.write(statement).unwrap();
        }
        // Piece 1: half of it reached the disk. Piece 3: a copy of another slot.
        map.file.write_all_at(&[0; 70], at(1) + 66).unwrap();
        let mut slot = [0; SLOT];
        map.file.file().read_exact_at(&mut slot, at(0)).unwrap();
        map.file.write_all_at(&slot, at(3)).unwrap();
        drop(map);
        let map = PieceMap::open(&path, blob).unwrap().unwrap();
        assert_eq!(map.layout(), layout);
        let read = map.read_all().unwrap();
        assert_eq!(read, [Some(statements[0].clone()), None, Some(statements[2].clone()), None]);
        map.clear(0).unwrap();
        assert_eq!(map.read(0).unwrap(), None);
    }

    #[test]
    fn a_header_for_another_blob_or_size_is_no_map() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        let blob = Digest::of(b"blob");
        assert!(PieceMap::open(&path, blob).unwrap().is_none());
        PieceMap::create(&path, blob, Layout::new(1 << 20).unwrap()).unwrap();
        assert!(PieceMap::open(&path, Digest::of(b"other")).unwrap().is_none());
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        for at in [0, 8, 20, 48, 55, 56, 70] {
            let good = PieceMap::create(&path, blob, Layout::new(1 << 20).unwrap()).unwrap();
            let mut byte = [0];
            good.file.file().read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 0x80], at).unwrap();
            assert!(PieceMap::open(&path, blob).unwrap().is_none(), "byte {at}");
        }
        file.set_len(10).unwrap();
        assert!(PieceMap::open(&path, blob).unwrap().is_none());
    }
}
