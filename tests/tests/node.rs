//! waylay on real machines: Debian is booted, waylay is installed by the line that a stranger types, the runtimes are those of the
//! distribution with their own units, and nothing in their configuration names waylay.

use anyhow::{Context, Result, ensure};
use waylay_tests::fleet::{Fleet, Said};
use waylay_tests::golden::{self, Masks};
use waylay_tests::image::{self, Image};
use waylay_tests::machine::Machine;
use waylay_tests::privilege::needed_for_machines;

/// What an operator types on the first machine, in the directory of the release.
const INSTALL: &str = "cd /root/release && sh install.sh --yes --restart-runtime --registry registry.test:5000";
/// And on the next ones, with the token of the first on standard input.
const JOIN: &str = "cd /root/release && sh install.sh --join - --yes --restart-runtime --registry registry.test:5000";
/// How the image is called.
const APP: &str = "registry.test:5000/debian/app:1";
/// Bytes that a pull may take from the registry beside the blobs: manifests, once.
const MANIFESTS: u64 = 64 * 1024;

/// A way to pull [`APP`] on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Cri,
    Ctr,
    Docker,
    BuildKit,
    Podman,
    Skopeo,
    Buildah,
}

impl Way {
    const ALL: [Self; 7] =
        [Self::Cri, Self::Ctr, Self::Docker, Self::BuildKit, Self::Podman, Self::Skopeo, Self::Buildah];

    async fn pull(self, machine: &Machine) -> Result<()> {
        let script = match self {
            Self::Cri => return machine.cri_pull(APP).await,
            // `ctr` fetches by itself, and reads no drop-in of containerd's.
            Self::Ctr => format!("ctr --namespace tests images pull --hosts-dir /etc/docker/certs.d {APP}"),
            Self::Docker => format!("docker pull {APP}"),
            Self::BuildKit => format!(
                "mkdir -p /tmp/context && printf 'FROM {APP}\\nLABEL built=yes\\n' | \
                 DOCKER_BUILDKIT=1 docker build --no-cache --tag built --file - /tmp/context"
            ),
            Self::Podman => format!("podman pull {APP}"),
            Self::Skopeo => format!("rm -rf /tmp/image && skopeo copy docker://{APP} dir:/tmp/image"),
            Self::Buildah => format!("buildah pull {APP}"),
        };
        machine.sh(&script).await.map(drop)
    }

    /// Forgets what was pulled, so that the next pull fetches everything.
    async fn forget(self, machine: &Machine) -> Result<()> {
        let script = match self {
            Self::Cri => {
                format!("ctr --namespace k8s.io images rm --sync {APP} $(ctr --namespace k8s.io images ls -q)")
            }
            Self::Ctr => format!("ctr --namespace tests images rm --sync {APP}"),
            Self::Docker => format!("docker image rm {APP}"),
            Self::BuildKit => "docker image rm built && docker builder prune --all --force".to_owned(),
            Self::Podman => format!("podman image rm {APP}"),
            Self::Skopeo => "rm -rf /tmp/image".to_owned(),
            // It shares podman's storage.
            Self::Buildah => format!("buildah rmi {APP}"),
        };
        machine.sh(&script).await.map(drop)
    }
}

#[tokio::test]
async fn two_lines_install_two_machines_and_the_second_takes_its_layers_from_the_first() -> Result<()> {
    if !needed_for_machines("two_lines_install_two_machines_and_the_second_takes_its_layers_from_the_first") {
        return Ok(());
    }
    let image = image::SMALL.image()?;
    let fleet = Fleet::of(0).image(&image, "debian/app", "1").start().await?;
    let one = Machine::boot(&fleet, "one", 21).await?;
    let two = Machine::boot(&fleet, "two", 22).await?;
    let before = (one.tree()?, two.tree()?);
    one.download()?;
    two.download()?;

    let said = one.sh(INSTALL).await?;
    ensure!(said.contains("intercepts this node's pulls") && said.contains("install.sh --join -"), "{said}");
    shown("install", INSTALL, &said, &one)?;
    ensure!(!said.contains("waylay1-"), "the token is shown:\n{said}");
    let token = one.sh("cat /etc/waylay/token").await?;
    let said = two.sh_with(JOIN, &token).await?;
    ensure!(said.contains("intercepts this node's pulls"), "{said}");

    for way in Way::ALL {
        shared(way, &fleet, &image, &one, &two).await.with_context(|| format!("{way:?}"))?;
    }
    // Whatever was pulled however often: each blob left the registry once, for the first pull of the first machine.
    let (left, whole) = (fleet.registry().blob_bytes()?, image.bytes());
    ensure!(
        left >= whole && left * 100 <= whole * 101,
        "{left} bytes of blobs left the registry, the image has {whole}"
    );

    let doctor = two.sh("waylay doctor").await?;
    ensure!(doctor.contains("pass  peers"), "{doctor}");
    let peers = two.sh("waylay peers").await?;
    ensure!(peers.contains(&format!("{}:4500  yes", one.address())), "{peers}");

    for (machine, before) in [(&one, &before.0), (&two, &before.1)] {
        let said = machine.sh("waylay uninstall --yes").await?;
        ensure!(said.contains("waylay is off this node"), "{said}");
        shown("uninstall", "waylay uninstall --yes", &said, machine)?;
        ensure!(!said.contains("left as it is"), "{said}");
        let changes = before.changes(&machine.tree()?);
        ensure!(changes.is_empty(), "uninstalling left changes:\n{}", changes.join("\n"));
        ensure!(!machine.path("/run/waylay").exists());
        // The runtimes still work, and go to the registry.
        let before = fleet.registry().blob_bytes()?;
        Way::Docker.pull(machine).await.context("after uninstalling")?;
        ensure!(fleet.registry().blob_bytes()? - before >= whole, "docker did not pull from the registry");
    }
    fleet.passed()
}

/// What a command printed is what its golden file shows, the same on each machine.
fn shown(name: &str, line: &str, out: &str, machine: &Machine) -> Result<()> {
    let masks =
        Masks::usual()?.and(&machine.address().to_string(), "ADDRESS").and(env!("CARGO_PKG_VERSION"), "VERSION");
    let said = Said { status: 0, out: out.to_owned(), err: String::new() };
    golden::same(name, &golden::session(line, &said, &masks))
}

/// Pulls on both machines; the second may take nothing from the registry, though it starts with an empty store.
async fn shared(way: Way, fleet: &Fleet, image: &Image, one: &Machine, two: &Machine) -> Result<()> {
    way.pull(one).await.context("on the first machine")?;
    two.sh("waylay blobs ls --json | tr ',' '\\n' | sed -n 's/.*\"digest\":\"\\(.*\\)\".*/\\1/p' | xargs -rn1 waylay blobs rm")
        .await?;
    let (left, counted) = (fleet.registry().blob_bytes()?, two.counters().await?);
    way.pull(two).await.context("on the second machine")?;
    let now = two.counters().await?;
    let from = now.by_source().since(counted.by_source());
    ensure!(from.peer >= image.bytes(), "from peers came {from:?}, the image has {}", image.bytes());
    ensure!(from.registry < MANIFESTS, "the registry was asked by the second machine: {from:?}");
    let more = fleet.registry().blob_bytes()? - left;
    ensure!(more == 0, "{more} bytes of blobs left the registry for the second machine");
    for side in ["peer", "registry", "ours"] {
        ensure!(now.faults(side) == counted.faults(side), "faults are counted:\n{}", now.text());
    }
    if way == Way::Cri {
        one.containerd_holds(image).context("the first machine")?;
        two.containerd_holds(image).context("the second machine")?;
    }
    // The other runtimes shall find nothing of it.
    way.forget(one).await?;
    way.forget(two).await
}

#[tokio::test]
async fn a_rehearsal_changes_nothing_and_a_wrong_sum_is_refused() -> Result<()> {
    if !needed_for_machines("a_rehearsal_changes_nothing_and_a_wrong_sum_is_refused") {
        return Ok(());
    }
    let fleet = Fleet::of(0).start().await?;
    let machine = Machine::boot(&fleet, "one", 21).await?;
    machine.download()?;
    let before = machine.tree()?;

    let said = machine.sh(&format!("{INSTALL} --dry-run")).await?;
    ensure!(said.contains("write /etc/waylay/config.toml") && said.contains("Nothing was changed"), "{said}");
    shown("install-dry-run", &format!("{INSTALL} --dry-run"), &said, &machine)?;
    let refused = machine.try_sh(&format!("{INSTALL} --sha256 {}", "0".repeat(64)), "").await?;
    ensure!(refused.status == 1 && refused.err.contains("it is damaged, or not what you want"), "{refused:?}");
    let refused = machine.try_sh(&INSTALL.replace("--yes", ""), "").await?;
    ensure!(refused.status == 1 && refused.err.contains("give --yes"), "{refused:?}");
    let refused = machine.try_sh(&format!("{INSTALL} --join -"), "not a token").await?;
    ensure!(refused.status == 64 && refused.err.contains("not a waylay join token"), "{refused:?}");

    let changes = before.changes(&machine.tree()?);
    ensure!(changes.is_empty(), "{}", changes.join("\n"));
    ensure!(machine.try_sh("systemctl is-active waylay", "").await?.status != 0);
    fleet.passed()
}

#[tokio::test]
async fn an_operator_switches_it_off_and_on_without_a_restart() -> Result<()> {
    if !needed_for_machines("an_operator_switches_it_off_and_on_without_a_restart") {
        return Ok(());
    }
    let image = image::SMALL.image()?;
    let fleet = Fleet::of(0).image(&image, "debian/app", "1").start().await?;
    let machine = Machine::boot(&fleet, "one", 21).await?;
    machine.download()?;
    machine.sh(INSTALL).await?;
    Way::Podman.pull(&machine).await?;
    Way::Podman.forget(&machine).await?;

    machine.sh("waylay off").await?;
    let before = (fleet.registry().blob_bytes()?, machine.counters().await?.by_source());
    Way::Podman.pull(&machine).await?;
    ensure!(fleet.registry().blob_bytes()? - before.0 >= image.bytes(), "it was not the registry that answered");
    ensure!(machine.counters().await?.by_source() == before.1, "waylay answered though it is off");
    let status = machine.sh("waylay status").await?;
    ensure!(status.contains("NO, switched off"), "{status}");
    Way::Podman.forget(&machine).await?;

    machine.sh("waylay on").await?;
    let before = fleet.registry().blob_bytes()?;
    Way::Podman.pull(&machine).await?;
    ensure!(fleet.registry().blob_bytes()? == before, "the registry answered though waylay is on");
    fleet.passed()
}

#[tokio::test]
async fn doctor_sees_what_a_runtime_was_started_with() -> Result<()> {
    if !needed_for_machines("doctor_sees_what_a_runtime_was_started_with") {
        return Ok(());
    }
    let fleet = Fleet::of(0).start().await?;
    let machine = Machine::boot(&fleet, "one", 21).await?;
    machine.download()?;
    machine.sh(INSTALL).await?;
    const DROP_IN: &str = "/etc/systemd/system/containerd.service.d/zz-planted.conf";
    let restart = "systemctl daemon-reload && systemctl restart containerd";
    let clean = "containerd.service trusts us for all";
    let told = machine.sh("waylay doctor").await?;
    ensure!(told.contains(clean) && told.contains("pass  proxies"), "{told}");

    for (variable, told, mended_by) in [
        (
            "HTTPS_PROXY=http://user:s3cret@proxy.test:3128",
            "WARN  proxies        containerd.service pulls through the proxy proxy.test:3128",
            "add the registries to NO_PROXY of containerd.service",
        ),
        (
            "SSL_CERT_DIR=/etc/ssl/certs",
            "WARN  trust          containerd.service does not know our certificate for",
            "`systemctl restart containerd.service`",
        ),
    ] {
        machine.sh(&format!("printf '[Service]\\nEnvironment={variable}\\n' > {DROP_IN} && {restart}")).await?;
        let said = machine.try_sh("waylay doctor", "").await?;
        ensure!(said.status == 0 && said.out.contains(told) && said.out.contains(mended_by), "{variable}: {said:?}");
        ensure!(!said.out.contains("s3cret"), "{said:?}");
        machine.sh(&format!("rm {DROP_IN} && {restart}")).await?;
        let told = machine.sh("waylay doctor").await?;
        ensure!(told.contains(clean) && told.contains("pass  proxies"), "{variable} mended: {told}");
    }
    fleet.passed()
}

#[tokio::test]
async fn a_machine_boots_and_pulls_whatever_became_of_waylay() -> Result<()> {
    if !needed_for_machines("a_machine_boots_and_pulls_whatever_became_of_waylay") {
        return Ok(());
    }
    let image = image::SMALL.image()?;
    let fleet = Fleet::of(0).image(&image, "debian/app", "1").start().await?;
    let mut machine = Machine::boot(&fleet, "one", 21).await?;
    machine.download()?;
    machine.sh(INSTALL).await?;
    let again = machine.sh(INSTALL).await?;
    ensure!(again.contains("nothing will be changed"), "the second run:\n{again}");

    // It intercepts after a boot, by itself.
    machine.reboot().await?;
    machine.sh("waylay status | grep -q 'yes, proven by self-test'").await.context("after the boot")?;
    let before = machine.counters().await?;
    machine.cri_pull(APP).await?;
    let from = machine.counters().await?.by_source().since(before.by_source());
    ensure!(from.total() >= image.bytes(), "the first pull after the boot was not intercepted: {from:?}");
    Way::Cri.forget(&machine).await?;

    // Without a network the runtimes start all the same.
    machine.link().cut()?;
    machine.reboot().await?;
    machine.sh("systemctl is-active containerd docker").await.context("without a network")?;
    machine.link().mend()?;

    // With a broken program, too, and their pulls go directly.
    machine.sh("systemctl stop waylay && printf broken > /usr/local/bin/waylay").await?;
    machine.reboot().await?;
    machine.sh("systemctl is-active containerd docker").await.context("with a broken program")?;
    let before = fleet.registry().blob_bytes()?;
    Way::Docker.pull(&machine).await?;
    ensure!(fleet.registry().blob_bytes()? - before >= image.bytes(), "with a broken program nothing can be shared");

    // The same line repairs it.
    let repaired = machine.sh(INSTALL).await?;
    ensure!(repaired.contains("replace /usr/local/bin/waylay"), "{repaired}");
    machine.sh("waylay status | grep -q 'yes, proven by self-test'").await?;
    fleet.passed()
}
