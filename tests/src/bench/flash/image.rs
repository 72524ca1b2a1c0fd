//! The crowd's image: layers in the case's proportion with configuration and manifest, new each time, so that a crowd is cold
//! whatever was pulled before.
//!
//! Layers are tar files of one file each, not compressed: no runtime could compress them further, and unpacking them
//! costs what writing costs.

use std::env::consts::ARCH;
use std::fs;
use std::io;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::bench::blob::fill;
use crate::fleet::Fleet;
use crate::fleet::registry::Repository;

const REPOSITORY: &str = "bench/flash";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// The unit of archives, and what ends one (POSIX.1, pax interchange format).
const TAR_BLOCK: u64 = 512;
const TAR_END: u64 = 1024;

/// An image that the fleet's registry has and nobody has pulled.
#[derive(Debug)]
pub(super) struct Image {
    tag: String,
    /// Of configuration and layers: what a registry's log counts as blobs.
    pub(super) bytes: u64,
    /// Configuration and layers by their sha256.
    pub(super) blobs: Vec<String>,
}

impl Image {
    /// Makes one of `mib` MiB with layers in the proportion of `shares`, called `tag`, in the registry's storage.
    pub(super) fn create(fleet: &Fleet, tag: &str, mib: u64, shares: &[u64]) -> Result<Self> {
        let registry = fleet.registry();
        let bench = Bench { at: registry.node().entry().make_dir("making")?, shelf: registry.repository(REPOSITORY) };
        let unit = (mib << 20) as f64 / shares.iter().sum::<u64>() as f64;
        let blocks = |share: &u64| (*share as f64 * unit / TAR_BLOCK as f64).ceil() as u64;
        // A head and a file of one block.
        let least = 2 * TAR_BLOCK + TAR_END;
        let sizes: Vec<_> = shares.iter().map(|share| (blocks(share) * TAR_BLOCK).max(least)).collect();
        let layers = sizes.iter().map(|&size| bench.layer(size)).collect::<Result<Vec<_>>>()?;
        let diff_ids: Vec<_> = layers.iter().map(|layer| &layer["digest"]).collect();
        let config = json!({
            "architecture": if ARCH == "aarch64" { "arm64" } else { "amd64" },
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let (hex, config) = bench.written(CONFIG, &config)?;
        bench.shelve(&hex, Repository::blob)?;
        let bytes = sizes.iter().sum::<u64>() + config["size"].as_u64().unwrap_or_default();
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        let (hex, _) = bench.written(MANIFEST, &manifest)?;
        bench.shelve(&hex, Repository::manifest)?;
        bench.shelf.tag(tag, &hex)?;
        let digests = [&config].into_iter().chain(&layers).filter_map(|blob| blob["digest"].as_str());
        let blobs = digests.map(|digest| digest.trim_start_matches("sha256:").to_owned()).collect();
        Ok(Self { tag: tag.to_owned(), bytes, blobs })
    }

    /// Its repository and tag.
    pub(super) fn name(&self) -> (&str, &str) {
        (REPOSITORY, &self.tag)
    }
}

/// Where the parts are made, and where they go.
struct Bench {
    at: PathBuf,
    shelf: Repository,
}

impl Bench {
    /// Makes a layer of `size`, and returns its descriptor.
    fn layer(&self, size: u64) -> Result<Value> {
        let hex = fill(&self.draft(), size, &header(size)?).context("cannot make a layer")?;
        self.shelve(&hex, Repository::blob)?;
        Ok(json!({"mediaType": LAYER, "digest": format!("sha256:{hex}"), "size": size}))
    }

    /// Writes `content`, and returns its sha256 and its descriptor.
    fn written(&self, media_type: &str, content: &Value) -> Result<(String, Value)> {
        let text = content.to_string();
        fs::write(self.draft(), &text).context("cannot write a manifest")?;
        let hex = hex::encode(Sha256::digest(&text));
        let descriptor = json!({"mediaType": media_type, "digest": format!("sha256:{hex}"), "size": text.len()});
        Ok((hex, descriptor))
    }

    /// Moves what was made last to its place.
    fn shelve(&self, hex: &str, put: fn(&Repository, &str, &std::path::Path) -> Result<()>) -> Result<()> {
        put(&self.shelf, hex, &self.draft())?;
        fs::remove_file(self.draft()).context("cannot remove a blob from where it was made")
    }

    fn draft(&self) -> PathBuf {
        self.at.join("draft")
    }
}

/// The head of an archive of `size` with one file, which fills it.
fn header(size: u64) -> io::Result<[u8; 512]> {
    let mut header = tar::Header::new_gnu();
    header.set_path("data")?;
    header.set_mode(0o644);
    header.set_size(size - TAR_BLOCK - TAR_END);
    header.set_cksum();
    Ok(*header.as_bytes())
}
