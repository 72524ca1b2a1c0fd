//! Control groups of the second version: one for a fleet, one child of it for each node.
//!
//! They have two jobs. The daemon attaches its hooks to a node's group, so that it sees this node's connections and no
//! others; and the group knows exactly which processes belong to a node, however they were started.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait;

/// Where cgroup2 is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on hybrid machines.
///
/// # Errors
/// When this machine has none.
pub fn mount() -> Result<PathBuf> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    find(&mountinfo).context("no cgroup2 is mounted here")
}

/// The mount point of the first cgroup2 in a mountinfo text (proc(5)).
fn find(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mounted, kind) = line.split_once(" - ")?;
        if kind.split(' ').next()? != "cgroup2" {
            return None;
        }
        mounted.split(' ').nth(4).map(PathBuf::from)
    })
}

/// A control group. Dropping it ends every process in it and removes it.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes the group `name` below `parent`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn create(parent: &Path, name: &str) -> Result<Self> {
        let path = parent.join(name);
        fs::create_dir(&path).with_context(|| format!("cannot make the cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    /// Takes over a group that a dead run left behind, with all its children, so that dropping removes them.
    #[must_use]
    pub fn adopt(path: PathBuf) -> Vec<Self> {
        let children = fs::read_dir(&path).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir());
        let mut all: Vec<Self> = children.flat_map(|child| Self::adopt(child.path())).collect();
        all.push(Self { path });
        all
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The processes in it now.
    #[must_use]
    pub fn processes(&self) -> Vec<Pid> {
        let procs = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        procs.lines().filter_map(|line| line.parse().ok()).filter(|&pid| pid > 0).map(Pid::from_raw).collect()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Looks again after each round: a process may have forked between the reading and the killing. A container
        // runtime may have made groups of its own below ours.
        for child in fs::read_dir(&self.path).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
            drop(Self { path: child.path() });
        }
        // A group whose last process has just ended is busy for a moment more.
        let removed = wait::until("processes to leave their cgroup", Duration::from_secs(10), || {
            for pid in self.processes() {
                // Gone already is as good.
                let _ = kill(pid, Signal::SIGKILL);
            }
            fs::remove_dir(&self.path).is_ok() || !self.path.exists()
        });
        if let Err(error) = removed {
            eprintln!("left behind {}: {error:#}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_unified_and_the_hybrid_mount() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
        assert_eq!(find(hybrid), Some("/sys/fs/cgroup/unified".into()));
        let unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(find(unified), Some("/sys/fs/cgroup".into()));
        assert_eq!(find("22 27 0:21 / /proc rw - proc proc rw"), None);
    }
}
