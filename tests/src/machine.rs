//! Machines: Debian booted by systemd-nspawn, with real units of real runtimes, joined to a fleet's switch. What an operator does
//! on a node is done here by the same command lines.
//!
//! A machine sees its own files, processes, network and control groups; the kernel is this machine's. Dropping it ends all its
//! processes by their control group.

mod base;
mod pod;
mod tree;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

pub use self::base::{PACKAGES, minimal};
pub use self::pod::{Manifest, Pod};
pub use self::tree::Tree;
pub use crate::fleet::Said;
use crate::fleet::cgroup::Cgroup;
use crate::fleet::namespace::Namespace;
use crate::fleet::network::{Link, address};
use crate::fleet::process::Process;
use crate::fleet::{self, Fleet, cri, registry};
use crate::image::Image;
use crate::wait::eventually;

/// From power on to all units started.
const BOOT: Duration = Duration::from_secs(60);
/// From the order to reboot to the end of all units; a stuck one is killed by then.
const DOWN: Duration = Duration::from_secs(120);
/// How systemd-nspawn ends when the machine wants to boot again and `--keep-unit` leaves that to whoever started it.
const REBOOTS: i32 = 133;
/// Longer than any command here may take.
const COMMAND: Duration = Duration::from_secs(240);
/// Where what an operator downloads lies on a machine.
const RELEASE: &str = "/root/release";

/// A booted machine.
#[derive(Debug)]
pub struct Machine {
    // In the order in which they must go.
    cgroup: Cgroup,
    nspawn: Process,
    link: Link,
    namespace: Namespace,
    name: String,
    address: Ipv4Addr,
    root: PathBuf,
}

impl Machine {
    /// Boots a fresh machine called `name` as the `host`-th of the fleet's network, with the operator's authority in its system's
    /// store, and waits until all its units have started.
    ///
    /// # Errors
    /// When a part cannot be made or the boot does not end.
    pub async fn boot(fleet: &Fleet, name: &str, host: u8) -> Result<Self> {
        let base = base::root()?;
        let dir = fleet.dir().join(name);
        let root = dir.join("root");
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        fleet::run(Command::new("cp").args(["--archive", "--reflink=auto"]).arg(&base).arg(&root))?;
        furnish(&root, name, fleet)?;
        let namespace = Namespace::create(format!("{}-{name}", fleet.name()))?;
        let link = fleet.switch().plug(&namespace, name, address(host))?;
        let cgroup = Cgroup::create(fleet.cgroup().path(), name)?;
        let nspawn = Process::start(name, nspawn(&root, name, &namespace, &cgroup), &dir.join("console.log"))?;
        let (name, address) = (name.to_owned(), address(host));
        let mut machine = Self { cgroup, nspawn, link, namespace, name, address, root };
        machine.booted().await?;
        Ok(machine)
    }

    /// Waits until all units have started, or failed.
    async fn booted(&mut self) -> Result<()> {
        let nspawn = &mut self.nspawn;
        let root = &self.root;
        let mut last = String::new();
        let waited = eventually("a machine to boot", BOOT, async || {
            nspawn.alive()?;
            let Ok(leader) = leader(nspawn.pid()) else { return Ok(None) };
            let mut ask = enter(leader);
            let asked = ask.args(["systemctl", "is-system-running"]).stderr(Stdio::null()).output()?;
            last = String::from_utf8_lossy(&asked.stdout).trim().to_owned();
            Ok(matches!(last.as_str(), "running" | "degraded").then_some(()))
        });
        waited.await.with_context(|| format!("{} is {last:?}:\n{}", root.display(), self.nspawn.tail(20)))
    }

    /// Restarts it from within, and waits until it has booted again.
    ///
    /// # Errors
    /// When it does not go down or not come back.
    pub async fn reboot(&mut self) -> Result<()> {
        // The connection to systemd breaks when it does what it is told.
        drop(enter(leader(self.nspawn.pid())?).args(["systemctl", "--no-block", "reboot"]).status());
        let status = self.nspawn.ended(DOWN).with_context(|| self.nspawn.tail(20))?;
        ensure!(status.code() == Some(REBOOTS), "the machine ended with {status} instead of rebooting");
        let command = nspawn(&self.root, &self.name, &self.namespace, &self.cgroup);
        let log = self.nspawn.log_path().to_owned();
        self.nspawn = Process::start(&self.name, command, &log)?;
        self.booted().await
    }

    /// Its address in the fleet's network.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Its wire to the switch.
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Its control group, as this machine sees it.
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Where the outside finds its file `path`.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// All of its system that is not data of runtimes, as it is now.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn tree(&self) -> Result<Tree> {
        Tree::of(&self.root)
    }

    /// Runs a shell command as a unit of the machine's systemd, so that it is in its control groups, and returns what it said.
    ///
    /// # Errors
    /// When it cannot be run or does not end.
    pub async fn try_sh(&self, script: &str, input: &str) -> Result<Said> {
        let mut command = enter(leader(self.nspawn.pid())?);
        command.args(["systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--setenv=HOME=/root"]);
        command.args(["--setenv=LANG=C.UTF-8", "--", "/bin/sh", "-c", script]);
        let mut command = tokio::process::Command::from(command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let run = async {
            let mut child = command.spawn().context("cannot enter the machine")?;
            if let Some(mut stdin) = child.stdin.take() {
                // One that does not read it closes it; that is its business.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
            child.wait_with_output().await.context("cannot wait for it")
        };
        let output = timeout(COMMAND, run).await.with_context(|| format!("{script}: not within {COMMAND:?}"))??;
        Ok(Said::of(&output))
    }

    /// The same, for what must succeed; returns its standard output.
    ///
    /// # Errors
    /// When it fails, with all that it said.
    pub async fn sh(&self, script: &str) -> Result<String> {
        self.sh_with(script, "").await
    }

    /// The same with something on its standard input.
    ///
    /// # Errors
    /// When it fails, with all that it said.
    pub async fn sh_with(&self, script: &str, input: &str) -> Result<String> {
        let said = self.try_sh(script, input).await?;
        if said.status != 0 {
            bail!("{script}: ended with {}:\n{}{}", said.status, said.out, said.err);
        }
        Ok(said.out)
    }

    /// Puts what an operator downloads on it: `install.sh`, the program, and its sum.
    ///
    /// # Errors
    /// When a file cannot be copied.
    pub fn download(&self) -> Result<()> {
        let to = self.path(RELEASE);
        fs::create_dir_all(&to).context("cannot make the directory of the release")?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/install.sh");
        fs::copy(script, to.join("install.sh")).context("cannot copy install.sh")?;
        fs::copy(fleet::daemon::binary()?, to.join("waylay")).context("cannot copy the program")?;
        let sum = fleet::run(Command::new("sha256sum").arg("waylay").current_dir(&to))?;
        fs::write(to.join("waylay.sha256"), sum).context("cannot write its sum")
    }

    /// Asks containerd by CRI to pull, as the kubelet does.
    ///
    /// # Errors
    /// As the pull does.
    pub async fn cri_pull(&self, reference: &str) -> Result<()> {
        let socket = format!("/proc/{}/root/run/containerd/containerd.sock", leader(self.nspawn.pid())?);
        cri::pull(Path::new(&socket), reference, None).await
    }

    /// Checks that containerd's content store has every blob of `image`.
    ///
    /// # Errors
    /// Says what is missing or wrong.
    pub fn containerd_holds(&self, image: &Image) -> Result<()> {
        let blobs = self.path("/var/lib/containerd/io.containerd.content.v1.content/blobs/sha256");
        image.check(|hex| blobs.join(hex))
    }

    /// The counters of its daemon.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn counters(&self) -> Result<fleet::Counters> {
        let (status, text) = fleet::daemon::ask(&self.namespace, "/metrics").await?;
        ensure!(status.is_success(), "/metrics says {status}");
        Ok(fleet::Counters::new(text))
    }
}

impl Drop for Machine {
    /// Keeps its journal beside its console, where the fleet looks for logs of a scenario that did not go well.
    fn drop(&mut self) {
        let (Ok(leader), Some(dir)) = (leader(self.nspawn.pid()), self.root.parent()) else { return };
        let journal = enter(leader).args(["journalctl", "--no-pager", "--output=short-precise"]).output();
        if let Err(error) = journal.and_then(|journal| fs::write(dir.join("journal.log"), journal.stdout)) {
            eprintln!("cannot keep the journal of {}: {error}", dir.display());
        }
    }
}

/// What makes a copy of the base a machine of its own, as an operator sets one up who has never heard of waylay.
fn furnish(root: &Path, name: &str, fleet: &Fleet) -> Result<()> {
    let registry = fleet.registry().node().address();
    let files = [
        ("etc/hostname", format!("{name}\n")),
        ("etc/hosts", format!("127.0.0.1 localhost {name}\n{registry} {}\n", registry::HOST)),
        ("etc/resolv.conf", String::new()),
        ("usr/local/share/ca-certificates/operator.crt", fleet.authority().certificate().to_owned()),
    ];
    for (path, text) in files {
        fs::write(root.join(path), text).with_context(|| format!("cannot write the machine's /{path}"))?;
    }
    // Our own TMPDIR is not there.
    let mut update = Command::new("chroot");
    update.arg(root).args(["update-ca-certificates"]).env("PATH", fleet::PATH).env_remove("TMPDIR");
    fleet::run(&mut update).map(drop)
}

fn nspawn(root: &Path, name: &str, namespace: &Namespace, cgroup: &Cgroup) -> Command {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(r#"echo $$ > "$0/cgroup.procs" && exec "$@""#).arg(cgroup.path());
    command.arg("systemd-nspawn").arg("--directory").arg(root).arg(format!("--machine={name}"));
    command.args(["--quiet", "--register=no", "--keep-unit", "--console=read-only", "--link-journal=no"]);
    command.arg(format!("--network-namespace-path={}", namespace.path().display()));
    // A node's root may load kernel programs; the filter of system calls would forbid it.
    command.args(["--capability=all", "--system-call-filter=bpf", "--boot"]);
    command.env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1");
    // As with a network that systemd-nspawn made itself: dockerd sets ip_forward.
    command.env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "network");
    command
}

/// The machine's process 1, which is another one after each of its boots.
fn leader(nspawn: Pid) -> Result<Pid> {
    let children = fs::read_to_string(format!("/proc/{nspawn}/task/{nspawn}/children"));
    let children = children.context("systemd-nspawn is gone")?;
    let leader = children.split_whitespace().next().and_then(|pid| pid.parse().ok());
    leader.map(Pid::from_raw).context("the machine has no process 1")
}

/// A command inside, though outside of its control groups.
fn enter(leader: Pid) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--target", &leader.to_string(), "--all", "--"]);
    command.env_clear().env("PATH", fleet::PATH);
    command
}
