//! `chaos`: nodes pull random images without pause, with three runtimes, while faults come at random. What must not
//! happen: a pull that fails and would have worked without us, wrong bytes, descriptors or memory that do not come back.
//!
//! A clock that is moved is one daemon's alone ([`crate::fleet::Clock`]): this machine has one for all, and nobody may move
//! it. So what a runtime makes of a certificate while its own clock is wrong is not shown.

mod expire;
mod fault;
mod inject;
mod puller;
mod vitals;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use self::fault::{Fault, Schedule};
use self::inject::Outages;
use self::puller::{Failure, Pulled};
use super::report::{Report, Target};
use crate::fleet::daemon::Settings;
use crate::fleet::{Daemon, Fleet, Kind, Runtime, registry};
use crate::image;

/// Nodes, two for each runtime.
const NODES: u8 = 6;
/// Every wire, so that a fault meets pulls under way.
const RATE: &str = "200mbit";
/// Smaller than the images together, so that blobs come and go.
const STORE: &str = "quota = \"64MiB\"\nlow_disk = \"16MiB\"";
/// The disk of a node that can be filled, in MiB.
const DISK_MIB: u32 = 160;
/// How long a daemon may take to give back what a pull took: longer than any idle connection lives.
const CALM: Duration = Duration::from_secs(150);

/// How long, and which faults.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// For how long faults come, in minutes.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    minutes: u64,
    /// The same seed gives the same faults in the same order.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only faults of these kinds; all without it.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Fault>,
}

pub(super) async fn run(options: &Options) -> Result<Report> {
    eprintln!("starting a registry, and waylay and a runtime on {NODES} nodes");
    let mut plan = Fleet::of(NODES).links(RATE);
    let images = image::SEVERAL.iter().map(|recipe| recipe.image()).collect::<Result<Vec<_>>>()?;
    for (n, image) in images.iter().enumerate() {
        plan = plan.image(image, "chaos/app", &n.to_string());
    }
    let mut fleet = plan.start().await?;
    for node in inject::with_small_disks(fleet.nodes()) {
        inject::mount_small_disk(node, DISK_MIB)?;
    }
    let settings = Settings { store: STORE.to_owned(), own_clock: true, ..Settings::default() };
    let mut daemons = Daemon::on_all_with(fleet.nodes(), &settings).await?;
    let mut runtimes = Vec::new();
    for (n, (node, daemon)) in fleet.nodes().iter().zip(&daemons).enumerate() {
        runtimes.push(Runtime::start(Kind::THREE[n % Kind::THREE.len()], node, Some(&daemon.trust_dir())).await?);
    }
    let mut vitals = vitals::Vitals::begin(&daemons)?;

    let schedule = Schedule::new(options.seed, Duration::from_secs(options.minutes * 60), NODES.into(), &options.only);
    let expired = fleet.authority().issue_expired(registry::HOST)?;
    let (outages, over) = (Arc::new(Outages::default()), AtomicBool::new(false));
    let references: Vec<_> =
        (0..images.len()).map(|n| fleet.registry().reference("chaos/app", &n.to_string())).collect();
    let pullers = runtimes.iter().enumerate().map(|(n, runtime)| {
        let random = StdRng::seed_from_u64(options.seed.wrapping_mul(1_000).wrapping_add(n as u64));
        puller::pull(n, runtime, (&images, &references), random, &outages, &over)
    });
    let faults = async {
        let begun = Instant::now();
        let links: Vec<_> = fleet.nodes().iter().map(|node| node.link().clone()).collect();
        let entries: Vec<_> = fleet.nodes().iter().map(|node| (node.entry().clone(), node.address())).collect();
        let ended = tokio::try_join!(
            inject::to_daemons(&schedule, begun, &mut daemons, &mut vitals),
            inject::around_them(&schedule, begun, (fleet.registry_mut(), &expired), (&links, &entries), &outages),
        );
        over.store(true, Ordering::Relaxed);
        ended.map(drop)
    };
    let (pulled, ()) = tokio::try_join!(try_join_all(pullers), faults)?;

    eprintln!("the faults are over; waiting until all is calm");
    drop(runtimes);
    let leaked = vitals.leaked_fds(&daemons, CALM).await?;
    let growth = vitals.rss_growth_mib();
    for daemon in &mut daemons {
        daemon.stop().context("an orderly end after all this")?;
    }
    let report = report(options, &schedule, &pulled).with("leaked_fds_by_node", leaked.clone());
    let report = report.judged("leaked_fds", leaked.iter().sum::<u64>() as f64, Target::AtMost(0.0)).judged(
        "rss_growth_mib",
        growth,
        Target::AtMost(16.0),
    );
    if report.missed().is_empty() {
        fleet.passed()?;
    }
    Ok(report)
}

fn report(options: &Options, schedule: &Schedule, pulled: &[Pulled]) -> Report {
    let all: u64 = pulled.iter().map(|node| node.pulls).sum();
    let excused: u64 = pulled.iter().map(|node| node.excused).sum();
    let failures: Vec<&Failure> = pulled.iter().flat_map(|node| &node.failures).collect();
    let wrong = failures.iter().filter(|failure| failure.wrong_bytes).count();
    let mut report = Report::default()
        .judged("failed_pulls_caused_by_waylay", (failures.len() - wrong) as f64, Target::AtMost(0.0))
        .judged("wrong_bytes", wrong as f64, Target::AtMost(0.0))
        .with("scenario", "chaos")
        .with("seed", options.seed)
        .with("minutes", options.minutes)
        .with("pulls", all)
        .with("failed_as_without_waylay", excused)
        .with("faults", schedule.counted());
    for node in pulled {
        report = report.remark(format!(
            "{}: {} pulls, the slowest {:.1} s",
            node.who,
            node.pulls,
            node.slowest.as_secs_f64()
        ));
    }
    for failure in failures {
        report = report.remark(format!("FAILED {}", failure.text));
    }
    report
}
