//! skopeo, which keeps what it fetched as plain files: the witness that can be hashed.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::super::node::{Entry, Node};
use super::{Login, finish, home};
use crate::image::Image;

/// skopeo on a node.
#[derive(Debug)]
pub struct Skopeo {
    entry: Entry,
    home: PathBuf,
}

impl Skopeo {
    /// With a directory of its own.
    ///
    /// # Errors
    /// When that cannot be made.
    pub fn on(node: &Node) -> Result<Self> {
        Ok(Self { entry: node.entry().clone(), home: home(node, "skopeo")? })
    }

    pub(super) async fn pull(&self, reference: &str, login: Option<&Login>) -> Result<()> {
        let mut skopeo = self.entry.command("skopeo");
        skopeo.arg("copy");
        if let Some(login) = login {
            skopeo.args(["--src-creds", &login.pair()]);
        }
        skopeo.arg(format!("docker://{reference}")).arg(format!("dir:{}", self.home.join("image").display()));
        finish(skopeo).await.map(drop)
    }

    /// From the registry: skopeo keeps nothing.
    pub(super) async fn save(&self, reference: &str, file: &Path) -> Result<()> {
        let mut skopeo = self.entry.command("skopeo");
        skopeo.args(["copy", &format!("docker://{reference}")]);
        skopeo.arg(format!("oci-archive:{}:{reference}", file.display()));
        finish(skopeo).await.map(drop)
    }

    pub(super) fn forget(&self) -> Result<()> {
        std::fs::remove_dir_all(self.home.join("image")).context("skopeo's directory")
    }

    pub(super) fn holds(&self, image: &Image) -> Result<()> {
        let dir = self.home.join("image");
        image.check(|hex| dir.join(hex))
    }
}
