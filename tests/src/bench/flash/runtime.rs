//! Who pulls: the built-in client, `ctr content fetch`, or containerd asked through CRI.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};

use super::image::Image;
use crate::bench::client::{self, As, Fetched, Task};
use crate::fleet::runtime::Containerd;
use crate::fleet::{Daemon, Node, Registry};

/// A kind of client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Runtime {
    /// The built-in one, which costs the least.
    Client,
    /// `ctr content fetch`, which fetches and does not unpack.
    Ctr,
    /// containerd as the kubelet asks it, which unpacks too.
    Cri,
}

/// Clients on all nodes, ready to pull through waylay.
pub(super) struct Clients<'a> {
    registry: &'a Registry,
    runtime: Runtime,
    /// One on each node, for those that need it.
    containerds: Vec<Containerd>,
}

impl<'a> Clients<'a> {
    /// Starts what they need on `nodes`.
    pub(super) async fn start(
        runtime: Runtime,
        registry: &'a Registry,
        nodes: &[Node],
        daemons: &[Daemon],
    ) -> Result<Self> {
        let mut containerds = Vec::new();
        if runtime != Runtime::Client {
            for (node, daemon) in nodes.iter().zip(daemons) {
                containerds.push(Containerd::start(node, Some(&daemon.trust_dir())).await?);
            }
        }
        Ok(Self { registry, runtime, containerds })
    }

    /// Pulls `image` on the `n`-th node, and says for how long the client was busy after it had all bytes.
    pub(super) async fn pull(&self, n: usize, node: &Node, trust: &Path, image: &Image) -> Result<Duration> {
        let (repository, tag) = image.name();
        let reference = self.registry.reference(repository, tag);
        match self.runtime {
            Runtime::Client => {
                built_in(node, As::Runtime(trust), &self.registry.name(), image).await?;
                Ok(Duration::ZERO)
            }
            Runtime::Ctr => {
                self.containerds[n].ctr_fetch(&reference).await?;
                Ok(Duration::ZERO)
            }
            Runtime::Cri => {
                self.containerds[n].cri_pull(&reference, None).await?;
                let ended = SystemTime::now();
                Ok(ended.duration_since(self.containerds[n].complete_since(&image.blobs)?).unwrap_or_default())
            }
        }
    }
}

/// Pulls `image` from `at` with the built-in client.
pub(super) async fn built_in(node: &Node, who: As<'_>, at: &str, image: &Image) -> Result<()> {
    let (repository, tag) = image.name();
    let task = Task::Pull { at: at.to_owned(), repository: repository.to_owned(), tag: tag.to_owned() };
    let fetched: Fetched = client::on(node, who, task).await?;
    ensure!(fetched.bytes == image.bytes, "a client got {} bytes of {}", fetched.bytes, image.bytes);
    Ok(())
}
