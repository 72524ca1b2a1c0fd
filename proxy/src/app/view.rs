//! What the admin listeners tell, gathered from the parts.

use std::{io, sync::Arc, time::SystemTime};

use super::{Core, switch::Switch};
use crate::{
    admin::{
        View,
        status::{self, Blob, Peer, Status},
    },
    config::Config,
    intercept::Intercept,
    journal::Journal,
    metrics::{Metrics, ReasonLabel, Source},
    oci::digest::Digest,
    store::Store,
    swarm::Swarm,
    telemetry::millis,
};

/// The parts that are looked at.
pub(super) struct Parts {
    metrics: Arc<Metrics>,
    store: Store,
    swarm: Swarm,
}

impl Parts {
    pub(super) fn of(core: &Core) -> Self {
        Self { metrics: core.metrics.clone(), store: core.store.clone(), swarm: core.swarm.clone() }
    }
}

/// Answers the admin listeners.
pub(super) struct Desk {
    pub(super) config: Config,
    pub(super) started: SystemTime,
    pub(super) core: Parts,
    pub(super) guard: Arc<Intercept>,
    pub(super) switch: Arc<Switch>,
    pub(super) journal: Journal,
}

impl Desk {
    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.switch.is_off() {
            warnings.push("switched off by the operator: pulls go directly; `waylay on` switches it on".to_owned());
        } else if !self.guard.is_effective() {
            warnings.push(
                "connections are not intercepted: the self-test did not come through the kernel hooks; \
                 look at the log of `waylay run`"
                    .to_owned(),
            );
        }
        if self.config.registries.is_empty() && self.config.plain_http.is_empty() {
            warnings.push("no registry is listed, so every connection is passed through: set `registries`".to_owned());
        }
        let swarm = self.core.swarm.status();
        if !swarm.members.is_empty() && !swarm.members.iter().any(|member| member.reachable == Some(true)) {
            warnings.push(
                "no other member answers: check swarm.members, the token's addresses, and that UDP reaches them"
                    .to_owned(),
            );
        }
        warnings
    }
}

impl View for Desk {
    fn metrics(&self) -> String {
        let metrics = &self.core.metrics;
        if let Ok(counters) = self.guard.counters() {
            for (exit, count) in counters {
                // Exact up to 2^53, which no node reaches.
                #[expect(clippy::cast_precision_loss, reason = "counts beyond 2^53 do not occur")]
                metrics.kernel.get_or_create(&ReasonLabel { reason: exit.name() }).set(count as f64);
            }
        }
        metrics.store_bytes.set(i64::try_from(self.core.store.bytes()).unwrap_or(i64::MAX));
        let members = self.core.swarm.status().members;
        let reachable = members.iter().filter(|member| member.reachable == Some(true)).count();
        metrics.peers.set(i64::try_from(members.len()).unwrap_or(i64::MAX));
        metrics.peers_reachable.set(i64::try_from(reachable).unwrap_or(i64::MAX));
        metrics.render()
    }

    fn status(&self) -> Status {
        let swarm = self.core.swarm.status();
        let bytes = |source: Source| self.core.metrics.bytes.get_or_create(&source.label()).get();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            since_ms: millis(self.started),
            intercept: status::Intercept {
                effective: self.guard.is_effective() && !self.switch.is_off(),
                off: self.switch.is_off(),
                cgroup: self.guard.cgroup().display().to_string(),
            },
            registries: self.config.registries.iter().chain(&self.config.plain_http).map(ToString::to_string).collect(),
            store: status::Store {
                blobs: self.core.store.held().len() as u64,
                bytes: self.core.store.bytes(),
                quota: self.config.store.quota,
            },
            peers: swarm.advertised.map(|address| status::Peers {
                address: address.to_string(),
                members: swarm.members.iter().map(|member| member.addr.to_string()).collect(),
                reachable: swarm.members.iter().filter(|member| member.reachable == Some(true)).count() as u64,
            }),
            bytes: status::Bytes {
                store: bytes(Source::Store),
                peer: bytes(Source::Peer),
                registry: bytes(Source::Registry),
            },
            warnings: self.warnings(),
        }
    }

    fn peers(&self) -> Vec<Peer> {
        let members = self.core.swarm.status().members.into_iter();
        members.map(|member| Peer { address: member.addr.to_string(), reachable: member.reachable }).collect()
    }

    fn blobs(&self) -> Vec<Blob> {
        self.core.store.held().iter().filter_map(|digest| self.blob(digest)).collect()
    }

    fn blob(&self, digest: &Digest) -> Option<Blob> {
        let info = self.core.store.info(digest)?;
        Some(Blob {
            digest: digest.to_string(),
            size: info.size,
            media_type: info.media_type,
            from: info.provenance.iter().map(|from| format!("{}/{}", from.registry, from.repository)).collect(),
            pinned: info.pinned,
            created: info.created,
        })
    }

    fn verify(&self, digest: &Digest) -> io::Result<Option<bool>> {
        self.core.store.verify(digest).map_err(io::Error::other)
    }

    fn remove(&self, digest: &Digest) -> io::Result<bool> {
        let held = self.core.store.info(digest).is_some();
        self.core.store.discard(digest).map_err(io::Error::other)?;
        Ok(held)
    }

    fn journal(&self) -> io::Result<String> {
        self.journal.read()
    }

    fn switch(&self, off: bool) -> io::Result<()> {
        self.switch.set_off(off)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        metrics::{ConnectionLabel, OutcomeLabel},
        tls,
    };

    #[test]
    fn the_alerts_speak_of_counters_and_reasons_that_there_are() {
        let metrics = Metrics::default();
        metrics.fetched.get_or_create(&Source::Peer.label()).inc();
        metrics.pulls.get_or_create(&OutcomeLabel { outcome: "ok" }).inc();
        metrics.connections.get_or_create(&ConnectionLabel { decision: "splice", reason: "untrusted" }).inc();
        metrics.fault("ours", "disk");
        let exported = metrics.render();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/kubernetes/waylay/alerts.yaml");
        let alerts = std::fs::read_to_string(path).unwrap();
        let words = || alerts.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let names: Vec<&str> = words().filter(|word| word.starts_with("waylay_")).collect();
        assert!(names.len() > 4, "{names:?}");
        for name in names {
            let there = |line: &str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
            assert!(exported.lines().any(there), "{name} is not among\n{exported}");
        }
        let chosen = alerts
            .split("reason")
            .filter_map(|rest| rest.strip_prefix("=~\"").or_else(|| rest.strip_prefix("!~\""))?.split('"').next());
        let reasons: Vec<&str> = chosen.flat_map(|list| list.split('|')).collect();
        assert!(reasons.len() > 4, "{reasons:?}");
        for reason in reasons {
            assert!(tls::Reason::ALL.iter().any(|known| known.name() == reason), "{reason} is no reason");
        }
    }
}
