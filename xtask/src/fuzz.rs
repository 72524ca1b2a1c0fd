//! `cargo xtask fuzz`: each target in `tests/fuzz` for a bounded time, from the committed corpus; one line for each.
//!
//! Only our own packages are built anew, with the fuzzer's eyes in them (`tests/fuzz/instrument`); their dependencies are those
//! of every other build, so that CI can afford it. What the fuzzer finds by the way stays in `fuzz/corpus` of the target
//! directory; an input that breaks something is named and kept in `fuzz/artifacts` there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::ci::target_dir;
use crate::run::{cargo, run, shown, workspace};
use crate::setup;

const HOME: &str = "tests/fuzz";
/// A single input may not take longer: a parser that does is as bad as one that breaks.
const SLOWEST: Duration = Duration::from_secs(10);
/// Memory that a target may take, in MiB.
const MEMORY: u32 = 1024;
/// The longest input, in bytes: more than the longest that any target reads whole, a ClientHello of 16 KiB.
const LONGEST: u32 = 20_000;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long each target runs; as many run at a time as there are processors
    #[arg(long, default_value_t = 60)]
    pub(crate) seconds: u64,
    /// Where the fuzzer's chance begins: the same seed tries the same inputs in the same order, as far as the time reaches;
    /// without one each run tries others
    #[arg(long)]
    pub(crate) seed: Option<u32>,
    /// Only these targets
    pub(crate) targets: Vec<String>,
}

pub(crate) fn run_command(args: &Args) -> Result<()> {
    setup::ensure()?;
    let mut targets = targets()?;
    if let Some(strange) = args.targets.iter().find(|target| !targets.contains(target)) {
        bail!("there is no target {strange} in {HOME}/fuzz_targets; there are {}", targets.join(", "));
    }
    targets.retain(|target| args.targets.is_empty() || args.targets.contains(target));
    let begun = Instant::now();
    run(&mut build(&targets))?;
    let mut table = format!("built in {:.0} s\n", begun.elapsed().as_secs_f64());
    let mut broken = 0;
    for done in all(&targets, args, &target_dir()?)? {
        table.push_str(&format!("{}\n", done.line));
        broken += usize::from(!done.good);
    }
    eprintln!("\n{table}");
    if broken > 0 {
        bail!(
            "{broken} targets broke; the inputs are in fuzz/artifacts of the target directory, and what they said is above"
        );
    }
    Ok(())
}

/// The whole workspace's dependencies, as `cargo xtask test` has them built, and our own packages for the fuzzer.
fn build(targets: &[String]) -> Command {
    let mut build = cargo(&["build", "--workspace", "--locked", "--features", "waylay-fuzz/fuzzer"]);
    for target in targets {
        build.args(["--bin", &program(target)]);
    }
    build.env("RUSTC_WORKSPACE_WRAPPER", workspace().join(HOME).join("instrument"));
    build
}

fn program(target: &str) -> String {
    format!("fuzz-{target}")
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

/// How a target went.
struct Done {
    line: String,
    good: bool,
}

/// Runs the targets, as many at a time as there are processors; what came of them, in their order.
fn all(targets: &[String], args: &Args, target_dir: &Path) -> Result<Vec<Done>> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || -> Result<()> {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let Some(target) = targets.get(n) else { return Ok(()) };
            let went = one(target, args, target_dir)?;
            eprintln!("{}", went.line);
            done.lock().map_err(|_| anyhow::anyhow!("another target's thread panicked"))?.push((n, went));
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from).min(targets.len());
    thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| bail!("a target's thread panicked")))
    })?;
    let mut done = done.into_inner().unwrap_or_default();
    ensure!(done.len() == targets.len(), "not all targets ran");
    done.sort_by_key(|(n, _)| *n);
    Ok(done.into_iter().map(|(_, done)| done).collect())
}

/// Runs one target.
fn one(target: &str, args: &Args, target_dir: &Path) -> Result<Done> {
    let made = |kind: &str| -> Result<PathBuf> {
        let dir = target_dir.join("fuzz").join(kind).join(target);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(dir)
    };
    let mut fuzzing = Command::new(target_dir.join("debug").join(program(target)));
    fuzzing.current_dir(workspace()).arg(made("corpus")?).arg(Path::new(HOME).join("corpus").join(target)).args([
        format!("-max_total_time={}", args.seconds),
        // libFuzzer takes 0 for "choose one".
        format!("-seed={}", args.seed.unwrap_or(0)),
        format!("-timeout={}", SLOWEST.as_secs()),
        format!("-rss_limit_mb={MEMORY}"),
        format!("-max_len={LONGEST}"),
        format!("-artifact_prefix={}/", made("artifacts")?.display()),
        "-print_final_stats=1".to_owned(),
    ]);
    let begun = Instant::now();
    let output = fuzzing.stdin(Stdio::null()).output().with_context(|| format!("cannot run: {}", shown(&fuzzing)))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let executions = executions(&said);
    // One that tried nothing has shown nothing.
    let good = output.status.success() && executions.is_some_and(|count| count > 0);
    if !good {
        eprintln!("{said}\n$ {}", shown(&fuzzing));
    }
    let executions = executions.map_or("no".to_owned(), |count| count.to_string());
    let result = if good { "nothing broke" } else { "BROKE" };
    let line = format!("{target:<10} {executions:>10} inputs in {:>4.0} s: {result}", begun.elapsed().as_secs_f64());
    Ok(Done { line, good })
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
    fn each_target_has_a_program_and_a_corpus() {
        let targets = targets().unwrap();
        assert!(targets.len() >= 7, "{targets:?}");
        let manifest = fs::read_to_string(workspace().join(HOME).join("Cargo.toml")).unwrap();
        for target in targets {
            assert!(manifest.contains(&format!("name = \"{}\"", program(&target))), "{target} has no program");
            let corpus = workspace().join(HOME).join("corpus").join(&target);
            let seeds = fs::read_dir(&corpus).map(Iterator::count).unwrap_or_default();
            assert!(seeds > 0, "{target} has no seeds");
        }
    }
}
