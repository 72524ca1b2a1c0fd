//! The command line: arguments here, one file per subcommand below.

mod blobs;
mod bypass;
mod cert;
mod check;
mod config;
mod doctor;
mod explain;
mod export;
mod generate;
#[cfg(test)]
mod golden;
mod import;
mod install;
mod peers;
mod progress;
mod pull;
mod registry;
mod run;
mod status;
mod switch;
mod token;
mod trace;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::{
    admin::client::ClientError,
    config::{Config, ConfigError},
    standin,
};

/// Bad usage or configuration (sysexits.h, EX_USAGE).
const BAD_USAGE: u8 = 64;
/// No daemon answers (EX_UNAVAILABLE).
const NO_DAEMON: u8 = 69;
/// The command failed.
const FAILED: u8 = 1;

/// What every page of help ends with; scripts rely on it.
const EXIT_CODES: &str = "\
Exit status:
  0   done
  1   it failed, or `doctor` or `blobs verify` found something broken
  64  wrong arguments or configuration
  69  no daemon answers on the control socket";

/// Peer-to-peer image pulls without touching the container runtime's configuration.
#[derive(Debug, Parser)]
#[command(name = "waylay", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install waylay on this node, or repair or upgrade what is there.
    Install(install::Install),
    /// Take waylay off this node; every file is as it was before.
    Uninstall(install::Uninstall),
    /// Show whether the daemon intercepts, what it stores, and whom it shares with.
    Status(Ask),
    /// Look for what is wrong on this node, and say how to mend it.
    Doctor(doctor::Doctor),
    /// Let all pulls go directly, at once, also after a restart, until `waylay on` or for a time.
    Off(switch::Off),
    /// Intercept again after `waylay off`.
    On(Ask),
    /// Leave single destinations alone, at once, also after a restart.
    #[command(subcommand)]
    Bypass(bypass::Bypass),
    /// Show the other members and whether they answer.
    Peers(Ask),
    /// Look at what the store holds, and say what of it is to stay.
    #[command(subcommand)]
    Blobs(blobs::Blobs),
    /// Bring images here before a runtime asks for them.
    Pull(pull::Pull),
    /// Write an image that this node holds to an archive.
    Export(export::Export),
    /// Bring images of an archive here, for a node that cannot reach their registry.
    Import(import::Import),
    /// Look at and change whose pulls are intercepted.
    #[command(subcommand)]
    Registry(registry::Registry),
    /// Look at and renew the certificates that stand for registries on this node.
    #[command(subcommand)]
    Cert(cert::Cert),
    /// Follow connections and requests as they happen.
    Trace(trace::Trace),
    /// Say where each byte of the last pull of an image came from, and what made it slow.
    Explain(explain::Explain),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(config::Show),
    /// Validate a configuration and show what it resolves to.
    Check(check::Check),
    /// Make or inspect join tokens.
    #[command(subcommand)]
    Token(token::Token),
    /// Run the daemon in the foreground.
    Run(ConfigFile),
    /// What `waylay run` starts beside itself.
    #[command(name = standin::COMMAND, hide = true)]
    StandIn,
    /// Print completions for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Print the man page.
    Man,
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

/// Parses this process's arguments and runs the command; the exit status is what the help says.
pub fn main() -> ExitCode {
    run_with(std::env::args_os()).into()
}

/// The same with other arguments, the program's name first.
pub fn run_with<T: Into<OsString> + Clone>(arguments: impl IntoIterator<Item = T>) -> u8 {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are errors to clap, but not to the caller.
            let code = if error.use_stderr() { BAD_USAGE } else { 0 };
            let _ = error.print();
            return code;
        }
    };
    let done = match cli.command {
        Command::Install(install) => install.run(),
        Command::Uninstall(uninstall) => uninstall.run(),
        Command::Status(ask) => status::status(&ask.socket, ask.json),
        Command::Doctor(doctor) => doctor.run(),
        Command::Off(off) => off.run(),
        Command::On(ask) => switch::on(&ask),
        Command::Bypass(bypass) => bypass.run(),
        Command::Peers(ask) => peers::peers(&ask.socket, ask.json),
        Command::Blobs(blobs) => blobs.run(),
        Command::Pull(pull) => pull.run(),
        Command::Export(export) => export.run(),
        Command::Import(import) => import.run(),
        Command::Registry(registry) => registry.run(),
        Command::Cert(cert) => cert.run(),
        Command::Trace(trace) => trace.run(),
        Command::Explain(explain) => explain.run(),
        Command::Config(show) => show.run(),
        Command::Check(check) => check.run(),
        Command::Token(token) => token.run(),
        Command::Run(file) => run::run(&file.config),
        Command::StandIn => run::stand_in(),
        Command::Completions { shell } => {
            generate::completions(shell);
            Ok(())
        }
        Command::Man => generate::man(),
    };
    match done {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("waylay: {}", whole(&error));
            exit_code(&error)
        }
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    let silent = |error: &ClientError| matches!(error, ClientError::NotRunning { .. });
    if error.is::<ConfigError>() || error.is::<token::BadToken>() {
        BAD_USAGE
    } else if error.downcast_ref().is_some_and(silent) {
        NO_DAEMON
    } else {
        FAILED
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

/// A table as it is read and compared: its columns are padded, but a line does not end in blanks.
fn without_trailing_blanks(table: &str) -> String {
    table.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
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
