//! The image around the layers: configurations, manifests and the index of two platforms, as an OCI image layout.

use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::blob_path;
use super::layer::{self, Layer, Packing};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// A blob as named by what refers to it (OCI image spec, "descriptor").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// `sha256:HEX`.
    pub digest: String,
    /// Length in bytes.
    pub size: u64,
}

/// An image on disk.
#[derive(Debug, Clone)]
pub struct Image {
    dir: PathBuf,
    index: Descriptor,
    /// Every manifest, this machine's platform first.
    manifests: Vec<Descriptor>,
    /// Configuration and layers for this machine's platform.
    blobs: Vec<Descriptor>,
    /// The same for the other one.
    foreign: Vec<Descriptor>,
    diff_ids: Vec<String>,
}

impl Image {
    /// Opens the layout in `dir`.
    pub(super) fn open(dir: PathBuf) -> Result<Self> {
        #[derive(Deserialize)]
        struct Manifests {
            manifests: Vec<Descriptor>,
        }
        let top: Manifests = parse(&dir.join("index.json"))?;
        let index = top.manifests.into_iter().next().context("an image layout without an image")?;
        let Manifests { manifests } = parse(&blob_path(&dir, &index.digest))?;
        let (native, foreign) = (children(&dir, manifests.first())?, children(&dir, manifests.get(1))?);
        let config: Value = parse(&blob_path(&dir, &native.first().context("a manifest without blobs")?.digest))?;
        let diff_ids = serde_json::from_value(config["rootfs"]["diff_ids"].clone()).context("no diff_ids")?;
        Ok(Self { dir, index, manifests, blobs: native, foreign, diff_ids })
    }

    /// The index: what a tag points to.
    #[must_use]
    pub fn index(&self) -> &Descriptor {
        &self.index
    }

    /// The manifests of all platforms, this machine's first.
    #[must_use]
    pub fn manifests(&self) -> &[Descriptor] {
        &self.manifests
    }

    /// What a pull on this machine fetches by `/blobs/`: the configuration, then the layers.
    #[must_use]
    pub fn blobs(&self) -> &[Descriptor] {
        &self.blobs
    }

    /// The layers for this machine, lowest first.
    #[must_use]
    pub fn layers(&self) -> &[Descriptor] {
        &self.blobs[1..]
    }

    /// Hashes of the unpacked layers, which dockerd and podman show.
    #[must_use]
    pub fn diff_ids(&self) -> &[String] {
        &self.diff_ids
    }

    /// Sum of [`Self::blobs`]: what one pull brings, without manifests.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.size).sum()
    }

    /// Every blob of the layout, manifests and the index included.
    pub fn all(&self) -> impl Iterator<Item = &Descriptor> {
        [&self.index].into_iter().chain(&self.manifests).chain(&self.blobs).chain(&self.foreign)
    }

    /// The file of `blob`.
    #[must_use]
    pub fn path(&self, blob: &Descriptor) -> PathBuf {
        blob_path(&self.dir, &blob.digest)
    }

    /// Checks that `find` knows a file for each of [`Self::blobs`], and that it has the right bytes.
    ///
    /// # Errors
    /// Names the first blob that is missing or wrong.
    pub fn check(&self, find: impl Fn(&str) -> PathBuf) -> Result<()> {
        for blob in &self.blobs {
            let hex = blob.digest.trim_start_matches("sha256:");
            let bytes = fs::read(find(hex)).with_context(|| format!("the client has no {}", blob.digest))?;
            ensure!(hex == sha256(&bytes), "the client's {} has other bytes", blob.digest);
        }
        Ok(())
    }
}

/// Builds the layout in `dir`: one image with `layers` for this machine, one with a small layer for the other platform.
pub(super) fn build(dir: &Path, layers: &[&[&str]], packing: Packing) -> Result<()> {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).with_context(|| format!("cannot make {}", blobs.display()))?;
    let made: Result<Vec<Layer>> = thread::scope(|scope| {
        let threads: Vec<_> = layers
            .iter()
            .enumerate()
            .map(|(n, &packages)| scope.spawn(move || write_layer(dir, n, packages, packing)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a layer's thread panicked"))?)
            .collect()
    });
    let native = made?;
    let other = write_layer(dir, layers.len(), &["base-files"], packing)?;
    let (here, there) = if ARCH == "aarch64" { ("arm64", "amd64") } else { ("amd64", "arm64") };
    let manifests = [manifest(dir, here, &native, packing)?, manifest(dir, there, &[other], packing)?];
    let index = put(dir, INDEX, &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}))?;
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    fs::write(dir.join("index.json"), json!({"schemaVersion": 2, "manifests": [index]}).to_string())?;
    Ok(())
}

fn write_layer(dir: &Path, n: usize, packages: &[&str], packing: Packing) -> Result<Layer> {
    let draft = dir.join(format!("layer{n}"));
    let layer = layer::write(&draft, packages, packing)?;
    fs::rename(&draft, blob_path(dir, &layer.digest)).context("cannot put the layer in its place")?;
    Ok(layer)
}

/// Writes configuration and manifest of one platform, and returns the manifest's place in the index.
fn manifest(dir: &Path, architecture: &str, layers: &[Layer], packing: Packing) -> Result<Value> {
    let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
    let platform = json!({"architecture": architecture, "os": "linux"});
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "created": "2020-01-01T00:00:00Z",
        "config": {"Cmd": ["/usr/bin/runc"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": layers.iter().map(|_| json!({"created_by": "the harness"})).collect::<Vec<_>>(),
    });
    let config = put(dir, CONFIG, &config)?;
    let layers: Vec<Descriptor> = layers
        .iter()
        .map(|layer| Descriptor {
            media_type: packing.media_type().to_owned(),
            digest: layer.digest.clone(),
            size: layer.size,
        })
        .collect();
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
    let mut entry = serde_json::to_value(put(dir, MANIFEST, &manifest)?)?;
    entry["platform"] = platform;
    Ok(entry)
}

fn put(dir: &Path, media_type: &str, content: &Value) -> Result<Descriptor> {
    let bytes = content.to_string();
    let digest = format!("sha256:{}", sha256(bytes.as_bytes()));
    fs::write(blob_path(dir, &digest), &bytes).context("cannot write a manifest")?;
    Ok(Descriptor { media_type: media_type.to_owned(), digest, size: bytes.len() as u64 })
}

fn children(dir: &Path, manifest: Option<&Descriptor>) -> Result<Vec<Descriptor>> {
    #[derive(Deserialize)]
    struct Manifest {
        config: Descriptor,
        layers: Vec<Descriptor>,
    }
    let Manifest { config, layers } = parse(&blob_path(dir, &manifest.context("an index of one platform")?.digest))?;
    Ok([config].into_iter().chain(layers).collect())
}

fn parse<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not what it should be", path.display()))
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
