//! `cargo xtask bench`: builds everything with optimisation and hands over to the benchmarks; the arguments are theirs.

use anyhow::Result;

use crate::demo::hand_over;

/// Everything but `--no-setup` goes to the benchmarks.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Do not look for missing packages first
    #[arg(long)]
    no_setup: bool,
    /// hit, warm, overhead, memory, flash, chaos or sim, and --json (all options: `cargo xtask bench -- flash --help`)
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub(crate) fn run_command(args: &Args) -> Result<()> {
    hand_over("bench", &["--release"], args.no_setup, &args.rest)
}
