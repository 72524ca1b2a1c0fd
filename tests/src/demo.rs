//! The demonstration: real runtimes on some nodes pull one image, one node after the other, and the numbers are shown.
//!
//! It is a scenario like the tests', told to a person: what it prints is measured, and it fails when the registry had to
//! give more than one copy.

mod progress;
mod report;

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use self::progress::Progress;
pub use self::report::{NodeReport, Report};
use crate::fleet::{self, Daemon, Fleet, Kind, Runtime};
use crate::wait::eventually;
use crate::{image, privilege};

/// How the demo's image is called in its registry.
const REPOSITORY: &str = "debian/containers";
const TAG: &str = "12";

/// What to demonstrate.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Which runtime pulls.
    pub runtime: Kind,
    /// On how many nodes.
    pub nodes: u8,
    /// Leave everything running afterwards.
    pub keep: bool,
}

/// Starts a fleet, pulls on one node after the other, and returns what was measured.
///
/// # Errors
/// When something is missing on this machine, a pull fails, or the numbers contradict each other.
pub async fn run(options: Options) -> Result<Report> {
    let missing = privilege::missing();
    ensure!(missing.is_empty(), "the demo cannot run here; missing: {}", missing.join("; "));
    let progress = Progress::new();
    progress.says("making an image of Debian packages (kept in target/images)");
    let image = tokio::task::spawn_blocking(|| image::LARGE.image()).await??;
    progress.says("starting a registry and the nodes' networks");
    let fleet = Fleet::of(options.nodes).image(&image, REPOSITORY, TAG).start().await?;
    progress.says("starting waylay on each node");
    let daemons = Daemon::on_all(fleet.nodes()).await?;
    progress.says(&format!("starting {} on each node", options.runtime));
    let mut runtimes = Vec::new();
    for (node, daemon) in fleet.nodes().iter().zip(&daemons) {
        runtimes.push(Runtime::start(options.runtime, node, Some(&daemon.trust_dir())).await?);
    }
    let reference = fleet.registry().reference(REPOSITORY, TAG);
    let mut nodes = Vec::new();
    for ((node, daemon), runtime) in fleet.nodes().iter().zip(&daemons).zip(&runtimes) {
        let (wire, counted) = (node.traffic()?, daemon.counters().await?.by_source());
        let took = progress.pull(node, image.bytes(), runtime.pull(&reference)).await?;
        runtime.holds(&image, &reference).await?;
        let counted = counted_since(daemon, counted, image.bytes()).await?;
        nodes.push(NodeReport::new(node.name(), took, counted, node.traffic()?.since(wire)));
    }
    let last = daemons.last().context("there is a node")?;
    let explained = eventually("the last pull to be explained", Duration::from_secs(5), async || {
        Ok(last.says(&["explain", &reference]).ok())
    });
    let report = Report {
        explained: explained.await?,
        runtime: options.runtime.label(),
        image_bytes: image.bytes(),
        nodes,
        registry_log_blob_bytes: fleet.registry().blob_bytes()?,
    };
    progress.end();
    fleet.passed()?;
    if options.keep {
        tell_how_to_look_around(&fleet, &daemons);
        fleet.keep()?;
        daemons.into_iter().for_each(Daemon::keep);
        runtimes.into_iter().for_each(Runtime::keep);
    }
    Ok(report)
}

/// Ends every kept demo, and returns their names.
///
/// # Errors
/// When there is none.
pub fn stop() -> Result<Vec<String>> {
    let kept = fleet::kept();
    if kept.is_empty() {
        bail!("no demo was kept running");
    }
    kept.iter().try_for_each(|name| fleet::remove(name))?;
    Ok(kept)
}

/// What a daemon has sent since `before`, once it has counted the last response of a pull that brought `least` bytes: the
/// client has its last byte a moment before the daemon counts it.
async fn counted_since(daemon: &Daemon, before: fleet::BySource, least: u64) -> Result<fleet::BySource> {
    let mut seen = fleet::BySource::default();
    let counted = eventually("the daemon's count", Duration::from_secs(2), async || {
        seen = daemon.counters().await?.by_source().since(before);
        Ok((seen.total() >= least).then_some(seen))
    })
    .await;
    // Too little is not an error here: the report will say so with the numbers.
    Ok(counted.unwrap_or(seen))
}

fn tell_how_to_look_around(fleet: &Fleet, daemons: &[Daemon]) {
    println!("\nStill running, in {}. A shell inside:", fleet.dir().display());
    for node in fleet.nodes().iter().chain([fleet.registry().node()]) {
        println!("  {:<9} {}", node.name(), node.shell());
    }
    if let Some(daemon) = daemons.first() {
        println!("What node1's daemon says:");
        println!("  log       tail -f {}", daemon.process().log_path().display());
        println!("  status    {}", daemon.status_line());
    }
    println!("Stop it:    cargo xtask demo --stop\n");
}
