//! A site without its registry: what was carried there by hand is pulled as ever, by every runtime.

use anyhow::{Context, Result, ensure};
use waylay_tests::fleet::{Daemon, Fleet, Kind, Runtime};
use waylay_tests::image;
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
