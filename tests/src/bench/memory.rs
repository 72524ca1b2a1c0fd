//! `memory`: resident memory of the daemon, idle, and at its highest while eight blobs of 1 GiB are pulled at once, by one
//! node from the registry and then by another from that node.

use anyhow::{Context, Result};
use serde_json::json;

use super::blob::Blob;
use super::client::{self, As, Body, Fetched, Task};
use super::measure::resident;
use super::report::{Report, Target};
use crate::fleet::{Daemon, Fleet};

const BLOBS: usize = 8;
const BLOB_MIB: u64 = 1024;

pub(super) async fn run() -> Result<Report> {
    eprintln!("starting a registry and waylay on two nodes");
    let fleet = Fleet::of(2).start().await?;
    let daemons = Daemon::on_all(fleet.nodes()).await?;
    let idle = daemons.iter().map(|daemon| Ok(resident(daemon.process().pid())?.0)).collect::<Result<Vec<f64>>>()?;
    eprintln!("making {BLOBS} blobs of {BLOB_MIB} MiB");
    let blobs = (0..BLOBS).map(|_| Blob::create(&fleet, BLOB_MIB)).collect::<Result<Vec<_>>>()?;
    let paths: Vec<String> = blobs.iter().map(Blob::path).collect();
    for (node, daemon) in fleet.nodes().iter().zip(&daemons) {
        let trust = daemon.trust_dir();
        let task = Task::Fetch { at: fleet.registry().name(), paths: paths.clone(), body: Body::Discard };
        let fetched: Fetched = client::on(node, As::Runtime(&trust), task).await?;
        eprintln!("{}: {BLOBS} blobs at {:.0} MB/s in all", node.name(), fetched.bytes_per_second() / 1e6);
    }
    let after = daemons.iter().map(|daemon| resident(daemon.process().pid())).collect::<Result<Vec<_>>>()?;
    let highest = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
    let taker = daemons.get(1).context("two daemons were asked for")?.counters().await?.by_source();
    Ok(Report::default()
        .judged("idle_rss_mib", highest(&mut idle.iter().copied()), Target::AtMost(40.0))
        .judged("busy_rss_mib", highest(&mut after.iter().map(|(_, most)| *most)), Target::AtMost(128.0))
        .with("from_registry_then_serving_mib", after.first().map(|(_, most)| *most))
        .with("from_peer_mib", after.get(1).map(|(_, most)| *most))
        .with("afterwards_mib", json!(after.iter().map(|(now, _)| *now).collect::<Vec<_>>()))
        .with("peer_bytes", taker.peer)
        .with("registry_bytes_of_second_node", taker.registry))
}
