//! `waylay doctor` on a node whose faults are planted one after the other: it names exactly the check that the fault is about,
//! with what mends it, and says that all is well again once that was done.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use waylay_tests::fleet::daemon::Settings;
use waylay_tests::fleet::{Check, Daemon, Fleet, Kind, Node, Runtime};
use waylay_tests::image;
use waylay_tests::privilege::needed;
use waylay_tests::wait::eventually;

/// The node's disk for blobs, in MiB, and how much of it is to stay free.
const DISK: u64 = 192;
const LOW: u64 = 64;

/// Checks that are not well.
fn unwell(checks: &[Check]) -> Vec<&Check> {
    checks.iter().filter(|check| check.outcome != "pass").collect()
}

/// All is well.
fn well(daemon: &Daemon, after: &str) -> Result<()> {
    let (status, checks) = daemon.doctor()?;
    ensure!(status == 0 && unwell(&checks).is_empty(), "{after}: status {status}, {:#?}", unwell(&checks));
    Ok(())
}

/// Only `name` is not well, in that way, and what mends it is told.
fn finds(daemon: &Daemon, name: &str, outcome: &str, fix: &str) -> Result<()> {
    let (status, checks) = daemon.doctor()?;
    let found = unwell(&checks);
    let [check] = found[..] else { anyhow::bail!("{name} was planted, not well are {found:#?}") };
    ensure!(check.name == name && check.outcome == outcome, "{name} was planted, found was {check:?}");
    ensure!(check.fix.as_ref().is_some_and(|told| told.contains(fix)), "{name}: {check:?} does not say {fix:?}");
    let wanted = i32::from(outcome == "fail");
    ensure!(status == wanted, "{name}: exit status {status}, not {wanted}");
    Ok(())
}

/// The one file of a kind below `dir`.
fn file_below(dir: &Path, end: &str) -> Result<PathBuf> {
    let below = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut all = below(dir).flat_map(|sub| below(&sub).collect::<Vec<_>>());
    all.find(|file| file.extension().is_some_and(|ext| ext == end))
        .with_context(|| format!("no {end} in {}", dir.display()))
}

/// Takes the hook for connections over IPv4 off the node's cgroup, as another program with the privilege could.
fn detach(node: &Node) -> Result<()> {
    let said = Command::new("bpftool").args(["--json", "link", "show"]).output().context("bpftool")?;
    let links: Vec<serde_json::Value> = serde_json::from_slice(&said.stdout)?;
    let cgroup = fs::metadata(node.cgroup().path())?.ino();
    let link = links
        .iter()
        .find(|link| link["cgroup_id"] == cgroup && link["attach_type"] == "cgroup_inet4_connect")
        .with_context(|| format!("no hook on cgroup {cgroup}: {links:?}"))?;
    let done = Command::new("bpftool").args(["link", "detach", "id", &link["id"].to_string()]).output()?;
    ensure!(done.status.success(), "{done:?}");
    Ok(())
}

/// A command on the node that must work.
fn on(node: &Node, program: &str, args: &[&str]) -> Result<()> {
    let done = node.entry().command(program).args(args).output()?;
    ensure!(done.status.success(), "{program} {args:?}: {done:?}");
    Ok(())
}

#[tokio::test]
async fn each_planted_fault_is_found_and_gone_when_it_is_mended() -> Result<()> {
    if !needed("each_planted_fault_is_found_and_gone_when_it_is_mended") {
        return Ok(());
    }
    let image = image::SMALL.image()?;
    let fleet = Fleet::of(2).image(&image, "debian/app", "1").start().await?;
    let [node, other] = fleet.nodes() else { anyhow::bail!("two nodes were asked for") };
    // A disk of its own, small enough to be filled.
    let disk = node.entry().make_dir("waylay/state/store")?;
    on(node, "mount", &["-t", "tmpfs", "-o", &format!("size={DISK}m"), "tmpfs", &disk.display().to_string()])?;
    let store = format!("low_disk = \"{LOW}MiB\"");
    let mut daemons = Daemon::on_all_with(fleet.nodes(), &Settings { store, ..Settings::default() }).await?;
    let daemon = &mut daemons[0];
    let _containerd = Runtime::start(Kind::Containerd, node, Some(&daemon.trust_dir())).await?;
    eventually("the members to know each other", Duration::from_secs(30), async || {
        Ok(well(daemon, "at the start").is_ok().then_some(()))
    })
    .await
    .or_else(|_| well(daemon, "at the start"))?;

    configuration_and_mirrors(daemon, node)?;
    registries(daemon, &fleet).await?;
    secrets_and_certificates(daemon).await?;
    machine(daemon, node, &disk)?;
    mtu(daemon, node).await?;

    // The operator's own doing.
    daemon.says(&["off"])?;
    finds(daemon, "intercepting", "warn", "waylay on")?;
    daemon.says(&["on"])?;
    daemon.says(&["bypass", "add", "192.0.2.1"])?;
    finds(daemon, "bypass", "warn", "waylay bypass rm 192.0.2.1:443")?;
    daemon.says(&["bypass", "rm", "192.0.2.1"])?;
    well(daemon, "after the operator's own doing")?;

    // The hooks are off, though nobody told the daemon.
    detach(node)?;
    finds(daemon, "intercepting", "fail", "systemctl restart waylay")?;
    daemon.restart().await?;
    well_soon(daemon, "hooks").await?;

    // The other member cannot be reached.
    other.link().cut()?;
    found_soon(daemon, "peers", "fail", "UDP").await?;
    other.link().mend()?;
    well_soon(daemon, "peers").await?;

    // The daemon stands still, and then is gone.
    daemon.freeze()?;
    finds(daemon, "daemon", "fail", "systemctl restart waylay")?;
    daemon.thaw()?;
    well_soon(daemon, "a daemon that stood still").await?;
    daemon.kill();
    finds(daemon, "daemon", "fail", "systemctl restart waylay")?;
    daemon.restart().await?;
    well_soon(daemon, "a daemon that was gone").await?;
    fleet.passed()
}

async fn well_soon(daemon: &Daemon, after: &str) -> Result<()> {
    let waited = eventually(after, Duration::from_secs(60), async || Ok(well(daemon, after).is_ok().then_some(())));
    waited.await.or_else(|_| well(daemon, after))
}

async fn found_soon(daemon: &Daemon, name: &str, outcome: &str, fix: &str) -> Result<()> {
    let found = async || Ok(finds(daemon, name, outcome, fix).is_ok().then_some(()));
    eventually(name, Duration::from_secs(60), found).await.or_else(|_| finds(daemon, name, outcome, fix))
}

fn configuration_and_mirrors(daemon: &Daemon, node: &Node) -> Result<()> {
    let text = fs::read_to_string(daemon.config())?;
    fs::write(daemon.config(), format!("regsitries = []\n{text}"))?;
    finds(daemon, "configuration", "fail", "waylay check")?;
    fs::write(daemon.config(), text)?;
    well(daemon, "configuration")?;

    let hosts = "/etc/containerd/certs.d/docker.io/hosts.toml";
    node.entry().write(hosts, "[host.\"https://mirror.test:5000\"]\n")?;
    let (_, checks) = daemon.doctor()?;
    // Such a directory says that something is pulled from docker.io, too, which nobody listed.
    let names: Vec<_> = unwell(&checks).into_iter().map(|check| check.name.as_str()).collect();
    assert_eq!(names, ["mirrors", "registries"]);
    let told = unwell(&checks)[0].fix.clone().unwrap_or_default();
    ensure!(told.contains("waylay registry add mirror.test:5000"), "{told}");
    fs::remove_dir_all(node.entry().inside("/etc/containerd"))?;
    well(daemon, "mirrors")
}

/// A pull from a registry that nobody listed passes through, and the daemon remembers it.
async fn registries(daemon: &Daemon, fleet: &Fleet) -> Result<()> {
    let reference = fleet.registry().reference("debian/app", "1");
    let add = |name: &str| changed(daemon, &["registry", "add", name]);
    // Another on the same port, or the kernel would not show such connections at all.
    add("listed.test:5000")?;
    changed(daemon, &["registry", "rm", "registry.test:5000"])?;
    Runtime::start(Kind::Skopeo, &fleet.nodes()[0], None).await?.pull(&reference).await?;
    finds(daemon, "registries", "warn", "waylay registry add registry.test:5000")?;
    add("registry.test:5000")?;
    changed(daemon, &["registry", "rm", "listed.test:5000"])?;
    well(daemon, "registries")
}

fn changed(daemon: &Daemon, args: &[&str]) -> Result<()> {
    let mut command = daemon.command(args)?;
    let done = command.arg("--config").arg(daemon.config()).arg("--socket").arg(daemon.socket()).output()?;
    ensure!(done.status.success(), "{args:?}: {done:?}");
    Ok(())
}

async fn secrets_and_certificates(daemon: &mut Daemon) -> Result<()> {
    let token = daemon.config().with_file_name("token");
    let identities = daemon.state().join("identities");
    let identity = file_below(&identities, "pem")?;

    fs::set_permissions(&token, fs::Permissions::from_mode(0o644))?;
    finds(daemon, "secrets", "fail", &format!("chmod 600 {}", token.display()))?;
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600))?;
    well(daemon, "secrets")?;

    // One that is gone from where podman and docker look is put there again by a restart.
    let published = "/etc/docker/certs.d/registry.test:5000/waylay.crt";
    fs::remove_file(daemon.entry().inside(published))?;
    finds(daemon, "published", "fail", "systemctl restart waylay")?;
    daemon.restart().await?;
    well_soon(daemon, "published").await?;

    // The identity itself is gone: no certificate is valid, and what was published is nobody's.
    let aside = identity.with_extension("aside");
    fs::rename(&identity, &aside)?;
    let (status, checks) = daemon.doctor()?;
    let names: Vec<_> =
        unwell(&checks).into_iter().map(|check| (check.name.as_str(), check.outcome.as_str())).collect();
    assert_eq!((status, names), (1, vec![("certificates", "fail"), ("published", "fail")]));
    fs::rename(&aside, &identity)?;
    well(daemon, "certificates")
}

fn machine(daemon: &Daemon, node: &Node, disk: &Path) -> Result<()> {
    let filler = disk.join("filler");
    let free = (DISK - LOW + 1) * 1024;
    on(node, "dd", &["if=/dev/zero", &format!("of={}", filler.display()), "bs=1k", &format!("count={free}")])?;
    finds(daemon, "disk", "fail", "make room")?;
    on(node, "rm", &[&filler.display().to_string()])?;
    well(daemon, "disk")?;

    // What a kernel with small buffers says; the real figure is the whole machine's, and other tests'.
    let small = node.entry().make_dir("small")?.join("rmem_max");
    fs::write(&small, "212992\n")?;
    let limit = "/proc/sys/net/core/rmem_max";
    // In the mount namespace that the node's commands enter.
    on(node, "mount", &["--bind", &small.display().to_string(), limit])?;
    finds(daemon, "UDP buffers", "warn", "sysctl -w net.core.rmem_max")?;
    on(node, "umount", &[limit])?;
    well(daemon, "UDP buffers")?;
    Ok(())
}

/// The wire's limit is below what a datagram of the peers needs: they may fall silent at the same time.
async fn mtu(daemon: &Daemon, node: &Node) -> Result<()> {
    let set = |mtu: &str| on(node, "ip", &["link", "set", "dev", "eth0", "mtu", mtu]);
    set("1000")?;
    let (status, checks) = daemon.doctor()?;
    let found: Vec<_> = unwell(&checks).into_iter().filter(|check| check.name != "peers").collect();
    let told = matches!(found[..], [check] if check.name == "MTU" && check.outcome == "fail");
    ensure!(told && status == 1, "{status}: {found:#?}");
    ensure!(found[0].fix.as_ref().is_some_and(|fix| fix.contains("ip route get 10.")), "{found:?}");
    set("1500")?;
    well_soon(daemon, "MTU").await
}
