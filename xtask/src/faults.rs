//! `cargo xtask test --tier faults`: for each step of the fail-open ladder and each known trap of the kernel, the tests that
//! are named for it, and what the client saw in them.
//!
//! It is a selection: these tests belong to the other tiers, and a plain `cargo xtask test` runs them there.

#[cfg(test)]
mod page;
mod table;

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::table::{Test, rows};
use crate::programs::{self, Programs};
use crate::run::{cargo, run, shown};

/// How the lines begin in which a test says what its client saw (`tests/src/saw.rs`).
const SAW: &str = "saw:";
/// The most different things of one test that are shown.
const MOST: usize = 4;

/// Builds, runs all of it, and prints the table.
pub(crate) fn run_tier() -> Result<()> {
    run(&mut cargo(&["build", "--workspace", "--bins"]))?;
    let tests = || rows().flat_map(|row| row.tests);
    let programs = programs::built(tests().map(|test| (test.package, test.target)))?;
    let mut lines = Vec::new();
    let (mut failed, mut skipped) = (Vec::new(), 0);
    for row in rows() {
        lines.push(format!("\n{}: {}. Must hold: {}", row.name, row.fault, row.holds));
        for test in row.tests {
            eprintln!("== {}: {}", row.name, test.name);
            let done = one(test, &programs)?;
            lines.push(line(test, &done));
            skipped += usize::from(done.skipped);
            if !done.passed {
                failed.push(done.command);
            }
        }
    }
    eprintln!("\n  {:>7}  {:<82}  what the client saw\n{}", "seconds", "test", lines.join("\n"));
    if !failed.is_empty() {
        bail!("{} failed:\n  {}", failed.len(), failed.join("\n  "));
    }
    eprintln!("{} faults; {skipped} of their tests were skipped, all others passed", rows().count());
    Ok(())
}

/// How a test went.
struct Done {
    passed: bool,
    skipped: bool,
    /// What its clients saw, in their order.
    saw: String,
    took: Duration,
    command: String,
}

fn line(test: &Test, done: &Done) -> String {
    let told = match done {
        Done { passed: false, .. } => "FAILED",
        Done { skipped: true, .. } => "SKIPPED: this machine lacks what it needs",
        Done { saw, .. } if saw.is_empty() => "as it must",
        Done { saw, .. } => saw,
    };
    format!("  {:>7.1}  {:<82}  {told}", done.took.as_secs_f64(), test.short())
}

/// Runs one test by itself.
fn one(test: &Test, programs: &Programs) -> Result<Done> {
    let program = programs.get(&(test.package.to_owned(), test.target.to_owned()));
    let program = program.with_context(|| format!("cargo built no {} of {}", test.target, test.package))?;
    let mut command = Command::new(&program.file);
    command.args(["--exact", test.name, "--nocapture", "--test-threads=1"]);
    command.current_dir(&program.dir).env("CARGO_MANIFEST_DIR", &program.dir).env("WAYLAY_SAW", "1");
    let begun = Instant::now();
    let output = command.output().with_context(|| format!("cannot run: {}", shown(&command)))?;
    let took = begun.elapsed();
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // A name that no test has is no failure to the test runner.
    let passed = output.status.success() && said.contains("1 passed");
    if !passed {
        eprintln!("{said}\n{complained}");
    }
    Ok(Done { passed, skipped: complained.contains("SKIPPED"), saw: saw(&said), took, command: shown(&command) })
}

/// What a test said that its clients saw: what repeats once, and of many things the last.
fn saw(said: &str) -> String {
    // The runner's own words may stand before it in the same line.
    let mut seen: Vec<&str> = said.lines().filter_map(|line| Some(line.split_once(SAW)?.1.trim())).collect();
    seen.dedup();
    let left_out = seen.len().saturating_sub(MOST);
    let first = if left_out > 0 { format!("({left_out} more) … ") } else { String::new() };
    first + &seen[left_out..].join("; then ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;
    use crate::run::workspace;

    #[test]
    fn each_step_and_each_trap_stands_there_once_with_a_test() {
        let names: Vec<&str> = rows().map(|row| row.name).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        let traps = (1..=33).map(|number| format!("pitfall {number}"));
        for name in traps.chain((1..=table::STEPS).map(|number| format!("ladder {number}"))) {
            assert!(names.contains(&name.as_str()), "{name} is missing");
        }
        assert_eq!(names.len(), 33 + table::STEPS);
        for row in rows() {
            assert!(!row.tests.is_empty() && !row.fault.is_empty() && !row.holds.is_empty(), "{}", row.name);
        }
    }

    #[test]
    fn each_test_of_the_table_is_there() {
        for row in rows() {
            for test in row.tests {
                let (_, function) = test.name.rsplit_once("::").unwrap_or(("", test.name));
                let files = test.files();
                let found = files.iter().filter_map(|file| fs::read_to_string(workspace().join(file)).ok());
                let has = |text: String| text.contains(&format!("fn {function}("));
                assert!(found.into_iter().any(has), "{}: no {} in {files:?}", row.name, test.name);
            }
        }
    }

    #[test]
    fn what_was_seen_is_told_once_and_shortly() {
        let said = "running 1 test\ntest x ... saw: a: 1\nnoise\nsaw: a: 1\nsaw: b: 2\ntest result: ok. 1 passed;";
        assert_eq!(saw(said), "a: 1; then b: 2");
        let many: String = (0..9).map(|number| format!("saw: a: {number}\n")).collect();
        assert_eq!(saw(&many), "(5 more) … a: 5; then a: 6; then a: 7; then a: 8");
        assert_eq!(saw("test x ... ok"), "");
    }
}
