//! Programs inside pods: a pod with the network of its host is seen by the hooks, and left alone all the same.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use waylay_tests::fleet::cgroup::Cgroup;
use waylay_tests::fleet::{Daemon, Fleet, Kind, Runtime};
use waylay_tests::image;
use waylay_tests::privilege::needed;
use waylay_tests::saw::saw;
use waylay_tests::wait::eventually;

#[tokio::test]
async fn a_runtime_in_a_pod_with_the_hosts_network_talks_to_the_registry_itself() -> Result<()> {
    if !needed("a_runtime_in_a_pod_with_the_hosts_network_talks_to_the_registry_itself") {
        return Ok(());
    }
    let image = image::SMALL.image()?;
    let fleet = Fleet::of(1).image(&image, "debian/app", "1").start().await?;
    let node = &fleet.nodes()[0];
    let reference = fleet.registry().reference("debian/app", "1");
    let daemons = Daemon::on_all(fleet.nodes()).await?;

    // As the kubelet names it, below what the hooks are attached to; the same name, the same certificates.
    let pod = Cgroup::create(node.cgroup().path(), "kubepods-besteffort-pod1.slice")?;
    let home = node.entry().make_dir("pod")?;
    let mut inside = node.entry().command("/bin/sh");
    inside.arg("-c").arg(format!(
        "echo $$ > '{}/cgroup.procs' && exec skopeo copy docker://{reference} dir:{}",
        pod.path().display(),
        home.join("image").display()
    ));
    let pulled = tokio::process::Command::from(inside).output().await.context("skopeo")?;
    ensure!(pulled.status.success(), "{}", String::from_utf8_lossy(&pulled.stderr));
    image.check(|hex| home.join("image").join(hex))?;
    saw("skopeo in a pod", "pulled debian/app:1");

    let counters = eventually("the pod's connections to be counted", Duration::from_secs(5), async || {
        let counters = daemons[0].counters().await?;
        Ok((counters.connections("splice") > 0).then_some(counters))
    });
    let counters = counters.await?;
    assert_eq!((counters.connections("terminate"), counters.by_source().total()), (0, 0), "{}", counters.text());
    assert_eq!(fleet.registry().blob_bytes()?, image.bytes(), "straight from the registry");

    // Outside of a pod the same program is answered.
    Runtime::start(Kind::Skopeo, node, None).await?.pull(&reference).await?;
    let counters = daemons[0].counters().await?;
    ensure!(counters.by_source().total() >= image.bytes(), "not intercepted:\n{}", counters.text());
    fleet.passed()
}
