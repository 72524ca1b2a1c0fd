//! The command line: arguments here, one file per subcommand below.

mod check;
mod run;
mod status;
mod token;
mod trace;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::{
    admin::client::ClientError,
    config::{Config, ConfigError},
};

/// Bad usage or configuration (sysexits.h, EX_USAGE).
const BAD_USAGE: u8 = 64;
/// The command failed.
const FAILED: u8 = 1;

/// Peer-to-peer image pulls without touching the container runtime's configuration.
#[derive(Debug, Parser)]
#[command(name = "waylay", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon in the foreground.
    Run(ConfigFile),
    /// Validate a configuration and show what it resolves to.
    Check(ConfigFile),
    /// Show whether the daemon intercepts, what it stores, and whom it shares with.
    Status(Ask),
    /// Make or inspect join tokens.
    #[command(subcommand)]
    Token(token::Token),
    /// Follow connections and requests as they happen.
    Trace(Ask),
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration file.
    #[arg(long, default_value = "/etc/waylay/config.toml", value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct Ask {
    /// The daemon's control socket.
    #[arg(long, default_value = "/run/waylay/control.sock", value_name = "FILE")]
    socket: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Parses the arguments and runs the command. 0: done; 1: it failed; 64: bad usage or configuration.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are errors to clap, but not to the caller.
            let code = if error.use_stderr() { BAD_USAGE } else { 0 };
            let _ = error.print();
            return code.into();
        }
    };
    let done = match cli.command {
        Command::Run(file) => run::run(&file.config),
        Command::Check(file) => check::check(&file.config),
        Command::Status(ask) => status::status(&ask.socket, ask.json),
        Command::Token(token) => token.run(),
        Command::Trace(ask) => trace::trace(&ask.socket, ask.json),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("waylay: {}", whole(&error));
            let usage = error.is::<ConfigError>() || error.is::<token::BadToken>();
            if usage { BAD_USAGE } else { FAILED }.into()
        }
    }
}

/// An error with its causes, leaving out those that a message already quotes.
fn whole(error: &anyhow::Error) -> String {
    error.chain().skip(1).fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}

/// Runs one question to a daemon; no threads are needed for that.
fn ask<T>(question: impl Future<Output = Result<T, ClientError>>) -> anyhow::Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(question)?)
}

fn load(path: &std::path::Path) -> anyhow::Result<Config> {
    Ok(Config::load(path)?)
}

/// `bytes` for people.
fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let quoted = Err::<(), _>(std::io::Error::other("no room")).context("cannot write f: no room").unwrap_err();
        assert_eq!(whole(&quoted.context("cannot start")), "cannot start: cannot write f: no room");
    }

    #[test]
    fn the_arguments_are_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
