//! Who belongs to the cluster, whom to ask for what, and how to reach them: what the tasks of the swarm share of the
//! [`Roster`].
//!
//! A member is an address: its identity is derived from the cluster secret and that address. So a list of addresses is a
//! list of identities, and whoever comes *from* the address that its identity is derived from holds the secret and may
//! join.

mod rest;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Instant, SystemTime},
};

use iroh::{EndpointAddr, EndpointId, SecretKey, TransportAddr};
use tokio::sync::{Notify, watch};
use waylay_certs::cluster::ClusterSecret;

use self::rest::Resting;
use super::{
    frame::{Compare, Differ, Hello},
    news::News,
    owners::Owners,
    roster::{Act, Change, Heard, Pace, Roster, Standing},
};
use crate::{oci::digest::Digest, telemetry::millis};

/// The members; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Members {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    me: SocketAddr,
    zone: String,
    boot: u64,
    pace: Pace,
    secrets: Vec<ClusterSecret>,
    // std: never held across an await.
    table: RwLock<Table>,
    /// Counts changes of who can be asked, for those who must tell new owners.
    changed: watch::Sender<u64>,
    /// There may be something to tell everybody.
    unsaid: Notify,
    /// How often others thought that we were gone.
    refuted: AtomicU64,
}

#[derive(Debug)]
struct Table {
    roster: Roster,
    owners: Owners,
    by_id: HashMap<EndpointId, SocketAddr>,
    /// As whom a member was seen last: while the secret is rotated it may be either of two.
    seen: HashMap<SocketAddr, EndpointId>,
    /// Those who did not answer this node lately.
    resting: Resting,
}

/// One member, for status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// Where it listens.
    pub addr: SocketAddr,
    /// What is believed of it.
    pub standing: Standing,
    /// Whether it can be reached from here; `None` when it was not asked yet.
    pub reachable: Option<bool>,
}

impl Members {
    /// The members named by the operator, with us at `me`, whose key this is. All secrets are accepted from others.
    pub(crate) fn new(
        me: SocketAddr,
        key: SecretKey,
        zone: &str,
        secrets: Vec<ClusterSecret>,
        fixed: &[SocketAddr],
        pace: Pace,
    ) -> Self {
        let (me, boot) = (canonical(me), rand::random());
        let roster = Roster::new(key, me, boot, millis(SystemTime::now()), zone, pace, Instant::now());
        let (by_id, seen, resting) = (HashMap::new(), HashMap::new(), Resting::default());
        let table = RwLock::new(Table { roster, owners: Owners::new(me), by_id, seen, resting });
        let (changed, unsaid) = (watch::Sender::new(0), Notify::new());
        let inner = Inner {
            me,
            zone: zone.to_owned(),
            boot,
            pace,
            secrets,
            table,
            changed,
            unsaid,
            refuted: AtomicU64::new(0),
        };
        let members = Self { inner: Arc::new(inner) };
        members.add(fixed, true);
        members
    }

    /// Our own advertised address.
    pub(crate) fn me(&self) -> SocketAddr {
        self.inner.me
    }

    /// Our boot epoch: different after each start.
    pub(crate) fn boot(&self) -> u64 {
        self.inner.boot
    }

    /// How fast members look after one another.
    pub(crate) fn pace(&self) -> &Pace {
        &self.inner.pace
    }

    /// Our zone; empty where there are none.
    pub(crate) fn zone(&self) -> &str {
        &self.inner.zone
    }

    /// Whether a member is in our zone. One that did not say counts as near only where there are no zones.
    pub(crate) fn is_near(&self, addr: SocketAddr) -> bool {
        let table = self.read();
        table.roster.card_of(canonical(addr)).map_or("", |card| &card.zone) == self.inner.zone
    }

    /// Adds those that are new, as long as there is room.
    pub(crate) fn add(&self, addrs: &[SocketAddr], fixed: bool) {
        self.change(|roster, now| addrs.iter().for_each(|addr| roster.add(canonical(*addr), fixed, now)));
    }

    /// The address of a member with this identity.
    pub(crate) fn addr_of(&self, id: &EndpointId) -> Option<SocketAddr> {
        self.read().by_id.get(id).copied()
    }

    /// How to dial a member, as it was seen last first; nothing when it is not one.
    pub(crate) fn dial(&self, addr: SocketAddr) -> Vec<EndpointAddr> {
        let (table, at) = (self.read(), canonical(addr));
        if table.roster.standing(at).is_none() {
            return Vec::new();
        }
        let seen = table.seen.get(&at).copied();
        let others = self.ids(at).filter(|id| Some(*id) != seen);
        seen.into_iter().chain(others).map(|id| EndpointAddr::from_parts(id, [TransportAddr::Ip(addr)])).collect()
    }

    /// The member was seen with this identity, which is one of its own.
    pub(crate) fn is_as(&self, addr: SocketAddr, id: EndpointId) {
        if self.read().seen.get(&canonical(addr)) != Some(&id) {
            self.write().seen.insert(canonical(addr), id);
        }
    }

    /// Who answers for this digest, best first; we may be among them.
    pub(crate) fn owners(&self, digest: &Digest) -> Vec<SocketAddr> {
        self.read().owners.of(digest)
    }

    /// Who answers for a shard of the digests, best first.
    pub(crate) fn owners_of_shard(&self, shard: u8) -> Vec<SocketAddr> {
        self.read().owners.of_shard(shard)
    }

    /// Fires when somebody came, went or started again.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    /// How often others thought that we were gone, and forgot what we told them.
    pub(crate) fn refuted(&self) -> u64 {
        self.inner.refuted.load(Relaxed)
    }

    /// The boot epoch of a member that lives and can be reached.
    pub(crate) fn boot_of(&self, addr: SocketAddr) -> Option<u64> {
        if addr == self.inner.me {
            return Some(self.inner.boot);
        }
        let table = self.read();
        let lives = table.roster.standing(addr)? == Standing::Living && !table.resting.rests(addr);
        table.roster.card_of(addr).filter(|_| lives).map(|card| card.boot)
    }

    /// The boot epoch that a member showed last, whether or not it can be reached.
    pub(crate) fn shown_boot(&self, addr: SocketAddr) -> Option<u64> {
        self.read().roster.card_of(canonical(addr)).map(|card| card.boot)
    }

    /// What is believed of a member; `None` when it is not one.
    pub(crate) fn standing(&self, addr: SocketAddr) -> Option<Standing> {
        self.read().roster.standing(canonical(addr))
    }

    /// The member answered.
    pub(crate) fn heard(&self, addr: SocketAddr) {
        if self.read().resting.missed_last(canonical(addr)) {
            self.write().resting.end(canonical(addr));
        }
    }

    /// The member asked us for something.
    pub(crate) fn asked_by(&self, addr: SocketAddr) {
        if self.standing(addr) == Some(Standing::Suspect) {
            self.change(|roster, _| roster.alive(addr));
        }
    }

    /// The member did not answer; it is left alone for a while.
    pub(crate) fn missed(&self, addr: SocketAddr) {
        let mut table = self.write();
        if table.roster.standing(canonical(addr)).is_some() {
            table.resting.missed(canonical(addr), Instant::now());
        }
    }

    /// Whether the member may be asked: it is there, and did not just fail.
    pub(crate) fn is_awake(&self, addr: SocketAddr) -> bool {
        let (table, addr) = (self.read(), canonical(addr));
        table.roster.standing(addr).is_some_and(Standing::is_present) && !table.resting.rests(addr)
    }

    /// Everybody who is there, we too.
    pub(crate) fn present(&self) -> HashSet<SocketAddr> {
        let table = self.read();
        let present = table.roster.members().filter(|(_, standing)| standing.is_present()).map(|(addr, _)| addr);
        present.chain([self.inner.me]).collect()
    }

    /// So many of our zone, any with the same chance.
    pub(crate) fn some_near(&self, amount: usize) -> Vec<SocketAddr> {
        use rand::seq::IteratorRandom as _;
        let table = self.read();
        let zone = |addr| table.roster.card_of(addr).map(|card| card.zone.as_str());
        let living = table.roster.members().filter(|(_, standing)| *standing == Standing::Living);
        let near = living.map(|(addr, _)| addr).filter(|addr| zone(*addr) == Some(self.zone()));
        near.filter(|addr| !table.resting.rests(*addr)).sample(&mut rand::rng(), amount)
    }

    /// Whether anybody may be asked.
    pub(crate) fn any_awake(&self) -> bool {
        let table = self.read();
        table.roster.members().any(|(addr, standing)| standing.is_present() && !table.resting.rests(addr))
    }

    /// The members for status.
    pub(crate) fn status(&self) -> Vec<MemberStatus> {
        let table = self.read();
        let reachable = |addr, standing| match standing {
            Standing::Unasked => None,
            Standing::Living => Some(!table.resting.missed_last(addr)),
            Standing::Suspect | Standing::Gone | Standing::Left => Some(false),
        };
        let members = table.roster.members();
        members.map(|(addr, standing)| MemberStatus { addr, standing, reachable: reachable(addr, standing) }).collect()
    }

    /// How we introduce ourselves to a member, which has shown this version of its card.
    pub(crate) fn hello(&self, to: SocketAddr, shown: Option<(u64, u64)>) -> Box<Hello> {
        let table = self.read();
        Box::new(Hello { card: table.roster.card().clone(), of_you: table.roster.rumour(to, shown) })
    }

    /// Takes what is new and signed by whom it names; how much that was.
    pub(crate) fn learn(&self, news: Vec<News>, heard: Heard) -> usize {
        let mut news = news;
        {
            let table = self.read();
            news.retain(|news| table.roster.is_news(news, heard));
        }
        news.retain(|news| news.is_signed(|addr| self.ids(addr).collect()));
        if news.is_empty() {
            return 0;
        }
        self.change(|roster, now| news.into_iter().filter(|news| roster.learn(news.clone(), heard, now)).count())
    }

    /// The digest of our table.
    pub(crate) fn digest(&self) -> u64 {
        self.read().roster.digest()
    }

    /// The digests of our table, for a comparison that goes on at a bucket.
    pub(crate) fn compare(&self, from: u16) -> Compare {
        self.read().roster.compare(from)
    }

    /// Where our table differs from another.
    pub(crate) fn differ(&self, theirs: &Compare) -> Differ {
        self.read().roster.differ(theirs)
    }

    /// What we know and the other does not.
    pub(crate) fn lacking(&self, theirs: &Differ) -> Vec<News> {
        self.read().roster.lacking(theirs)
    }

    /// What is to be done now for the roster's sake.
    pub(crate) fn tick(&self) -> Vec<Act> {
        self.change(Roster::tick)
    }

    /// The next of what everybody should hear; waits for it.
    pub(crate) async fn unsaid(&self) -> News {
        loop {
            if let Some(news) = self.write().roster.say() {
                return news;
            }
            self.inner.unsaid.notified().await;
        }
    }

    /// Somebody who lives, to find the gossip through.
    pub(crate) fn somebody(&self) -> Option<EndpointId> {
        use rand::seq::IteratorRandom as _;
        let table = self.read();
        let living = table.roster.members().filter(|(_, standing)| *standing == Standing::Living);
        let (addr, _) = living.choose(&mut rand::rng())?;
        table.seen.get(&addr).copied().or_else(|| self.ids(addr).next())
    }

    /// Changes the roster, and all that goes by it.
    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut Roster, Instant) -> R) -> R {
        let mut table = self.write();
        let result = change(&mut table.roster, Instant::now());
        let changes = table.roster.take_changes();
        let moved = changes.iter().any(|change| !matches!(change, Change::Known(_) | Change::Forgotten(_)));
        changes.into_iter().for_each(|change| table.follow(change, self));
        drop(table);
        if moved {
            self.inner.changed.send_modify(|count| *count += 1);
        }
        self.inner.unsaid.notify_one();
        result
    }

    /// The identities that belong to an address.
    pub(crate) fn ids(&self, addr: SocketAddr) -> impl Iterator<Item = EndpointId> {
        self.inner.secrets.iter().map(move |secret| secret.node_key(addr).public())
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Table> {
        self.inner.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Table> {
        self.inner.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn follow(&mut self, change: Change, members: &Members) {
        match change {
            Change::Known(addr) => self.by_id.extend(members.ids(addr).map(|id| (id, addr))),
            Change::Came(addr) => {
                self.owners.add(addr);
                self.resting.end(addr);
            }
            Change::Went(addr) => self.owners.remove(addr),
            Change::Refuted => {
                members.inner.refuted.fetch_add(1, Relaxed);
            }
            Change::Restarted(addr) => self.resting.end(addr),
            Change::Forgotten(addr) => {
                self.owners.remove(addr);
                self.resting.end(addr);
                self.seen.remove(&addr);
                for id in members.ids(addr) {
                    self.by_id.remove(&id);
                }
            }
        }
    }
}

/// An address as the table has it: IPv4 inside IPv6 counts as IPv4.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
