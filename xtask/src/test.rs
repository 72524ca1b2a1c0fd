//! `cargo xtask test`: the tiers, in the order of what they need. A test target belongs to the tier that its name begins
//! with; a table at the end says how each went.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::run::{cargo, run, workspace};
use crate::{emulated, faults, setup};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run this tier only
    #[arg(long)]
    tier: Option<Tier>,
    /// Do not look for missing packages first
    #[arg(long)]
    no_setup: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Tier {
    /// Beside the code, doc tests, and real clients against our certificates; needs nothing else
    Unit,
    /// Whole proxies in one process; needs loopback
    Proxy,
    /// The real hooks; needs root
    Kernel,
    /// Nodes in namespaces with real runtimes; needs root and the packages of `cargo xtask setup`
    Fleet,
    /// Booted Debian machines with real units and the real installer; needs what the fleet needs
    Node,
    /// A selection of the others: each fault that must not cost a pull, and what the client saw; only when asked for
    Faults,
    /// The kernel tier on Debian 12's own kernel, emulated; only when asked for
    #[value(name = "kernel-6.1")]
    Kernel61,
}

impl Tier {
    /// Each test once: what the faults select is among these.
    const ALL: [Tier; 5] = [Tier::Unit, Tier::Proxy, Tier::Kernel, Tier::Fleet, Tier::Node];

    fn name(self) -> &'static str {
        match self {
            Tier::Unit => "unit",
            Tier::Proxy => "proxy",
            Tier::Kernel => "kernel",
            Tier::Fleet => "fleet",
            Tier::Node => "node",
            Tier::Faults => "faults",
            Tier::Kernel61 => "kernel-6.1",
        }
    }

    /// How the names of its test targets begin.
    fn prefixes(self) -> &'static [&'static str] {
        match self {
            Tier::Unit | Tier::Faults | Tier::Kernel61 => &[],
            Tier::Proxy => &["proxy", "trust"],
            Tier::Kernel => &["kernel"],
            Tier::Fleet => &["fleet"],
            Tier::Node => &["node"],
        }
    }

    fn has(self, target: &str) -> bool {
        self.prefixes().iter().any(|prefix| target.starts_with(prefix))
    }
}

/// One line of the table.
struct Row {
    tier: Tier,
    what: String,
    error: Option<String>,
    took: Duration,
}

pub(crate) fn run_command(args: &Args) -> Result<()> {
    if !args.no_setup {
        setup::ensure()?;
    }
    match args.tier {
        Some(Tier::Faults) => return faults::run_tier(),
        Some(Tier::Kernel61) => return emulated::run_tier(),
        _ => {}
    }
    let targets = targets()?;
    let tiers = args.tier.map_or(Tier::ALL.to_vec(), |tier| vec![tier]);
    let mut rows = Vec::new();
    // The fleet starts the program itself. Everything is built as one workspace, so that dependencies are built once.
    let mut build = cargo(&["build", "--workspace", "--bins"]);
    if let Some(error) = run(&mut build).err() {
        bail!("nothing could be tested: {error:#}");
    }
    for tier in tiers {
        for (what, mut command) in commands(tier, &targets) {
            eprintln!("== {} tier: {what}", tier.name());
            let begun = Instant::now();
            let error = run(&mut command).err().map(|error| format!("{error:#}"));
            rows.push(Row { tier, what, error, took: begun.elapsed() });
        }
        if !rows.iter().any(|row| row.tier == tier) {
            let error = Some(format!("there is no test target for this tier in tests/tests: {:?}", tier.prefixes()));
            rows.push(Row { tier, what: "nothing".into(), error, took: Duration::ZERO });
        }
    }
    summary(&rows)
}

/// The names of all test targets of the harness.
fn targets() -> Result<Vec<String>> {
    let mut targets: Vec<String> = match fs::read_dir(workspace().join("tests/tests")) {
        Ok(entries) => entries.filter_map(|entry| target_name(&entry.ok()?.path())).collect(),
        Err(_) => Vec::new(),
    };
    targets.sort();
    if let Some(lost) = targets.iter().find(|target| !Tier::ALL.iter().any(|tier| tier.has(target))) {
        bail!("tests/tests/{lost}.rs belongs to no tier: begin its name with proxy, trust, kernel, fleet or node");
    }
    Ok(targets)
}

/// A target is a file, or a directory with a `main.rs`, as cargo finds them.
fn target_name(path: &std::path::Path) -> Option<String> {
    let is_target = path.extension().is_some_and(|extension| extension == "rs") || path.join("main.rs").is_file();
    if is_target { Some(path.file_stem()?.to_str()?.to_string()) } else { None }
}

fn commands(tier: Tier, targets: &[String]) -> Vec<(String, Command)> {
    let test = |what: &str, args: &[&str]| {
        let all = [&["test", "--workspace", "--no-fail-fast"], args].concat();
        (what.to_string(), cargo(&all))
    };
    if tier == Tier::Unit {
        return vec![
            test("beside the code", &["--lib", "--bins"]),
            test("examples in the documentation", &["--doc"]),
            test("real clients and certificates", &["--test", "clients"]),
        ];
    }
    // Machines of a fleet share the processors: one scenario at a time.
    let runner: &[&str] = if matches!(tier, Tier::Fleet | Tier::Node) { &["--", "--test-threads=1"] } else { &[] };
    let own = targets.iter().filter(|target| tier.has(target));
    own.map(|target| test(target, &[&["--test", target.as_str()], runner].concat())).collect()
}

/// Prints the table; an error if anything failed.
fn summary(rows: &[Row]) -> Result<()> {
    eprintln!("\n{:<8} {:<34} {:>8}  result", "tier", "what", "seconds");
    for row in rows {
        let result = if row.error.is_some() { "FAILED" } else { "ok" };
        eprintln!("{:<8} {:<34} {:>8.1}  {result}", row.tier.name(), row.what, row.took.as_secs_f64());
    }
    let failed: Vec<&str> = rows.iter().filter_map(|row| row.error.as_deref()).collect();
    if !failed.is_empty() {
        bail!("{} of {} failed:\n  {}", failed.len(), rows.len(), failed.join("\n  "));
    }
    eprintln!("all tests passed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::shown;

    fn shown_all(tier: Tier, targets: &[&str]) -> Vec<String> {
        let targets: Vec<String> = targets.iter().map(|target| target.to_string()).collect();
        commands(tier, &targets).iter().map(|(_, command)| shown(command)).collect()
    }

    #[test]
    fn a_target_runs_in_the_tier_of_its_name() {
        let targets = ["fleet", "fleet_faults", "kernel", "proxy_tls", "trust"];
        let ends = |tier: Tier| -> Vec<String> {
            shown_all(tier, &targets).iter().map(|c| c.split("--test ").nth(1).unwrap().to_string()).collect()
        };
        assert_eq!(ends(Tier::Proxy), ["proxy_tls", "trust"]);
        assert_eq!(ends(Tier::Kernel), ["kernel"]);
        assert_eq!(ends(Tier::Fleet), ["fleet -- --test-threads=1", "fleet_faults -- --test-threads=1"]);
    }

    #[test]
    fn one_failure_fails_the_whole_run() {
        let row = |error: Option<&str>| Row {
            tier: Tier::Unit,
            what: "x".into(),
            error: error.map(String::from),
            took: Duration::ZERO,
        };
        assert!(summary(&[row(None), row(None)]).is_ok());
        let error = summary(&[row(None), row(Some("failed: cargo test"))]).unwrap_err().to_string();
        assert!(error.contains("1 of 2") && error.contains("cargo test"), "{error}");
    }
}
