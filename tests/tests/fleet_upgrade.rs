//! A program is tried beside the daemon that runs, before anybody relies on it.

use std::fs;
use std::path::Path;
use std::process::Output;

use anyhow::{Context, Result, ensure};
use waylay_tests::fleet::{Daemon, Fleet, Kind, Node, Runtime, daemon};
use waylay_tests::image;
use waylay_tests::privilege::needed;

/// Read when the store is opened, and by nothing before.
const NEEDED: &[u8] = b"/proc/sys/kernel/random/boot_id";

#[tokio::test]
async fn a_rehearsal_touches_nothing_of_the_daemon_that_runs() -> Result<()> {
    if !needed("a_rehearsal_touches_nothing_of_the_daemon_that_runs") {
        return Ok(());
    }
    let image = image::SMALL.image()?;
    let fleet = Fleet::of(1).image(&image, "debian/app", "1").start().await?;
    let node = &fleet.nodes()[0];
    let reference = fleet.registry().reference("debian/app", "1");
    let daemons = Daemon::on_all(fleet.nodes()).await?;
    // What a pull does not change: keys, certificates, and the record of what was put elsewhere.
    let files = |daemon: &Daemon| -> Result<Vec<_>> {
        let dirs = [daemon.state().join("identities/registry.test"), daemon.trust_dir()];
        let mut found = vec![(daemon.state(), fs::read(daemon.state().join("manifest.json"))?)];
        for file in dirs.iter().map(fs::read_dir).collect::<Result<Vec<_>, _>>()?.into_iter().flatten() {
            let path = file?.path();
            found.push((path.clone(), fs::read(path)?));
        }
        found.sort();
        Ok(found)
    };
    let (before, pid) = (files(&daemons[0])?, daemons[0].process().pid());

    // A pull goes on meanwhile.
    let runtime = Runtime::start(Kind::Podman, node, None).await?;
    let (config, program) = (daemons[0].config().to_owned(), daemon::binary()?);
    let temporary = node.entry().make_dir("temporary")?;
    let (pulled, rehearsed) = tokio::join!(runtime.pull(&reference), rehearse(node, &program, &config, &temporary));
    pulled?;
    let rehearsed = rehearsed?;
    let said = String::from_utf8_lossy(&rehearsed.stdout);
    ensure!(rehearsed.status.success() && said.contains("rehearsal: a daemon of this program intercepts"), "{said}");
    runtime.holds(&image, &reference).await?;
    let counted = daemons[0].counters().await?;
    ensure!(counted.bytes("registry") >= image.bytes(), "the pull went past the daemon:\n{}", counted.text());

    // One that cannot work is found out.
    let broken = node.entry().dir().join("broken");
    fs::write(&broken, without(&fs::read(&program)?, NEEDED)?)?;
    fs::set_permissions(&broken, fs::metadata(&program)?.permissions())?;
    let refused = rehearse(node, &broken, &config, &temporary).await?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(refused.status.code() == Some(1) && said.contains("this program does not work here"), "{refused:?}");
    ensure!(said.contains("/proc/sys/kernel/random/boot_xx"), "{said}");

    // Nothing is left of either.
    assert_eq!(daemons[0].process().pid(), pid);
    ensure!(files(&daemons[0])? == before, "the daemon's files have changed");
    assert_eq!(fs::read_dir(&temporary)?.count(), 0, "in {}", temporary.display());
    let groups = fs::read_dir(node.cgroup().path())?.flatten();
    let left: Vec<_> = groups.filter(|entry| entry.file_name().to_string_lossy().contains("rehearsal")).collect();
    ensure!(left.is_empty(), "{left:?}");
    daemons[0].says(&["status"])?.contains("yes, proven by self-test").then_some(()).context("it no longer works")?;
    let counted = daemons[0].counters().await?;
    for side in ["peer", "registry", "ours"] {
        ensure!(counted.faults(side) == 0, "faults are counted:\n{}", counted.text());
    }
    fleet.passed()
}

/// `waylay check --rehearse` of `program` on the node, as an installer runs it.
async fn rehearse(node: &Node, program: &Path, config: &Path, temporary: &Path) -> Result<Output> {
    let mut command = node.entry().command(program);
    command.args(["check", "--rehearse", "--config"]).arg(config).env("TMPDIR", temporary);
    Ok(tokio::process::Command::from(command).kill_on_drop(true).output().await?)
}

/// The program with another ending of each `text`.
fn without(program: &[u8], text: &[u8]) -> Result<Vec<u8>> {
    let mut changed = program.to_vec();
    let places: Vec<usize> =
        program.windows(text.len()).enumerate().filter(|(_, found)| *found == text).map(|(at, _)| at).collect();
    ensure!(!places.is_empty(), "the program has no {}", String::from_utf8_lossy(text));
    for at in places {
        changed[at + text.len() - 2..at + text.len()].copy_from_slice(b"xx");
    }
    Ok(changed)
}
