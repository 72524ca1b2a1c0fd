//! Builds the kernel program from source and puts the object where `intercept.rs` includes it; where no toolchain for
//! the BPF target is installed, an empty stub, whose loading is a clear error.
//!
//! Two toolchains will do: the distribution's rustc with its prebuilt `core` for the target (Debian packages
//! `rustc-web libstd-rust-web-dev-bpf`), or rustup's nightly with `rust-src`. Both need bpf-linker.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

const TARGET: &str = "bpfel-unknown-none";
const PROGRAM: &str = "waylay-ebpf";

fn main() {
    let manifest_dir = PathBuf::from(required("CARGO_MANIFEST_DIR"));
    let source = manifest_dir.join("../ebpf/program");
    for watched in ["program/src", "program/Cargo.toml", "program/Cargo.lock", "abi/src", "abi/Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", manifest_dir.join("../ebpf").join(watched).display());
    }
    let out_dir = PathBuf::from(required("OUT_DIR"));
    let object = out_dir.join("kernel.o");
    // A fuzzer loads no kernel program.
    if env::var_os("CARGO_CFG_FUZZING").is_some() {
        return fs::write(&object, []).unwrap_or_else(|e| panic!("can't write {}: {e}", object.display()));
    }
    match Toolchain::find() {
        Some(toolchain) => {
            let built = toolchain.build(&source, &out_dir.join("ebpf"));
            fs::copy(&built, &object).unwrap_or_else(|e| panic!("can't copy {}: {e}", built.display()));
        }
        None => {
            watch_for_a_toolchain();
            println!("cargo::warning=no toolchain for the kernel program: `cargo xtask setup` installs one");
            fs::write(&object, []).unwrap_or_else(|e| panic!("can't write {}: {e}", object.display()));
        }
    }
}

/// What can compile for the BPF target here.
struct Toolchain {
    linker: PathBuf,
    kind: Kind,
}

enum Kind {
    /// A distribution's rustc that has the target's `core` beside it.
    Prebuilt(PathBuf),
    /// rustup's nightly, which builds `core` from `rust-src`.
    Nightly,
}

impl Toolchain {
    fn find() -> Option<Self> {
        let linker = bpf_linker()?;
        println!("cargo::rerun-if-changed={}", linker.display());
        let rustc = PathBuf::from("/usr/bin/rustc");
        if let Some(sysroot) = sysroot(Command::new(&rustc))
            && sysroot.join("lib/rustlib").join(TARGET).join("lib").is_dir()
        {
            return Some(Self { linker, kind: Kind::Prebuilt(rustc) });
        }
        let mut nightly = Command::new("rustup");
        nightly.args(["run", "nightly", "rustc"]).env_remove("RUSTUP_TOOLCHAIN");
        let sysroot = sysroot(nightly)?;
        sysroot.join("lib/rustlib/src/rust/library/core").is_dir().then_some(Self { linker, kind: Kind::Nightly })
    }

    /// Builds the package at `source` and returns the object file.
    fn build(&self, source: &Path, target_dir: &Path) -> PathBuf {
        let mut cargo = match &self.kind {
            Kind::Prebuilt(rustc) => {
                let mut cargo = Command::new(required("CARGO"));
                // The target needs unstable features; the variable lets a stable compiler use them.
                cargo.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1").arg("build");
                cargo
            }
            Kind::Nightly => {
                let mut cargo = Command::new("rustup");
                cargo.args(["run", "nightly", "cargo", "build", "-Z", "build-std=core"]).env_remove("RUSTC");
                cargo
            }
        };
        cargo
            .current_dir(source)
            .args(["--release", "--locked", "--bin", PROGRAM, "--target", TARGET, "--target-dir"])
            .arg(target_dir)
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker);
        // What cargo set for building the host's package must not leak into this build.
        for variable in [
            "CARGO_BUILD_TARGET",
            "CARGO_ENCODED_RUSTFLAGS",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTC_WRAPPER",
            "RUSTFLAGS",
            "RUSTUP_TOOLCHAIN",
        ] {
            if variable != "RUSTUP_TOOLCHAIN" || matches!(self.kind, Kind::Nightly) {
                cargo.env_remove(variable);
            }
        }
        let output = cargo.output().unwrap_or_else(|e| panic!("can't run {cargo:?}: {e}"));
        if !output.status.success() {
            panic!("{cargo:?} failed:\n{}", String::from_utf8_lossy(&output.stderr));
        }
        target_dir.join(TARGET).join("release").join(PROGRAM)
    }
}

/// The linker: on PATH, or where `cargo install` puts it.
fn bpf_linker() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).chain(cargo_bin()).map(|directory| directory.join("bpf-linker")).find(|file| file.is_file())
}

/// `~/.cargo/bin` or its equivalent.
fn cargo_bin() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    Some(home.or_else(|| env::home_dir().map(|home| home.join(".cargo")))?.join("bin"))
}

/// Asks a compiler where its libraries are; `None` when there is no such compiler.
fn sysroot(mut rustc: Command) -> Option<PathBuf> {
    let output = rustc.args(["--print", "sysroot"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| PathBuf::from(text.trim()))
}

/// Lets cargo look again once something was installed. Only what exists: a watched path that is missing would make
/// cargo run this script, and build what depends on it, each time.
fn watch_for_a_toolchain() {
    for place in cargo_bin().into_iter().chain(["/usr/lib/rustlib".into(), "/usr/bin/rustc".into()]) {
        if place.exists() {
            println!("cargo::rerun-if-changed={}", place.display());
        }
    }
}

fn required(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo did not set {name}"))
}
