//! Break each part in turn; the pull must still succeed. Here the daemon itself breaks, and a peer's disk.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use waylay_tests::fleet::{Daemon, Fleet, Kind, Runtime};
use waylay_tests::image;
use waylay_tests::privilege::needed;
use waylay_tests::wait::eventually;

#[tokio::test]
async fn containerd_survives_the_daemon_killed_during_a_pull() -> Result<()> {
    ended_during_a_pull(Kind::Containerd, End::Killed).await
}

#[tokio::test]
async fn dockerd_survives_the_daemon_killed_during_a_pull() -> Result<()> {
    ended_during_a_pull(Kind::Docker, End::Killed).await
}

#[tokio::test]
async fn podman_survives_the_daemon_killed_during_a_pull() -> Result<()> {
    ended_during_a_pull(Kind::Podman, End::Killed).await
}

#[tokio::test]
async fn containerd_survives_a_daemon_that_stands_still_in_a_body() -> Result<()> {
    ended_during_a_pull(Kind::Containerd, End::Stuck).await
}

#[tokio::test]
async fn dockerd_survives_a_daemon_that_stands_still_in_a_body() -> Result<()> {
    ended_during_a_pull(Kind::Docker, End::Stuck).await
}

#[tokio::test]
async fn podman_survives_a_daemon_that_stands_still_in_a_body() -> Result<()> {
    ended_during_a_pull(Kind::Podman, End::Stuck).await
}

#[tokio::test]
async fn an_upgrade_in_the_middle_of_a_pull_fails_none() -> Result<()> {
    for kind in Kind::THREE {
        ended_during_a_pull(kind, End::Upgraded).await.with_context(|| kind.label())?;
    }
    Ok(())
}

/// How the daemon ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Killed,
    /// It stands still, as in a deadlock, until the watchdog kills it.
    Stuck,
    /// `systemctl restart`: it ends what it has accepted while new connections go directly, and the next one starts.
    Upgraded,
}

/// The unit's `WatchdogSec`.
const WATCHDOG: Duration = Duration::from_secs(10);

async fn ended_during_a_pull(kind: Kind, end: End) -> Result<()> {
    if !needed(&format!("ended_during_a_pull({kind}, {end:?})")) {
        return Ok(());
    }
    let (large, small) = (image::LARGE.image()?, image::SMALL.image()?);
    let fleet = Fleet::of(1)
        .links("400mbit")
        .image(&large, "debian/large", "1")
        .image(&small, "debian/app", "1")
        .start()
        .await?;
    let node = &fleet.nodes()[0];
    let (big, app) = (fleet.registry().reference("debian/large", "1"), fleet.registry().reference("debian/app", "1"));
    let mut daemons = Daemon::on_all(fleet.nodes()).await?;
    let daemon = &mut daemons[0];
    let runtime = Runtime::start(kind, node, Some(&daemon.trust_dir())).await?;
    // Something whole in the store, to be found again afterwards.
    runtime.pull(&app).await?;
    let counted = daemon.counters().await?.by_source();
    ensure!(counted.registry >= small.bytes(), "pulls do not go through the daemon: {counted:?}");
    let before = node.traffic()?;

    let (pulled, killed) = tokio::join!(runtime.pull(&big), async {
        eventually("a third of the image", Duration::from_secs(60), async || {
            Ok((node.traffic()?.since(before).received > large.bytes() / 3).then_some(()))
        })
        .await?;
        match end {
            End::Killed => daemon.kill(),
            End::Stuck => {
                daemon.freeze()?;
                // The watchdog bites by the passing of time alone.
                tokio::time::sleep(WATCHDOG).await;
                daemon.kill();
            }
            End::Upgraded => {
                daemon.stop()?;
                daemon.restart().await?;
            }
        }
        anyhow::Ok(())
    });

    killed?;
    match pulled {
        // A request that the dying daemon had not begun to answer fails the whole call: containerd resumes bodies only, and
        // leaves the rest to the kubelet, which calls again.
        Err(error) if kind == Kind::Containerd && !matches!(end, End::Upgraded) => {
            eprintln!("the kubelet had to call again: {error:#}");
            runtime.pull(&big).await.context("the kubelet's second call")?;
        }
        pulled => drop(pulled.context("the pull that the daemon died in")?),
    }
    runtime.holds(&large, &big).await?;
    if !matches!(end, End::Upgraded) {
        daemon.restart().await?;
    }
    assert_eq!(
        daemon.counters().await?.sum("waylay_intercept_effective", &[]),
        1,
        "not intercepting after the restart"
    );
    // Another program on the node finds the small image in the store, without asking the registry for a blob.
    let egress = fleet.registry().blob_bytes()?;
    let again = Runtime::start(Kind::Skopeo, node, None).await?;
    again.pull(&app).await?;
    again.holds(&small, &app).await?;
    let counted = daemon.counters().await?;
    ensure!(counted.bytes("store") >= small.bytes(), "not from the store: {:?}", counted.by_source());
    assert_eq!(fleet.registry().blob_bytes()?, egress, "the store was there, and the registry was asked all the same");
    fleet.passed()
}

#[tokio::test]
async fn a_stopped_daemon_is_passed_by_and_used_again_when_it_goes_on() -> Result<()> {
    for kind in Kind::THREE {
        stopped_before_a_pull(kind).await.with_context(|| kind.label())?;
    }
    Ok(())
}

async fn stopped_before_a_pull(kind: Kind) -> Result<()> {
    if !needed(&format!("stopped_before_a_pull({kind})")) {
        return Ok(());
    }
    let image = image::SMALL.image()?;
    let fleet = Fleet::of(1).image(&image, "debian/app", "1").start().await?;
    let node = &fleet.nodes()[0];
    let reference = fleet.registry().reference("debian/app", "1");
    let daemons = Daemon::on_all(fleet.nodes()).await?;
    let runtime = Runtime::start(kind, node, Some(&daemons[0].trust_dir())).await?;

    daemons[0].freeze()?;
    // The heartbeat goes stale by the passing of time alone: 5 s, and one more.
    tokio::time::sleep(Duration::from_secs(6)).await;
    runtime.pull(&reference).await?;

    runtime.holds(&image, &reference).await?;
    assert_eq!(fleet.registry().blob_bytes()?, image.bytes());
    daemons[0].thaw()?;
    daemons[0].counters().await.context("the daemon does not answer after SIGCONT")?;
    let again = Runtime::start(Kind::Skopeo, node, None).await?;
    eventually("interception to come back by itself", Duration::from_secs(10), async || {
        again.pull(&reference).await?;
        Ok((daemons[0].counters().await?.connections("terminate") > 0).then_some(()))
    })
    .await?;
    fleet.passed()
}

#[tokio::test]
async fn what_waits_in_the_queue_of_a_daemon_that_dies_reaches_the_registry() -> Result<()> {
    for kind in Kind::THREE {
        queued(kind).await.with_context(|| kind.to_string())?;
    }
    Ok(())
}

/// The daemon stands still, as in a deadlock; a pull begins, and lands in its queue; the watchdog kills the daemon.
async fn queued(kind: Kind) -> Result<()> {
    if !needed(&format!("queued({kind})")) {
        return Ok(());
    }
    let image = image::SMALL.image()?;
    let fleet = Fleet::of(1).image(&image, "debian/app", "1").start().await?;
    let node = &fleet.nodes()[0];
    let reference = fleet.registry().reference("debian/app", "1");
    let mut daemons = Daemon::on_all(fleet.nodes()).await?;
    let runtime = Runtime::start(kind, node, Some(&daemons[0].trust_dir())).await?;

    daemons[0].freeze()?;
    let before = established(node)?;
    let (pulled, killed) = tokio::join!(runtime.pull(&reference), async {
        let waiting = eventually("a connection to wait in the queue", Duration::from_secs(10), async || {
            Ok((established(node)? > before).then_some(()))
        });
        waiting.await?;
        daemons[0].kill();
        anyhow::Ok(())
    });
    killed?;
    pulled?;

    runtime.holds(&image, &reference).await?;
    assert_eq!(fleet.registry().blob_bytes()?, image.bytes());
    fleet.passed()
}

/// TCP connections on a node's loopback: those that the hooks have caught.
fn established(node: &waylay_tests::fleet::Node) -> Result<usize> {
    let mut ss = node.entry().command("ss");
    let said = ss.args(["-Hnt", "state", "established", "dst", "127.0.0.0/8"]).output()?;
    Ok(String::from_utf8_lossy(&said.stdout).lines().count())
}

#[tokio::test]
async fn a_blob_corrupted_on_a_peers_disk_is_noticed_and_its_source_named() -> Result<()> {
    if !needed("a_blob_corrupted_on_a_peers_disk_is_noticed_and_its_source_named") {
        return Ok(());
    }
    let image = image::SMALL.image()?;
    let fleet = Fleet::of(2).image(&image, "debian/app", "1").start().await?;
    let reference = fleet.registry().reference("debian/app", "1");
    let daemons = Daemon::on_all(fleet.nodes()).await?;
    let [one, two] = fleet.nodes() else { anyhow::bail!("two nodes were asked for") };
    Runtime::start(Kind::Skopeo, one, None).await?.pull(&reference).await?;
    let victim = image.layers().iter().max_by_key(|layer| layer.size).context("an image without layers")?;
    corrupt(&stored(&daemons[0], &victim.digest)?, victim.size)?;

    let runtime = Runtime::start(Kind::Skopeo, two, None).await?;
    runtime.pull(&reference).await?;

    runtime.holds(&image, &reference).await?;
    let counters = daemons[1].counters().await?;
    ensure!(counters.faults("peer") > 0, "node2 blames no peer:\n{}", counters.text());
    let lines = daemons[1].access()?;
    let line =
        lines.iter().find(|line| line.digest == victim.digest).context("no access line for the corrupted layer")?;
    ensure!(line.fault.starts_with("peer:"), "the access line blames {:?}", line.fault);
    ensure!(line.size == victim.size && line.status == 200, "{line:?}");
    fleet.passed()
}

/// The file in which `daemon` keeps the blob `digest`.
fn stored(daemon: &Daemon, digest: &str) -> Result<PathBuf> {
    let path = daemon.blob_dir().join(digest.trim_start_matches("sha256:"));
    ensure!(path.is_file(), "the daemon keeps no {}", path.display());
    Ok(path)
}

/// Inverts 4096 bytes in the middle, as a failing disk would: same length, same times of access to the name.
fn corrupt(path: &PathBuf, size: u64) -> Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path).context("the blob's file")?;
    let mut bytes = [0; 4096];
    file.read_exact_at(&mut bytes, size / 2)?;
    file.write_all_at(&bytes.map(|byte| !byte), size / 2)?;
    Ok(())
}
