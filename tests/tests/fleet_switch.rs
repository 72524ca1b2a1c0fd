//! The operator's switches on real pulls: what is switched off or bypassed goes to the registry without waylay seeing a byte of
//! it, also after a restart, and is intercepted again when the operator says so or the time is over.

use std::time::Duration;

use anyhow::{Result, ensure};
use waylay_tests::fleet::{Daemon, Fleet, Kind, Runtime};
use waylay_tests::image::{self, Image};
use waylay_tests::privilege::needed;
use waylay_tests::wait::eventually;

/// A node with a daemon and a runtime, and what is pulled there.
struct Scene {
    runtime: Runtime,
    daemon: Daemon,
    fleet: Fleet,
    image: Image,
    reference: String,
}

impl Scene {
    async fn start() -> Result<Self> {
        let image = image::SMALL.image()?;
        let fleet = Fleet::of(1).image(&image, "debian/app", "1").start().await?;
        let reference = fleet.registry().reference("debian/app", "1");
        let daemon = Daemon::on_all(fleet.nodes()).await?.remove(0);
        let runtime = Runtime::start(Kind::Skopeo, &fleet.nodes()[0], None).await?;
        Ok(Self { runtime, daemon, fleet, image, reference })
    }

    /// The image pulled anew, with the right bytes.
    async fn pull(&self) -> Result<()> {
        // Nothing to forget before the first pull.
        let _ = self.runtime.forget(&self.reference).await;
        self.runtime.pull(&self.reference).await?;
        self.runtime.holds(&self.image, &self.reference).await
    }

    /// Pulls, and checks that waylay saw no connection and the registry gave every byte.
    async fn direct(&self) -> Result<()> {
        let seen = async || {
            let counters = self.daemon.counters().await?;
            let connections = ["terminate", "splice"].map(|decision| counters.connections(decision));
            anyhow::Ok((connections, counters.by_source()))
        };
        let (left, before) = (self.fleet.registry().blob_bytes()?, seen().await?);
        self.pull().await?;
        let gone = self.fleet.registry().blob_bytes()? - left;
        ensure!(gone == self.image.bytes(), "{gone} bytes left the registry, the image has {}", self.image.bytes());
        assert_eq!(seen().await?, before, "waylay saw something of it");
        Ok(())
    }

    /// Pulls, and checks that every byte came through waylay.
    async fn intercepted(&self) -> Result<()> {
        let before = self.daemon.counters().await?.by_source();
        self.pull().await?;
        let from = self.daemon.counters().await?.by_source().since(before);
        ensure!(from.total() >= self.image.bytes(), "not intercepted: {from:?}");
        Ok(())
    }

    /// What an operator types, which must work.
    fn operator(&self, args: &[&str]) -> Result<String> {
        self.daemon.says(args)
    }

    /// The one check that is not well, which does not make the whole fail.
    fn doctor_warns(&self, name: &str, fix: &str) -> Result<()> {
        let (status, checks) = self.daemon.doctor()?;
        let check = checks.iter().find(|check| check.name == name);
        let warned = check.is_some_and(|check| check.outcome == "warn" && check.fix.as_deref() == Some(fix));
        ensure!(warned && status == 0, "status {status}: {checks:#?}");
        Ok(())
    }
}

#[tokio::test]
async fn off_means_that_no_byte_goes_through_until_it_is_on_or_the_time_is_over() -> Result<()> {
    if !needed("off_means_that_no_byte_goes_through_until_it_is_on_or_the_time_is_over") {
        return Ok(());
    }
    let mut scene = Scene::start().await?;
    scene.intercepted().await?;

    scene.operator(&["off"])?;
    scene.direct().await?;
    let status = scene.operator(&["status"])?;
    ensure!(status.contains("NO, switched off") && status.contains("`waylay on` switches it on"), "{status}");
    scene.doctor_warns("intercepting", "`waylay on`")?;
    scene.daemon.restart().await?;
    scene.direct().await?;
    scene.operator(&["on"])?;
    scene.intercepted().await?;

    let said = scene.operator(&["off", "--for", "3s"])?;
    ensure!(said.contains("or `waylay on`"), "{said}");
    let status = scene.operator(&["status"])?;
    ensure!(status.contains("NO, switched off until 2"), "{status}");
    eventually("it to come back by itself", Duration::from_secs(30), async || {
        let status = scene.operator(&["status"])?;
        Ok(status.contains("yes, proven by self-test").then_some(()))
    })
    .await?;
    scene.intercepted().await?;

    for wrong in ["0s", "soon"] {
        let refused = scene.daemon.told(&["off", "--for", wrong])?;
        ensure!(refused.status == 64, "{refused:?}");
    }
    scene.intercepted().await?;
    scene.fleet.passed()
}

#[tokio::test]
async fn what_is_bypassed_goes_directly_and_all_else_through() -> Result<()> {
    if !needed("what_is_bypassed_goes_directly_and_all_else_through") {
        return Ok(());
    }
    let mut scene = Scene::start().await?;
    let address = format!("{}:5000", scene.fleet.registry().node().address());
    scene.intercepted().await?;

    // The kernel does not catch an address.
    scene.operator(&["bypass", "add", &address, "--for", "1h"])?;
    scene.direct().await?;
    scene.doctor_warns("bypass", &format!("`waylay bypass rm {address}`"))?;
    let status = scene.operator(&["status"])?;
    ensure!(status.contains(&format!("`waylay bypass rm {address}` ends that")), "{status}");
    scene.daemon.restart().await?;
    scene.direct().await?;
    scene.operator(&["bypass", "rm", &address])?;
    scene.intercepted().await?;

    // A name is known only when the client says it: its connections are passed through as they are.
    scene.operator(&["bypass", "add", "registry.test:5000"])?;
    let before = scene.daemon.counters().await?;
    let left = scene.fleet.registry().blob_bytes()?;
    scene.pull().await?;
    let now = scene.daemon.counters().await?;
    assert_eq!(now.by_source(), before.by_source(), "it was answered all the same");
    ensure!(now.sum("waylay_connections_total", &[("reason", "bypassed")]) > 0, "{}", now.text());
    assert_eq!(scene.fleet.registry().blob_bytes()? - left, scene.image.bytes());
    scene.operator(&["bypass", "add", "registry.test:5000", "--for", "2s"])?;
    eventually("the time to be over", Duration::from_secs(30), async || {
        Ok(scene.operator(&["bypass", "ls"])?.contains("nothing is bypassed").then_some(()))
    })
    .await?;
    scene.intercepted().await?;

    // Another's connections are none of its business.
    scene.operator(&["bypass", "add", "192.0.2.1:5000"])?;
    scene.intercepted().await?;
    let unknown = scene.daemon.told(&["bypass", "rm", "192.0.2.2"])?;
    ensure!(unknown.status == 1 && unknown.err.contains("`waylay bypass ls`"), "{unknown:?}");
    scene.fleet.passed()
}
