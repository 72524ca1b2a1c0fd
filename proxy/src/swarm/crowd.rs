//! The owner's book of one blob that several members bring in at the same time: who takes which pieces from the registry,
//! who imports which into a zone, and who knows whom. No I/O, no clock of its own.
//!
//! A lease is a few pieces and is taken up at once; who has used most of one asks for the next. Every member tells
//! everything about itself each time, so this state may be lost: whoever owns the digest next knows it again after one
//! round of questions, and grants nothing before that.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    ops::Range,
    time::{Duration, Instant},
};

use fixedbitset::FixedBitSet;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::frame::{Join, Joined, MAX_PROVIDERS, Reach};
use crate::store::piece::Layout;

/// Members that take from the registry at a time.
const FETCHERS: usize = 16;
/// Everybody knows everybody up to this size of a crowd.
const MESH: usize = 16;
/// Neighbours that a member is given in a larger one. A link counts for both ends, so that the mean is about ten.
const LINKS: usize = 5;
/// The largest lease, in bytes. A registry that reads ahead for each request pays for smaller ones.
const LARGEST: u64 = 4 << 20;
/// What the first lease of a member may be, and an import, in bytes.
const FIRST: u64 = 2 << 20;
/// Towards the end leases become smaller, down to this, in bytes.
const LEAST: u64 = 512 << 10;
/// Members that take pieces report this often.
const BUSY: Duration = Duration::from_millis(250);
/// All members together report this often in a second, at most about.
const REPORTS: u32 = 500;
/// Nobody is left out longer than this.
const RARELY: Duration = Duration::from_secs(10);
/// A member that missed its time by this much is gone.
const GRACE: Duration = Duration::from_secs(2);
/// A lease of which no piece came for so long is somebody else's, although its lessee reports. It gives up far sooner
/// where no byte comes; only it can see those.
const STALLED: Duration = Duration::from_secs(30);
/// One that has all stays in the book for so long, for members in other zones, which cannot see that it has.
const SEEDS: Duration = Duration::from_secs(600);
/// How long a new owner listens before it grants.
const LISTEN: Duration = Duration::from_millis(500);
/// A zone whose registry is this many times slower than the fastest one's leaves the registry to that.
const SLOWER: u64 = 2;

/// The members that bring one blob.
#[derive(Debug)]
pub(crate) struct Crowd {
    layout: Layout,
    members: BTreeMap<SocketAddr, Member>,
    /// Grants nothing before: members of an older crowd are still being learned of.
    listens_until: Option<Instant>,
    random: StdRng,
}

#[derive(Debug)]
struct Member {
    zone: String,
    held: FixedBitSet,
    fetching: FixedBitSet,
    /// Granted, and not seen in a report yet; since when.
    granted: FixedBitSet,
    granted_at: Instant,
    leases: u32,
    /// Bytes per second from the registry, 0 before it is known.
    rate: u64,
    links: BTreeSet<SocketAddr>,
    /// When it last had more than before.
    progress: Instant,
    due: Instant,
}

impl Crowd {
    /// An empty crowd, with the seed of its choices. `followed` says that there was an owner before.
    pub(crate) fn new(layout: Layout, seed: u64, followed: bool, now: Instant) -> Self {
        let listens_until = followed.then(|| now + LISTEN);
        Self { layout, members: BTreeMap::new(), listens_until, random: StdRng::seed_from_u64(seed) }
    }

    /// Whether nobody is left in it.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.members.values().all(|member| member.due <= now)
    }

    /// What it takes in memory, in bytes, about: three sets of pieces for each member and what is around them.
    pub(crate) fn weight(&self) -> usize {
        self.members.len() * (3 * self.layout.count().div_ceil(8) as usize + 512)
    }

    /// `from` tells how it stands; what it may do. `None` when it speaks of a blob of another size.
    pub(crate) fn join(&mut self, from: SocketAddr, join: &Join, epoch: u64, now: Instant) -> Option<Joined> {
        if join.size != self.layout.size() {
            return None;
        }
        let (held, fetching) = (join.held.to_set()?, join.fetching.to_set()?);
        let mut unseen = join.unseen.to_set()?;
        unseen.difference_with(&held);
        unseen.difference_with(&fetching);
        self.forget(now);
        self.note(from, join, held, fetching, now);
        let neighbours = self.introduce(from, usize::from(join.neighbours));
        let (lease, imports) = match self.listens_until {
            Some(until) if now < until => (None, None),
            _ => (self.lease(from, join.registry, &unseen, now), self.import(from, &unseen, now)),
        };
        let again = self.again(from, now);
        if let Some(member) = self.members.get_mut(&from) {
            for piece in lease.iter().chain(&imports).cloned().flatten() {
                member.granted.insert(piece as usize);
                member.granted_at = now;
            }
            member.leases += u32::from(lease.is_some());
            member.due = now + if member.held.is_full() { SEEDS } else { again * 2 + GRACE };
        }
        Some(Joined { lease, imports, neighbours, again: again.as_millis() as u32, owner: epoch })
    }

    fn forget(&mut self, now: Instant) {
        let gone: Vec<_> = self.members.iter().filter(|(_, member)| member.due <= now).map(|(addr, _)| *addr).collect();
        for addr in gone {
            self.members.remove(&addr);
            for member in self.members.values_mut() {
                member.links.remove(&addr);
            }
        }
    }

    fn note(&mut self, from: SocketAddr, join: &Join, held: FixedBitSet, fetching: FixedBitSet, now: Instant) {
        let count = self.layout.count() as usize;
        let member = self.members.entry(from).or_insert_with(|| Member {
            zone: join.zone.clone(),
            held: FixedBitSet::with_capacity(count),
            fetching: FixedBitSet::with_capacity(count),
            granted: FixedBitSet::with_capacity(count),
            granted_at: now,
            leases: 0,
            rate: 0,
            links: BTreeSet::new(),
            progress: now,
            due: now + GRACE,
        });
        // What it got from its neighbours says nothing about its leases.
        if !member.is_fetching() || !member.fetching.is_disjoint(&held) || !member.granted.is_disjoint(&held) {
            member.progress = now;
        }
        member.granted.difference_with(&held);
        member.granted.difference_with(&fetching);
        // It was answered and says nothing of it: it never got the answer, or gave the lease back.
        if now.saturating_duration_since(member.granted_at) > BUSY * 2 {
            member.granted.clear();
        }
        (member.held, member.fetching) = (held, fetching);
        if let Reach::Ranges { rate } = join.registry {
            member.rate = rate;
        }
        member.zone.clone_from(&join.zone);
    }

    /// What somebody has or is about to have, for one who asks from the zone `asker`: all over, or in one zone.
    fn claimed(&self, asker: &str, zone: Option<&str>, now: Instant) -> FixedBitSet {
        let mut claimed = FixedBitSet::with_capacity(self.layout.count() as usize);
        for member in self.members.values().filter(|member| zone.is_none_or(|zone| member.zone == zone)) {
            // One that has all no longer reports. Its neighbours see what it has; the owner could not tell if it died.
            if !member.held.is_full() || member.zone != asker {
                claimed.union_with(&member.held);
            }
            if now.saturating_duration_since(member.progress) <= STALLED {
                claimed.union_with(&member.fetching);
                claimed.union_with(&member.granted);
            }
        }
        claimed
    }

    fn lease(&self, from: SocketAddr, reach: Reach, unseen: &FixedBitSet, now: Instant) -> Option<Range<u32>> {
        let member = self.members.get(&from)?;
        let mut free = unseen.clone();
        free.difference_with(&self.claimed(&member.zone, None, now));
        let fetchers = self.members.values().filter(|member| member.is_fetching()).count();
        match reach {
            Reach::Whole if fetchers == 0 || member.is_fetching() => run(&free, usize::MAX),
            Reach::Ranges { .. } if fetchers < FETCHERS || member.is_fetching() => {
                let largest = self.largest(member)?;
                let fair = free.count_ones(..) / (2 * fetchers.max(1));
                run(&free, fair.max(self.pieces(LEAST)).min(largest))
            }
            _ => None,
        }
    }

    fn pieces(&self, bytes: u64) -> usize {
        (bytes / self.layout.piece_size()).max(1) as usize
    }

    /// The most pieces of one lease to `member`; `None` when its zone leaves the registry to another.
    fn largest(&self, member: &Member) -> Option<usize> {
        let largest = self.pieces((FIRST << member.leases.min(1)).min(LARGEST));
        let (here, abroad): (Vec<_>, Vec<_>) = self.members.values().partition(|other| other.zone == member.zone);
        if abroad.is_empty() {
            return Some(largest);
        }
        let fastest = |zone: &[&Member]| zone.iter().map(|member| member.rate).max().unwrap_or_default();
        match (fastest(&here), fastest(&abroad)) {
            // One piece shows how fast the registry is from here.
            (0, _) => here.iter().all(|other| other.leases == 0).then_some(1),
            (own, other) => (other / own < SLOWER).then_some(largest),
        }
    }

    /// What another zone has, and this one neither has nor awaits.
    fn import(&self, from: SocketAddr, unseen: &FixedBitSet, now: Instant) -> Option<Range<u32>> {
        let member = self.members.get(&from)?;
        let mut free = FixedBitSet::with_capacity(unseen.len());
        for other in self.members.values().filter(|other| other.zone != member.zone) {
            free.union_with(&other.held);
        }
        free.intersect_with(unseen);
        free.difference_with(&self.claimed(&member.zone, Some(&member.zone), now));
        let here = self.members.values().filter(|other| other.zone == member.zone && !other.held.is_full()).count();
        let fair = free.count_ones(..) / (4 * here.max(1));
        run(&free, fair.clamp(1, self.pieces(FIRST)))
    }

    /// Neighbours for one that has so many: those with the fewest first, so that all have about the same number.
    fn introduce(&mut self, from: SocketAddr, has: usize) -> Vec<SocketAddr> {
        let wanted = if self.members.len() <= MESH + 1 { MESH } else { LINKS };
        let Some(member) = self.members.get(&from) else { return Vec::new() };
        // Links that it was told of and has not are with nodes that it could not reach.
        let amount = wanted.saturating_sub(has.min(member.links.len())).min(MAX_PROVIDERS);
        let zone = &member.zone;
        let strangers = self.members.iter().filter(|(addr, _)| **addr != from && !member.links.contains(addr));
        let mut others: Vec<_> = strangers
            .map(|(addr, other)| (other.zone != *zone, other.links.len(), self.random.random::<u32>(), *addr))
            .collect();
        others.sort_unstable();
        let chosen: Vec<_> = others.into_iter().take(amount).map(|(.., addr)| addr).collect();
        for addr in &chosen {
            if let Some(other) = self.members.get_mut(addr) {
                other.links.insert(from);
            }
            if let Some(member) = self.members.get_mut(&from) {
                member.links.insert(*addr);
            }
        }
        chosen
    }

    fn again(&self, from: SocketAddr, now: Instant) -> Duration {
        let listening = self.listens_until.is_some_and(|until| now < until);
        let busy = self.members.get(&from).is_some_and(Member::is_fetching);
        if busy || listening {
            return BUSY;
        }
        (Duration::from_secs(1) * self.members.len() as u32 / REPORTS).clamp(BUSY, RARELY)
    }
}

impl Member {
    fn is_fetching(&self) -> bool {
        !self.fetching.is_clear() || !self.granted.is_clear()
    }
}

/// The first run of pieces in a set, of at most so many.
fn run(set: &FixedBitSet, most: usize) -> Option<Range<u32>> {
    let first = set.ones().next()?;
    let length = (first..set.len()).take_while(|piece| set.contains(*piece)).take(most).count();
    Some(first as u32..(first + length) as u32)
}
