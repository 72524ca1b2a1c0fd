//! `cargo xtask demo`: real runtimes on a fleet of nodes pull one image, and one copy of it leaves the registry.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;
use waylay_tests::demo::{self, Options};
use waylay_tests::fleet::Kind;

/// Watch real container runtimes pull one image on several nodes while one copy of it leaves the registry.
#[derive(Debug, Parser)]
#[command(name = "demo")]
struct Arguments {
    /// Which runtime pulls: containerd (by CRI), ctr, docker, podman or skopeo.
    #[arg(long, default_value = "containerd")]
    runtime: Kind,
    /// How many nodes, one after the other.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=64))]
    nodes: u8,
    /// Leave everything running, and say how to look around.
    #[arg(long)]
    keep: bool,
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
    /// End what --keep left running.
    #[arg(long, conflicts_with_all = ["keep", "json"])]
    stop: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // An interrupt drops the demo where it stands; its guards take everything away.
    let ended = tokio::select! {
        ended = run(&arguments) => ended,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<()> {
    if arguments.stop {
        println!("ended {}", demo::stop()?.join(", "));
        return Ok(());
    }
    let Arguments { runtime, nodes, keep, .. } = *arguments;
    let report = demo::run(Options { runtime, nodes, keep }).await?;
    println!("{}", report.table());
    println!("\nOn the last node, `waylay explain` says:\n\n{}", report.explained);
    let checked = report.check();
    if arguments.json {
        println!("{}", report.json()?);
    }
    if let Err(error) = checked {
        bail!("the numbers are not what they must be: {error}");
    }
    Ok(())
}
