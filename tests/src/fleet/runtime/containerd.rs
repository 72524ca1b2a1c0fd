//! containerd with everything of its own, asked through CRI or by `ctr`. No mirror section anywhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use super::super::node::{Entry, Node};
use super::super::process::Process;
use super::super::registry::ssl_cert_dir;
use super::{Login, cri, finish, home};
use crate::image::Image;
use crate::wait::eventually;

/// A running containerd.
#[derive(Debug)]
pub struct Containerd {
    process: Process,
    entry: Entry,
    home: PathBuf,
    trust: Option<PathBuf>,
}

impl Containerd {
    /// Starts it and waits until CRI answers.
    ///
    /// # Errors
    /// With the end of its log when it does not.
    pub async fn start(node: &Node, trust: Option<&Path>) -> Result<Self> {
        let home = home(node, "containerd")?;
        let config = home.join("config.toml");
        fs::write(&config, configuration(&home)).context("cannot write containerd's configuration")?;
        let entry = node.entry().clone();
        let mut command = entry.command("containerd");
        command.arg("--config").arg(&config).env("SSL_CERT_DIR", ssl_cert_dir(trust));
        let process = entry.daemon("containerd", command)?;
        let mut started = Self { process, entry, home, trust: trust.map(Path::to_owned) };
        let socket = started.socket();
        eventually("containerd to answer", Duration::from_secs(30), async || {
            started.process.alive()?;
            Ok(cri::answers(&socket).await.ok())
        })
        .await?;
        Ok(started)
    }

    /// Its socket, which the outside reaches by the same path.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.home.join("containerd.sock")
    }

    /// Pulls as the kubelet does.
    ///
    /// # Errors
    /// With containerd's own words when it refuses.
    pub async fn cri_pull(&self, reference: &str, login: Option<&Login>) -> Result<()> {
        cri::pull(&self.socket(), reference, login).await
    }

    /// Pulls as a person at a shell does, whose environment names waylay's directory only if containerd's does.
    pub(super) async fn ctr_pull(&self, reference: &str, login: Option<&Login>) -> Result<()> {
        let mut ctr = self.ctr();
        ctr.args(["images", "pull"]);
        if let Some(login) = login {
            ctr.args(["--user", &login.pair()]);
        }
        ctr.arg(reference);
        finish(ctr).await.map(drop)
    }

    /// Fetches into the content store by `ctr` and unpacks nothing.
    ///
    /// # Errors
    /// With `ctr`'s own words when it fails.
    pub async fn ctr_fetch(&self, reference: &str) -> Result<()> {
        let mut ctr = self.ctr();
        ctr.args(["content", "fetch", reference]);
        finish(ctr).await.map(drop)
    }

    pub(super) async fn save(&self, reference: &str, file: &Path) -> Result<()> {
        let mut ctr = self.ctr();
        ctr.args(["images", "export"]).arg(file).arg(reference);
        finish(ctr).await.map(drop)
    }

    /// Removes the image, as the kubelet does.
    ///
    /// # Errors
    /// With containerd's own words when it refuses.
    pub async fn remove(&self, reference: &str) -> Result<()> {
        cri::remove(&self.socket(), reference).await
    }

    /// Reads the blobs in its content store.
    pub(super) fn holds(&self, image: &Image) -> Result<()> {
        image.check(|hex| self.blobs().join(hex))
    }

    /// When the last of `blobs`, named by their sha256, came into its content store.
    ///
    /// # Errors
    /// When it lacks one.
    pub fn complete_since(&self, blobs: &[String]) -> Result<SystemTime> {
        let came = |hex: &String| {
            let metadata = fs::metadata(self.blobs().join(hex)).with_context(|| format!("containerd has no {hex}"))?;
            Ok(metadata.modified()?)
        };
        blobs.iter().map(came).try_fold(SystemTime::UNIX_EPOCH, |last, came: Result<_>| Ok(last.max(came?)))
    }

    /// Where its content store keeps whole blobs, under the hexadecimal digits of their sha256.
    #[must_use]
    pub fn blobs(&self) -> PathBuf {
        self.home.join("root/io.containerd.content.v1.content/blobs/sha256")
    }

    fn ctr(&self) -> Command {
        let mut ctr = self.entry.command("ctr");
        ctr.env("SSL_CERT_DIR", ssl_cert_dir(self.trust.as_deref()));
        ctr.arg("--address").arg(self.socket()).args(["--namespace", "k8s.io"]);
        ctr
    }
}

fn configuration(home: &Path) -> String {
    let home = home.display();
    format!(
        r#"version = 2
root = "{home}/root"
state = "{home}/state"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
address = "{home}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{home}/opt"
"#
    )
}
