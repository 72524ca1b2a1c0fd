//! Large blobs, put where docker-registry keeps its own. They are sparse on its disk: a random page in each MiB, so that
//! no two are alike, and holes between them, which cost every reader as much as other bytes.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest as _, Sha256};

use crate::fleet::Fleet;

/// The repository of all blobs of the benchmarks.
const REPOSITORY: &str = "bench/blobs";
const MIB: u64 = 1 << 20;

/// A blob that the fleet's registry has.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    hex: String,
    pub(super) bytes: u64,
}

impl Blob {
    /// Makes one of `mib` MiB in the registry's storage.
    pub(super) fn create(fleet: &Fleet, mib: u64) -> Result<Self> {
        let storage = fleet.registry().node().entry().dir().join("storage/docker/registry/v2");
        let made = storage.join("making");
        let hex = fill(&made, mib).context("cannot make a blob")?;
        let data = storage.join("blobs/sha256").join(&hex[..2]).join(&hex);
        fs::create_dir_all(&data).with_context(|| format!("cannot make {}", data.display()))?;
        fs::rename(&made, data.join("data")).context("cannot move a blob to its place")?;
        let layer = storage.join("repositories").join(REPOSITORY).join("_layers/sha256").join(&hex);
        fs::create_dir_all(&layer).with_context(|| format!("cannot make {}", layer.display()))?;
        fs::write(layer.join("link"), format!("sha256:{hex}")).context("cannot link a blob")?;
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

/// Writes the file, and returns its sha256.
fn fill(path: &Path, mib: u64) -> std::io::Result<String> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    let (mut file, mut random) = (File::create(path)?, File::open("/dev/urandom")?);
    let mut chunk = vec![0; MIB as usize];
    let mut sha256 = Sha256::new();
    for at in 0..mib {
        random.read_exact(&mut chunk[..4096])?;
        file.seek(SeekFrom::Start(at * MIB))?;
        file.write_all(&chunk[..4096])?;
        sha256.update(&chunk);
    }
    file.set_len(mib * MIB)?;
    Ok(hex::encode(sha256.finalize()))
}
