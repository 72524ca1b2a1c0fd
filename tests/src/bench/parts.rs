//! What the work of a warm pull takes on this machine at least, part by part and with nothing between the parts: bytes over
//! one bare iroh connection, hashed with BLAKE3 and written; sha256 of them; and TLS to the client, by nginx.

use anyhow::{Context, Result};
use serde_json::json;

use super::blob::Blob;
use super::client::{self, As, Body, Fetched, Task, Took};
use super::measure::{cpu, touch};
use super::nginx::{self, Nginx};
use crate::fleet::{Daemon, Fleet};

/// Any port that nobody else has.
const PORT: u16 = 4600;

/// CPU-seconds of each part for a GiB, and how fast the bytes came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts {
    give: f64,
    take: f64,
    sha256: f64,
    tls: f64,
    bytes_per_second: f64,
}

impl Parts {
    /// Of `blob`, which both daemons hold; `nginx` serves the taker's copy.
    pub(super) async fn measure(fleet: &Fleet, daemons: &[Daemon], nginx: &Nginx, blob: &Blob) -> Result<Self> {
        let [first, second] = fleet.nodes() else { anyhow::bail!("two nodes were asked for") };
        let giver = daemons.first().context("two daemons were asked for")?;
        let (at, bytes) = ((first.address(), PORT).into(), blob.bytes);
        let into = second.entry().make_dir("parts")?.join("blob");
        touch(2 * bytes)?;
        let give = Task::Give { at, file: giver.blob_dir().join(blob.hex()) };
        let take = Task::Take { from: at, bytes, into: into.clone() };
        let giving = client::on::<Took>(first, As::Stranger, give);
        let taking = client::on::<Took>(second, As::Stranger, take);
        let (gave, took) = tokio::try_join!(giving, taking)?;
        std::fs::remove_file(&into).context("cannot remove what was taken")?;
        let hashed: Took = client::on(second, As::Stranger, Task::Hash { bytes }).await?;
        let before = cpu(nginx.pid())?;
        let fetch = Task::Fetch {
            at: nginx::ADDRESS.to_string(),
            paths: vec![format!("/{}", blob.hex())],
            body: Body::Discard,
        };
        client::on::<Fetched>(second, As::Stranger, fetch).await?;
        let served = cpu(nginx.pid())?.saturating_sub(before);
        let gib = bytes as f64 / (1_u64 << 30) as f64;
        Ok(Self {
            give: gave.cpu_seconds / gib,
            take: took.cpu_seconds / gib,
            sha256: hashed.cpu_seconds / gib,
            tls: served.as_secs_f64() / gib,
            bytes_per_second: bytes as f64 / took.seconds,
        })
    }

    /// All of them.
    pub(super) fn cpu_seconds_per_gib(&self) -> f64 {
        self.give + self.take + self.sha256 + self.tls
    }

    /// How fast the one connection brought the bytes.
    pub(super) fn bytes_per_second(&self) -> f64 {
        self.bytes_per_second
    }

    pub(super) fn raw(&self) -> serde_json::Value {
        json!({
            "give": self.give, "take": self.take, "sha256": self.sha256, "tls": self.tls,
            "bytes_per_second": self.bytes_per_second,
        })
    }
}
