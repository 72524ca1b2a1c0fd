//! `warm`: a blob from one peer, against the same client straight from the registry, on wires of 1 Gbit/s and on wires
//! whose only limit is the machine. What its parts take on this machine by themselves is measured in the same rounds.
//!
//! The client does what every runtime does: it deciphers, and hashes what it gets.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::blob::Blob;
use super::client::{self, As, Body, Fetched, Task};
use super::measure::{Idle, cpu, median, touch};
use super::nginx::Nginx;
use super::parts::Parts;
use super::report::{Report, Target};
use crate::fleet::{Daemon, Fleet, Node};

const BLOB_MIB: u64 = 1024;
const ROUNDS: usize = 3;

/// What was measured on one kind of wires.
#[derive(Default)]
struct Wires {
    ratio: f64,
    cpu_seconds_per_gib: f64,
    parts: f64,
    /// How fast a bare connection brought the bytes, against the registry.
    bare: f64,
    each: serde_json::Value,
    waylay: f64,
    registry: f64,
    idle: f64,
}

pub(super) async fn run() -> Result<Report> {
    eprintln!("starting a registry and waylay on two nodes");
    let fleet = Fleet::of(2).start().await?;
    let daemons = Daemon::on_all(fleet.nodes()).await?;
    let (second, taker) = fleet.nodes().get(1).zip(daemons.get(1)).context("two nodes were asked for")?;
    let nginx = Nginx::start(&fleet, second, &taker.blob_dir()).await?;
    let unshaped = measure(&fleet, &daemons, &nginx, "unshaped").await?;
    for node in fleet.nodes().iter().chain([fleet.registry().node()]) {
        node.link().shape("1gbit")?;
    }
    let shaped = measure(&fleet, &daemons, &nginx, "1 Gbit/s").await?;
    let raw = |wires: &Wires| {
        json!({
            "waylay_bytes_per_second": wires.waylay, "registry_bytes_per_second": wires.registry,
            "cpu_s_per_gib": wires.cpu_seconds_per_gib, "idle_cpu_share": wires.idle,
            "parts_cpu_s_per_gib": wires.parts, "last_parts": wires.each, "bare_ratio_vs_direct": wires.bare,
        })
    };
    Ok(Report::default()
        .judged("ratio_at_1gbit", shaped.ratio, Target::AtLeast(0.95))
        .judged("ratio_vs_direct", unshaped.ratio, Target::AtLeast(0.4))
        .judged("cpu_s_per_gib", unshaped.cpu_seconds_per_gib.max(shaped.cpu_seconds_per_gib), Target::AtMost(4.8))
        .with("unshaped", raw(&unshaped))
        .with("at_1gbit", raw(&shaped))
        .remark(format!(
            "by themselves the parts took {:.1} CPU-seconds a GiB unshaped and {:.1} at 1 Gbit/s; a bare connection alone was \
             {:.2} and {:.2} times as fast as the registry",
            unshaped.parts, shaped.parts, unshaped.bare, shaped.bare
        ))
        .remark(format!(
            "{:.0} % idle while unshaped, {:.0} % at 1 Gbit/s",
            unshaped.idle * 100.0,
            shaped.idle * 100.0
        )))
}

async fn measure(fleet: &Fleet, daemons: &[Daemon], nginx: &Nginx, wires: &str) -> Result<Wires> {
    let [first, second] = fleet.nodes() else { anyhow::bail!("two nodes were asked for") };
    let (giver, taker) = daemons.first().zip(daemons.get(1)).context("two daemons were asked for")?;
    let at = fleet.registry().name();
    let (giver_trust, taker_trust) = (giver.trust_dir(), taker.trust_dir());
    let (mut rounds, mut idles, mut parts) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        let blob = Blob::create(fleet, BLOB_MIB)?;
        fetch(first, As::Runtime(&giver_trust), &at, &blob, Body::Discard).await?;
        let direct = fetch(second, As::Stranger, &at, &blob, Body::Verify).await?;
        // What is written meanwhile: the taker's copy, and all that is in flight.
        touch(2 * blob.bytes)?;
        let (counted, before) = (taker.counters().await?.by_source(), both(giver, taker)?);
        let idle = Idle::begin()?;
        let through = fetch(second, As::Runtime(&taker_trust), &at, &blob, Body::Verify).await?;
        idles.push(idle.share()?);
        let seconds = both(giver, taker)? - before;
        let from = taker.counters().await?.by_source().since(counted);
        ensure!(from.registry == 0, "node2 took {} bytes from the registry", from.registry);
        let alone = Parts::measure(fleet, daemons, nginx, &blob).await?;
        eprintln!(
            "{wires}, round {round}: waylay {:.0} MB/s with {seconds:.1} CPU-seconds, its parts alone {:.1}; the registry {:.0} MB/s",
            through.bytes_per_second() / 1e6,
            alone.cpu_seconds_per_gib() * BLOB_MIB as f64 / 1024.0,
            direct.bytes_per_second() / 1e6,
        );
        parts.push((alone, direct.bytes_per_second()));
        rounds.push((through.bytes_per_second(), direct.bytes_per_second(), seconds * 1024.0 / BLOB_MIB as f64));
    }
    Ok(Wires {
        ratio: median(rounds.iter().map(|(through, direct, _)| through / direct)),
        cpu_seconds_per_gib: median(rounds.iter().map(|round| round.2)),
        parts: median(parts.iter().map(|(parts, _)| parts.cpu_seconds_per_gib())),
        bare: median(parts.iter().map(|(parts, direct)| parts.bytes_per_second() / direct)),
        each: parts.last().map(|(parts, _)| parts.raw()).unwrap_or_default(),
        waylay: median(rounds.iter().map(|round| round.0)),
        registry: median(rounds.iter().map(|round| round.1)),
        idle: median(idles),
    })
}

/// Processor time of both daemons, in seconds.
fn both(giver: &Daemon, taker: &Daemon) -> Result<f64> {
    Ok((cpu(giver.process().pid())? + cpu(taker.process().pid())?).as_secs_f64())
}

async fn fetch(node: &Node, who: As<'_>, at: &str, blob: &Blob, body: Body) -> Result<Fetched> {
    let fetched: Fetched =
        client::on(node, who, Task::Fetch { at: at.to_owned(), paths: vec![blob.path()], body }).await?;
    ensure!(fetched.bytes == blob.bytes, "a client got {} bytes of {}", fetched.bytes, blob.bytes);
    Ok(fetched)
}
