//! Putting an image where docker-registry keeps its own: hard links to the blobs, and the small files that name them.
//!
//! The result is what a push leaves (distribution 2.8, `registry/storage/paths.go`), without moving a byte: a fleet with a
//! 140 MB image starts in a second.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};

use crate::image::{Descriptor, Image};

/// Adds `image` as `repository:tag` to the storage in `root`.
pub(super) fn add(root: &Path, image: &Image, repository: &str, tag: &str) -> Result<()> {
    let root = root.join("docker/registry/v2");
    let repository = root.join("repositories").join(repository);
    for blob in image.all() {
        let hex = hex(blob);
        let data = root.join("blobs/sha256").join(&hex[..2]).join(hex).join("data");
        link_or_copy(&image.path(blob), &data)
            .with_context(|| format!("cannot put {} into the registry", blob.digest))?;
        let kind = if blob.media_type.contains(".layer.") || blob.media_type.contains(".config.") {
            "_layers"
        } else {
            "_manifests/revisions"
        };
        point(&repository.join(kind).join("sha256").join(hex), blob)?;
    }
    let tag = repository.join("_manifests/tags").join(tag);
    point(&tag.join("index/sha256").join(hex(image.index())), image.index())?;
    point(&tag.join("current"), image.index())
}

fn hex(blob: &Descriptor) -> &str {
    blob.digest.trim_start_matches("sha256:")
}

/// Writes the file `link` in `dir`, which holds the digest.
fn point(dir: &Path, to: &Descriptor) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    fs::write(dir.join("link"), &to.digest).with_context(|| format!("cannot write into {}", dir.display()))
}

fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    if to.exists() {
        return Ok(());
    }
    to.parent().map_or(Ok(()), fs::create_dir_all)?;
    // The fleet's directory may be on another file system than target/.
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(drop))
}
