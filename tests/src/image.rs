//! Real images to pull: layers made from the files of installed Debian packages, as an OCI image layout on disk.
//!
//! Building one takes seconds, so the layout stays in `target/images` under a name that changes with the packages.

mod layer;
mod layout;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use anyhow::{Context, Result, ensure};
use sha2::{Digest as _, Sha256};

pub use self::layer::Packing;
pub use self::layout::{Descriptor, Image};

/// Counts up when the builder changes what it makes from the same packages.
const BUILDER: u32 = 1;

/// What an image is made of: one layer for each list of packages.
#[derive(Debug, Clone, Copy)]
pub struct Recipe {
    name: &'static str,
    layers: &'static [&'static [&'static str]],
    packing: Packing,
}

/// About 140 MB in five gzip layers: the image of the demo, and of scenarios that need time to break things meanwhile.
pub const LARGE: Recipe = Recipe {
    name: "large",
    layers: &[&["docker.io"], &["containerd"], &["podman"], &["skopeo", "buildah"], &["docker-registry", "runc"]],
    packing: Packing::Gzip,
};

/// About 12 MB in three gzip layers: for scenarios where the amount does not matter.
pub const SMALL: Recipe =
    Recipe { name: "small", layers: &[&["runc"], &["skopeo"], &["iproute2"]], packing: Packing::Gzip };

/// [`SMALL`] in zstd, which containerd and podman unpack and Debian's dockerd does not.
pub const SMALL_ZSTD: Recipe = Recipe { packing: Packing::Zstd, name: "small-zstd", ..SMALL };

/// Images of 3 to 40 MB that share some layers: for many pulls in a row.
pub const SEVERAL: [Recipe; 6] = [
    SMALL,
    Recipe { name: "several-1", layers: &[&["runc"], &["curl", "openssl"]], packing: Packing::Gzip },
    Recipe { name: "several-2", layers: &[&["containerd"], &["curl", "openssl"]], packing: Packing::Gzip },
    Recipe { name: "several-3", layers: &[&["docker-registry"], &["skopeo"]], packing: Packing::Gzip },
    Recipe { name: "several-4", layers: &[&["podman"], &["iproute2"], &["curl", "openssl"]], packing: Packing::Gzip },
    Recipe { name: "several-5", layers: &[&["buildah"]], packing: Packing::Gzip },
];

impl Recipe {
    /// The image, built when it is not there yet.
    ///
    /// # Errors
    /// When a package is not installed or the disk refuses.
    pub fn image(self) -> Result<Image> {
        let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/images");
        let dir = home.join(format!("{}-{}", self.name, self.key()?));
        if !dir.exists() {
            fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
            // Built aside and moved into place: an image directory is whole or absent.
            let aside = home.join(format!("{}.{}", self.name, process::id()));
            layout::build(&aside, self.layers, self.packing)?;
            if fs::rename(&aside, &dir).is_err() {
                ensure!(dir.exists(), "cannot move the image to {}", dir.display());
                fs::remove_dir_all(&aside).context("cannot remove an image that another run has built too")?;
            }
        }
        Image::open(dir)
    }

    /// Names the content: the packages, their versions and how they are packed.
    fn key(self) -> Result<String> {
        let packages = self.layers.iter().copied().flatten();
        let versions =
            Command::new("dpkg-query").args(["--show", "--"]).args(packages).output().context("dpkg-query")?;
        let complaint = String::from_utf8_lossy(&versions.stderr);
        ensure!(versions.status.success(), "the image {} is made from installed packages: {complaint}", self.name);
        let mut hash = Sha256::new_with_prefix(format!("{BUILDER} {:?} {:?}", self.layers, self.packing));
        hash.update(&versions.stdout);
        Ok(hex::encode(&hash.finalize()[..6]))
    }
}

/// Where blob `digest` (`sha256:HEX`) lies below a directory that keeps blobs as OCI layouts do.
fn blob_path(dir: &Path, digest: &str) -> PathBuf {
    dir.join("blobs").join(digest.replacen(':', "/", 1))
}
