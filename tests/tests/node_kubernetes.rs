//! The image and the DaemonSet on booted Debian machines whose containerd is set up as Kubernetes' is: podman does the kubelet's
//! part, by what the manifest says.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use waylay_tests::fleet::Fleet;
use waylay_tests::image;
use waylay_tests::machine::{Machine, Manifest, Pod};
use waylay_tests::privilege::needed_for_machines;

const REGISTRY: &str = "registry.test:5000";
const APP: &str = "registry.test:5000/debian/app:1";
/// Bytes that a pull may take from the registry beside the blobs: manifests, once.
const MANIFESTS: u64 = 64 * 1024;
/// How a distribution of Kubernetes lets containerd read certificates on each pull.
const CONTAINERD: &str = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\n\
    config_path = \"/etc/containerd/certs.d\"\n";

#[tokio::test]
async fn the_daemonset_shares_a_pull_of_two_nodes_and_leaves_a_node_pulling_when_it_goes() -> Result<()> {
    if !needed_for_machines("the_daemonset_shares_a_pull_of_two_nodes_and_leaves_a_node_pulling_when_it_goes") {
        return Ok(());
    }
    let image = image::SMALL.image()?;
    let fleet = Fleet::of(0).image(&image, "debian/app", "1").start().await?;
    let manifest = Manifest::read()?;
    let archive = archive(&fleet, manifest.image()?)?;
    let machines = [Machine::boot(&fleet, "one", 21).await?, Machine::boot(&fleet, "two", 22).await?];
    let members: Vec<String> = machines.iter().map(|machine| format!("{}:4500", machine.address())).collect();
    let token = token(&members)?;
    let config = for_this_place(manifest.config(), &members)?;
    for machine in &machines {
        let script = format!("mkdir -p /etc/containerd && cat > /etc/containerd/config.toml <<'X'\n{CONTAINERD}X\n");
        machine.sh(&(script + "systemctl restart containerd")).await?;
    }
    let [one, two] = &machines;
    let first = Pod::start(one, &manifest, &archive, &config, &token).await.context("the first machine")?;
    first.ready().await?;
    let second = Pod::start(two, &manifest, &archive, &config, &token).await.context("the second machine")?;
    second.ready().await?;
    let status = first.exec("waylay status").await?;
    ensure!(status.contains("yes, proven by self-test") && status.contains(REGISTRY), "{status}");

    // Each blob leaves the registry once, for the first node; containerd knows of no mirror.
    one.cri_pull(APP).await.context("on the first machine")?;
    one.containerd_holds(&image)?;
    let from = one.counters().await?.by_source();
    ensure!(from.registry >= image.bytes(), "the first pull was not redirected: {from:?}");
    let left = fleet.registry().blob_bytes()?;
    two.cri_pull(APP).await.context("on the second machine")?;
    two.containerd_holds(&image)?;
    let counters = two.counters().await?;
    let from = counters.by_source();
    ensure!(from.peer >= image.bytes() && from.registry < MANIFESTS, "the second machine took {from:?}");
    ensure!(fleet.registry().blob_bytes()? == left, "blobs left the registry for the second machine");
    ensure!(counters.connections("splice") == 0, "connections were passed through:\n{}", counters.text());
    for side in ["peer", "registry", "ours"] {
        ensure!(counters.faults(side) == 0, "faults are counted:\n{}", counters.text());
    }
    let lines = second.access().await?;
    let told: u64 = lines.iter().map(|line| line.peer_bytes).sum();
    ensure!(told == from.peer, "the access lines tell of {told} bytes from peers, the counters of {}", from.peer);
    ensure!(lines.iter().all(|line| line.program == "containerd" && line.fault == "-"), "{lines:?}");

    // What Prometheus reaches, and what it does not.
    let (status, text) = second.ask_port("metrics", "/metrics").await?;
    ensure!(status.is_success() && text.contains("waylay_peers_reachable 1\n"), "{status}:\n{text}");
    ensure!(!second.ask_port("metrics", "/readyz").await?.0.is_success(), "more than counters is told to everybody");

    // A pod that is killed takes its hooks along: the same pull goes directly. Started again, it serves what it had.
    forget(two).await?;
    second.kill().await?;
    let before = fleet.registry().blob_bytes()?;
    two.cri_pull(APP).await.context("without the pod")?;
    ensure!(fleet.registry().blob_bytes()? - before >= image.bytes(), "it was not the registry that answered");
    forget(two).await?;
    second.again().await?;
    second.ready().await?;
    let before = fleet.registry().blob_bytes()?;
    two.cri_pull(APP).await.context("with the pod again")?;
    ensure!(fleet.registry().blob_bytes()? == before, "what the node has left the registry again");
    let from = two.counters().await?.by_source();
    ensure!(from.store >= image.bytes(), "the node's own store gave {from:?}");

    // An upgrade ends it in order.
    let status = second.stop().await?;
    ensure!(status.lines().last() == Some("0"), "it ended with {status}");
    fleet.passed()
}

async fn forget(machine: &Machine) -> Result<()> {
    let script = format!("ctr --namespace k8s.io images rm --sync {APP} $(ctr --namespace k8s.io images ls -q)");
    machine.sh(&script).await.map(drop)
}

/// What `cargo xtask image` makes of the program under test.
fn archive(fleet: &Fleet, name: &str) -> Result<PathBuf> {
    let archive = fleet.dir().join("image.tar");
    let mut image = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    image.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    image.args(["xtask", "image", "--name", name, "--out"]).arg(&archive);
    image.arg("--binary").arg(waylay_tests::fleet::daemon::binary()?);
    ensure!(image.status().context("cannot run cargo")?.success(), "cargo xtask image failed");
    Ok(archive)
}

fn token(members: &[String]) -> Result<String> {
    let mut token = Command::new(waylay_tests::fleet::daemon::binary()?);
    token.args(["token", "new"]).args(members.iter().flat_map(|member| ["--addr", member]));
    let made = token.output().context("cannot run waylay")?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Ok(String::from_utf8(made.stdout)?)
}

/// The manifest's configuration with the registry of the test, and with addresses for the name that a cluster's DNS would know.
fn for_this_place(config: &str, members: &[String]) -> Result<String> {
    let mut config: toml::Table = config.parse().context("the manifest's configuration is not TOML")?;
    config.insert("registries".into(), toml::Value::Array(vec![REGISTRY.into()]));
    let swarm = config.get_mut("swarm").and_then(toml::Value::as_table_mut).context("the manifest has no [swarm]")?;
    let members = members.iter().map(|member| toml::Value::from(member.as_str())).collect();
    swarm.insert("members".into(), toml::Value::Array(members));
    Ok(config.to_string())
}
