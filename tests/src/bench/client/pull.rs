//! A whole pull as containerd does one: the manifest by its tag, then configuration and layers in their order, at most
//! three at once, each checked against the digest that the manifest gives it.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use serde::Deserialize;

use super::Fetched;
use super::https::{Https, Trust};

/// containerd's `max_concurrent_downloads`.
const AT_ONCE: usize = 3;

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    size: u64,
}

/// Pulls `repository:tag` from `at`.
pub(super) fn pull(at: &str, repository: &str, tag: &str) -> Result<Fetched> {
    let trust = Trust::of_environment()?;
    let begun = Instant::now();
    let mut first = Https::connect(at, &trust)?;
    first.get(&format!("/v2/{repository}/manifests/{tag}"))?;
    let Manifest { config, layers } = serde_json::from_slice(&first.body()?).context("not a manifest")?;
    let wanted: Mutex<VecDeque<Descriptor>> = Mutex::new([config].into_iter().chain(layers).collect());
    let next = || wanted.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    // One connection for each of those that go at once; the manifest's is one of them.
    let worker = |mut connection: Option<Https>| -> Result<u64> {
        let mut bytes = 0;
        while let Some(Descriptor { digest, size }) = next() {
            let mut opened = match connection.take() {
                Some(opened) => opened,
                None => Https::connect(at, &trust)?,
            };
            let length = opened.get(&format!("/v2/{repository}/blobs/{digest}"))?;
            ensure!(length == size, "{digest} has {length} bytes and not {size}");
            opened.verify(digest.strip_prefix("sha256:").context("a digest of another kind")?)?;
            bytes += length;
            connection = Some(opened);
        }
        Ok(bytes)
    };
    let bytes = thread::scope(|scope| {
        let connections = [Some(first)].into_iter().chain((1..AT_ONCE).map(|_| None));
        let threads: Vec<_> = connections.map(|connection| scope.spawn(|| worker(connection))).collect();
        let ended = threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?);
        ended.sum::<Result<u64>>()
    })?;
    Ok(Fetched { bytes, seconds: begun.elapsed().as_secs_f64() })
}
