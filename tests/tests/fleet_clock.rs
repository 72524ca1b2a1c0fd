//! The clock of a node is wrong when its daemon starts, and is put right: no pull fails, and those who knew our certificate
//! still do.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use waylay_tests::fleet::daemon::Settings;
use waylay_tests::fleet::{Daemon, Fleet, Kind, Runtime};
use waylay_tests::image;
use waylay_tests::privilege::needed;
use waylay_tests::wait::eventually;

const DAY: u64 = 24 * 3600;
/// A clock without a battery.
const BEHIND: u64 = 90 * DAY;

#[tokio::test]
async fn a_start_with_a_clock_that_is_behind_costs_a_runtime_nothing_once_it_is_right() -> Result<()> {
    if !needed("a_start_with_a_clock_that_is_behind_costs_a_runtime_nothing_once_it_is_right") {
        return Ok(());
    }
    let image = image::SMALL.image()?;
    let fleet = Fleet::of(1).image(&image, "debian/app", "1").start().await?;
    let reference = fleet.registry().reference("debian/app", "1");
    let settings = Settings { own_clock: true, ..Settings::default() };
    let mut daemons = Daemon::on_all_with(fleet.nodes(), &settings).await?;
    let daemon = &mut daemons[0];
    // It reads its certificates once, when it starts.
    let runtime = Runtime::start(Kind::Containerd, &fleet.nodes()[0], Some(&daemon.trust_dir())).await?;
    let caught = async |daemon: &Daemon| -> Result<bool> {
        let before = daemon.access()?.len();
        runtime.pull(&reference).await?;
        runtime.forget(&reference).await?;
        // The manifest's line is there before the layers are.
        Ok(daemon.access()?.len() > before)
    };
    ensure!(caught(daemon).await?, "the first pull was not caught");

    daemon.clock().context("no clock")?.set(-i64::try_from(BEHIND)?)?;
    daemon.stop()?;
    daemon.restart().await?;
    let ago = SystemTime::now().duration_since(logged_at(daemon)?)?.as_secs();
    ensure!(ago.abs_diff(BEHIND) < DAY, "the daemon's clock is {ago} s behind");
    // The certificate that the runtime knows is not valid yet, by this clock.
    ensure!(!caught(daemon).await?, "a runtime was given a certificate that it cannot know");

    daemon.clock().context("no clock")?.set(0)?;
    eventually("a pull that is caught again", Duration::from_secs(60), async || {
        Ok(caught(daemon).await?.then_some(()))
    })
    .await?;
    fleet.passed()
}

/// The time in the last line of a daemon's log.
fn logged_at(daemon: &Daemon) -> Result<SystemTime> {
    let log = daemon.process().log()?;
    let last = log.lines().rev().find_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let last = last.context("no line of the log is JSON")?;
    let stamp = last["timestamp"].as_str().context("a line without a time")?;
    Ok(humantime::parse_rfc3339_weak(stamp)?)
}
