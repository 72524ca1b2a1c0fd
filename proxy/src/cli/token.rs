//! `waylay token`: join tokens, which hold the cluster's secret. They are written to files that only their owner may
//! read, or to a pipe; never taken from the command line, where every process could see them.

use std::{
    fs::OpenOptions,
    io::{IsTerminal as _, Read as _, Write as _},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use waylay_certs::{ClusterSecret, JoinToken, TokenError};
use zeroize::Zeroizing;

/// A token is far shorter.
const LONGEST: u64 = 16 << 10;

/// Make or inspect join tokens.
#[derive(Debug, Subcommand)]
pub(super) enum Token {
    /// Make a cluster: a new secret, with the addresses of the members that others join through.
    New {
        /// A member's address, `IP:PORT`; give it once for each.
        #[arg(long = "addr", required = true, value_name = "IP:PORT")]
        addresses: Vec<SocketAddr>,
        /// Which secret of the cluster this is, counted up at each rotation.
        #[arg(long, default_value_t = 1)]
        generation: u32,
        /// The file to write, mode 0600; an existing one is kept. Without it the token goes to standard output,
        /// which must not be a terminal.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Show what a token says, without its secret.
    Show {
        /// The token's file, or `-` for standard input.
        #[arg(value_name = "FILE|-")]
        file: PathBuf,
    },
}

/// The token in a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{} holds no usable token", file.display())]
pub(super) struct BadToken {
    file: PathBuf,
    source: TokenError,
}

impl Token {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::New { addresses, generation, out } => new(addresses, generation, out.as_deref()),
            Self::Show { file } => show(&file),
        }
    }
}

fn new(addresses: Vec<SocketAddr>, generation: u32, out: Option<&Path>) -> anyhow::Result<()> {
    let token = JoinToken::new(ClusterSecret::generate(generation)?, addresses)?.encode();
    match out {
        Some(path) => {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
            let file = file.as_mut().map_err(|error| anyhow::anyhow!("cannot make {}: {error}", path.display()))?;
            file.write_all(token.as_bytes()).and_then(|()| file.write_all(b"\n"))?;
            file.sync_all()?;
            println!("{}: mode 0600; whoever reads it can join the cluster", path.display());
        }
        None if std::io::stdout().is_terminal() => {
            bail!(
                "a token is a secret and is not shown on a terminal: give --out FILE, or pipe it to where it is needed"
            );
        }
        None => println!("{}", token.as_str()),
    }
    Ok(())
}

fn show(file: &Path) -> anyhow::Result<()> {
    let token = read(file)?;
    println!("version     {}", token.version());
    println!("generation  {}", token.generation());
    for address in &token.addresses {
        println!("member      {address}");
    }
    Ok(())
}

/// The token in a file, or with `-` the one on standard input.
pub(super) fn read(file: &Path) -> anyhow::Result<JoinToken> {
    let mut text = Zeroizing::new(String::new());
    let read = if file == Path::new("-") {
        std::io::stdin().take(LONGEST).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|open| open.take(LONGEST).read_to_string(&mut text))
    };
    read.with_context(|| format!("cannot read {}", file.display()))?;
    Ok(JoinToken::parse(&text).map_err(|source| BadToken { file: file.to_owned(), source })?)
}
