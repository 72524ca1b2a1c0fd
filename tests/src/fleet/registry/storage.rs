//! Putting things where docker-registry keeps its own: hard links to the blobs, and the small files that name them.
//!
//! The result is what a push leaves (distribution 2.8, `registry/storage/paths.go`), without moving a byte: a fleet with a
//! 140 MB image starts in a second.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::image::{Descriptor, Image};

/// A repository in a registry's storage; it comes to be with the first thing put into it.
#[derive(Debug)]
pub struct Repository {
    blobs: PathBuf,
    home: PathBuf,
}

impl Repository {
    /// The repository `name` in the storage in `root`.
    pub(super) fn new(root: &Path, name: &str) -> Self {
        let root = root.join("docker/registry/v2");
        Self { blobs: root.join("blobs/sha256"), home: root.join("repositories").join(name) }
    }

    /// Adds the layer or configuration in `file`, whose sha256 is `hex`. The file stays where it is.
    ///
    /// # Errors
    /// When the storage cannot be written to.
    pub fn blob(&self, hex: &str, file: &Path) -> Result<()> {
        self.put(hex, file, "_layers")
    }

    /// Adds the manifest or index in `file`, whose sha256 is `hex`. The file stays where it is.
    ///
    /// # Errors
    /// When the storage cannot be written to.
    pub fn manifest(&self, hex: &str, file: &Path) -> Result<()> {
        self.put(hex, file, "_manifests/revisions")
    }

    /// Makes `tag` mean the manifest or index `hex`.
    ///
    /// # Errors
    /// When the storage cannot be written to.
    pub fn tag(&self, tag: &str, hex: &str) -> Result<()> {
        let tag = self.home.join("_manifests/tags").join(tag);
        point(&tag.join("index/sha256").join(hex), hex)?;
        point(&tag.join("current"), hex)
    }

    fn put(&self, hex: &str, file: &Path, kind: &str) -> Result<()> {
        let data = self.blobs.join(&hex[..2]).join(hex).join("data");
        link_or_copy(file, &data).with_context(|| format!("cannot put {hex} into the registry"))?;
        point(&self.home.join(kind).join("sha256").join(hex), hex)
    }
}

/// Adds `image` as `repository:tag`.
pub(super) fn add(repository: &Repository, image: &Image, tag: &str) -> Result<()> {
    for blob in image.all() {
        let (hex, file) = (hex(blob), image.path(blob));
        if blob.media_type.contains(".layer.") || blob.media_type.contains(".config.") {
            repository.blob(hex, &file)?;
        } else {
            repository.manifest(hex, &file)?;
        }
    }
    repository.tag(tag, hex(image.index()))
}

fn hex(blob: &Descriptor) -> &str {
    blob.digest.trim_start_matches("sha256:")
}

/// Writes the file `link` in `dir`, which holds the digest.
fn point(dir: &Path, hex: &str) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    fs::write(dir.join("link"), format!("sha256:{hex}")).with_context(|| format!("cannot write into {}", dir.display()))
}

fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    if to.exists() {
        return Ok(());
    }
    to.parent().map_or(Ok(()), fs::create_dir_all)?;
    // The fleet's directory may be on another file system than target/.
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(drop))
}
