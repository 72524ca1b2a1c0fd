//! What this machine must offer before a fleet can run: root, and the real programs.
//!
//! Lacking it skips loudly on a laptop, but fails where `CI` is set: a skipped suite must not be green.

use std::env;

use nix::unistd::Uid;

/// The programs a fleet runs, with the Debian package that brings each.
const PROGRAMS: [(&str, &str); 9] = [
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("nsenter", "util-linux"),
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("dockerd", "docker.io"),
    ("podman", "podman"),
    ("skopeo", "skopeo"),
    ("docker-registry", "docker-registry"),
];

/// The programs that boot machines besides.
const MACHINES: [(&str, &str); 2] = [("debootstrap", "debootstrap"), ("systemd-nspawn", "systemd-container")];

/// What is missing for a fleet, one line each; empty when it can run.
#[must_use]
pub fn missing() -> Vec<String> {
    missing_of(&PROGRAMS)
}

fn missing_of(programs: &[(&str, &str)]) -> Vec<String> {
    let mut missing = Vec::new();
    if !Uid::effective().is_root() {
        missing.push("root: namespaces, cgroups and the kernel program need it".to_owned());
    }
    for (program, package) in programs {
        if !on_path(program) {
            missing.push(format!("{program} (apt-get install {package})"));
        }
    }
    missing
}

/// True when `test` may run. Otherwise says on standard error what is missing and returns false.
///
/// # Panics
/// When something is missing and `CI` is set.
#[must_use]
pub fn needed(test: &str) -> bool {
    needed_of(test, &PROGRAMS)
}

/// The same for a test that boots machines.
///
/// # Panics
/// As [`needed`].
#[must_use]
pub fn needed_for_machines(test: &str) -> bool {
    needed_of(test, &[&PROGRAMS[..], &MACHINES].concat())
}

fn needed_of(test: &str, programs: &[(&str, &str)]) -> bool {
    let missing = missing_of(programs);
    if missing.is_empty() {
        return true;
    }
    let missing = missing.join("; ");
    assert!(env::var_os("CI").is_none(), "{test} cannot run here and CI may not skip it: {missing}");
    eprintln!("\nSKIPPED {test}: this machine lacks {missing}\n");
    false
}

fn on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    // Debian keeps some of these in sbin, which a shell got by `su` does not have on its PATH.
    env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).any(|dir| dir.join(program).is_file())
}
