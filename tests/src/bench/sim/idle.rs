//! `idle`: what a cluster says when nobody pulls, and what an owner remembers. Who is to be told again is decided by the
//! herald's ledger, on every node; who is asked whether it lives, by the roster of some nodes that each know all members;
//! the gossip of all nodes is iroh-gossip's own state machine. Nobody comes, goes or is silent.

mod gossip;
mod herald;
mod table;

use std::{net::SocketAddr, time::Instant};

use anyhow::{Context, Result};
use nix::unistd::Pid;
use rand::{SeedableRng as _, rngs::StdRng};
use serde::Deserialize;
use waylay::swarm::pure::{Tracker, owners_of_shards};

use super::world::address;
use crate::bench::{
    measure::resident,
    report::{Report, Target},
};

/// The preset's name.
pub(super) const NAME: &str = "idle";

/// A cluster at rest. Times as their names say.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Preset {
    about: String,
    nodes: u32,
    /// Different blobs in the cluster, and how many of them each node holds.
    blobs: u32,
    held: usize,
    started_within_s: u32,
    from_s: u32,
    counted_s: u32,
    /// How many nodes have a table of all members, and for how long they are watched.
    tables: usize,
    tables_s: u32,
    round_trip_ms: f64,
    targets: Targets,
}

/// All at most.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Targets {
    /// Messages that a node sends, in the mean.
    messages_per_s: f64,
    /// Messages that the busiest owner sends and gets.
    busiest_owner_per_s: f64,
    /// What that owner's books take.
    tracker_mib: f64,
}

/// Simulates it; all chances follow from the seed.
pub(super) fn run(seed: u64, nodes: Option<u32>) -> Result<Report> {
    let mut preset: Preset = toml::from_str(include_str!("../../../presets/idle.toml")).context("the preset idle")?;
    preset.nodes = nodes.unwrap_or(preset.nodes);
    let (began, mut random) = (Instant::now(), StdRng::seed_from_u64(seed));
    let addrs: Vec<SocketAddr> = (0..preset.nodes).map(address).collect();
    let cluster = herald::Cluster::new(&preset, owners_of_shards(&addrs), &mut random);

    let announced = cluster.to_busiest();
    let before = resident(Pid::this())?.0;
    let mut tracker = Tracker::new(seed);
    for (from, announce) in announced {
        tracker.note(from, announce, began);
    }
    let tracker_mib = resident(Pid::this())?.0 - before;

    let told = cluster.told(&preset, began, &mut random);
    let pings = table::pings(&preset, &addrs, began, &mut random)?;
    let gossip = gossip::messages(&preset, seed);
    // Each question, and each announcement, has an answer; what others ask is in the mean what a node asks.
    let mean = 2.0 * told.sent + 2.0 * pings + gossip.mean;
    let busiest = 2.0 * told.busiest_sent + 2.0 * told.busiest_got + 4.0 * pings + 2.0 * gossip.mean;
    let Targets { messages_per_s, busiest_owner_per_s, tracker_mib: most_mib } = preset.targets;
    Ok(Report::default()
        .judged("messages_per_s", mean, Target::AtMost(messages_per_s))
        .judged("busiest_owner_per_s", busiest, Target::AtMost(busiest_owner_per_s))
        .judged("tracker_mib", tracker_mib, Target::AtMost(most_mib))
        .with("scenario", "sim")
        .with("preset", NAME)
        .with("nodes", preset.nodes)
        .with("seed", seed)
        .with("announcements_per_s", told.sent)
        .with("announcements_to_busiest_per_s", told.busiest_got)
        .with("announcements_to_busiest_per_s_max", told.busiest_most)
        .with("pings_per_s", pings)
        .with("gossip_per_s", gossip.mean)
        .with("gossip_per_s_max", gossip.most)
        .with("shards_of_busiest", cluster.busiest_shards())
        .with("facts_of_busiest", tracker.facts())
        .remark(format!("idle: {}", preset.about))
        .remark(format!("Simulated in {:.1} s.", began.elapsed().as_secs_f64())))
}
