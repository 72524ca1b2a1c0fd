//! A site without its registry: what was carried there by hand is pulled as ever, by every runtime.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use waylay_tests::fleet::{Daemon, Fleet, Kind, Node, Runtime};
use waylay_tests::image::{self, Image};
use waylay_tests::privilege::needed;

#[tokio::test]
async fn an_image_that_was_carried_there_is_pulled_by_all_without_any_registry() -> Result<()> {
    if !needed("an_image_that_was_carried_there_is_pulled_by_all_without_any_registry") {
        return Ok(());
    }
    let image = image::SMALL.image()?;
    let mut fleet = Fleet::of(2).image(&image, "debian/app", "1").start().await?;
    let reference = fleet.registry().reference("debian/app", "1");
    let mut daemons = Daemon::on_all(fleet.nodes()).await?;
    let archive = fleet.dir().join("carried.tar");
    let file = archive.to_str().context("the fleet's directory has no plain name")?;

    // It trusts whom the node's runtimes trust, so there has to be one.
    let _runtime = Runtime::start(Kind::Containerd, &fleet.nodes()[0], Some(&daemons[0].trust_dir())).await?;
    let pulled = daemons[0].says(&["pull", &reference])?;
    let counted = daemons[0].counters().await?;
    ensure!(counted.bytes("registry") >= image.bytes(), "{pulled}{:?}", counted.by_source());
    assert_eq!(fleet.registry().blob_bytes()?, image.bytes());
    daemons[0].says(&["export", &reference, "-o", file])?;
    // Nobody is left who has it, and the other node never saw the registry.
    daemons[0].stop()?;
    fleet.registry_mut().stop();
    let imported = daemons[1].says(&["import", file])?;
    ensure!(imported.contains(&reference), "{imported}");

    for kind in Kind::THREE {
        let daemon = &daemons[1];
        let runtime = Runtime::start(kind, &fleet.nodes()[1], Some(&daemon.trust_dir())).await?;
        runtime.pull(&reference).await.with_context(|| format!("{kind}, without a registry"))?;
        runtime.holds(&image, &reference).await?;
    }
    let counted = daemons[1].counters().await?;
    ensure!(counted.bytes("store") >= 3 * image.bytes(), "{:?}", counted.by_source());
    assert_eq!((counted.bytes("registry"), counted.bytes("peer")), (0, 0));
    let layers = daemons[1].access()?.into_iter().filter(|line| line.by_source().store > 0).count();
    ensure!(layers >= 3, "{layers} answers from the store in the log");
    fleet.passed()
}

#[tokio::test]
async fn archives_of_the_runtimes_own_tools_are_carried_there_and_pulled() -> Result<()> {
    if !needed("archives_of_the_runtimes_own_tools_are_carried_there_and_pulled") {
        return Ok(());
    }
    const TOOLS: [Kind; 3] = [Kind::Skopeo, Kind::Podman, Kind::Containerd];
    let image = image::SMALL.image()?;
    let mut fleet = Fleet::of(4).image(&image, "debian/app", "1").start().await?;
    let reference = fleet.registry().reference("debian/app", "1");
    // Nobody intercepts where they are written.
    for kind in [Kind::Skopeo, Kind::Podman, Kind::Containerd, Kind::Docker] {
        let runtime = Runtime::start(kind, &fleet.nodes()[0], None).await?;
        runtime.pull(&reference).await?;
        runtime.save(&reference, &fleet.dir().join(format!("{kind}.tar"))).await?;
    }
    fleet.registry_mut().stop();
    let daemons = Daemon::on_all(&fleet.nodes()[1..]).await?;

    for ((kind, node), daemon) in TOOLS.into_iter().zip(&fleet.nodes()[1..]).zip(&daemons) {
        carried(&fleet.dir().join(format!("{kind}.tar")), node, daemon, &image, &reference)
            .await
            .with_context(|| format!("from {kind}"))?;
    }
    // Debian 12's docker keeps neither the registry's manifest nor its layers.
    let file = fleet.dir().join("docker.tar");
    let refused = daemons[0].says(&["import", file.to_str().context("a plain name")?]);
    let refused = refused.err().context("an archive of docker 20.10 was imported")?.to_string();
    ensure!(refused.contains("skopeo copy docker://IMAGE oci-archive:FILE:IMAGE"), "{refused}");
    fleet.passed()
}

/// Imports the archive `file`, whose name for the image must be the whole one, and pulls it from nothing else.
async fn carried(file: &Path, node: &Node, daemon: &Daemon, image: &Image, reference: &str) -> Result<()> {
    let imported = daemon.says(&["import", file.to_str().context("a plain name")?])?;
    ensure!(imported.contains(&format!("{reference} is here")), "{imported}");
    let runtime = Runtime::start(Kind::Podman, node, Some(&daemon.trust_dir())).await?;
    runtime.pull(reference).await?;
    runtime.holds(image, reference).await?;
    let counted = daemon.counters().await?;
    ensure!(counted.bytes("store") > 0, "{:?}", counted.by_source());
    assert_eq!((counted.bytes("registry"), counted.bytes("peer")), (0, 0));
    Ok(())
}
