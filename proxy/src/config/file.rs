//! The configuration as written: everything optional, unknown keys refused, values turned into typed ones.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use bytesize::ByteSize;
use serde::Deserialize;
use waylay_certs::RegistryName;

use super::{Admin, Config, Containerd, Intercept, Log, LogFormat, Member, NODE_IP, Proxy, Pull, Store, Swarm, Trust};
use crate::throttle;

/// How [`Containerd::Found`] is written.
pub(super) const FOUND: &str = "found";
/// How [`Containerd::Never`] is written.
pub(super) const NEVER: &str = "never";

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {}; --config gives its path", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML, or has a key or type that we do not know.
    #[error("{}{message}", place(path))]
    Syntax {
        /// The file, once known.
        path: Option<PathBuf>,
        /// What the parser said, with line and key.
        message: String,
    },
    /// A value cannot work.
    #[error("{}{key} = {value:?}: {reason}", place(path))]
    Value {
        /// The file, once known.
        path: Option<PathBuf>,
        /// The key, with its section.
        key: &'static str,
        /// What was written.
        value: String,
        /// Why that cannot be, and what would do.
        reason: String,
    },
}

fn place(path: &Option<PathBuf>) -> String {
    path.as_ref().map(|path| format!("{}: ", path.display())).unwrap_or_default()
}

impl ConfigError {
    pub(super) fn in_file(mut self, file: &Path) -> Self {
        match &mut self {
            Self::Syntax { path, .. } | Self::Value { path, .. } => *path = Some(file.to_owned()),
            Self::Unreadable { .. } => {}
        }
        self
    }

    fn value(key: &'static str, value: impl ToString, reason: impl ToString) -> Self {
        Self::Value { path: None, key, value: value.to_string(), reason: reason.to_string() }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    state_dir: Option<PathBuf>,
    #[serde(default)]
    registries: Vec<String>,
    #[serde(default)]
    plain_http: Vec<String>,
    #[serde(default)]
    intercept: RawIntercept,
    #[serde(default)]
    proxy: RawProxy,
    #[serde(default)]
    admin: RawAdmin,
    #[serde(default)]
    store: RawStore,
    #[serde(default)]
    pull: RawPull,
    swarm: Option<RawSwarm>,
    #[serde(default)]
    trust: RawTrust,
    #[serde(default)]
    log: RawLog,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawIntercept {
    cgroup: Option<PathBuf>,
    runtimes: Option<Vec<String>>,
    #[serde(default)]
    bypass: Vec<SocketAddr>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawProxy {
    listen: Option<Vec<SocketAddr>>,
    max_connections: Option<usize>,
    max_memory: Option<ByteSize>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawAdmin {
    listen: Option<SocketAddr>,
    metrics: Option<SocketAddr>,
    socket: Option<PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawStore {
    dir: Option<PathBuf>,
    quota: Option<ByteSize>,
    low_disk: Option<ByteSize>,
    containerd: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawPull {
    #[serde(default, with = "humantime_serde")]
    offline_grace: Option<Duration>,
    spare_gets: Option<bool>,
    read_ahead: Option<ByteSize>,
    registry_rate: Option<ByteSize>,
    #[serde(default)]
    logins: Vec<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSwarm {
    listen: SocketAddr,
    token_file: PathBuf,
    #[serde(default)]
    members: Vec<String>,
    zone: Option<String>,
    upload_rate: Option<ByteSize>,
    download_rate: Option<ByteSize>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawTrust {
    directory: Option<PathBuf>,
    #[serde(default)]
    certs_d: Vec<PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawLog {
    filter: Option<String>,
    format: Option<LogFormat>,
}

/// Checks `text` and fills in what it leaves out; `node_ip` is this node's address, if the environment says it.
pub(super) fn resolve(text: &str, node_ip: Option<&str>) -> Result<Config, ConfigError> {
    let raw: Raw =
        toml::from_str(text).map_err(|error| ConfigError::Syntax { path: None, message: one_line(text, &error) })?;
    let state_dir = raw.state_dir.unwrap_or_else(|| PathBuf::from("/var/lib/waylay"));
    if !state_dir.is_absolute() {
        return Err(ConfigError::value("state_dir", state_dir.display(), "must be an absolute path"));
    }
    let registries = names("registries", &raw.registries)?;
    let plain_http = names("plain_http", &raw.plain_http)?;
    if let Some(both) = registries.iter().find(|name| plain_http.contains(name)) {
        return Err(ConfigError::value(
            "plain_http",
            both,
            "is in `registries` too; a registry speaks TLS or plain HTTP",
        ));
    }
    Ok(Config {
        registries,
        plain_http,
        intercept: intercept(raw.intercept)?,
        proxy: proxy(raw.proxy)?,
        admin: admin(raw.admin)?,
        store: store(raw.store, &state_dir)?,
        pull: Pull {
            offline_grace: raw.pull.offline_grace.unwrap_or(Duration::from_secs(3600)),
            spare_gets: raw.pull.spare_gets.unwrap_or(true),
            read_ahead: raw.pull.read_ahead.unwrap_or_default().as_u64(),
            registry_rate: rate("pull.registry_rate", raw.pull.registry_rate)?,
            logins: raw.pull.logins,
        },
        swarm: raw.swarm.map(|raw| swarm(raw, node_ip)).transpose()?,
        trust: Trust {
            directory: raw.trust.directory.unwrap_or_else(|| state_dir.join("trust")),
            certs_d: raw.trust.certs_d,
        },
        log: Log { filter: filter(raw.log.filter)?, format: raw.log.format.unwrap_or(LogFormat::Text) },
        state_dir,
    })
}

/// What the parser says, in one line that begins with the line's number.
fn one_line(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().replace('\n', ", ");
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else { return message };
    let number = before.matches('\n').count();
    let line = text.lines().nth(number).unwrap_or_default().trim();
    format!("line {}, `{line}`: {message}", number + 1)
}

fn names(key: &'static str, texts: &[String]) -> Result<Vec<RegistryName>, ConfigError> {
    texts.iter().map(|text| text.parse().map_err(|error| ConfigError::value(key, text, error))).collect()
}

fn intercept(raw: RawIntercept) -> Result<Intercept, ConfigError> {
    for comm in raw.runtimes.iter().flatten() {
        // TASK_COMM_LEN is 16 with its terminator (include/linux/sched.h).
        if comm.is_empty() || comm.len() > 15 {
            return Err(ConfigError::value("intercept.runtimes", comm, "a program's comm has 1 to 15 bytes"));
        }
    }
    Ok(Intercept { cgroup: raw.cgroup, runtimes: raw.runtimes, bypass: raw.bypass })
}

fn proxy(raw: RawProxy) -> Result<Proxy, ConfigError> {
    let listen =
        raw.listen.unwrap_or_else(|| vec![([127, 0, 0, 1], 0).into(), (std::net::Ipv6Addr::LOCALHOST, 0).into()]);
    if let Some(open) = listen.iter().find(|address| !address.ip().is_loopback()) {
        return Err(ConfigError::value("proxy.listen", open, "must be a loopback address"));
    }
    if !listen.iter().any(SocketAddr::is_ipv4) {
        return Err(ConfigError::value("proxy.listen", format!("{listen:?}"), "needs an IPv4 loopback address"));
    }
    for family in [SocketAddr::is_ipv4, SocketAddr::is_ipv6] {
        if listen.iter().filter(|address| family(address)).count() > 1 {
            return Err(ConfigError::value("proxy.listen", format!("{listen:?}"), "takes one address of each family"));
        }
    }
    let max_connections = raw.max_connections.unwrap_or(4096);
    if max_connections == 0 {
        return Err(ConfigError::value("proxy.max_connections", 0, "must be at least 1"));
    }
    let max_memory = raw.max_memory.unwrap_or(ByteSize::gib(1)).as_u64();
    if max_memory < ByteSize::mib(64).as_u64() {
        return Err(ConfigError::value("proxy.max_memory", ByteSize(max_memory), "must be at least 64MiB"));
    }
    Ok(Proxy { listen, max_connections, max_memory })
}

fn admin(raw: RawAdmin) -> Result<Admin, ConfigError> {
    let listen = raw.listen.unwrap_or_else(|| ([127, 0, 0, 1], 9464).into());
    if !listen.ip().is_loopback() {
        return Err(ConfigError::value("admin.listen", listen, "must be a loopback address"));
    }
    let socket = raw.socket.unwrap_or_else(|| PathBuf::from("/run/waylay/control.sock"));
    Ok(Admin { listen, metrics: raw.metrics, socket })
}

fn store(raw: RawStore, state_dir: &Path) -> Result<Store, ConfigError> {
    let quota = raw.quota.unwrap_or(ByteSize::gib(50)).as_u64();
    if quota < ByteSize::mib(64).as_u64() {
        return Err(ConfigError::value("store.quota", ByteSize(quota), "must be at least 64MiB"));
    }
    Ok(Store {
        dir: raw.dir.unwrap_or_else(|| state_dir.join("store")),
        quota,
        low_disk: raw.low_disk.unwrap_or(ByteSize::gib(2)).as_u64(),
        containerd: containerd(raw.containerd)?,
    })
}

fn containerd(raw: Option<String>) -> Result<Containerd, ConfigError> {
    match raw.as_deref() {
        None | Some(FOUND) => Ok(Containerd::Found),
        Some(NEVER) => Ok(Containerd::Never),
        Some(root) if Path::new(root).is_absolute() => Ok(Containerd::At(root.into())),
        Some(other) => {
            let reason = "must be \"found\", \"never\", or the absolute path of containerd's root";
            Err(ConfigError::value("store.containerd", other, reason))
        }
    }
}

fn swarm(raw: RawSwarm, node_ip: Option<&str>) -> Result<Swarm, ConfigError> {
    let mut listen = raw.listen;
    if let Some(ip) = node_ip.filter(|_| listen.ip().is_unspecified()) {
        listen.set_ip(ip.parse::<IpAddr>().map_err(|error| ConfigError::value(NODE_IP, ip, error))?);
    }
    if listen.ip().is_unspecified() {
        let reason = "must be the address that other members reach this node at, since its identity derives from it; \
                      where one configuration serves many nodes, WAYLAY_NODE_IP in the environment says it";
        return Err(ConfigError::value("swarm.listen", listen, reason));
    }
    if listen.port() == 0 {
        return Err(ConfigError::value("swarm.listen", listen, "needs a fixed port"));
    }
    let zone = raw.zone.unwrap_or_default();
    if zone.len() > 64 || zone.chars().any(char::is_control) {
        return Err(ConfigError::value("swarm.zone", zone, "is a label of at most 64 bytes"));
    }
    let members = raw.members.iter().map(|text| match text.parse() {
        Ok(addr) => Ok(Member::At(addr)),
        Err(_) => text.parse().map(Member::Named).map_err(|error| ConfigError::value("swarm.members", text, error)),
    });
    Ok(Swarm {
        listen,
        token_file: raw.token_file,
        members: members.collect::<Result<_, _>>()?,
        zone,
        upload_rate: rate("swarm.upload_rate", raw.upload_rate)?,
        download_rate: rate("swarm.download_rate", raw.download_rate)?,
    })
}

/// Bytes per second.
fn rate(key: &'static str, raw: Option<ByteSize>) -> Result<Option<u64>, ConfigError> {
    match raw.map(|rate| rate.as_u64()) {
        Some(rate) if !(throttle::LEAST..=throttle::MOST).contains(&rate) => {
            let reason = "must be at least 4MiB and less than 4GiB (a second); without the key there is no limit";
            Err(ConfigError::value(key, ByteSize(rate), reason))
        }
        rate => Ok(rate),
    }
}

fn filter(text: Option<String>) -> Result<String, ConfigError> {
    let text = text.unwrap_or_else(|| "info".to_owned());
    match text.parse::<tracing_subscriber::EnvFilter>() {
        Ok(_) => Ok(text),
        Err(error) => Err(ConfigError::value("log.filter", text, error)),
    }
}

#[cfg(test)]
mod tests;
