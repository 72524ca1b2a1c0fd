//! `hit`: a blob in this node's store, over TLS, against nginx serving the very same file.

use anyhow::{Context, Result};
use serde_json::json;

use super::blob::Blob;
use super::client::{self, As, Body, Fetched, Task};
use super::measure::{cpu, median};
use super::nginx::{self, Nginx};
use super::report::{Report, Target};
use crate::fleet::{Daemon, Fleet, Node};

const BLOB_MIB: u64 = 512;
const ROUNDS: usize = 5;
/// Numbers of connections, each with how often the blob is fetched in all, so that a round takes about as long.
const CONNECTIONS: [(usize, usize); 2] = [(1, 2), (8, 8)];

/// One side in one round.
struct Side {
    bytes_per_second: f64,
    bytes_per_cpu_second: f64,
}

pub(super) async fn run() -> Result<Report> {
    eprintln!("starting a registry, waylay and nginx on one node");
    let fleet = Fleet::of(1).start().await?;
    let daemons = Daemon::on_all(fleet.nodes()).await?;
    let (node, daemon) = fleet.nodes().first().zip(daemons.first()).context("one node was asked for")?;
    let blob = Blob::create(&fleet, BLOB_MIB)?;
    let trust = daemon.trust_dir();
    let ours = fleet.registry().name();
    // Fills the store; its file is what nginx serves.
    fetch(node, As::Runtime(&trust), &ours, vec![blob.path()]).await?;
    let nginx = Nginx::start(&fleet, node, &daemon.blob_dir()).await?;
    let theirs = nginx::ADDRESS.to_string();
    let (mut speeds, mut cpus) = (Vec::new(), Vec::new());
    let mut report = Report::default();
    for (connections, times) in CONNECTIONS {
        let mut rounds = Vec::new();
        for round in 1..=ROUNDS {
            let (path, file) = (blob.path(), format!("/{}", blob.hex()));
            let them = side(node, nginx.pid(), As::Stranger, &theirs, &file, connections, times).await?;
            let us = side(node, daemon.process().pid(), As::Runtime(&trust), &ours, &path, connections, times).await?;
            eprintln!(
                "{connections} connections, round {round}: waylay {:.0} MB/s, nginx {:.0} MB/s",
                us.bytes_per_second / 1e6,
                them.bytes_per_second / 1e6
            );
            rounds.push((us, them));
        }
        let of =
            |value: fn(&Side) -> f64, side: fn(&(Side, Side)) -> &Side| median(rounds.iter().map(|r| value(side(r))));
        let speed = median(rounds.iter().map(|(us, them)| us.bytes_per_second / them.bytes_per_second));
        let cpu = median(rounds.iter().map(|(us, them)| us.bytes_per_cpu_second / them.bytes_per_cpu_second));
        report = report.with(
            &format!("connections_{connections}"),
            json!({
                "ratio_vs_nginx": speed, "cpu_ratio_vs_nginx": cpu,
                "waylay_bytes_per_second": of(|side| side.bytes_per_second, |round| &round.0),
                "nginx_bytes_per_second": of(|side| side.bytes_per_second, |round| &round.1),
                "waylay_bytes_per_cpu_second": of(|side| side.bytes_per_cpu_second, |round| &round.0),
                "nginx_bytes_per_cpu_second": of(|side| side.bytes_per_cpu_second, |round| &round.1),
            }),
        );
        report = report.remark(format!(
            "{connections} connections: {speed:.2} of nginx's speed, {cpu:.2} of its bytes per CPU-second"
        ));
        speeds.push(speed);
        cpus.push(cpu);
    }
    let worst = |values: Vec<f64>| values.into_iter().fold(f64::INFINITY, f64::min);
    Ok(report.judged("ratio_vs_nginx", worst(speeds), Target::AtLeast(0.8)).judged(
        "cpu_ratio_vs_nginx",
        worst(cpus),
        Target::AtLeast(0.6),
    ))
}

/// Fetches `path` from `at`, whose server is the process `server`, `times` in all.
async fn side(
    node: &Node,
    server: nix::unistd::Pid,
    who: As<'_>,
    at: &str,
    path: &str,
    connections: usize,
    times: usize,
) -> Result<Side> {
    let (mut bytes, mut seconds, before) = (0, 0.0, cpu(server)?);
    for _ in 0..times / connections {
        let fetched = fetch(node, who, at, vec![path.to_owned(); connections]).await?;
        bytes += fetched.bytes;
        seconds += fetched.seconds;
    }
    let took = cpu(server)?.saturating_sub(before);
    Ok(Side {
        bytes_per_second: bytes as f64 / seconds,
        bytes_per_cpu_second: bytes as f64 / took.as_secs_f64().max(f64::EPSILON),
    })
}

async fn fetch(node: &Node, who: As<'_>, at: &str, paths: Vec<String>) -> Result<Fetched> {
    client::on(node, who, Task::Fetch { at: at.to_owned(), paths, body: Body::Discard }).await
}
