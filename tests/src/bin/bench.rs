//! `cargo xtask bench`: measures waylay against what it must be compared with, in the same run.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use waylay_tests::bench::{Scenario, client};

/// Measure waylay and what it is compared with, turn by turn, on a fleet of nodes on this machine.
#[derive(Debug, Parser)]
#[command(name = "bench", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    what: What,
    /// Print one JSON object as the last line.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    #[command(flatten)]
    Measure(Scenario),
    /// Does what a benchmark wants a client inside a node to do, and says how it went.
    #[command(hide = true)]
    Client { task: String },
}

fn main() -> ExitCode {
    let Arguments { what, json } = Arguments::parse();
    let ended = match what {
        What::Measure(scenario) => measure(&scenario, json),
        What::Client { task } => client::main(&task),
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
async fn measure(scenario: &Scenario, json: bool) -> Result<()> {
    // An interrupt drops the benchmark where it stands; its guards take everything away.
    let report = tokio::select! {
        // A simulation never waits; an interrupt would not be seen.
        biased;
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
