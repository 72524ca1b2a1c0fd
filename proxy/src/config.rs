//! The resolved configuration: complete, typed and valid. What an operator writes is `config::file`'s.

pub mod file;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Serialize, Serializer};
use waylay_certs::RegistryName;

pub use file::ConfigError;

use crate::swarm::Name;
/// The variable that says this node's address where one configuration serves many nodes.
const NODE_IP: &str = "WAYLAY_NODE_IP";

/// Everything the daemon needs to know, checked.
#[derive(Debug, Clone, Serialize)]
pub struct Config {
    /// Where identities, trust files and (unless said otherwise) the store live.
    pub state_dir: PathBuf,
    /// Registries that speak TLS; terminated where the calling process is known to trust us.
    #[serde(serialize_with = "names")]
    pub registries: Vec<RegistryName>,
    /// Registries that speak plain HTTP.
    #[serde(serialize_with = "names")]
    pub plain_http: Vec<RegistryName>,
    /// Which connections the kernel hands to us.
    pub intercept: Intercept,
    /// Where we accept what the kernel redirects.
    pub proxy: Proxy,
    /// The loopback listener for probes and metrics, and the control socket.
    pub admin: Admin,
    /// The blob store.
    pub store: Store,
    /// How pulls behave.
    pub pull: Pull,
    /// The peer network; `None` keeps this node to itself.
    pub swarm: Option<Swarm>,
    /// Where certificates are published.
    pub trust: Trust,
    /// Logging.
    pub log: Log,
}

/// Which connections the kernel hands to us.
#[derive(Debug, Clone, Serialize)]
pub struct Intercept {
    /// The cgroup to attach to; `None` finds the root of the cgroup2 mount.
    pub cgroup: Option<PathBuf>,
    /// `comm` names of programs whose connections are looked at; `None` takes the built-in list.
    pub runtimes: Option<Vec<String>>,
    /// Destinations that are never redirected.
    pub bypass: Vec<SocketAddr>,
}

/// Where we accept what the kernel redirects.
#[derive(Debug, Clone, Serialize)]
pub struct Proxy {
    /// Loopback addresses; port 0 takes a free one.
    pub listen: Vec<SocketAddr>,
    /// Connections served at once; beyond it new ones go directly to their registry.
    pub max_connections: usize,
    /// Bytes of memory that the daemon itself may take; beyond it new connections go directly to their registry.
    #[serde(serialize_with = "bytes")]
    pub max_memory: u64,
}

/// The loopback listener for probes and metrics, and the control socket.
#[derive(Debug, Clone, Serialize)]
pub struct Admin {
    /// `/livez`, `/readyz` and `/metrics`, on loopback.
    pub listen: SocketAddr,
    /// `/metrics` alone, for collectors on other machines; `None` serves it on loopback only.
    pub metrics: Option<SocketAddr>,
    /// The socket that the command line talks to, mode 0600.
    pub socket: PathBuf,
}

/// The blob store.
#[derive(Debug, Clone, Serialize)]
pub struct Store {
    /// Its directory.
    pub dir: PathBuf,
    /// Bytes of blobs kept at most.
    #[serde(serialize_with = "bytes")]
    pub quota: u64,
    /// Free bytes on the file system below which nothing new is stored.
    #[serde(serialize_with = "bytes")]
    pub low_disk: u64,
    /// Whose content store is as good as our own.
    #[serde(serialize_with = "containerd")]
    pub containerd: Containerd,
}

/// Where containerd keeps what it has pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Containerd {
    /// Where its own configuration says.
    Found,
    /// Below this directory, its `root`.
    At(PathBuf),
    /// Wherever: all that is stored here is kept here.
    Never,
}

/// How pulls behave.
#[derive(Debug, Clone, Serialize)]
pub struct Pull {
    /// While a registry is away, how long ago it must have granted a credential for that still to count.
    #[serde(with = "humantime_serde")]
    pub offline_grace: Duration,
    /// Whether a tag is asked for by HEAD, and its manifest only where nobody near has it.
    pub spare_gets: bool,
    /// Bytes of later layers of an image that are brought here before a runtime asks for them; 0 is none.
    #[serde(serialize_with = "bytes")]
    pub read_ahead: u64,
    /// Bytes per second that this node's store takes from registries at most; `None` is no limit.
    #[serde(serialize_with = "rate", skip_serializing_if = "Option::is_none")]
    pub registry_rate: Option<u64>,
    /// Files with logins at registries, for pulls that another member's operator asks for: the first that has one counts.
    pub logins: Vec<PathBuf>,
}

/// The peer network.
#[derive(Debug, Clone, Serialize)]
pub struct Swarm {
    /// The address that we listen on and that other members reach us at.
    pub listen: SocketAddr,
    /// The file with the join token.
    pub token_file: PathBuf,
    /// Other members, besides those in the token.
    pub members: Vec<Member>,
    /// The zone that this node is in; empty without zones.
    pub zone: String,
    /// Bytes per second of pieces given to other members at most; `None` is no limit.
    #[serde(serialize_with = "rate", skip_serializing_if = "Option::is_none")]
    pub upload_rate: Option<u64>,
    /// Bytes per second of pieces taken from other members at most; `None` is no limit.
    #[serde(serialize_with = "rate", skip_serializing_if = "Option::is_none")]
    pub download_rate: Option<u64>,
}

/// Where other members are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Member {
    /// One is at this address.
    At(SocketAddr),
    /// One is at each address of this name.
    Named(Name),
}

/// Where certificates are published.
#[derive(Debug, Clone, Serialize)]
pub struct Trust {
    /// The directory for `SSL_CERT_DIR`.
    pub directory: PathBuf,
    /// `certs.d` directories of runtimes on this node.
    pub certs_d: Vec<PathBuf>,
}

/// Logging.
#[derive(Debug, Clone, Serialize)]
pub struct Log {
    /// A tracing filter, for example `info,waylay::swarm=debug`.
    pub filter: String,
    /// How lines look.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// Reads and checks the file at `path`. Where `swarm.listen` leaves the address open, `WAYLAY_NODE_IP` says it.
    ///
    /// # Errors
    /// When it cannot be read, is not TOML, has an unknown key, or a value that cannot work; the error names the
    /// key, the value and the reason.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        let node_ip = std::env::var_os(NODE_IP).map(|ip| ip.to_string_lossy().into_owned());
        file::resolve(&text, node_ip.as_deref()).map_err(|error| error.in_file(path))
    }

    /// Checks the text of a configuration that is in no file yet.
    ///
    /// # Errors
    /// As [`Self::load`], without a path.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        file::resolve(text, None)
    }
}

impl Config {
    /// Where the record of every file is that was put elsewhere on this node.
    pub fn manifest(&self) -> PathBuf {
        self.state_dir.join("manifest.json")
    }
}

impl Serialize for Member {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::At(addr) => serializer.collect_str(addr),
            Self::Named(name) => serializer.collect_str(name),
        }
    }
}

fn names<S: Serializer>(names: &[RegistryName], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(names.iter().map(ToString::to_string))
}

fn containerd<S: Serializer>(root: &Containerd, serializer: S) -> Result<S::Ok, S::Error> {
    match root {
        Containerd::Found => serializer.serialize_str(file::FOUND),
        Containerd::At(root) => serializer.collect_str(&root.display()),
        Containerd::Never => serializer.serialize_str(file::NEVER),
    }
}

fn rate<S: Serializer>(rate: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    match rate {
        Some(rate) => bytes(rate, serializer),
        None => serializer.serialize_none(),
    }
}

/// As a number: exact, and understood when read back.
fn bytes<S: Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("{bytes}B"))
}
