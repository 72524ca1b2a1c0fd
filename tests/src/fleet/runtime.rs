//! The container runtimes: each real, each in a node, each configured as an operator does who has never heard of waylay.

mod containerd;
pub(crate) mod cri;
mod docker;
mod podman;
mod skopeo;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::time::timeout;

pub use self::containerd::Containerd;
pub use self::docker::Docker;
pub use self::podman::Podman;
pub use self::skopeo::Skopeo;
use super::node::Node;
use crate::image::Image;
use crate::saw::saw_pull;

/// Longer than any pull here may take, retries included.
const PULL_LIMIT: Duration = Duration::from_mins(10);

/// Which runtime pulls, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// containerd, asked by CRI as the kubelet does; the daemon fetches.
    Containerd,
    /// `ctr images pull`; the `ctr` process fetches.
    Ctr,
    /// dockerd, asked by `docker pull`; the daemon fetches.
    Docker,
    /// `podman pull`.
    Podman,
    /// `skopeo copy`, which keeps the blobs as files.
    Skopeo,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Containerd, Self::Ctr, Self::Docker, Self::Podman, Self::Skopeo];
    /// One for each implementation of a registry client, with a daemon where there is one.
    pub const THREE: [Self; 3] = [Self::Containerd, Self::Docker, Self::Podman];

    /// The `comm` of the process that fetches.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Ctr => "ctr",
            Self::Docker => "dockerd",
            Self::Podman => "podman",
            Self::Skopeo => "skopeo",
        }
    }

    /// Who keeps the images when several share a daemon.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Ctr => "ctr",
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Skopeo => "skopeo",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.label() == text).ok_or_else(|| format!("no runtime is called {text}"))
    }
}

/// A user's credential for the registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// Name.
    pub user: String,
    /// Password.
    pub password: String,
}

impl Login {
    /// The one that the token server accepts.
    #[must_use]
    pub fn right() -> Self {
        Self { user: "alice".to_owned(), password: "open sesame".to_owned() }
    }

    /// Another user's, who may pull from repositories below `other/`.
    #[must_use]
    pub fn other() -> Self {
        Self { user: "bob".to_owned(), password: "let me in".to_owned() }
    }

    /// One that it refuses.
    #[must_use]
    pub fn wrong() -> Self {
        Self { user: "alice".to_owned(), password: "open barley".to_owned() }
    }

    /// `user:password`.
    #[must_use]
    pub fn pair(&self) -> String {
        format!("{}:{}", self.user, self.password)
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login of {}", self.user)
    }
}

/// A runtime on a node, ready to pull. Dropping it stops its daemon.
#[derive(Debug)]
pub enum Runtime {
    /// By CRI or, with the flag, by `ctr`.
    Containerd(Containerd, bool),
    /// By `docker pull`.
    Docker(Docker),
    /// By `podman pull`.
    Podman(Podman),
    /// By `skopeo copy`.
    Skopeo(Skopeo),
}

impl Runtime {
    /// Starts runtime `kind` on `node`. `trust` is waylay's directory when the runtime's environment names it, as after the
    /// installer's drop-in; only containerd and `ctr` look at it, the others re-read their `certs.d`.
    ///
    /// # Errors
    /// When its daemon does not come up.
    pub async fn start(kind: Kind, node: &Node, trust: Option<&Path>) -> Result<Self> {
        Ok(match kind {
            Kind::Containerd => Self::Containerd(Containerd::start(node, trust).await?, false),
            Kind::Ctr => Self::Containerd(Containerd::start(node, trust).await?, true),
            Kind::Docker => Self::Docker(Docker::start(node).await?),
            Kind::Podman => Self::Podman(Podman::on(node)?),
            Kind::Skopeo => Self::Skopeo(Skopeo::on(node)?),
        })
    }

    /// Pulls `reference` once, and says how long it took.
    ///
    /// # Errors
    /// With the runtime's own words when it refuses.
    pub async fn pull(&self, reference: &str) -> Result<Duration> {
        self.pull_as(reference, None).await
    }

    /// The same with a credential.
    ///
    /// # Errors
    /// With the runtime's own words when it refuses.
    pub async fn pull_as(&self, reference: &str, login: Option<&Login>) -> Result<Duration> {
        let started = Instant::now();
        let pulled = match self {
            Self::Containerd(containerd, false) => containerd.cri_pull(reference, login).await,
            Self::Containerd(containerd, true) => containerd.ctr_pull(reference, login).await,
            Self::Docker(docker) => docker.pull(reference, login).await,
            Self::Podman(podman) => podman.pull(reference, login).await,
            Self::Skopeo(skopeo) => skopeo.pull(reference, login).await,
        };
        let image = reference.split_once('/').map_or(reference, |(_, image)| image);
        saw_pull(self.kind(), &format!("{image} in {:.1} s", started.elapsed().as_secs_f64()), &pulled);
        pulled.with_context(|| format!("pulling {reference}"))?;
        Ok(started.elapsed())
    }

    /// Checks that the runtime now holds `image`, pulled as `reference`, with the right bytes.
    ///
    /// # Errors
    /// Says what is missing or wrong.
    pub async fn holds(&self, image: &Image, reference: &str) -> Result<()> {
        match self {
            Self::Containerd(containerd, _) => containerd.holds(image),
            Self::Docker(docker) => docker.holds(image, reference).await,
            Self::Podman(podman) => podman.holds(image, reference).await,
            Self::Skopeo(skopeo) => skopeo.holds(image),
        }
    }

    /// Writes what was pulled as `reference` to the archive `file`, as an operator would who carries it elsewhere.
    ///
    /// # Errors
    /// With the runtime's own words when it refuses.
    pub async fn save(&self, reference: &str, file: &Path) -> Result<()> {
        match self {
            Self::Containerd(containerd, _) => containerd.save(reference, file).await,
            Self::Docker(docker) => docker.save(reference, file).await,
            Self::Podman(podman) => podman.save(reference, file).await,
            Self::Skopeo(skopeo) => skopeo.save(reference, file).await,
        }
        .with_context(|| format!("writing {reference} to {}", file.display()))
    }

    /// Throws the image away, as if it had never been pulled.
    ///
    /// # Errors
    /// With the runtime's own words when it refuses.
    pub async fn forget(&self, reference: &str) -> Result<()> {
        match self {
            Self::Containerd(containerd, _) => containerd.remove(reference).await,
            Self::Docker(docker) => docker.forget(reference).await,
            Self::Podman(podman) => podman.forget(reference).await,
            Self::Skopeo(skopeo) => skopeo.forget(),
        }
        .with_context(|| format!("forgetting {reference}"))
    }

    /// Which one it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Containerd(_, false) => Kind::Containerd,
            Self::Containerd(_, true) => Kind::Ctr,
            Self::Docker(_) => Kind::Docker,
            Self::Podman(_) => Kind::Podman,
            Self::Skopeo(_) => Kind::Skopeo,
        }
    }

    /// Leaves its daemon running when this program ends: for a kept fleet.
    pub fn keep(self) {
        std::mem::forget(self);
    }
}

/// Runs a client to its end, at most [`PULL_LIMIT`], and returns its standard output.
async fn finish(command: Command) -> Result<String> {
    let line = super::command::line(&command);
    let mut client = tokio::process::Command::from(command);
    client.kill_on_drop(true).stdin(std::process::Stdio::null());
    let output =
        timeout(PULL_LIMIT, client.output()).await.with_context(|| format!("{line}: not within {PULL_LIMIT:?}"))??;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!("{line} ended with {}: {}", output.status, String::from_utf8_lossy(&said).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Compares the unpacked layers that a runtime names with the image's.
fn same_layers(said: &str, image: &Image) -> Result<()> {
    let layers: Vec<String> =
        serde_json::from_str(said.trim()).with_context(|| format!("not a list of layers: {said}"))?;
    anyhow::ensure!(
        layers == image.diff_ids(),
        "the client's layers are {layers:?}, the image's {:?}",
        image.diff_ids()
    );
    Ok(())
}

/// Where a runtime keeps its things in a node.
fn home(node: &Node, name: &str) -> Result<PathBuf> {
    node.entry().make_dir(name)
}
