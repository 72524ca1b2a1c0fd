//! What containerd keeps is not kept twice: peers are served from its content store, and whatever becomes of that, the pull
//! succeeds.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use waylay_tests::fleet::{Daemon, Fleet, Kind, Runtime, daemon::Settings, runtime::Containerd};
use waylay_tests::image::{self, Image};
use waylay_tests::privilege::needed;
use waylay_tests::wait::eventually;

/// Longer than the daemon waits between two looks at the content store.
const LOOKED: Duration = Duration::from_secs(60);

/// Two nodes with a daemon each; the first has pulled the image by containerd, and containerd alone keeps the layers.
struct Lent {
    daemons: Vec<Daemon>,
    runtime: Containerd,
    fleet: Fleet,
    image: Image,
    reference: String,
}

impl Lent {
    async fn prepare() -> Result<Self> {
        let image = image::SMALL.image()?;
        let fleet = Fleet::of(2).image(&image, "debian/app", "1").start().await?;
        let reference = fleet.registry().reference("debian/app", "1");
        let root = |n: usize| fleet.nodes()[n].entry().dir().join("containerd/root");
        let settings = |n| {
            let store = format!("low_disk = \"64MiB\"\ncontainerd = \"{}\"", root(n).display());
            Settings { store, ..Settings::default() }
        };
        let daemons = Daemon::on_each_with(fleet.nodes(), settings).await?;
        let runtime = Containerd::start(&fleet.nodes()[0], Some(&daemons[0].trust_dir())).await?;
        runtime.cri_pull(&reference, None).await?;
        let lent = Self { daemons, runtime, fleet, image, reference };
        let whole = async || Ok((lent.own().len() == lent.image.layers().len()).then_some(()));
        eventually("the layers to be stored", LOOKED, whole).await?;
        lent.settle()?;
        eventually("the layers to be lent", LOOKED, async || Ok(lent.own().is_empty().then_some(()))).await?;
        Ok(lent)
    }

    /// Layers in files of the first daemon's own.
    fn own(&self) -> Vec<PathBuf> {
        let files = self.layers().map(|hex| self.daemons[0].blob_dir().join(hex));
        files.filter(|file| fs::symlink_metadata(file).is_ok_and(|meta| meta.is_file())).collect()
    }

    /// Lets the time pass after which containerd is taken to keep what it has.
    fn settle(&self) -> Result<()> {
        let earlier = SystemTime::now() - Duration::from_secs(3600);
        for hex in self.layers() {
            File::open(self.runtime.blobs().join(hex))?.set_modified(earlier).context("containerd's file")?;
        }
        Ok(())
    }

    fn layers(&self) -> impl Iterator<Item = &str> {
        self.image.layers().iter().map(|layer| layer.digest.trim_start_matches("sha256:"))
    }

    /// Pulls by containerd on the second node; the bytes of blobs that left the registry for it.
    async fn pull_on_the_second(&self) -> Result<u64> {
        let before = self.fleet.registry().blob_bytes()?;
        let second = Containerd::start(&self.fleet.nodes()[1], Some(&self.daemons[1].trust_dir())).await?;
        second.cri_pull(&self.reference, None).await?;
        self.image.check(|hex| second.blobs().join(hex))?;
        Ok(self.fleet.registry().blob_bytes()? - before)
    }
}

#[tokio::test]
async fn a_peer_takes_its_layers_from_containerds_content_store() -> Result<()> {
    if !needed("a_peer_takes_its_layers_from_containerds_content_store") {
        return Ok(());
    }
    let lent = Lent::prepare().await?;
    let counted = lent.daemons[0].counters().await?;
    let layers: u64 = lent.image.layers().iter().map(|layer| layer.size).sum();
    assert_eq!(counted.sum("waylay_store_lent_bytes", &[]), layers);
    ensure!(counted.sum("waylay_store_bytes", &[]) < 64 << 10, "it keeps more than manifests:\n{}", counted.text());
    let status = lent.daemons[0].says(&["status"])?;
    ensure!(status.contains(" kept by containerd"), "{status}");
    let shown = lent.daemons[0].says(&["blobs", "show", &lent.image.layers()[0].digest])?;
    ensure!(shown.contains("kept by  containerd, as /"), "{shown}");

    assert_eq!(lent.pull_on_the_second().await?, 0, "bytes of blobs left the registry");

    let from = lent.daemons[1].counters().await?.by_source();
    ensure!(from.peer >= layers, "{from:?}");
    ensure!(lent.own().is_empty(), "it was copied back: {:?}", lent.own());

    // containerd removes the image, and with it what it kept; then it comes from the peer.
    lent.runtime.remove(&lent.reference).await?;
    let forgotten = async || {
        let counted = lent.daemons[0].counters().await?;
        Ok((counted.sum("waylay_store_lent_bytes", &[]) == 0).then_some(()))
    };
    eventually("the store to see that containerd has removed them", LOOKED, forgotten).await?;
    let egress = lent.fleet.registry().blob_bytes()?;
    lent.runtime.cri_pull(&lent.reference, None).await?;
    lent.image.check(|hex| lent.runtime.blobs().join(hex))?;
    assert_eq!(lent.fleet.registry().blob_bytes()?, egress, "it came from the registry");
    for daemon in &lent.daemons {
        let counted = daemon.counters().await?;
        for side in ["peer", "registry", "ours"] {
            ensure!(counted.faults(side) == 0, "faults are counted:\n{}", counted.text());
        }
    }
    lent.fleet.passed()
}

#[tokio::test]
async fn a_pull_succeeds_whatever_became_of_containerds_files() -> Result<()> {
    if !needed("a_pull_succeeds_whatever_became_of_containerds_files") {
        return Ok(());
    }
    let lent = Lent::prepare().await?;
    let [removed, damaged, cut] = lent.image.layers() else { anyhow::bail!("the image should have three layers") };
    let file = |digest: &str| lent.runtime.blobs().join(digest.trim_start_matches("sha256:"));
    fs::remove_file(file(&removed.digest))?;
    // containerd makes its files read-only; root is not bound by that.
    File::options().write(true).open(file(&damaged.digest))?.write_all_at(b"?", damaged.size / 2)?;
    File::options().write(true).open(file(&cut.digest))?.set_len(cut.size / 2)?;

    // A client on the same node, and one that asks it as a peer.
    let runtime = Runtime::start(Kind::Skopeo, &lent.fleet.nodes()[0], None).await?;
    runtime.pull(&lent.reference).await?;
    runtime.holds(&lent.image, &lent.reference).await?;
    lent.pull_on_the_second().await?;
    // What was damaged is what containerd has; ours was made good, and theirs was left alone.
    let again = lent.own().len();
    ensure!(again == 3, "{again} layers are in the store again");
    let theirs = fs::read(file(&damaged.digest))?;
    assert_eq!((theirs.len() as u64, theirs[(damaged.size / 2) as usize]), (damaged.size, b'?'));
    lent.fleet.passed()
}
