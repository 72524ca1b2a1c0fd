//! Who belongs to the cluster, who answers for which digest, and the hook that turns everybody else away.
//!
//! A member is an address: its identity is derived from the cluster secret and that address. So a list of addresses is a
//! list of identities, and whoever comes *from* the address that its identity is derived from holds the secret and may
//! join.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use iroh::{
    EndpointAddr, EndpointId, TransportAddr,
    endpoint::{AfterHandshakeOutcome, Connection, EndpointHooks, Side},
};
use tokio::sync::watch;
use waylay_certs::cluster::ClusterSecret;

use super::frame::{MAX_MEMBERS, code};
use crate::oci::digest::Digest;

/// How many members answer for one digest.
pub(crate) const OWNERS: usize = 3;
/// A member that did not answer is left alone at first for so long, doubling up to [`MAX_REST`].
const MIN_REST: Duration = Duration::from_secs(2);
const MAX_REST: Duration = Duration::from_secs(60);
/// A member that joined by itself and was not heard of for so long is forgotten.
const FORGET: Duration = Duration::from_secs(600);
/// A member that was silent for so long is greeted, to see whether it lives.
const GREET: Duration = Duration::from_secs(60);

/// The members; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Members {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    me: SocketAddr,
    zone: String,
    secrets: Vec<ClusterSecret>,
    // std: never held across an await.
    table: RwLock<Table>,
    /// Counts changes of who belongs, for those who must tell new owners.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Table {
    members: BTreeMap<SocketAddr, Member>,
    by_id: HashMap<EndpointId, SocketAddr>,
    /// For each first byte of a digest, who answers for it.
    owners: Vec<[Option<SocketAddr>; OWNERS]>,
}

#[derive(Debug)]
struct Member {
    /// As it was seen last.
    id: EndpointId,
    /// Given by the operator: never forgotten.
    fixed: bool,
    heard: Option<Instant>,
    added: Instant,
    failures: u32,
    rests_until: Option<Instant>,
    /// As it said when it introduced itself.
    zone: Option<String>,
}

/// One member, for status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Whether it answered the last time it was asked; `None` when it was not asked yet.
    pub reachable: Option<bool>,
}

impl Members {
    /// The members named by the operator, with us at `me`. The first secret is ours; others are accepted during a rotation.
    pub(crate) fn new(me: SocketAddr, zone: &str, secrets: Vec<ClusterSecret>, fixed: &[SocketAddr]) -> Self {
        let (table, changed) = (RwLock::new(Table::default()), watch::Sender::new(0));
        let inner = Inner { me: canonical(me), zone: zone.to_owned(), secrets, table, changed };
        let members = Self { inner: Arc::new(inner) };
        members.add(fixed, true);
        members
    }

    /// Our own advertised address.
    pub(crate) fn me(&self) -> SocketAddr {
        self.inner.me
    }

    /// Our zone; empty where there are none.
    pub(crate) fn zone(&self) -> &str {
        &self.inner.zone
    }

    /// Whether a member is in our zone. One that did not say counts as near only where there are no zones.
    pub(crate) fn is_near(&self, addr: SocketAddr) -> bool {
        let table = self.read();
        table.members.get(&canonical(addr)).and_then(|member| member.zone.as_deref()).unwrap_or_default()
            == self.inner.zone
    }

    /// A member says which zone it is in.
    pub(crate) fn is_in(&self, addr: SocketAddr, zone: &str) {
        if let Some(member) = self.write().members.get_mut(&canonical(addr)) {
            member.zone = Some(zone.to_owned());
        }
    }

    /// Adds those that are new, up to [`MAX_MEMBERS`].
    pub(crate) fn add(&self, addrs: &[SocketAddr], fixed: bool) {
        let mut table = self.write();
        let mut grew = table.owners.is_empty();
        for addr in addrs.iter().map(|addr| canonical(*addr)) {
            if addr == self.inner.me || addr.port() == 0 || addr.ip().is_unspecified() {
                continue;
            }
            if let Some(member) = table.members.get_mut(&addr) {
                member.fixed |= fixed;
                continue;
            }
            if !fixed && table.members.len() >= MAX_MEMBERS {
                continue;
            }
            let Some(id) = self.ids(addr).next() else { continue };
            let added = Instant::now();
            table
                .members
                .insert(addr, Member { id, fixed, heard: None, added, failures: 0, rests_until: None, zone: None });
            for id in self.ids(addr) {
                table.by_id.insert(id, addr);
            }
            grew = true;
        }
        if grew {
            table.assign(self.inner.me);
            drop(table);
            self.inner.changed.send_modify(|count| *count += 1);
        }
    }

    /// The address of a member with this identity.
    pub(crate) fn addr_of(&self, id: &EndpointId) -> Option<SocketAddr> {
        self.read().by_id.get(id).copied()
    }

    /// How to dial a member; nothing when it is not one. While the secret is rotated it may be either of two: as it was seen
    /// last comes first.
    pub(crate) fn dial(&self, addr: SocketAddr) -> Vec<EndpointAddr> {
        let Some(last) = self.read().members.get(&canonical(addr)).map(|member| member.id) else { return Vec::new() };
        let others = self.ids(canonical(addr)).filter(|id| *id != last);
        std::iter::once(last).chain(others).map(|id| EndpointAddr::from_parts(id, [TransportAddr::Ip(addr)])).collect()
    }

    /// The member was seen with this identity, which is one of its own.
    fn is_as(&self, addr: SocketAddr, id: EndpointId) {
        if let Some(member) = self.write().members.get_mut(&canonical(addr)) {
            member.id = id;
        }
    }

    /// All other members.
    pub(crate) fn others(&self) -> Vec<SocketAddr> {
        self.read().members.keys().copied().collect()
    }

    /// Who answers for this digest, best first; we may be among them.
    pub(crate) fn owners(&self, digest: &Digest) -> Vec<SocketAddr> {
        let table = self.read();
        let shard = usize::from(digest.as_bytes()[0]);
        table.owners.get(shard).into_iter().flatten().flatten().copied().collect()
    }

    /// Fires when somebody joined or was forgotten.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    /// The member answered.
    pub(crate) fn heard(&self, addr: SocketAddr) {
        if let Some(member) = self.write().members.get_mut(&canonical(addr)) {
            (member.heard, member.failures, member.rests_until) = (Some(Instant::now()), 0, None);
        }
    }

    /// The member did not answer; it is left alone for a while.
    pub(crate) fn missed(&self, addr: SocketAddr) {
        if let Some(member) = self.write().members.get_mut(&canonical(addr)) {
            member.failures = member.failures.saturating_add(1);
            let rest = MIN_REST.saturating_mul(1 << (member.failures - 1).min(5)).min(MAX_REST);
            member.rests_until = Some(Instant::now() + rest);
        }
    }

    /// Whether the member may be asked: it is one, and did not just fail.
    pub(crate) fn is_awake(&self, addr: SocketAddr) -> bool {
        let table = self.read();
        let member = table.members.get(&canonical(addr));
        member.is_some_and(|member| member.rests_until.is_none_or(|until| until <= Instant::now()))
    }

    /// Who should be greeted now: never heard of, not heard of for long, or failing and rested.
    pub(crate) fn ungreeted(&self) -> Vec<SocketAddr> {
        let table = self.read();
        let due = |member: &Member| {
            let silent = member.failures > 0 || member.heard.is_none_or(|heard| heard.elapsed() > GREET);
            silent && member.rests_until.is_none_or(|until| until <= Instant::now())
        };
        table.members.iter().filter(|(_, member)| due(member)).map(|(addr, _)| *addr).collect()
    }

    /// Forgets members that joined by themselves and have been silent for long.
    pub(crate) fn forget_silent(&self) {
        let mut table = self.write();
        let silent: Vec<_> = table
            .members
            .iter()
            .filter(|(_, member)| !member.fixed && member.failures > 0)
            .filter(|(_, member)| member.heard.unwrap_or(member.added).elapsed() > FORGET)
            .map(|(addr, _)| *addr)
            .collect();
        if silent.is_empty() {
            return;
        }
        table.members.retain(|addr, _| !silent.contains(addr));
        table.by_id.retain(|_, addr| !silent.contains(addr));
        table.assign(self.inner.me);
        drop(table);
        self.inner.changed.send_modify(|count| *count += 1);
    }

    /// The members for status.
    pub(crate) fn status(&self) -> Vec<MemberStatus> {
        let reachable = |member: &Member| match (member.failures, member.heard) {
            (0, None) => None,
            (0, Some(_)) => Some(true),
            _ => Some(false),
        };
        let table = self.read();
        table.members.iter().map(|(addr, member)| MemberStatus { addr: *addr, reachable: reachable(member) }).collect()
    }

    /// Whether an identity that comes from `from` belongs to us; one that fits its address joins by that.
    fn admit(&self, id: EndpointId, from: Option<SocketAddr>) -> bool {
        if let Some(addr) = self.addr_of(&id) {
            self.is_as(addr, id);
            return true;
        }
        let Some(from) = from else { return false };
        if !self.ids(canonical(from)).any(|own| own == id) {
            return false;
        }
        self.add(&[from], false);
        self.addr_of(&id).is_some()
    }

    fn ids(&self, addr: SocketAddr) -> impl Iterator<Item = EndpointId> {
        self.inner.secrets.iter().map(move |secret| secret.node_key(addr).public())
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Table> {
        self.inner.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Table> {
        self.inner.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EndpointHooks for Members {
    /// Runs for every protocol and both directions, before the other side can ask anything.
    async fn after_handshake<'a>(&'a self, connection: &'a Connection) -> AfterHandshakeOutcome {
        // Only for a connection that was made to us does the address tell something: it is where the joiner sends from.
        let from = match connection.side() {
            Side::Server => connection.paths().iter().find_map(|path| match path.remote_addr() {
                TransportAddr::Ip(addr) => Some(*addr),
                _ => None,
            }),
            Side::Client => None,
        };
        let id = connection.remote_id();
        if self.admit(id, from) {
            return AfterHandshakeOutcome::Accept;
        }
        tracing::warn!(peer = %id.fmt_short(), ?from, "a stranger was turned away: another cluster secret, or an address it does not advertise");
        AfterHandshakeOutcome::Reject { error_code: code::STRANGER.into(), reason: b"not a member".to_vec() }
    }
}

impl Table {
    /// Rendezvous hashing over addresses, not identities, so that nodes agree while the secret rotates.
    fn assign(&mut self, me: SocketAddr) {
        let everybody: Vec<_> = self.members.keys().copied().chain([me]).collect();
        self.owners = (0..=u8::MAX)
            .map(|shard| {
                let mut scored: Vec<_> = everybody.iter().map(|addr| (score(shard, addr), *addr)).collect();
                scored.sort_unstable_by(|a, b| b.cmp(a));
                let mut owners = [None; OWNERS];
                for (owner, (_, addr)) in owners.iter_mut().zip(scored) {
                    *owner = Some(addr);
                }
                owners
            })
            .collect();
    }
}

fn score(shard: u8, addr: &SocketAddr) -> [u8; 8] {
    let hash = blake3::hash(format!("waylay owner v1 {shard} {addr}").as_bytes());
    let mut score = [0; 8];
    score.copy_from_slice(&hash.as_bytes()[..8]);
    score
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

#[cfg(test)]
mod tests;
