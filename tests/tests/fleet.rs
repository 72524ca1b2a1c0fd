//! The main job on real input: a node's runtime pulls through waylay without being told, and the next node never asks the
//! registry. Each scenario asks three witnesses: what the client got, what the counters say, what the access line says; and
//! a fourth that is not ours, the registry's own log.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use waylay_tests::fleet::daemon::Settings;
use waylay_tests::fleet::{Daemon, Fleet, Kind, Runtime};
use waylay_tests::image::{self, Image};
use waylay_tests::privilege::needed;
use waylay_tests::wait::eventually;

/// Bytes that a pull may take from the registry beside the blobs: manifests, once.
const MANIFESTS: u64 = 64 * 1024;

#[tokio::test]
async fn containerd_by_cri_takes_its_layers_from_the_next_node() -> Result<()> {
    second_node_asks_the_first(Kind::Containerd, &image::SMALL).await
}

#[tokio::test]
async fn ctr_takes_its_layers_from_the_next_node() -> Result<()> {
    second_node_asks_the_first(Kind::Ctr, &image::SMALL).await
}

#[tokio::test]
async fn dockerd_takes_its_layers_from_the_next_node() -> Result<()> {
    second_node_asks_the_first(Kind::Docker, &image::SMALL).await
}

#[tokio::test]
async fn podman_takes_its_layers_from_the_next_node() -> Result<()> {
    second_node_asks_the_first(Kind::Podman, &image::SMALL).await
}

#[tokio::test]
async fn skopeo_takes_its_layers_from_the_next_node() -> Result<()> {
    second_node_asks_the_first(Kind::Skopeo, &image::SMALL).await
}

#[tokio::test]
async fn zstd_layers_travel_as_they_are() -> Result<()> {
    second_node_asks_the_first(Kind::Containerd, &image::SMALL_ZSTD).await?;
    second_node_asks_the_first(Kind::Podman, &image::SMALL_ZSTD).await
}

async fn second_node_asks_the_first(kind: Kind, recipe: &image::Recipe) -> Result<()> {
    if !needed(&format!("second_node_asks_the_first({kind})")) {
        return Ok(());
    }
    let image = recipe.image()?;
    let fleet = Fleet::of(2).image(&image, "debian/app", "1").start().await?;
    let daemons = Daemon::on_all(fleet.nodes()).await?;
    let reference = fleet.registry().reference("debian/app", "1");
    let [first, second] = fleet.nodes() else { anyhow::bail!("two nodes were asked for") };
    let one = Runtime::start(kind, first, Some(&daemons[0].trust_dir())).await?;
    let two = Runtime::start(kind, second, Some(&daemons[1].trust_dir())).await?;

    one.pull(&reference).await?;
    let wires = (first.traffic()?, second.traffic()?, fleet.registry().node().traffic()?);
    two.pull(&reference).await?;

    // What the clients got.
    one.holds(&image, &reference).await?;
    two.holds(&image, &reference).await?;
    // What the registry says.
    let (left, whole) = (fleet.registry().blob_bytes()?, image.bytes());
    ensure!(
        left >= whole && left * 100 <= whole * 101,
        "{left} bytes of blobs left the registry, the image has {whole}"
    );
    // What the wires say of the second pull.
    let sent = first.traffic()?.since(wires.0).sent;
    let received = second.traffic()?.since(wires.1).received;
    let registry = fleet.registry().node().traffic()?.since(wires.2).sent;
    ensure!(sent >= whole && received >= whole, "node1 sent {sent}, node2 received {received}, the image has {whole}");
    ensure!(registry < 2 * MANIFESTS, "the registry sent {registry} bytes for the second node");
    // What the counters and the access lines say.
    from(&daemons[0], kind, &image, |line| line.registry_bytes).await.context("node1")?;
    from(&daemons[1], kind, &image, |line| line.peer_bytes).await.context("node2")?;
    let counted = daemons[1].counters().await?;
    ensure!(counted.bytes("registry") < MANIFESTS, "node2's counters: {:?}", counted.by_source());
    ensure!(counted.bytes("peer") >= whole, "node2's counters: {:?}", counted.by_source());
    ensure!(counted.connections("splice") == 0, "node2 spliced:\n{}", counted.text());
    for side in ["peer", "registry", "ours"] {
        ensure!(counted.faults(side) == 0, "node2 counts faults:\n{}", counted.text());
    }
    // What the operator is told.
    explained(&daemons[1], &reference, first.address().into(), whole).await?;
    fleet.passed()
}

/// Checks that `waylay explain` ascribes all of the image to the first node.
async fn explained(daemon: &Daemon, reference: &str, first: IpAddr, whole: u64) -> Result<()> {
    let mut told = serde_json::Value::Null;
    // A runtime has its last byte before the daemon has told of it.
    let settled = eventually("the pull to be explained", Duration::from_secs(10), async || {
        told = serde_json::from_str(&daemon.says(&["explain", "--json", reference])?)?;
        let sources = told["sources"].as_array().context("no sources")?.iter();
        let of_first = |source: &&serde_json::Value| {
            let from = source["from"].as_str().and_then(|from| from.parse::<SocketAddr>().ok());
            from.is_some_and(|from| from.ip() == first)
        };
        let bytes: u64 = sources.filter(of_first).filter_map(|source| source["bytes"].as_u64()).sum();
        Ok((bytes >= whole).then_some(()))
    });
    settled.await.with_context(|| format!("explained as {told:#}"))
}

/// Checks that `daemon` has an access line for each blob of `image`, by the right program, all from one source.
async fn from(
    daemon: &Daemon,
    kind: Kind,
    image: &Image,
    source: fn(&waylay_tests::fleet::AccessLine) -> u64,
) -> Result<()> {
    let lines = daemon.access()?;
    for blob in image.blobs() {
        let line = lines.iter().find(|line| line.digest == blob.digest && line.size > 0);
        let line = line.with_context(|| format!("no access line for {}, but {lines:?}", blob.digest))?;
        let right = line.status == 200 && line.size == blob.size && source(line) == blob.size && line.fault == "-";
        ensure!(right, "the access line of {}: {line:?}", blob.digest);
        ensure!(line.program == kind.program(), "{kind}'s pull is ascribed to {}", line.program);
        ensure!(line.repository == "debian/app", "{line:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_runtime_without_the_drop_in_pulls_at_the_first_attempt() -> Result<()> {
    for kind in [Kind::Containerd, Kind::Ctr] {
        spliced(kind, &Settings::default(), Started::After).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_runtime_older_than_the_certificate_pulls_at_the_first_attempt() -> Result<()> {
    spliced(Kind::Containerd, &Settings::default(), Started::Before).await
}

#[tokio::test]
async fn a_runtime_whose_certs_d_was_not_written_pulls_at_the_first_attempt() -> Result<()> {
    let settings = Settings { certs_d: Vec::new(), ..Settings::default() };
    for kind in [Kind::Docker, Kind::Podman, Kind::Skopeo] {
        spliced(kind, &settings, Started::After).await?;
    }
    Ok(())
}

/// When the runtime started, as seen from the daemon.
enum Started {
    /// Before it, with the drop-in: the runtime has read an empty directory.
    Before,
    /// After it, without the drop-in.
    After,
}

async fn spliced(kind: Kind, settings: &Settings, started: Started) -> Result<()> {
    if !needed(&format!("spliced({kind})")) {
        return Ok(());
    }
    let image = image::SMALL.image()?;
    let fleet = Fleet::of(1).image(&image, "debian/app", "1").start().await?;
    let node = &fleet.nodes()[0];
    let reference = fleet.registry().reference("debian/app", "1");
    let early = match started {
        Started::Before => Some(Runtime::start(kind, node, Some(&Daemon::trust_dir_of(node.entry()))).await?),
        Started::After => None,
    };
    if let Some(runtime) = &early {
        // Go reads its roots at its first connection, not at start: without this, the runtime would still learn of us.
        ensure!(runtime.pull(&fleet.registry().reference("debian/no-such", "1")).await.is_err());
    }
    let daemons = Daemon::on_all_with(fleet.nodes(), settings).await?;
    let runtime = match early {
        Some(runtime) => runtime,
        None => Runtime::start(kind, node, None).await?,
    };

    runtime.pull(&reference).await?;

    runtime.holds(&image, &reference).await?;
    // A connection is counted when it ends, and a daemon keeps its own for the next pull.
    drop(runtime);
    let counters = eventually("the connection to be counted", Duration::from_secs(5), async || {
        let counters = daemons[0].counters().await?;
        Ok((counters.connections("splice") > 0).then_some(counters))
    })
    .await
    .with_context(|| format!("{kind} was not spliced"))?;
    ensure!(counters.connections("terminate") == 0, "{kind} was terminated:\n{}", counters.text());
    ensure!(counters.by_source().total() == 0, "{kind}: {:?}", counters.by_source());
    assert_eq!(fleet.registry().blob_bytes()?, image.bytes(), "{kind}: one pull, straight from the registry");
    fleet.passed()
}
