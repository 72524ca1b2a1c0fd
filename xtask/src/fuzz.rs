//! `cargo xtask fuzz`: each target in `tests/fuzz` for a bounded time, from the committed corpus; one line for each.
//!
//! What the fuzzer finds by the way stays in `tests/fuzz/target`; an input that breaks something is named and kept in
//! `tests/fuzz/artifacts`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::run::{cargo, command, is_there, output, run, shown, workspace};

/// The version that the targets were built with.
const CARGO_FUZZ: &str = "0.13.1";
const HOME: &str = "tests/fuzz";
/// A single input may not take longer: a parser that does is as bad as one that breaks.
const SLOWEST: Duration = Duration::from_secs(10);
/// Memory that a target may take, in MiB.
const MEMORY: u32 = 1024;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only these targets
    targets: Vec<String>,
}

pub(crate) fn run_command(args: &Args) -> Result<()> {
    if let Some(missing) = missing() {
        bail!("{missing}");
    }
    let begun = Instant::now();
    run(&mut fuzz(&["build"]))?;
    let mut table = format!("built in {:.0} s\n", begun.elapsed().as_secs_f64());
    let mut broken = 0;
    for target in targets()?.iter().filter(|target| args.targets.is_empty() || args.targets.contains(target)) {
        let (line, good) = one(target, args.seconds)?;
        eprintln!("{line}");
        table.push_str(&format!("{line}\n"));
        broken += usize::from(!good);
    }
    eprintln!("\n{table}");
    if broken > 0 {
        bail!("{broken} targets broke; the inputs are in {HOME}/artifacts, and what they said is above");
    }
    Ok(())
}

/// What is missing and could not be installed.
fn missing() -> Option<String> {
    let nightly = || {
        output(&mut command("rustup", &["run", "nightly", "rustc", "--version"])).is_ok_and(|it| it.status.success())
    };
    if !nightly() {
        if !is_there("rustup") {
            return Some("fuzzing needs a nightly Rust, and there is no rustup to install it".to_owned());
        }
        eprintln!("fuzz: nightly Rust is missing: the fuzzer's instruments are unstable");
        if let Err(error) = run(&mut command("rustup", &["toolchain", "install", "nightly", "--profile", "minimal"])) {
            return Some(format!("fuzzing needs a nightly Rust, and installing it failed: {error:#}"));
        }
    }
    // The instruments are libFuzzer's, a C++ program.
    if !is_there("g++") && !is_there("c++") {
        return Some("fuzzing needs a C++ compiler: `cargo xtask setup` installs one".to_owned());
    }
    if output(&mut cargo(&["fuzz", "--version"])).is_ok_and(|it| it.status.success()) {
        return None;
    }
    eprintln!("fuzz: cargo-fuzz is missing: it builds and runs the targets (built from source, 1 minute)");
    let install = run(&mut cargo(&["install", "cargo-fuzz", "--version", CARGO_FUZZ, "--locked"]));
    install.err().map(|error| format!("cargo-fuzz could not be installed: {error:#}"))
}

/// cargo-fuzz with a subcommand, without a sanitizer: safe Rust needs none, and it would have to be built into everything.
fn fuzz(arguments: &[&str]) -> std::process::Command {
    let (subcommand, rest) = arguments.split_first().map_or(("list", &[][..]), |(first, rest)| (*first, rest));
    let mut fuzz = command("cargo", &["+nightly", "fuzz", subcommand, "--fuzz-dir", HOME, "--sanitizer", "none"]);
    // Not those of the stable cargo that runs us.
    for variable in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN", "CARGO_TARGET_DIR"] {
        fuzz.env_remove(variable);
    }
    fuzz.args(rest);
    fuzz
}

/// The names of the targets, which are those of their files.
fn targets() -> Result<Vec<String>> {
    let dir = workspace().join(HOME).join("fuzz_targets");
    let files = fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let mut names: Vec<String> =
        files.filter_map(|file| Some(file.ok()?.path().file_stem()?.to_str()?.to_owned())).collect();
    names.sort();
    Ok(names)
}

/// Runs one target; its line, and whether nothing broke.
fn one(target: &str, seconds: u64) -> Result<(String, bool)> {
    let found = PathBuf::from(HOME).join("target/corpus").join(target);
    fs::create_dir_all(workspace().join(&found)).context("cannot make the working corpus")?;
    let seeds = Path::new(HOME).join("corpus").join(target);
    let mut fuzzing = fuzz(&["run", target]);
    fuzzing.arg(&found).arg(&seeds).arg("--").args([
        format!("-max_total_time={seconds}"),
        format!("-timeout={}", SLOWEST.as_secs()),
        format!("-rss_limit_mb={MEMORY}"),
        "-print_final_stats=1".to_owned(),
    ]);
    let begun = Instant::now();
    let done = fuzzing.stdin(Stdio::null()).output().with_context(|| format!("cannot run: {}", shown(&fuzzing)))?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    let good = done.status.success();
    if !good {
        eprintln!("{said}\n$ {}", shown(&fuzzing));
    }
    let executions = executions(&said).map_or("no".to_owned(), |count| count.to_string());
    let result = if good { "nothing broke" } else { "BROKE" };
    Ok((
        format!("{target:<10} {executions:>10} executions in {:>4.0} s: {result}", begun.elapsed().as_secs_f64()),
        good,
    ))
}

/// How many inputs libFuzzer has tried, by its own word at the end.
fn executions(said: &str) -> Option<u64> {
    said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found_in_what_the_fuzzer_says() {
        assert_eq!(executions("Done 7 runs\nstat::number_of_executed_units: 1234\nstat::peak_rss_mb: 5"), Some(1234));
        assert_eq!(executions("error: could not compile"), None);
    }

    #[test]
    fn each_target_has_a_corpus() {
        let targets = targets().unwrap();
        assert!(targets.len() >= 7, "{targets:?}");
        for target in targets {
            let corpus = workspace().join(HOME).join("corpus").join(&target);
            let seeds = fs::read_dir(&corpus).map(Iterator::count).unwrap_or_default();
            assert!(seeds > 0, "{target} has no seeds");
        }
    }
}
