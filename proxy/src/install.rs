//! Putting waylay onto a node and taking it away again. Looking ([`probe`]), planning ([`plan`]), doing ([`apply`]) and the
//! way back ([`undo`]) are apart: what is shown to the operator is what is done, and looking and planning change nothing.
//!
//! Nothing here touches a runtime's own configuration. A runtime learns of our certificates from its per-registry `certs.d`,
//! or from `SSL_CERT_DIR` in a drop-in of its unit.

pub mod apply;
mod former;
pub mod host;
pub mod plan;
mod prepare;
pub mod probe;
pub mod registries;
pub mod runtimes;
pub mod settings;
#[cfg(test)]
mod tests;
pub mod undo;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use waylay_certs::{JoinToken, RegistryName, TokenError, cluster::NoRandomness};

pub use self::prepare::{Prepared, prepare};
use self::{probe::Facts, settings::Unreadable};
use crate::config::ConfigError;

/// Where the program goes.
pub const PROGRAM: &str = "/usr/local/bin/waylay";
/// The configuration.
pub const CONFIG: &str = "/etc/waylay/config.toml";
/// The join token.
pub const TOKEN: &str = "/etc/waylay/token";
/// The name of our unit.
pub const SERVICE: &str = "waylay.service";
/// The port that members reach each other at, unless said otherwise.
pub const SWARM_PORT: u16 = 4500;

/// What an operator may choose.
#[derive(Debug)]
pub struct Options {
    /// The token of the cluster to join; `None` keeps the node's own, or begins a cluster.
    pub join: Option<JoinToken>,
    /// Registries besides those that are found.
    pub registries: Vec<RegistryName>,
    /// The address that other nodes reach this one at.
    pub address: Option<Address>,
    /// The zone that this node is in; `None` keeps what is configured.
    pub zone: Option<String>,
    /// How runtimes learn of our certificates.
    pub trust: Trust,
    /// Restart runtimes that must be restarted to learn of them, where that harms nothing.
    pub restart_runtime: bool,
}

/// How runtimes learn of our certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// From `certs.d` alone: nothing needs a restart, and what does not read it is passed through.
    CertsD,
    /// From `certs.d`, and from `SSL_CERT_DIR` in a drop-in of each runtime's unit.
    #[default]
    Runtime,
}

/// An address with or without a port.
#[derive(Clone, Copy, Debug)]
pub struct Address(SocketAddr);

impl std::str::FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let alone = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, SWARM_PORT));
        let address = alone.or_else(|_| text.parse()).map_err(|_| format!("{text:?} is not IP or IP:PORT"))?;
        let fixed = !address.ip().is_unspecified() && address.port() != 0;
        fixed.then_some(Self(address)).ok_or_else(|| "must be what other nodes reach this one at".to_owned())
    }
}

/// Why this node cannot be installed.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Not root.
    #[error(
        "installing changes /etc and the kernel's hooks: run it as root (with sudo); --dry-run works for everybody"
    )]
    NotRoot,
    /// No systemd.
    #[error("systemd does not run this machine; without it, start `waylay run` by what does, see deploy/README.md")]
    NoSystemd,
    /// No cgroup2.
    #[error(
        "no cgroup2 file system is mounted, so no connection can be caught: `mount -t cgroup2 none /sys/fs/cgroup/unified`, or boot with systemd.unified_cgroup_hierarchy=1"
    )]
    NoCgroup,
    /// The kernel does not take the program.
    #[error("this kernel ({release}) cannot run the kernel program: {why}")]
    Kernel {
        /// Its release.
        release: String,
        /// What it said.
        why: String,
    },
    /// No address.
    #[error("this node has no address that others could reach it at; give it with --address IP[:PORT]")]
    NoAddress,
    /// The configuration that is there is no TOML.
    #[error("{CONFIG}: {0}")]
    Unreadable(#[from] Unreadable),
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The token that is there cannot be used.
    #[error("{TOKEN} holds no usable token: {0}; give one with --join, or move it away to begin a new cluster")]
    Token(TokenError),
    /// No secret could be made.
    #[error(transparent)]
    Secret(#[from] NoRandomness),
    /// The program that runs cannot be read.
    #[error("cannot read this program, {}: {source}", path.display())]
    Program {
        /// Where it is.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Whether this node can be installed at all.
///
/// # Errors
/// With the first thing that stands in the way.
pub fn check(facts: &Facts) -> Result<(), PlanError> {
    if !facts.systemd {
        return Err(PlanError::NoSystemd);
    }
    if facts.cgroup.is_none() {
        return Err(PlanError::NoCgroup);
    }
    if !facts.root {
        return Err(PlanError::NotRoot);
    }
    match &facts.refused {
        Some(why) => Err(PlanError::Kernel { release: facts.kernel.clone(), why: why.clone() }),
        None => Ok(()),
    }
}
