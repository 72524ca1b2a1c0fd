//! A node: its own network, control group and view of the file system, on this machine.
//!
//! A holder process keeps the mount namespace in which `/etc`, `/run` and the runtimes' default directories are the node's
//! own; commands enter it and then *become* the program asked for, so that `comm` is the program's name, as on a real node.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;

use super::cgroup::Cgroup;
use super::command::run;
use super::namespace::Namespace;
use super::network::{Link, Switch, Traffic, address};
use super::process::Process;
use crate::wait;

/// Directories of the machine that a node has for itself. A node starts with a copy of `/etc` and the rest empty.
const PRIVATE: [&str; 5] = ["/etc", "/run", "/var/lib/containers", "/var/tmp", "/dev/shm"];
/// What a login shell of root searches on Debian.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Joins the control group `$0` and becomes the rest of the arguments.
const JOIN: &str = r#"echo $$ > "$0/cgroup.procs" && exec "$@""#;

/// A node of a fleet. Dropping it ends everything that runs in it.
#[derive(Debug)]
pub struct Node {
    // In the order in which they must go: the processes, then what they live in.
    cgroup: Cgroup,
    holder: Process,
    link: Link,
    namespace: Namespace,
    address: Ipv4Addr,
    entry: Entry,
}

impl Node {
    /// Makes the node `name` of the fleet `fleet`, reachable as the `host`-th machine, with its files below `dir`.
    ///
    /// # Errors
    /// When any part is refused; the error names the command.
    pub fn create(fleet: &str, name: &str, host: u8, switch: &Switch, parent: &Path, dir: &Path) -> Result<Self> {
        let dir = dir.join(name);
        for part in PRIVATE {
            ensure!(!dir.starts_with(part), "{} is hidden inside a node: set TMPDIR elsewhere", dir.display());
        }
        furnish(&dir)?;
        let namespace = Namespace::create(format!("{fleet}-{name}"))?;
        let link = switch.plug(&namespace, name, address(host))?;
        let cgroup = Cgroup::create(parent, name)?;
        let holder = hold(&namespace, &cgroup, &dir)?;
        let entry = Entry { name: name.to_owned(), dir, cgroup: cgroup.path().to_owned(), holder: holder.pid() };
        Ok(Self { cgroup, holder, link, namespace, address: address(host), entry })
    }

    /// Its name: `node1`, `node2`, `registry`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.entry.name
    }

    /// Its address in the fleet's network.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The way in, to keep.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Its wire to the switch.
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Its network namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its control group.
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// What went over its wire so far.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn traffic(&self) -> Result<Traffic> {
        self.link.traffic()
    }

    /// A non-blocking listener inside, ready for tokio.
    ///
    /// # Errors
    /// As binding does.
    pub fn listen(&self, port: u16) -> Result<tokio::net::TcpListener> {
        let listener = self.namespace.listen(SocketAddr::from((self.address, port)))?;
        listener.set_nonblocking(true)?;
        Ok(tokio::net::TcpListener::from_std(listener)?)
    }

    /// The line a person types for a shell inside, in its control group too, so that what it starts is intercepted.
    #[must_use]
    pub fn shell(&self) -> String {
        let (cgroup, holder) = (self.cgroup.path().display(), self.holder.pid());
        format!("sh -c 'echo $$ > {cgroup}/cgroup.procs && exec nsenter --target {holder} --mount --net'")
    }

    /// Adds a line to its `/etc/hosts`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn knows(&self, address: Ipv4Addr, host: &str) -> Result<()> {
        let path = self.entry.inside("/etc/hosts");
        let hosts = fs::read_to_string(&path).context("cannot read the node's /etc/hosts")?;
        fs::write(&path, format!("{hosts}{address} {host}\n")).context("cannot write the node's /etc/hosts")
    }
}

/// The way into a node: cheap to clone, good for as long as the node lives.
#[derive(Debug, Clone)]
pub struct Entry {
    name: String,
    dir: PathBuf,
    cgroup: PathBuf,
    holder: Pid,
}

impl Entry {
    /// The node's name.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.name
    }

    /// Where the node's files are, seen alike from inside and outside.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The node's control group.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// A directory of the node's own, made when missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make_dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(dir)
    }

    /// The path by which the outside sees what the node sees at `path`.
    #[must_use]
    pub fn inside(&self, path: impl AsRef<Path>) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder));
        root.join(path.as_ref().strip_prefix("/").unwrap_or(path.as_ref()))
    }

    /// Writes `content` to a file as the node sees it, with the directories above it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.inside(path);
        let write = || -> io::Result<()> {
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::write(&path, content)
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    /// `program` inside the node, with a clean environment. Arguments may be added; the process becomes the program.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(JOIN).arg(&self.cgroup);
        command
            .args(["nsenter", "--target"])
            .arg(self.holder.to_string())
            .args(["--mount", "--net", "--"])
            .arg(program);
        command.env_clear().env("PATH", PATH).env("HOME", self.dir.join("home")).env("LANG", "C.UTF-8");
        command
    }

    /// Starts a daemon inside, its output in the node's `NAME.log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn daemon(&self, name: &str, command: Command) -> Result<Process> {
        Process::start(&format!("{name} on {}", self.name), command, &self.dir.join(format!("{name}.log")))
    }
}

/// Lays out what the node will see as its own.
fn furnish(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir.join("home")).with_context(|| format!("cannot make {}", dir.display()))?;
    for part in PRIVATE {
        fs::create_dir_all(inner(dir, part)).with_context(|| format!("cannot make the node's {part}"))?;
        // A fresh machine has no /var/lib/containers to mount upon.
        fs::create_dir_all(part).with_context(|| format!("cannot make {part}"))?;
    }
    let etc = inner(dir, "/etc");
    run(Command::new("cp").args(["-a", "/etc/."]).arg(&etc))?;
    // The node is nobody's but ours: no settings of this machine's daemons, and no name server to wait for.
    for foreign in ["docker/daemon.json", "docker/certs.d", "containers/certs.d", "containerd", "resolv.conf"] {
        let path = etc.join(foreign);
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
    }
    fs::write(etc.join("resolv.conf"), "").context("cannot write the node's /etc/resolv.conf")?;
    fs::write(etc.join("hosts"), "127.0.0.1 localhost\n::1 localhost\n").context("cannot write the node's /etc/hosts")
}

/// Where below `dir` the node's own `path` is kept.
fn inner(dir: &Path, path: &str) -> PathBuf {
    dir.join("root").join(path.trim_start_matches('/'))
}

/// Starts the process that keeps the node's mount namespace, and waits until all is mounted.
fn hold(namespace: &Namespace, cgroup: &Cgroup, dir: &Path) -> Result<Process> {
    let mounts: String =
        PRIVATE.iter().map(|part| format!("mount --bind '{}' {part} && ", inner(dir, part).display())).collect();
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(JOIN).arg(cgroup.path());
    command.arg("nsenter").arg(format!("--net={}", namespace.path().display()));
    command.args(["unshare", "--mount", "/bin/sh", "-c"]).arg(format!("{mounts}echo held && exec sleep infinity"));
    let mut holder = Process::start("the holder of a node", command, &dir.join("holder.log"))?;
    let mut ended = None;
    wait::until("the node's mounts", Duration::from_secs(10), || {
        ended = holder.alive().err();
        ended.is_some() || holder.log().is_ok_and(|log| log.contains("held"))
    })?;
    ended.map_or(Ok(holder), Err)
}
