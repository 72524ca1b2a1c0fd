//! An upgrade on a booted machine whose runtimes pull all the while: no pull fails, and a program that does not work never
//! takes the place of one that does.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use waylay_tests::fleet::Fleet;
use waylay_tests::image;
use waylay_tests::machine::Machine;
use waylay_tests::privilege::needed_for_machines;

/// What an operator types, in the directory of a release.
const INSTALL: &str = "sh install.sh --yes --restart-runtime --registry registry.test:5000";
/// How the image is called.
const APP: &str = "registry.test:5000/debian/app:1";
/// How each runtime pulls what it has not.
const PULLS: [&str; 3] = [
    "podman pull registry.test:5000/debian/app:1 && podman image rm registry.test:5000/debian/app:1",
    "docker pull registry.test:5000/debian/app:1 && docker image rm registry.test:5000/debian/app:1",
    "ctr --namespace tests images pull --hosts-dir /etc/docker/certs.d registry.test:5000/debian/app:1 && \
     ctr --namespace tests images rm --sync registry.test:5000/debian/app:1",
];

#[tokio::test]
async fn an_upgrade_fails_no_pull_and_a_broken_program_replaces_nothing() -> Result<()> {
    if !needed_for_machines("an_upgrade_fails_no_pull_and_a_broken_program_replaces_nothing") {
        return Ok(());
    }
    let image = image::SMALL.image()?;
    let fleet = Fleet::of(0).image(&image, "debian/app", "1").start().await?;
    let machine = Machine::boot(&fleet, "one", 21).await?;
    machine.download()?;
    machine.sh(&format!("cd /root/release && {INSTALL}")).await?;
    // Another release: what follows the end of a program is not run. And one that cannot open a store.
    machine
        .sh("cp -a /root/release /root/next && echo next >> /root/next/waylay && \
             cp -a /root/release /root/broken && sed -i 's#random/boot_id#random/boot_xx#g' /root/broken/waylay && \
             rm /root/next/waylay.sha256 /root/broken/waylay.sha256")
        .await?;
    let sum = "sha256sum < /usr/local/bin/waylay";
    let (first, pid) = (machine.sh(sum).await?, "systemctl show --property=MainPID waylay");
    let before = machine.sh(pid).await?;

    let done = AtomicBool::new(false);
    let upgrades = async {
        let refused = machine.try_sh(&format!("cd /root/broken && {INSTALL}"), "").await;
        let upgraded = machine.try_sh(&format!("cd /root/next && {INSTALL}"), "").await;
        done.store(true, Ordering::Relaxed);
        anyhow::Ok((refused?, upgraded?))
    };
    let (podman, docker, ctr, upgrades) =
        tokio::join!(pull(&machine, 0, &done), pull(&machine, 1, &done), pull(&machine, 2, &done), upgrades);
    let (refused, upgraded) = upgrades?;
    let pulls = [podman.context("podman")?, docker.context("docker")?, ctr.context("ctr")?];
    eprintln!("pulls during two upgrades: {pulls:?}, none failed");

    ensure!(refused.status == 1 && refused.err.contains("nothing was changed"), "{refused:?}");
    ensure!(refused.out.contains("rehearse: a second daemon"), "{refused:?}");
    ensure!(upgraded.status == 0 && upgraded.out.contains("replace /usr/local/bin/waylay"), "{upgraded:?}");
    ensure!(machine.sh(sum).await? != first && machine.sh(pid).await? != before, "the same program runs");
    machine.sh("cmp /usr/local/bin/waylay /root/next/waylay").await?;
    machine.sh("waylay status | grep -q 'yes, proven by self-test'").await?;
    let again = machine.sh(&format!("cd /root/next && {INSTALL}")).await?;
    ensure!(again.contains("nothing will be changed"), "{again}");

    // What was stored before is there after.
    let egress = fleet.registry().blob_bytes()?;
    machine.cri_pull(APP).await?;
    machine.containerd_holds(&image)?;
    assert_eq!(fleet.registry().blob_bytes()?, egress);
    ensure!(!machine.sh("ls /sys/fs/cgroup /tmp").await?.contains("rehearsal"), "a rehearsal left something");
    fleet.passed()
}

/// Pulls again and again until all is `done`; how often.
async fn pull(machine: &Machine, way: usize, done: &AtomicBool) -> Result<usize> {
    let mut pulls = 0;
    while pulls == 0 || !done.load(Ordering::Relaxed) {
        machine.sh(PULLS[way]).await.with_context(|| format!("after {pulls} pulls"))?;
        pulls += 1;
    }
    Ok(pulls)
}
