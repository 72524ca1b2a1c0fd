//! A made-up node for tests: a `/proc` of files and the root directory of its processes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::Process;
use crate::identity::Published;
use crate::moment::Moment;
use crate::{Identities, Identity};

pub(crate) struct Node {
    dir: tempfile::TempDir,
}

impl Node {
    pub(crate) fn new() -> Self {
        let node = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir_all(node.proc().join("sys/kernel/random")).unwrap();
        // The real boot and uptime: publications are recorded on the real clock.
        let boot = fs::read("/proc/sys/kernel/random/boot_id").unwrap();
        fs::write(node.proc().join("sys/kernel/random/boot_id"), boot).unwrap();
        symlink("/proc/uptime", node.proc().join("uptime")).unwrap();
        fs::create_dir_all(node.root()).unwrap();
        node
    }

    pub(crate) fn proc(&self) -> PathBuf {
        self.dir.path().join("proc")
    }

    /// The root directory of every process here, as a path of ours.
    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(crate) fn identities(&self) -> Identities {
        Identities::open(self.state().join("identities")).unwrap()
    }

    /// The present in ticks since boot.
    pub(crate) fn now_ticks(&self) -> u64 {
        let uptime = fs::read_to_string("/proc/uptime").unwrap();
        (uptime.split(' ').next().unwrap().parse::<f64>().unwrap() * 100.0).round() as u64
    }

    /// Puts a file at an absolute path inside the root.
    pub(crate) fn file(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.root().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// Makes process `pid` (or makes it anew), started now.
    pub(crate) fn process(&self, pid: u32, exe: &str, comm: &str) -> Fixture {
        let dir = self.proc().join(pid.to_string());
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        symlink(exe, dir.join("exe")).unwrap();
        symlink(self.root(), dir.join("root")).unwrap();
        fs::write(dir.join("comm"), format!("{comm}\n")).unwrap();
        let fixture = Fixture { dir, comm: comm.into() };
        fixture.environ(&[]).args(&[exe]).cgroup("0::/system.slice/x.service\n").uid(0).started(self.now_ticks())
    }

    /// A process called `program` that was started now.
    pub(crate) fn started(&self, program: &str, environ: &[&str]) -> Process {
        self.process(7, &format!("/usr/bin/{program}"), program).environ(environ);
        self.read()
    }

    /// Reads the process of [`Node::started`] again.
    pub(crate) fn read(&self) -> Process {
        Process::read_in(&self.proc(), 7).unwrap()
    }
}

pub(crate) struct Fixture {
    dir: PathBuf,
    comm: String,
}

impl Fixture {
    fn write(self, file: &str, content: impl AsRef<[u8]>) -> Self {
        fs::write(self.dir.join(file), content).unwrap();
        self
    }

    pub(crate) fn environ(self, entries: &[&str]) -> Self {
        self.write("environ", entries.iter().flat_map(|entry| [*entry, "\0"]).collect::<String>())
    }

    pub(crate) fn args(self, args: &[&str]) -> Self {
        self.write("cmdline", args.iter().flat_map(|arg| [*arg, "\0"]).collect::<String>())
    }

    pub(crate) fn cgroup(self, cgroup: &str) -> Self {
        self.write("cgroup", cgroup)
    }

    pub(crate) fn uid(self, uid: u32) -> Self {
        self.write("status", format!("Name:\tx\nUid:\t0\t{uid}\t0\t0\n"))
    }

    pub(crate) fn started(self, ticks: u64) -> Self {
        let stat = format!("7 ({}) S{} {ticks} 0 0\n", self.comm, " 0".repeat(18));
        self.write("stat", stat)
    }
}

/// Publishes `identity` into `dir` by hand, at this moment.
pub(crate) fn publish_into(dir: &Path, identity: &Identity) {
    fs::create_dir_all(dir).unwrap();
    let file = dir.join(format!("{}.0", identity.subject_hash()));
    fs::write(&file, identity.pem()).unwrap();
    identity.set_published(&Published { file, at: Moment::now().unwrap() }).unwrap();
}
