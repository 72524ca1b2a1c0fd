//! podman, which has no daemon: the command itself fetches, and re-reads its `certs.d` each time.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::super::node::{Entry, Node};
use super::{Login, finish, home, same_layers};
use crate::image::Image;

/// podman on a node.
#[derive(Debug)]
pub struct Podman {
    entry: Entry,
    home: PathBuf,
}

impl Podman {
    /// With storage of its own.
    ///
    /// # Errors
    /// When that cannot be made.
    pub fn on(node: &Node) -> Result<Self> {
        Ok(Self { entry: node.entry().clone(), home: home(node, "podman")? })
    }

    pub(super) async fn pull(&self, reference: &str, login: Option<&Login>) -> Result<()> {
        let mut podman = self.command();
        podman.arg("pull");
        if let Some(login) = login {
            podman.args(["--creds", &login.pair()]);
        }
        podman.arg(reference);
        finish(podman).await.map(drop)
    }

    pub(super) async fn save(&self, reference: &str, file: &Path) -> Result<()> {
        let mut podman = self.command();
        podman.args(["save", "--quiet", "--format", "oci-archive", "--output"]).arg(file).arg(reference);
        finish(podman).await.map(drop)
    }

    pub(super) async fn forget(&self, reference: &str) -> Result<()> {
        let mut podman = self.command();
        podman.args(["image", "rm", "--force", reference]);
        finish(podman).await.map(drop)
    }

    pub(super) async fn holds(&self, image: &Image, reference: &str) -> Result<()> {
        let mut podman = self.command();
        podman.args(["image", "inspect", "--format", "{{json .RootFS.Layers}}", reference]);
        same_layers(&finish(podman).await?, image)
    }

    fn command(&self) -> Command {
        let mut podman = self.entry.command("podman");
        podman.arg("--root").arg(self.home.join("root")).arg("--runroot").arg(self.home.join("run"));
        podman.args(["--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--events-backend", "none"]);
        podman
    }
}
