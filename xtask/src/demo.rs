//! `cargo xtask demo`: builds waylay and the demonstration, and hands over; the options are the demonstration's own.

use anyhow::Result;

use crate::run::{cargo, run};
use crate::setup;

/// Everything but `--no-setup` goes to the demonstration.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Do not look for missing packages first
    #[arg(long)]
    no_setup: bool,
    /// Options of the demonstration: --runtime, --nodes, --keep, --json (all of them: `cargo xtask demo -- --help`)
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub(crate) fn run_command(args: &Args) -> Result<()> {
    hand_over("demo", &[], args.no_setup, &args.rest)
}

/// Builds waylay with the harness in one go, which shares all dependencies, and runs `program` of the harness.
pub(crate) fn hand_over(program: &str, profile: &[&str], no_setup: bool, rest: &[String]) -> Result<()> {
    // Behind an option of the program, ours is among the rest.
    if !no_setup && !rest.iter().any(|arg| arg == "--no-setup") {
        setup::ensure()?;
    }
    run(&mut cargo(&[&["build", "--workspace", "--bins"], profile].concat()))?;
    let mut start = [&["run", "--quiet", "--bin", program], profile, &["--"]].concat();
    start.extend(rest.iter().map(String::as_str).filter(|arg| *arg != "--no-setup"));
    run(&mut cargo(&start))
}
