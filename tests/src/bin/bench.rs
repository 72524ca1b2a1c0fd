//! `cargo xtask bench`: measures waylay against what it must be compared with, in the same run.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use waylay_tests::bench::{Scenario, client};

/// Measure waylay and what it is compared with, turn by turn, on a fleet of nodes on this machine.
#[derive(Debug, Parser)]
#[command(name = "bench", subcommand_negates_reqs = true)]
struct Arguments {
    /// What to measure.
    #[arg(required = true)]
    scenario: Option<Scenario>,
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

/// Parts that the benchmarks start inside nodes.
#[derive(Debug, Subcommand)]
enum Part {
    /// Does what a benchmark wants a client to do, and says how it went.
    #[command(hide = true)]
    Client { task: String },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = match (&arguments.part, arguments.scenario) {
        (Some(Part::Client { task }), _) => client::main(task),
        (None, Some(scenario)) => measure(scenario, arguments.json),
        (None, None) => Ok(()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn measure(scenario: Scenario, json: bool) -> Result<()> {
    // An interrupt drops the benchmark where it stands; its guards take everything away.
    let report = tokio::select! {
        report = scenario.run() => report?,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
    };
    println!("{}", report.table());
    if json {
        println!("{}", report.json());
    }
    // Not a failure: this machine may be busy, and whoever asked judges by the numbers.
    for missed in report.missed() {
        eprintln!("bench: {missed} misses its target");
    }
    Ok(())
}
