//! `cargo xtask setup`: finds out what building and testing need and is missing, says what and why, and installs it.
//!
//! On Debian only; elsewhere it says what to install by hand. Services of the packages are not started: the tests start
//! their own daemons.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::run::{cargo, command, is_there, output, read, run};

/// A Debian package, what it is needed for, and the services it would bring up.
struct Package {
    name: &'static str,
    why: &'static str,
    units: &'static [&'static str],
}

const fn package(name: &'static str, why: &'static str) -> Package {
    Package { name, why, units: &[] }
}

const fn daemon(name: &'static str, why: &'static str, units: &'static [&'static str]) -> Package {
    Package { name, why, units }
}

const PACKAGES: [Package; 30] = [
    package("gcc", "links programs, compiles the C parts of TLS and zstd"),
    package("g++", "brings the C++ library that bpf-linker is linked with"),
    package("pkg-config", "finds the libraries to link"),
    package("rustc-web", "compiles the kernel program: this rustc knows the BPF target"),
    package("libstd-rust-web-dev-bpf", "the core library for the kernel program"),
    package("llvm-22-dev", "bpf-linker is made of it"),
    package("libpolly-22-dev", "bpf-linker is linked with it"),
    package("zlib1g-dev", "bpf-linker is linked with it"),
    package("libzstd-dev", "bpf-linker is linked with it"),
    daemon("containerd", "a runtime that the tests pull with", &["containerd.service"]),
    package("runc", "containerd's and docker's companion"),
    daemon("docker.io", "a runtime that the tests pull with", &["docker.service", "docker.socket"]),
    daemon("podman", "a runtime that the tests pull with", &["podman.socket", "podman.service"]),
    package("skopeo", "copies test images, and a client that the tests pull with"),
    package("buildah", "builds the test images"),
    daemon("docker-registry", "the registry that the tests pull from", &["docker-registry.service"]),
    daemon("nginx-light", "what the benchmarks compare with", &["nginx.service"]),
    package(
        "debootstrap",
        "makes the machines that the node tier boots: Debian with the runtimes, 450 MB in target/machines",
    ),
    package("systemd-container", "boots those machines (systemd-nspawn)"),
    package("iproute2", "makes the tests' networks"),
    package("libfaketime", "moves the clock of one daemon in `cargo xtask bench chaos`"),
    package("bpftool", "takes a hook away in the tests of `waylay doctor`"),
    package("golang-go", "a client of Go's own TLS in the tests of certificates"),
    package("openssl", "a client in the tests of certificates"),
    package("curl", "a client in the tests"),
    daemon("prometheus", "brings promtool, which tests the alert rules", &["prometheus.service"]),
    package("shellcheck", "checks the shell scripts"),
    package("python3-venv", "holds the checker of the Kubernetes manifests"),
    package("unzip", "unpacks Helm, which renders them"),
    package("git", "the checks read the list of files from it"),
];

/// What only the emulated kernel needs.
const EMULATOR: [Package; 2] = [
    package("qemu-system-x86", "boots Debian's kernel for the kernel-6.1 tier"),
    package("cpio", "packs what that kernel finds in its memory"),
];

/// The version that the kernel program is built with.
const BPF_LINKER: &str = "0.13.0";
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only say what is missing, and fail if anything is
    #[arg(long)]
    check: bool,
}

pub(crate) fn run_command(args: &Args) -> Result<()> {
    if !is_debian() {
        bail!("{}", by_hand());
    }
    let missing = missing(&PACKAGES)?;
    let linker = !has_bpf_linker();
    if missing.is_empty() && !linker {
        eprintln!("setup: everything is there");
        return Ok(());
    }
    tell(&missing);
    if linker {
        eprintln!("setup: bpf-linker is missing: it links the kernel program (built from source, 2 minutes)");
    }
    if args.check {
        bail!("something is missing; `cargo xtask setup` installs it");
    }
    if !missing.is_empty() {
        install(&missing)?;
    }
    if linker {
        let arguments = ["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--no-default-features"];
        let mut install = cargo(&[&arguments[..], &["--features", "llvm-22"]].concat());
        run(install.env("LLVM_PREFIX", LLVM_PREFIX))?;
    }
    eprintln!("setup: done");
    Ok(())
}

/// What the other commands call first: quick when nothing is missing, and elsewhere than on Debian only a note, because
/// whoever is there has installed things by hand.
pub(crate) fn ensure() -> Result<()> {
    if is_debian() {
        return run_command(&Args { check: false });
    }
    if !has_bpf_linker() {
        eprintln!("setup: {}", by_hand());
    }
    Ok(())
}

fn is_debian() -> bool {
    is_there("dpkg-query") && is_there("apt-get")
}

fn by_hand() -> String {
    let mut text = String::from("this is not Debian; install by hand what corresponds to these of its packages:\n");
    for package in &PACKAGES {
        text.push_str(&format!("  {:<24} {}\n", package.name, package.why));
    }
    text + "For the kernel program elsewhere: rustup's nightly with rust-src, and `cargo install bpf-linker`."
}

/// Installs what the emulated kernel needs.
pub(crate) fn ensure_emulator() -> Result<()> {
    if !is_debian() {
        bail!("this is not Debian, whose kernel is to be got");
    }
    let missing = missing(&EMULATOR)?;
    tell(&missing);
    if missing.is_empty() { Ok(()) } else { install(&missing) }
}

fn tell(missing: &[&Package]) {
    for package in missing {
        eprintln!("setup: {} is missing: {}", package.name, package.why);
    }
}

fn missing(packages: &'static [Package]) -> Result<Vec<&'static Package>> {
    let mut query = vec!["--show", "--showformat=${Package} ${db:Status-Status}\\n"];
    query.extend(packages.iter().map(|package| package.name));
    // It fails when it does not know one of them, and still tells about the others.
    let told = output(&mut command("dpkg-query", &query))?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let installed = |name: &str| told.lines().any(|line| line == format!("{name} installed"));
    Ok(packages.iter().filter(|package| !installed(package.name)).collect())
}

fn has_bpf_linker() -> bool {
    is_there("bpf-linker") || cargo_bin().is_some_and(|dir| dir.join("bpf-linker").is_file())
}

/// Where `cargo install` puts programs.
fn cargo_bin() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))?;
    Some(home.join("bin"))
}

fn install(missing: &[&Package]) -> Result<()> {
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    if read(&mut command("id", &["-u"]))?.trim() != "0" {
        bail!("packages are installed as root: run `sudo apt-get install {}`, or this as root", names.join(" "));
    }
    let quiet = NoServices::hold()?;
    let apt = |args: &[&str]| {
        let mut apt = command("apt-get", args);
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        run(&mut apt)
    };
    apt(&["update"])?;
    apt(&[&["install", "--yes", "--no-install-recommends"], &names[..]].concat())?;
    drop(quiet);
    // Where systemd runs, what we installed shall not come up at the next boot either.
    if Path::new("/run/systemd/system").exists() {
        for unit in missing.iter().flat_map(|package| package.units) {
            run(&mut command("systemctl", &["disable", unit])).unwrap_or_else(|error| eprintln!("setup: {error:#}"));
        }
    }
    Ok(())
}

/// Keeps Debian's packages from starting services while it exists: `policy-rc.d`, invoke-rc.d(8). The policy holds only
/// while this process lives, so that nothing stays forbidden if it is killed.
struct NoServices(Option<PathBuf>);

const POLICY: &str = "/usr/sbin/policy-rc.d";
const MARK: &str = "# by waylay's cargo xtask setup";

impl NoServices {
    fn hold() -> Result<Self> {
        let path = Path::new(POLICY);
        match fs::read_to_string(path) {
            Ok(theirs) if !theirs.contains(MARK) => return Ok(Self(None)),
            _ => {}
        }
        let pid = std::process::id();
        let script = format!("#!/bin/sh\n{MARK}\n[ -d /proc/{pid} ] && exit 101\nexit 0\n");
        fs::write(path, script)
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("cannot write {POLICY}"))?;
        Ok(Self(Some(path.to_path_buf())))
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // A file that stays says `exit 0` from now on.
            let _ = fs::remove_file(path);
        }
    }
}
