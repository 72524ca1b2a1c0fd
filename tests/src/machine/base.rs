//! The files of a fresh Debian machine with container runtimes, made once by debootstrap and kept in `target/machines` under a
//! name that changes with what is in it.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::fleet;

/// What a machine has beyond Debian's minimum: systemd, and the runtimes with all that they need to pull.
pub const PACKAGES: [&str; 14] = [
    "systemd",
    "systemd-sysv",
    "dbus",
    "ca-certificates",
    "iproute2",
    "procps",
    "iptables",
    "containerd",
    "runc",
    "docker.io",
    "podman",
    // Podman needs one of several; debootstrap does not choose.
    "netavark",
    "skopeo",
    "buildah",
];
const SUITE: &str = "bookworm";
/// Counts up when something but the packages changes here.
const BUILDER: u32 = 1;
/// What no test reads, relative to the root.
const NEEDLESS: [&str; 6] = [
    "var/cache/apt/archives",
    "var/lib/apt/lists",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "debootstrap",
];

/// The directory, made when it is not there yet: a minute and a half, and 450 MB.
///
/// # Errors
/// When debootstrap fails; the error holds the end of its log.
pub(super) fn root() -> Result<PathBuf> {
    made(&PACKAGES)
}

/// A Debian with nothing but what Debian calls essential, and apt; no systemd, no runtime, no authorities.
///
/// # Errors
/// When debootstrap fails; the error holds the end of its log.
pub fn minimal() -> Result<PathBuf> {
    made(&[])
}

fn made(packages: &[&str]) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    (packages, SUITE, BUILDER).hash(&mut hasher);
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/machines");
    let done = home.join(format!("{SUITE}-{:016x}", hasher.finish()));
    if done.is_dir() {
        return Ok(done);
    }
    fs::create_dir_all(&home).context("cannot make target/machines")?;
    let making = home.join(format!("making-{}", std::process::id()));
    eprintln!("making a Debian machine with {packages:?}; this is done once");
    let mut debootstrap = Command::new("debootstrap");
    debootstrap.arg("--variant=minbase");
    if !packages.is_empty() {
        debootstrap.arg(format!("--include={}", packages.join(",")));
    }
    debootstrap.arg(SUITE).arg(&making);
    // dpkg looks for its helpers there.
    debootstrap.env("PATH", fleet::PATH);
    fleet::run(&mut debootstrap).with_context(|| log(&making))?;
    for needless in NEEDLESS {
        let path = making.join(needless);
        if path.exists() {
            fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    fs::rename(&making, &done).context("cannot put the machine in its place")?;
    Ok(done)
}

fn log(making: &Path) -> String {
    let log = fs::read_to_string(making.join("debootstrap/debootstrap.log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    format!("debootstrap's log ends:\n{}", lines[lines.len().saturating_sub(15)..].join("\n"))
}
