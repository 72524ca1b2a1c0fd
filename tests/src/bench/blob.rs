//! Large blobs, put where docker-registry keeps its own. They are sparse on its disk: a random page in each piece, so that
//! no two pieces are alike, and holes between them, which cost every reader as much as other bytes.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest as _, Sha256};

use crate::fleet::Fleet;

/// The repository of all blobs without an image.
const REPOSITORY: &str = "bench/blobs";
const MIB: u64 = 1 << 20;
/// The smallest piece that nodes exchange.
const PIECE: u64 = 256 << 10;
/// How much of each piece is random.
const PAGE: usize = 4096;

/// A blob that the fleet's registry has.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    hex: String,
    pub(super) bytes: u64,
}

impl Blob {
    /// Makes one of `mib` MiB in the registry's storage.
    pub(super) fn create(fleet: &Fleet, mib: u64) -> Result<Self> {
        let registry = fleet.registry();
        let made = registry.node().entry().make_dir("making")?.join("blob");
        let hex = fill(&made, mib * MIB, &[]).context("cannot make a blob")?;
        registry.repository(REPOSITORY).blob(&hex, &made)?;
        fs::remove_file(&made).context("cannot remove a blob from where it was made")?;
        Ok(Self { hex, bytes: mib * MIB })
    }

    /// The path of its URL.
    pub(super) fn path(&self) -> String {
        format!("/v2/{REPOSITORY}/blobs/sha256:{}", self.hex)
    }

    /// Its file name in a store.
    pub(super) fn hex(&self) -> &str {
        &self.hex
    }
}

/// Writes a file of `bytes` that begins with `head`, and returns its sha256.
pub(super) fn fill(path: &Path, bytes: u64, head: &[u8]) -> io::Result<String> {
    let (mut file, mut random) = (File::create(path)?, File::open("/dev/urandom")?);
    let mut piece = vec![0; PIECE as usize];
    let mut sha256 = Sha256::new();
    for at in (0..bytes).step_by(PIECE as usize) {
        let len = PIECE.min(bytes - at) as usize;
        // What ends an archive stays zero.
        let page = PAGE.min(if at + len as u64 == bytes { len.saturating_sub(1024) } else { len });
        random.read_exact(&mut piece[..page])?;
        if at == 0 {
            piece[..head.len()].copy_from_slice(head);
        }
        file.seek(SeekFrom::Start(at))?;
        file.write_all(&piece[..page])?;
        sha256.update(&piece[..len]);
    }
    file.set_len(bytes)?;
    Ok(hex::encode(sha256.finalize()))
}
