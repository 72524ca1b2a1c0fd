//! `cargo xtask`: everything a contributor runs. One file per command; each prints the full command line that failed.

mod bench;
mod chart;
mod ci;
mod demo;
mod dist;
mod emulated;
mod faults;
mod fuzz;
mod image;
mod programs;
mod run;
mod setup;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "What contributors to waylay run", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what building and testing need and is missing; says what and why
    Setup(setup::Args),
    /// Pull one image on several nodes with a real runtime, and show where the bytes came from
    Demo(demo::Args),
    /// Run the tests: all tiers, or one
    Test(test::Args),
    /// Measure against a comparator in the same run
    Bench(bench::Args),
    /// Feed made-up input to everything that reads what strangers send
    Fuzz(fuzz::Args),
    /// Make the program and its sum as `deploy/install.sh` takes them
    Dist(dist::Args),
    /// Make an OCI image of the program, with nothing else in it
    Image(image::Args),
    /// Render the Kubernetes manifests from the chart, and check them and the alert rules
    Chart(chart::Args),
    /// Run what CI runs
    Ci(ci::Args),
    /// Check what compilers do not: module order, module docs, file length, committed keys, who opens TCP
    Tidy,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Setup(args) => setup::run_command(&args),
        Command::Demo(args) => demo::run_command(&args),
        Command::Test(args) => test::run_command(&args),
        Command::Bench(args) => bench::run_command(&args),
        Command::Fuzz(args) => fuzz::run_command(&args),
        Command::Dist(args) => dist::run_command(&args),
        Command::Image(args) => image::run_command(&args),
        Command::Chart(args) => chart::run_command(&args),
        Command::Ci(args) => ci::run_command(&args),
        Command::Tidy => tidy::run_command(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
