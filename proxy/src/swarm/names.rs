//! A DNS name as a source of members: each of its addresses is one, as a headless service of Kubernetes has it.

use std::{collections::BTreeSet, fmt, net::SocketAddr, str::FromStr, time::Duration};

use tokio::time::MissedTickBehavior;

use super::members::Members;
use crate::dial;

/// How often it is looked up.
const EVERY: Duration = Duration::from_secs(30);
/// How long that may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// How it is written.
const SCHEME: &str = "dns:";

/// A name and the port that its members listen on; written `dns:NAME:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    host: String,
    port: u16,
}

/// It is not written `dns:NAME:PORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is neither IP:PORT nor dns:NAME:PORT")]
pub struct BadName;

impl FromStr for Name {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let (host, port) = text.strip_prefix(SCHEME).and_then(|name| name.rsplit_once(':')).ok_or(BadName)?;
        let is_label = |label: &str| {
            !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(BadName)?;
        let is_name = host.len() <= 253 && host.strip_suffix('.').unwrap_or(host).split('.').all(is_label);
        is_name.then(|| Self { host: host.to_owned(), port }).ok_or(BadName)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}:{}", self.host, self.port)
    }
}

impl Name {
    /// Adds its addresses to the members, again and again, until dropped. That it cannot be resolved now is no error: the
    /// members known stay.
    pub(crate) async fn watch(self, members: Members) {
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut known = BTreeSet::<SocketAddr>::new();
        loop {
            every.tick().await;
            match dial::resolve(&self.host, self.port, |_| false, DEADLINE).await {
                Ok(addrs) => {
                    members.add(&addrs, false);
                    let addrs = addrs.into_iter().collect();
                    if known != addrs {
                        tracing::info!(name = %self, members = addrs.len(), "a name has other members now");
                        known = addrs;
                    }
                }
                Err(error) => tracing::warn!(name = %self, %error, "cannot resolve a name of swarm.members"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_written_with_its_scheme_and_port() {
        let name: Name = "dns:waylay.kube-system.svc.cluster.local:4500".parse().unwrap();
        assert_eq!((name.host.as_str(), name.port), ("waylay.kube-system.svc.cluster.local", 4500));
        assert_eq!(name.to_string().parse(), Ok(name));
        for bad in ["waylay:4500", "dns:waylay", "dns::4500", "dns:waylay:0", "dns:a..b:1", "dns:a b:1", "dns:[::1]:1"]
        {
            assert_eq!(bad.parse::<Name>(), Err(BadName), "{bad}");
        }
    }
}
