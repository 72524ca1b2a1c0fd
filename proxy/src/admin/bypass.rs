//! What can be left alone, as operators write it, and for how long.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use waylay_certs::{NameError, RegistryName};

/// The port of a destination that names none.
const HTTPS: u16 = 443;

/// Where connections go that are left alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// This address: the kernel does not catch them.
    Address(SocketAddr),
    /// A registry, wherever it is: they are passed through, because the kernel knows no names.
    Name(RegistryName),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Name(name) => write!(f, "{name}"),
        }
    }
}

/// Reads `ADDRESS[:PORT]` and `HOST[:PORT]`; without a port it is 443. An IPv6 address with a port stands in brackets.
impl FromStr for Destination {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        match text.parse::<IpAddr>() {
            Ok(ip) => Ok(Self::Address(SocketAddr::new(ip, HTTPS))),
            Err(_) => text.parse().map(Self::Name),
        }
    }
}

impl Serialize for Destination {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Destination {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Now, in seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A moment, given in seconds since 1970, as RFC 3339 writes it.
pub fn moment(seconds: u64) -> String {
    // The year 9999 is as far as that can say.
    let at = UNIX_EPOCH + Duration::from_secs(seconds.min(253_402_300_799));
    humantime::format_rfc3339_seconds(at).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_told_apart() {
        for (text, shown, address) in [
            ("192.0.2.1", "192.0.2.1:443", true),
            ("192.0.2.1:5000", "192.0.2.1:5000", true),
            ("2001:db8::1", "[2001:db8::1]:443", true),
            ("[2001:db8::1]:5000", "[2001:db8::1]:5000", true),
            ("Registry.test:5000", "registry.test:5000", false),
            ("docker.io", "registry-1.docker.io", false),
        ] {
            let read: Destination = text.parse().unwrap();
            assert_eq!(
                (read.to_string().as_str(), matches!(read, Destination::Address(_))),
                (shown, address),
                "{text}"
            );
            assert_eq!(shown.parse::<Destination>().unwrap(), read);
        }
        for bad in ["", "a/b", "192.0.2.1:x", "https://x.test"] {
            assert!(bad.parse::<Destination>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_moment_is_readable() {
        assert_eq!(moment(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(moment(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
