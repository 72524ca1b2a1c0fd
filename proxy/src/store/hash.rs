//! The sha256 of a growing file, and the proof that it came out right.

use std::{fs::File, io, os::unix::fs::FileExt};

use sha2::Digest as _;

use crate::oci::digest::Digest;

/// How much is read at once.
const CHUNK: usize = 256 << 10;

/// Proof that the bytes under this digest were hashed and agree. Only this file can make one, and only with one does a
/// blob enter the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifiedDigest(Digest);

impl VerifiedDigest {
    /// The digest that agreed.
    pub fn digest(&self) -> Digest {
        self.0
    }
}

/// sha256 over the contiguous beginning of a file, fed as it grows.
#[derive(Debug, Default)]
pub(super) struct PrefixHasher {
    sha256: sha2::Sha256,
    done: u64,
}

impl PrefixHasher {
    /// How many bytes are hashed.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    /// Hashes the file up to `end`, read back from the page cache.
    pub(super) fn feed(&mut self, file: &File, end: u64) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK.min(end.saturating_sub(self.done) as usize)];
        while self.done < end {
            let length = CHUNK.min((end - self.done) as usize);
            file.read_exact_at(&mut chunk[..length], self.done)?;
            self.sha256.update(&chunk[..length]);
            self.done += length as u64;
        }
        Ok(())
    }

    /// The proof, if all that was fed is `expected`.
    pub(super) fn finish(self, expected: &Digest) -> Option<VerifiedDigest> {
        let found = Digest::from_bytes(self.sha256.finalize().into());
        (found == *expected).then_some(VerifiedDigest(found))
    }
}

/// BLAKE3 over `length` bytes of a file at `offset`.
pub(super) fn blake3_of(file: &File, offset: u64, length: u64) -> io::Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    let mut chunk = vec![0; CHUNK.min(length as usize)];
    let mut done = 0;
    while done < length {
        let step = CHUNK.min((length - done) as usize);
        file.read_exact_at(&mut chunk[..step], offset + done)?;
        hasher.update(&chunk[..step]);
        done += step as u64;
    }
    Ok(hasher.finalize().into())
}
