//! `flash`: many nodes pull one image that nobody has, at the same time. Measured against the least time in which that can
//! be done at all, against direct pulls and against a mirror, on the same wires in the same round.
//!
//! The rules: rates are the nominal ones given to tc, so headers count against us; time runs from the start of the first
//! client to the exit of the last; the clients go through the kernel hooks as runtimes do.

mod case;
mod crowd;
mod figures;
mod image;
mod mirror;
mod rate;
mod round;
mod runtime;
mod timeline;

use std::path::PathBuf;

use anyhow::{Result, ensure};

use self::case::Case;
use self::rate::Rate;
use self::round::Scene;
use self::runtime::{Clients, Runtime};
use super::report::Report;
use crate::fleet::daemon::Settings;
use crate::fleet::{Daemon, Fleet};

/// Which crowd, and how it differs from its case.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The crowd and its wires.
    #[arg(long, default_value = "8x100")]
    case: Case,
    /// Another number of nodes.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=64))]
    nodes: Option<u8>,
    /// Another rate of the nodes' wires, as tc writes it: 100mbit.
    #[arg(long)]
    rate: Option<Rate>,
    /// Another rate of the registry's wire.
    #[arg(long)]
    registry_rate: Option<Rate>,
    /// Size of the image.
    #[arg(long, default_value_t = 96, value_parser = clap::value_parser!(u64).range(3..))]
    image_mib: u64,
    /// Who pulls through waylay. From the registry and the mirror the built-in client does.
    #[arg(long, default_value = "client")]
    runtime: Runtime,
    /// What nodes read ahead, as `pull.read_ahead` says it: 64MiB. Nothing without it.
    #[arg(long)]
    read_ahead: Option<String>,
    /// How often all is done; of each figure the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Leave out the direct pulls and the mirror.
    #[arg(long)]
    skip_baselines: bool,
    /// Draw into this file where each node's bytes came from, and when, in the last round.
    #[arg(long, value_name = "FILE.svg")]
    timeline: Option<PathBuf>,
}

pub(super) async fn run(options: &Options) -> Result<Report> {
    let case = options.case;
    let mut setup = case.setup();
    setup.nodes = options.nodes.unwrap_or(setup.nodes);
    setup.rate = options.rate.unwrap_or(setup.rate);
    setup.registry_rate = options.registry_rate.unwrap_or(setup.registry_rate);
    // containerd itself would have to die with the node, and come back for the next round.
    ensure!(
        setup.killed == 0 || options.runtime != Runtime::Cri,
        "a client that is killed is a process of its own: client or ctr"
    );
    ensure!(setup.killed < usize::from(setup.nodes), "somebody must survive");
    eprintln!("starting a registry at {}, and waylay on {} nodes at {}", setup.registry_rate, setup.nodes, setup.rate);
    // The last node is the mirror.
    let mut fleet = Fleet::of(setup.nodes + 1).links(&setup.rate.to_string());
    if let Some(rate) = setup.between {
        fleet = fleet.far(setup.nodes / 2 + 1..=setup.nodes, &rate.to_string());
    }
    let fleet = fleet.start().await?;
    fleet.registry().node().link().shape(&setup.registry_rate.to_string())?;
    let (nodes, mirror) = fleet.nodes().split_at(setup.nodes.into());
    let mirror = mirror.first().filter(|_| !options.skip_baselines);
    let is_far = |n: usize| n >= usize::from(setup.nodes / 2);
    let zone = |n| setup.between.map(|_| if is_far(n) { "b" } else { "a" });
    let more = options.read_ahead.as_ref().map(|most| format!("[pull]\nread_ahead = {most:?}")).unwrap_or_default();
    let settings = |n| Settings { zone: zone(n), more: more.clone(), ..Settings::default() };
    let mut daemons = Daemon::on_each_with(nodes, settings).await?;
    let clients = Clients::start(options.runtime, fleet.registry(), nodes, &daemons).await?;
    let scene = Scene { fleet: &fleet, nodes, mirror, clients, setup, image_mib: options.image_mib };
    let mut rounds = Vec::new();
    for number in 1..=options.rounds.into() {
        let round = Box::pin(scene.round(&daemons, number)).await?;
        eprintln!(
            "round {number}: the last of {} after {:.2} s, {:.2} copies left the registry, {:.0} % idle",
            round.waylay.whole.len(),
            round.waylay.last(),
            round.egress as f64 / round.image_bytes as f64,
            round.idle * 100.0
        );
        if let Some(file) = options.timeline.as_ref().filter(|_| number == usize::from(options.rounds)) {
            timeline::save(file, &daemons, &round.image, setup.bound(round.image_bytes))?;
        }
        rounds.push(round);
        for n in scene.doomed(number) {
            daemons[n].restart().await?;
        }
    }
    let report = figures::report(case, options.runtime, &setup, &rounds);
    // The logs of a crowd that missed its target are worth a look.
    if report.missed().is_empty() {
        fleet.passed()?;
    }
    Ok(report)
}
