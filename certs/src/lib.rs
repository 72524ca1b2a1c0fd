//! skeleton: the registry's name only, until the real one is merged

use std::{fmt, str::FromStr};

/// A registry as clients name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegistryName {
    /// Lower-case DNS name.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for RegistryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            443 => f.write_str(&self.host),
            port => write!(f, "{}:{port}", self.host),
        }
    }
}

impl FromStr for RegistryName {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = text.rsplit_once(':').unwrap_or((text, "443"));
        Ok(Self { host: host.to_ascii_lowercase(), port: port.parse()? })
    }
}
