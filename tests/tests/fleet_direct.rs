//! The harness itself: a fleet without waylay, on which each real runtime pulls from the real registry.
//!
//! When one of these fails, look at the machine or the harness first; the scenarios with waylay mean nothing before.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use waylay_tests::fleet::{Fleet, Kind, Login, Runtime};
use waylay_tests::image;
use waylay_tests::privilege::needed;

#[tokio::test]
async fn each_runtime_pulls_the_image_from_the_registry() -> Result<()> {
    if !needed("each_runtime_pulls_the_image_from_the_registry") {
        return Ok(());
    }
    let image = image::SMALL.image()?;
    for kind in Kind::ALL {
        let fleet = Fleet::of(1).image(&image, "debian/app", "1").start().await?;
        let reference = fleet.registry().reference("debian/app", "1");
        let before = fleet.nodes()[0].traffic()?;
        let runtime = Runtime::start(kind, &fleet.nodes()[0], None).await?;

        runtime.pull(&reference).await?;

        runtime.holds(&image, &reference).await?;
        assert_eq!(fleet.registry().blob_bytes()?, image.bytes(), "{kind}: bytes of blobs in the registry's log");
        let moved = fleet.nodes()[0].traffic()?.since(before);
        ensure!(moved.received >= image.bytes(), "{kind}: the wire carried {} bytes only", moved.received);
        assert_eq!(comm_seen(&fleet, kind)?, 0, "{kind}: left processes behind");
        fleet.passed()?;
    }
    Ok(())
}

/// Processes of the node other than its holder that a client without a daemon should not have left.
fn comm_seen(fleet: &Fleet, kind: Kind) -> Result<usize> {
    if matches!(kind, Kind::Containerd | Kind::Ctr | Kind::Docker) {
        return Ok(0);
    }
    Ok(fleet.nodes()[0].cgroup().processes().len() - 1)
}

#[tokio::test]
async fn zstd_layers_are_unpacked_by_containerd_and_podman() -> Result<()> {
    if !needed("zstd_layers_are_unpacked_by_containerd_and_podman") {
        return Ok(());
    }
    let image = image::SMALL_ZSTD.image()?;
    let fleet = Fleet::of(1).image(&image, "debian/app", "1").start().await?;
    let reference = fleet.registry().reference("debian/app", "1");
    for kind in [Kind::Containerd, Kind::Podman] {
        let runtime = Runtime::start(kind, &fleet.nodes()[0], None).await?;
        runtime.pull(&reference).await?;
        runtime.holds(&image, &reference).await?;
    }
    fleet.passed()
}

#[tokio::test]
async fn the_token_server_lets_the_right_user_pull_and_nobody_else() -> Result<()> {
    if !needed("the_token_server_lets_the_right_user_pull_and_nobody_else") {
        return Ok(());
    }
    let image = image::SMALL.image()?;
    let fleet = Fleet::of(1).image(&image, "team/app", "1").with_tokens().start().await?;
    let reference = fleet.registry().reference("team/app", "1");
    for kind in Kind::ALL {
        let runtime = Runtime::start(kind, &fleet.nodes()[0], None).await?;
        let before = fleet.registry().blob_bytes()?;
        assert!(runtime.pull(&reference).await.is_err(), "{kind} pulled without a credential");
        assert!(runtime.pull_as(&reference, Some(&Login::wrong())).await.is_err(), "{kind} pulled with a wrong one");
        assert_eq!(fleet.registry().blob_bytes()?, before, "{kind}: bytes left in spite of the refusal");
        if kind == Kind::Ctr {
            // It shares its content store with the kubelet's, and would not fetch again.
            continue;
        }
        runtime.pull_as(&reference, Some(&Login::right())).await?;
        runtime.holds(&image, &reference).await?;
    }
    ensure!(fleet.registry().tokens_given() >= 4);
    fleet.passed()
}

#[tokio::test]
async fn shaped_links_hold_their_rate_and_cut_ones_carry_nothing() -> Result<()> {
    if !needed("shaped_links_hold_their_rate_and_cut_ones_carry_nothing") {
        return Ok(());
    }
    let image = image::SMALL.image()?;
    let fleet = Fleet::of(1).links("50mbit").image(&image, "debian/app", "1").start().await?;
    let reference = fleet.registry().reference("debian/app", "1");
    let node = &fleet.nodes()[0];
    let runtime = Runtime::start(Kind::Skopeo, node, None).await?;

    let took = runtime.pull(&reference).await?;

    // tbf lets a burst through at once: 256 KiB of the image's 12 MB.
    let least = Duration::from_secs_f64((image.bytes() - 300_000) as f64 * 8.0 / 50e6);
    ensure!(took >= least, "{} bytes at 50 Mbit/s in {took:?}, less than {least:?}", image.bytes());
    node.link().cut()?;
    let before = node.traffic()?;
    let cut = tokio::time::timeout(Duration::from_secs(2), runtime.pull(&reference)).await;
    ensure!(!matches!(cut, Ok(Ok(_))), "pulled over a cut wire");
    assert_eq!(node.traffic()?.since(before).received, 0);
    node.link().mend()?;
    runtime.pull(&reference).await?;
    fleet.passed()
}

#[tokio::test]
async fn a_far_node_reaches_the_registry_over_the_wire_between() -> Result<()> {
    if !needed("a_far_node_reaches_the_registry_over_the_wire_between") {
        return Ok(());
    }
    let image = image::SMALL.image()?;
    let fleet = Fleet::of(2).far(2..=2, "100mbit").image(&image, "debian/app", "1").start().await?;
    let between = fleet.between().context("two switches")?;
    let reference = fleet.registry().reference("debian/app", "1");
    for (node, crosses) in fleet.nodes().iter().zip([false, true]) {
        let before = between.carried()?;
        Runtime::start(Kind::Skopeo, node, None).await?.pull(&reference).await?;
        let received = between.carried()?.since(before).received;
        ensure!((received > image.bytes()) == crosses, "{}: {received} bytes crossed", node.name());
    }
    fleet.passed()
}
