//! The name of a registry as clients use it: host and port. Only the name; where it leads is DNS's business.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use rustls::pki_types::DnsName;

/// What people write for Docker Hub, and the host that answers the pulls of it.
const HUB: &str = "docker.io";
const HUB_HOST: &str = "registry-1.docker.io";

/// A registry: the DNS name in its certificate and the port it listens on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegistryName {
    /// Lower-case DNS name without a trailing dot.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Why a text is not a registry's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The host part is no DNS name.
    #[error("{0:?} is not a DNS name; a registry is written as HOST or HOST:PORT, without a scheme or a path")]
    Host(String),
    /// The host part is an address: its clients send no server name, so it cannot be recognised.
    #[error("{0} is an IP address; only registries with a DNS name can be recognised in a TLS handshake")]
    Address(IpAddr),
    /// The port is not a number from 1 to 65535.
    #[error("{0:?} is not a TCP port (1 to 65535)")]
    Port(String),
}

impl RegistryName {
    /// The registry `host` at `port`, taken literally: this is for a name seen in a handshake or a request, where
    /// `docker.io` must not become another host. For what people write use [`FromStr`].
    pub fn new(host: &str, port: u16) -> Result<Self, NameError> {
        if let Ok(ip) = host.trim_matches(['[', ']']).parse() {
            return Err(NameError::Address(ip));
        }
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        // One dot at the end is the root's; a second one is an empty label, which the parser would take for the root's. All-numeric
        // names are what URL parsers take for addresses.
        if DnsName::try_from(host.as_str()).is_err()
            || host.ends_with('.')
            || host.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        {
            return Err(NameError::Host(host));
        }
        if port == 0 {
            return Err(NameError::Port("0".into()));
        }
        Ok(Self { host, port })
    }

    /// The directory of this registry inside a `certs.d`: the host as it stands in image references, so `docker.io`
    /// for Docker Hub, with the port unless it is 443.
    pub fn certs_d(&self) -> String {
        match (self.host.as_str(), self.port) {
            (HUB | HUB_HOST | "index.docker.io", 443) => HUB.to_string(),
            _ => self.to_string(),
        }
    }

    /// containerd's second spelling of that directory, `host_port_`, which it prefers; `None` when there is no port.
    pub fn certs_d_underscored(&self) -> Option<String> {
        (self.port != 443).then(|| format!("{}_{}_", self.host, self.port))
    }

    /// Whether this is Docker Hub, for which dockerd's older image store reads no `certs.d`.
    pub fn is_docker_hub(&self) -> bool {
        self.certs_d() == HUB
    }
}

impl fmt::Display for RegistryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            443 => f.write_str(&self.host),
            port => write!(f, "{}:{port}", self.host),
        }
    }
}

/// Reads what people write: `host` (port 443) or `host:port`. `docker.io` means the host that serves its pulls.
impl FromStr for RegistryName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if let Ok(ip) = text.parse() {
            return Err(NameError::Address(ip));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| NameError::Port(port.to_string()))?),
            None => (text, 443),
        };
        let name = Self::new(host, port)?;
        Ok(if name.host == HUB && name.port == 443 { Self { host: HUB_HOST.into(), port } } else { name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_shown() {
        for (text, host, port, shown, dir) in [
            ("Registry.Test:5000", "registry.test", 5000, "registry.test:5000", "registry.test:5000"),
            ("ghcr.io", "ghcr.io", 443, "ghcr.io", "ghcr.io"),
            ("ghcr.io:443", "ghcr.io", 443, "ghcr.io", "ghcr.io"),
            ("quay.io.", "quay.io", 443, "quay.io", "quay.io"),
            ("localhost:5000", "localhost", 5000, "localhost:5000", "localhost:5000"),
            ("docker.io", "registry-1.docker.io", 443, "registry-1.docker.io", "docker.io"),
            ("index.docker.io", "index.docker.io", 443, "index.docker.io", "docker.io"),
        ] {
            let name: RegistryName = text.parse().unwrap();
            assert_eq!((name.host.as_str(), name.port), (host, port), "{text}");
            assert_eq!((name.to_string().as_str(), name.certs_d().as_str()), (shown, dir), "{text}");
        }
        let name: RegistryName = "registry.test:5000".parse().unwrap();
        assert_eq!(name.certs_d_underscored().as_deref(), Some("registry.test_5000_"));
    }

    #[test]
    fn a_name_from_a_handshake_is_taken_literally() {
        assert_eq!(RegistryName::new("docker.io", 443).unwrap().host, "docker.io");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in [
            "",
            ":5000",
            "../etc",
            "a/b",
            "https://x.test",
            "*.test",
            "a..b",
            "a..",
            "x.test:0",
            "x.test:99999",
            "x:y:1",
        ] {
            assert!(bad.parse::<RegistryName>().is_err(), "{bad:?}");
        }
        for address in ["10.0.0.1", "10.0.0.1:5000", "::1", "[::1]:5000"] {
            assert!(matches!(address.parse::<RegistryName>(), Err(NameError::Address(_))), "{address}");
        }
    }
}
