//! `cargo xtask ci`: what CI runs, in the order of what fails soonest. The last step is what the README tells a stranger to
//! do: a fresh clone, and `cargo xtask test`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};

use crate::run::{cargo, command, is_there, read, run, workspace};
use crate::{chart, fuzz, setup, tidy};

/// `e_machine` of ELF for BPF.
const EM_BPF: [u8; 2] = [247, 0];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Stop before the tests in a clean clone
    #[arg(long)]
    checks_only: bool,
}

type Step = fn() -> Result<()>;

pub(crate) fn run_command(args: &Args) -> Result<()> {
    let mut steps: Vec<(&str, Step)> = vec![
        ("setup", setup::ensure),
        ("format", format),
        ("tidy", tidy::run_command),
        ("shell scripts", shell),
        ("chart", chart),
        ("clippy", clippy),
        ("docs", docs),
        ("licences", deny),
        ("kernel program", kernel_program),
    ];
    if !args.checks_only {
        steps.push(("fuzzing", fuzzing));
        steps.push(("tests in a clean clone", clean_clone));
    }
    let mut table = String::new();
    for (name, step) in steps {
        eprintln!("== {name}");
        let begun = Instant::now();
        step().with_context(|| format!("CI failed at: {name}"))?;
        table.push_str(&format!("{name:<24} {:>8.1} s\n", begun.elapsed().as_secs_f64()));
    }
    eprintln!("\n{table}CI passed");
    Ok(())
}

/// The kernel program is a workspace of its own.
const KERNEL_PROGRAM: &str = "ebpf/program/Cargo.toml";

fn format() -> Result<()> {
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    if workspace().join(KERNEL_PROGRAM).exists() {
        run(&mut cargo(&["fmt", "--manifest-path", KERNEL_PROGRAM, "--check"]))?;
    }
    Ok(())
}

fn shell() -> Result<()> {
    run(&mut command("shellcheck", &["deploy/install.sh", ".ci/run", "tests/fuzz/instrument"]))
}

fn chart() -> Result<()> {
    chart::run_command(&chart::Args { check: true })
}

/// `--locked` here and below is also the check that the lockfile is the one in git.
fn clippy() -> Result<()> {
    run(&mut cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "--deny", "warnings"]))
}

fn docs() -> Result<()> {
    let mut doc = cargo(&["doc", "--workspace", "--no-deps", "--document-private-items", "--locked"]);
    run(doc.env("RUSTDOCFLAGS", "--deny warnings --allow rustdoc::private_intra_doc_links"))
}

/// Licences, bans and sources. Advisories need a database from the network and change without us, so they are not part
/// of what says whether a commit is good.
fn deny() -> Result<()> {
    if !is_there("cargo-deny") {
        eprintln!("ci: cargo-deny is missing: it checks the licences of dependencies (built from source)");
        run(&mut cargo(&["install", "cargo-deny", "--version", CARGO_DENY, "--locked"]))?;
    }
    run(&mut cargo(&["deny", "--locked", "check", "bans", "licenses", "sources"]))
}

const CARGO_DENY: &str = "0.20.2";

/// The object in the program is the real one, not the stub for machines without the kernel toolchain.
fn kernel_program() -> Result<()> {
    // As `cargo xtask test` builds it, so that it is built once.
    let build = ["build", "--workspace", "--bins", "--locked"];
    check_kernel_program(&mut cargo(&[&build[..], &["--message-format", "json"]].concat()))
}

/// Whether what this command of cargo builds, telling of it in JSON, holds the real kernel program.
pub(crate) fn check_kernel_program(build: &mut Command) -> Result<()> {
    let told = read(build)?;
    let object = out_dir(&told).context("cargo did not tell where the build script of waylay works")?.join("kernel.o");
    let content = fs::read(&object).with_context(|| format!("cannot read {}", object.display()))?;
    let is_bpf = content.starts_with(b"\x7fELF") && content.get(18..20) == Some(&EM_BPF);
    ensure!(is_bpf, "{} is a stub: the kernel program was not built", object.display());
    eprintln!("the kernel program is real ({} bytes)", content.len());
    Ok(())
}

/// Where the build script of the package `waylay` writes, from cargo's messages, one JSON object a line.
fn out_dir(messages: &str) -> Option<PathBuf> {
    let line = messages
        .lines()
        .find(|line| line.contains(r#""reason":"build-script-executed""#) && line.contains("/proxy#waylay@"))?;
    let (_, rest) = line.split_once(r#""out_dir":""#)?;
    Some(PathBuf::from(rest.split('"').next()?))
}

/// Long enough to find what a change has just broken; who looks for more gives it hours.
const FUZZ_SECONDS: u64 = 30;
/// So that what breaks here breaks in the next run, and on other machines, too.
const FUZZ_SEED: u32 = 1;

fn fuzzing() -> Result<()> {
    fuzz::run_command(&fuzz::Args { seconds: FUZZ_SECONDS, seed: Some(FUZZ_SEED), targets: Vec::new() })
}

/// What is committed, in a directory of its own. Dependencies are not built again: both share the target directory.
fn clean_clone() -> Result<()> {
    if !read(&mut command("git", &["status", "--porcelain"]))?.is_empty() {
        eprintln!("ci: there are changes that are not committed; the clone does not have them");
    }
    let clone = CloneDir(env::temp_dir().join(format!("waylay-ci-{}", std::process::id())));
    let place = clone.0.to_str().context("the temporary directory has a strange name")?;
    run(&mut command("git", &["clone", "--quiet", "--no-hardlinks", ".", place]))?;
    let mut test = cargo(&["xtask", "test"]);
    run(test.current_dir(&clone.0).env("CARGO_TARGET_DIR", target_dir()?))?;
    let moved = read(command("git", &["status", "--porcelain"]).current_dir(&clone.0))?;
    if !moved.is_empty() {
        bail!("building and testing changed files of the clone:\n{moved}");
    }
    Ok(())
}

/// Where cargo builds.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let told = read(&mut cargo(&["metadata", "--format-version", "1", "--no-deps", "--locked"]))?;
    let (_, rest) = told.split_once(r#""target_directory":""#).context("cargo did not tell its target directory")?;
    Ok(Path::new(rest.split('"').next().unwrap_or_default()).to_path_buf())
}

/// A clone that goes with its owner.
struct CloneDir(PathBuf);

impl Drop for CloneDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_scripts_directory_is_found_among_cargos_messages() {
        let told = concat!(
            r#"{"reason":"build-script-executed","package_id":"registry+x#ring@0.17.14","out_dir":"/t/ring/out"}"#,
            "\n",
            r#"{"reason":"build-script-executed","package_id":"path+file:///w/proxy#waylay@0.1.0","out_dir":"/t/waylay/out"}"#,
        );
        assert_eq!(out_dir(told), Some(PathBuf::from("/t/waylay/out")));
        assert_eq!(out_dir(r#"{"reason":"build-finished"}"#), None);
    }
}
