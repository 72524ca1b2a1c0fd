//! What the admin listeners tell, gathered from the parts.

use std::{
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::SystemTime,
};

use futures_util::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};

use waylay_certs::RegistryName;

use super::{Core, bypass::Bypass, registries::Registries, switch::Switch};
use crate::{
    admin::{
        View,
        bypass::{Destination, moment},
        status::{self, Blob, Bypassed, Certificate, Peer, Reloaded, Status, Switched},
    },
    config::Config,
    content::{
        Content, ImportError,
        image::{self, Held},
    },
    intercept::Intercept,
    journal::Journal,
    metrics::{DirectionLabel, Metrics, ReasonLabel, Source},
    oci::{digest::Digest, image::ImageName},
    preheat::{Login, Preheat, Probed, Progress},
    pull::Pull,
    store::{Collected, Store},
    swarm::{MemberStatus, Standing, Swarm},
    telemetry::millis,
    upstream::Body,
};

/// The parts that are looked at.
#[derive(Clone)]
pub(super) struct Parts {
    metrics: Arc<Metrics>,
    store: Store,
    swarm: Swarm,
    content: Content,
    pull: Arc<Pull>,
    preheat: Preheat,
}

impl Parts {
    pub(super) fn of(core: &Core) -> Self {
        Self {
            metrics: core.metrics.clone(),
            store: core.store.clone(),
            swarm: core.swarm.clone(),
            content: core.content.clone(),
            pull: core.pull.clone(),
            preheat: core.preheat.clone(),
        }
    }
}

/// Answers the admin listeners; clones are the same.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) config: Config,
    pub(super) started: SystemTime,
    pub(super) core: Parts,
    /// `None` without a kernel guard: then nothing is intercepted by it.
    pub(super) guard: Option<Arc<Intercept>>,
    pub(super) switch: Arc<Switch>,
    pub(super) bypass: Arc<Bypass>,
    pub(super) journal: Journal,
    pub(super) registries: Arc<Registries>,
}

impl Desk {
    fn is_effective(&self) -> bool {
        self.guard.as_ref().is_some_and(|guard| guard.is_effective())
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.switch.is_off() {
            let until = self.switch.until().map_or_else(String::new, |until| format!(" until {}", moment(until)));
            warnings
                .push(format!("switched off by the operator{until}: pulls go directly; `waylay on` switches it on"));
        } else if !self.is_effective() {
            warnings.push(
                "connections are not intercepted: the self-test did not come through the kernel hooks; \
                 look at the log of `waylay run`"
                    .to_owned(),
            );
        }
        if self.registries.names().is_empty() {
            warnings.push("no registry is listed, so every connection is passed through: set `registries`".to_owned());
        }
        for Bypassed { destination, until, .. } in self.bypass.list().iter().filter(|one| one.origin == "operator") {
            let until = until.map_or_else(String::new, |until| format!(" until {}", moment(until)));
            warnings.push(format!("{destination} is bypassed{until}; `waylay bypass rm {destination}` ends that"));
        }
        let mut members = self.core.swarm.status().members;
        members.retain(|member| member.standing != Standing::Left);
        if !members.is_empty() && !members.iter().any(|member| member.reachable == Some(true)) {
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
        if let Some(Ok(counters)) = self.guard.as_ref().map(|guard| guard.counters()) {
            for (exit, count) in counters {
                // Exact up to 2^53, which no node reaches.
                #[expect(clippy::cast_precision_loss, reason = "counts beyond 2^53 do not occur")]
                metrics.kernel.get_or_create(&ReasonLabel { reason: exit.name() }).set(count as f64);
            }
        }
        metrics.store_bytes.set(i64::try_from(self.core.store.bytes()).unwrap_or(i64::MAX));
        metrics.store_lent_bytes.set(i64::try_from(self.core.store.lent().1).unwrap_or(i64::MAX));
        let swarm = self.core.swarm.status();
        let present = swarm.members.iter().filter(|member| member.standing.is_present()).count();
        let reachable = swarm.members.iter().filter(|member| member.reachable == Some(true)).count();
        metrics.peers.set(i64::try_from(present).unwrap_or(i64::MAX));
        metrics.peers_reachable.set(i64::try_from(reachable).unwrap_or(i64::MAX));
        metrics.piece_requests_turned_away.inner().store(swarm.turned_away, Relaxed);
        for (direction, count) in [("sent", swarm.control.0), ("received", swarm.control.1)] {
            metrics.swarm_control.get_or_create(&DirectionLabel { direction }).inner().store(count, Relaxed);
        }
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
                effective: self.is_effective() && !self.switch.is_off(),
                off: self.switch.is_off(),
                off_until: self.switch.until(),
                cgroup: self.guard.as_ref().map(|guard| guard.cgroup().display().to_string()).unwrap_or_default(),
            },
            registries: self.registries.names(),
            store: status::Store {
                blobs: self.core.store.held().len() as u64,
                bytes: self.core.store.bytes(),
                quota: self.config.store.quota,
                lent: self.core.store.lent().1,
            },
            peers: swarm.advertised.map(|address| status::Peers {
                address: address.to_string(),
                members: swarm.members.iter().map(|member| member.addr.to_string()).collect(),
                reachable: swarm.members.iter().filter(|member| member.reachable == Some(true)).count() as u64,
                suspect: swarm.members.iter().filter(|member| member.standing == Standing::Suspect).count() as u64,
                gone: swarm.members.iter().filter(|member| !member.standing.is_present()).count() as u64,
            }),
            bytes: status::Bytes {
                store: bytes(Source::Store),
                peer: bytes(Source::Peer),
                registry: bytes(Source::Registry),
            },
            bypass: self.bypass.list(),
            warnings: self.warnings(),
        }
    }

    fn peers(&self) -> Vec<Peer> {
        let members = self.core.swarm.status().members.into_iter();
        let peer = |member: MemberStatus| Peer {
            address: member.addr.to_string(),
            reachable: member.reachable,
            standing: member.standing.name().to_owned(),
        };
        members.map(peer).collect()
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
            lent_to: self.core.store.lent_to(digest).map(|file| file.display().to_string()),
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

    fn pin(&self, digests: &[Digest], pinned: bool) -> io::Result<()> {
        digests.iter().try_for_each(|digest| self.core.store.pin(digest, pinned)).map_err(io::Error::other)
    }

    fn collect(&self, dry_run: bool) -> io::Result<Collected> {
        self.core.store.collect(dry_run).map_err(io::Error::other)
    }

    fn image(&self, name: &ImageName) -> io::Result<Held> {
        let absent = |text: String| io::Error::new(io::ErrorKind::NotFound, text);
        let unknown = || {
            absent(format!("{name} is not known here: it was never pulled or imported; `waylay pull {name}` pulls it"))
        };
        let top = self.core.pull.known(name).ok_or_else(unknown)?;
        let lacking = |why| absent(format!("{name} is not complete: {why}; `waylay pull {name}` brings it here"));
        image::held(&self.core.store, top).map_err(lacking)
    }

    fn bytes(&self, digest: &Digest) -> Option<Body> {
        self.core.store.get(digest).map(Content::export)
    }

    fn import_blob(&self, digest: Digest, size: u64, body: Body) -> BoxFuture<'static, io::Result<()>> {
        let content = self.core.content.clone();
        let error = |error: ImportError| match &error {
            ImportError::Store(store) if store.is_full() => io::Error::new(io::ErrorKind::StorageFull, error),
            _ => io::Error::other(error),
        };
        async move { content.import(digest, size, body).await.map_err(error) }.boxed()
    }

    fn import(&self, name: &ImageName, top: Digest) -> io::Result<Held> {
        self.core.pull.import(name, top)
    }

    fn pull(&self, name: ImageName, login: Option<Login>, everywhere: bool) -> BoxStream<'static, Progress> {
        let Some(plain) = self.registries.is_plain(&name.registry) else {
            let why = format!(
                "{0} is not listed, so no runtime's pull would be served from here; `waylay registry add {0}` lists it",
                name.registry
            );
            let image = name.to_string();
            return stream::iter([Progress::Failed { image, why }]).boxed();
        };
        let image = name.to_string();
        let own = self.core.preheat.run(name, plain, login);
        if !everywhere {
            return own;
        }
        let members = self.core.swarm.present();
        let ordered = Progress::Ordered { members: members.len() as u64 };
        let elsewhere = self.core.swarm.order(members, &image);
        let elsewhere = elsewhere.map(|(member, pulling)| Progress::Elsewhere { member, pulling });
        stream::select(own, stream::iter([ordered]).chain(elsewhere)).boxed()
    }

    fn reload(&self) -> io::Result<Reloaded> {
        self.registries.reload()
    }

    fn probe(&self, name: RegistryName, plain: bool) -> BoxFuture<'static, Probed> {
        let preheat = self.core.preheat.clone();
        let listed = self.registries.is_plain(&name);
        async move { Probed { listed: listed.is_some(), ..preheat.probe(name, listed.unwrap_or(plain)).await } }.boxed()
    }

    fn certificates(&self) -> io::Result<Vec<Certificate>> {
        self.registries.certificates()
    }

    fn rotate(&self, host: Option<&str>, withdraw: bool) -> io::Result<Vec<Certificate>> {
        self.registries.rotate(host, withdraw)
    }

    fn journal(&self) -> io::Result<String> {
        self.journal.read()
    }

    fn switch(&self, wanted: Switched) -> io::Result<()> {
        self.switch.set(wanted)
    }

    fn bypass(&self) -> Vec<Bypassed> {
        self.bypass.list()
    }

    fn add_bypass(&self, destination: Destination, until: Option<u64>) -> io::Result<Bypassed> {
        self.bypass.add(destination, until)
    }

    fn remove_bypass(&self, destination: &Destination) -> io::Result<()> {
        self.bypass.remove(destination)
    }

    fn prove(&self) -> io::Result<()> {
        let Some(guard) = &self.guard else { return Err(io::Error::other("there are no kernel hooks")) };
        if self.switch.is_aside() {
            return Err(io::Error::other("connections go directly now: switched off, or at a limit"));
        }
        let proven = guard.prove(super::PROOF);
        self.core.metrics.intercept_effective.set(i64::from(proven.is_ok()));
        proven.map_err(io::Error::other)
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
