//! Pieces: how a blob is cut, and what a node states about one piece. Pure; no file is touched here.

use std::ops::Range;

use iroh_base::{EndpointId, SecretKey, Signature};
use serde::{Deserialize, Serialize};

use crate::oci::digest::Digest;

/// The smallest piece, in bytes: larger first pieces cost a crowd its start.
pub const MIN_PIECE: u64 = 256 << 10;
/// The largest piece, in bytes.
pub const MAX_PIECE: u64 = 16 << 20;
/// The most pieces that a map may have; with it every size from the network is bounded before memory is.
pub const MAX_PIECES: u32 = 1 << 16;
/// The largest blob, in bytes.
pub const MAX_BLOB: u64 = MAX_PIECE * MAX_PIECES as u64;

/// The length of a piece, in bytes, of a blob of `size` bytes: the same on every node, so it is never negotiated.
pub fn piece_size(size: u64) -> u64 {
    size.div_ceil(1024).next_power_of_two().clamp(MIN_PIECE, MAX_PIECE)
}

/// A size larger than [`MAX_BLOB`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a blob of {0} bytes has too many pieces")]
pub struct TooLarge(pub u64);

/// How one blob is cut into pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    size: u64,
    piece: u64,
}

impl Layout {
    /// The layout of a blob of `size` bytes. Sizes come from the network, so there is a limit.
    pub fn new(size: u64) -> Result<Self, TooLarge> {
        if size > MAX_BLOB {
            return Err(TooLarge(size));
        }
        Ok(Self { size, piece: piece_size(size) })
    }

    /// The blob's length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The length of every piece but the last, in bytes.
    pub fn piece_size(&self) -> u64 {
        self.piece
    }

    /// How many pieces there are; 0 for the empty blob.
    pub fn count(&self) -> u32 {
        self.size.div_ceil(self.piece) as u32
    }

    /// Which bytes piece `index` covers; empty beyond the last piece.
    pub fn range(&self, index: u32) -> Range<u64> {
        let start = (u64::from(index) * self.piece).min(self.size);
        start..(start + self.piece).min(self.size)
    }

    /// The length of piece `index` in bytes.
    pub fn len(&self, index: u32) -> u64 {
        let range = self.range(index);
        range.end - range.start
    }

    /// Which piece holds the byte at `offset`; meaningful below [`size`](Self::size) only.
    pub fn index_of(&self, offset: u64) -> u32 {
        (offset / self.piece) as u32
    }

    /// The pieces that a range of bytes touches, cut at the end of the blob.
    pub fn pieces(&self, bytes: Range<u64>) -> Range<u32> {
        let end = bytes.end.min(self.size);
        if bytes.start >= end {
            return 0..0;
        }
        self.index_of(bytes.start)..self.index_of(end - 1) + 1
    }
}

/// What the node that took a piece from a registry says about its bytes. Relayed with the piece, so that a wrong one has
/// a name on it whoever passed it on. It is evidence, not trust: only the sha256 of the whole is that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// The blob.
    pub blob: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Which piece of it.
    pub index: u32,
    /// BLAKE3 of the piece's bytes.
    pub blake3: [u8; 32],
    /// The public key of the node that says so.
    pub sealer: [u8; 32],
    /// Its Ed25519 signature over the fields before it.
    #[serde(with = "halves")]
    pub signature: [u8; 64],
}

/// The signature of a statement is not its sealer's, or the sealer is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the statement about a piece is not signed by its sealer")]
pub struct BadStatement;

impl Statement {
    /// States with `key` that piece `index` of `blob` hashes to `blake3`.
    pub fn sign(key: &SecretKey, blob: Digest, size: u64, index: u32, blake3: [u8; 32]) -> Self {
        let signature = key.sign(&message(&blob, size, index, &blake3)).to_bytes();
        Self { blob, size, index, blake3, sealer: *key.public().as_bytes(), signature }
    }

    /// Checks the signature. Nothing is said about the bytes.
    pub fn verify(&self) -> Result<EndpointId, BadStatement> {
        let sealer = EndpointId::from_bytes(&self.sealer).map_err(|_| BadStatement)?;
        let message = message(&self.blob, self.size, self.index, &self.blake3);
        sealer.verify(&message, &Signature::from_bytes(&self.signature)).map_err(|_| BadStatement)?;
        Ok(sealer)
    }
}

const CONTEXT: &[u8; 19] = b"waylay statement v1";

fn message(blob: &Digest, size: u64, index: u32, blake3: &[u8; 32]) -> [u8; 95] {
    let mut out = [0; 95];
    out[..19].copy_from_slice(CONTEXT);
    out[19..51].copy_from_slice(blob.as_bytes());
    out[51..59].copy_from_slice(&size.to_le_bytes());
    out[59..63].copy_from_slice(&index.to_le_bytes());
    out[63..].copy_from_slice(blake3);
    out
}

/// serde knows arrays up to 32 bytes.
mod halves {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 64], serializer: S) -> Result<S::Ok, S::Error> {
        let (mut low, mut high) = ([0u8; 32], [0u8; 32]);
        low.copy_from_slice(&bytes[..32]);
        high.copy_from_slice(&bytes[32..]);
        (low, high).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 64], D::Error> {
        let (low, high) = <([u8; 32], [u8; 32])>::deserialize(deserializer)?;
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&low);
        bytes[32..].copy_from_slice(&high);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pieces_grow_with_the_blob() {
        for (size, piece) in [
            (0, 256 << 10),
            (1, 256 << 10),
            (256 << 20, 256 << 10),
            ((256 << 20) + 1, 512 << 10),
            (1 << 30, 1 << 20),
            (16 << 30, 16 << 20),
            (1 << 40, 16 << 20),
        ] {
            assert_eq!(piece_size(size), piece, "{size}");
        }
        assert_eq!(Layout::new(MAX_BLOB).unwrap().count(), MAX_PIECES);
        assert_eq!(Layout::new(MAX_BLOB + 1), Err(TooLarge(MAX_BLOB + 1)));
        assert_eq!(Layout::new(u64::MAX), Err(TooLarge(u64::MAX)));
    }

    proptest! {
        #[test]
        fn pieces_cover_the_blob_without_gap_or_overlap(size in 0..64u64 << 30) {
            let layout = Layout::new(size).unwrap();
            let mut end = 0;
            for index in 0..layout.count() {
                let range = layout.range(index);
                prop_assert_eq!(range.start, end);
                prop_assert!(range.end > range.start);
                prop_assert_eq!(layout.index_of(range.start), index);
                prop_assert_eq!(layout.index_of(range.end - 1), index);
                end = range.end;
            }
            prop_assert_eq!(end, size);
            prop_assert!(layout.range(layout.count()).is_empty());
        }

        #[test]
        fn a_byte_range_touches_the_pieces_that_hold_it(size in 1..1u64 << 30, a in 0..1u64 << 30, b in 0..1u64 << 30) {
            let layout = Layout::new(size).unwrap();
            let (start, end) = (a.min(b), a.max(b));
            let pieces = layout.pieces(start..end);
            if start >= end.min(size) {
                prop_assert!(pieces.is_empty());
            } else {
                prop_assert!(layout.range(pieces.start).contains(&start));
                prop_assert!(layout.range(pieces.end - 1).contains(&(end.min(size) - 1)));
            }
        }
    }

    #[test]
    fn a_statement_speaks_of_one_piece_of_one_blob() {
        let key = SecretKey::from_bytes(&[7; 32]);
        let good = Statement::sign(&key, Digest::of(b"blob"), 4, 0, [1; 32]);
        assert_eq!(good.verify(), Ok(key.public()));
        let bytes = postcard::to_allocvec(&good).unwrap();
        assert_eq!(postcard::from_bytes::<Statement>(&bytes).unwrap(), good);
        let mut changed = vec![good.clone(); 6];
        changed[0].blob = Digest::of(b"other");
        changed[1].size = 5;
        changed[2].index = 1;
        changed[3].blake3 = [2; 32];
        changed[4].sealer = *SecretKey::from_bytes(&[8; 32]).public().as_bytes();
        changed[5].signature[63] ^= 1;
        for statement in changed {
            assert_eq!(statement.verify(), Err(BadStatement), "{statement:?}");
        }
    }
}
