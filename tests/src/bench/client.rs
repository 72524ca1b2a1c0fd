//! The benchmarks' client: a process of its own inside a node, which bears the name of a runtime or does not, and says on
//! standard output how it went.
//!
//! It is blocking and knows just enough HTTP/1.1, so that the server is what is measured. Both sides of a comparison are
//! asked by the same code with the same cipher.

mod connects;
mod https;
mod pull;
mod stream;

use std::env;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::prctl;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use self::https::{Https, Trust};
pub(super) use self::stream::Took;
use crate::fleet::Node;

/// Requests before those that are timed: connections are made and caches filled.
const UNTIMED: usize = 20;

/// What to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Task {
    /// Gets each of these paths over a connection of its own, all at once.
    Fetch { at: String, paths: Vec<String>, body: Body },
    /// Pulls an image: the manifest by its tag, then what it lists, a few at once.
    Pull { at: String, repository: String, tag: String },
    /// Asks for something small again and again, on one connection or each time on a new one.
    Ask { at: String, path: String, times: usize, anew: bool },
    /// Calls connect() in so many batches towards a place where nobody answers.
    Connect { to: SocketAddr, batches: u32 },
    /// Gives pieces of a file to a bare peer that takes them.
    Give { at: SocketAddr, file: PathBuf },
    /// Takes them.
    Take { from: SocketAddr, bytes: u64, into: PathBuf },
    /// Hashes so many bytes with sha256.
    Hash { bytes: u64 },
}

/// What is done with a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Body {
    /// Counted by the lengths of its TLS records and thrown away without deciphering: the cheapest client there can be.
    Discard,
    /// Deciphered, and its sha256 compared with the digest in the path, as every runtime does.
    Verify,
}

/// How a fetch went.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Fetched {
    pub(super) bytes: u64,
    pub(super) seconds: f64,
}

impl Fetched {
    pub(super) fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.seconds
    }
}

/// As whom a client goes.
#[derive(Debug, Clone, Copy)]
pub(super) enum As<'a> {
    /// By the name of a runtime, with this directory of waylay's in its `SSL_CERT_DIR`: its connections are caught.
    Runtime(&'a Path),
    /// By its own name: nobody touches its connections.
    Stranger,
}

/// A task with the name under which it is done.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    task: Task,
    runtime: bool,
}

/// Has a client on `node` do `task`.
///
/// # Errors
/// With what it said when it failed.
pub(super) async fn on<T: DeserializeOwned>(node: &Node, who: As<'_>, task: Task) -> Result<T> {
    let (trust, runtime) = match who {
        As::Runtime(trust) => (Some(trust), true),
        As::Stranger => (None, false),
    };
    let mut command = node.entry().command(env::current_exe().context("cannot find this program's own path")?);
    command.env("SSL_CERT_DIR", crate::fleet::registry::ssl_cert_dir(trust));
    command.arg("client").arg(serde_json::to_string(&Order { task, runtime })?);
    let mut client = tokio::process::Command::from(command);
    let output = client.kill_on_drop(true).stdin(Stdio::null()).output().await.context("cannot start a client")?;
    if !output.status.success() {
        bail!("a client on {}: {}", node.name(), String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("a client's answer")
}

/// The client's own main: does what `order` says.
///
/// # Errors
/// When it cannot be done; nothing is written to standard output then.
pub fn main(order: &str) -> Result<()> {
    let Order { task, runtime } = serde_json::from_str(order).context("not an order for a client")?;
    // Threads inherit it.
    prctl::set_name(if runtime { c"ctr" } else { c"bench" })?;
    let said = match task {
        Task::Fetch { at, paths, body } => serde_json::to_string(&fetch(&at, &paths, body)?)?,
        Task::Pull { at, repository, tag } => serde_json::to_string(&pull::pull(&at, &repository, &tag)?)?,
        Task::Ask { at, path, times, anew } => serde_json::to_string(&ask(&at, &path, times, anew)?)?,
        Task::Connect { to, batches } => serde_json::to_string(&connects::fastest(to, batches)?)?,
        Task::Give { at, file } => serde_json::to_string(&stream::give(at, &file)?)?,
        Task::Take { from, bytes, into } => serde_json::to_string(&stream::take(from, bytes, &into)?)?,
        Task::Hash { bytes } => serde_json::to_string(&stream::hash(bytes)?)?,
    };
    println!("{said}");
    Ok(())
}

fn fetch(at: &str, paths: &[String], body: Body) -> Result<Fetched> {
    let trust = Trust::of_environment()?;
    let begun = Instant::now();
    let one = |path: &str| -> Result<u64> {
        let mut connection = Https::connect(at, &trust)?;
        let bytes = connection.get(path)?;
        match body {
            Body::Discard => connection.discard()?,
            Body::Verify => connection.verify(path.rsplit_once(':').context("a path without a digest")?.1)?,
        }
        Ok(bytes)
    };
    let bytes = thread::scope(|scope| {
        let threads: Vec<_> = paths.iter().map(|path| scope.spawn(|| one(path))).collect();
        let ended = threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?);
        ended.sum::<Result<u64>>()
    })?;
    Ok(Fetched { bytes, seconds: begun.elapsed().as_secs_f64() })
}

/// Milliseconds of each request, the making of its connection included if it had to be made.
fn ask(at: &str, path: &str, times: usize, anew: bool) -> Result<Vec<f64>> {
    let trust = Trust::of_environment()?;
    let mut kept = None;
    let mut took = Vec::with_capacity(times);
    for _ in 0..UNTIMED + times {
        let begun = Instant::now();
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => Https::connect(at, &trust)?,
        };
        connection.get(path)?;
        connection.read()?;
        took.push(begun.elapsed().as_secs_f64() * 1e3);
        kept = (!anew).then_some(connection);
    }
    Ok(took.split_off(UNTIMED))
}
