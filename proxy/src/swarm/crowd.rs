//! The owner's book of one blob that several members bring in at the same time: who takes which pieces from the registry,
//! who imports which into a zone, and who knows whom. No I/O, no clock of its own.
//!
//! A lease is a few pieces and is taken up at once; who has used most of one asks for the next. Every member tells
//! everything about itself each time, so this state may be lost: whoever owns the digest next knows it again after one
//! round of questions, and grants nothing before that.

mod import;
mod lease;
mod member;
#[cfg(test)]
mod tests;
mod zone;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    ops::Range,
    time::{Duration, Instant},
};

use fixedbitset::FixedBitSet;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use self::{member::Member, zone::Zone};
use super::frame::{Join, Joined, MAX_PROVIDERS, Reach};
use crate::store::piece::Layout;

/// Everybody knows everybody up to this size of a crowd.
const MESH: usize = 16;
/// Neighbours that a member is given in a larger one. A link counts for both ends, so that the mean is about twenty.
pub(super) const LINKS: usize = 10;
/// One that has so many links is given no more. It has to be well above the mean: if all early members were full, later ones
/// would only know each other, and pieces would go through the crowd hand to hand.
const FULL: usize = 24;
/// The largest lease, in bytes. A registry that reads ahead for each request pays for smaller ones.
const LARGEST: u64 = 4 << 20;
/// Members that take pieces report this often.
const BUSY: Duration = Duration::from_millis(250);
/// All members together report this often in a second, at most about.
const REPORTS: u32 = 500;
/// Nobody is left out longer than this.
const RARELY: Duration = Duration::from_secs(10);
/// A member that missed its time by this much is gone.
const GRACE: Duration = Duration::from_secs(2);
/// A member that says that the registry is faster than this, in bytes per second, is not believed: rates are added up.
const FASTEST: u64 = 1 << 40;
/// One that has all stays in the book for so long, for members in other zones, which cannot see that it has.
const SEEDS: Duration = Duration::from_secs(600);
/// How long a new owner listens before it grants.
const LISTEN: Duration = Duration::from_millis(500);

/// The members that bring one blob.
#[derive(Debug)]
pub(crate) struct Crowd {
    layout: Layout,
    members: HashMap<SocketAddr, Member>,
    zones: BTreeMap<String, Zone>,
    /// Members that take from the registry now.
    fetchers: BTreeSet<SocketAddr>,
    /// Nobody is gone before.
    soonest: Instant,
    /// A member got nothing for too long of what somebody should have whole: its holders are gone, or cannot be reached.
    starved: bool,
    /// Grants nothing before: members of an older crowd are still being learned of.
    listens_until: Option<Instant>,
    random: StdRng,
}

impl Crowd {
    /// An empty crowd, with the seed of its choices. `followed` says that there was an owner before.
    pub(crate) fn new(layout: Layout, seed: u64, followed: bool, now: Instant) -> Self {
        let listens_until = followed.then(|| now + LISTEN);
        Self {
            layout,
            members: HashMap::new(),
            zones: BTreeMap::new(),
            fetchers: BTreeSet::new(),
            soonest: now,
            starved: false,
            listens_until,
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// Whether nobody is left in it.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.members.values().all(|member| member.due <= now)
    }

    /// What it takes in memory, in bytes, about: three sets of pieces for each member and what is around them.
    pub(crate) fn weight(&self) -> usize {
        self.members.len() * (3 * self.layout.count().div_ceil(8) as usize + 512)
    }

    /// `from` tells how it stands; what it may do. `overrun` says that somebody has all of it, and that more asked for it than
    /// were told of whom. `None` when it speaks of a blob of another size.
    pub(crate) fn join(
        &mut self,
        from: SocketAddr,
        join: &Join,
        overrun: bool,
        epoch: u64,
        now: Instant,
    ) -> Option<Joined> {
        if join.size != self.layout.size() {
            return None;
        }
        let (held, fetching) = (join.held.to_set()?, join.fetching.to_set()?);
        let mut unseen = join.unseen.to_set()?;
        unseen.difference_with(&held);
        unseen.difference_with(&fetching);
        self.forget(now);
        self.note(from, join, held, fetching, now);
        let (lease, imports) = match self.listens_until {
            Some(until) if now < until => (None, None),
            _ => {
                let spared = overrun && self.spares(from, &join.zone, now);
                let lease = if spared { None } else { self.lease(from, join.registry, &unseen, now) };
                (lease, self.import(from, &unseen, now))
            }
        };
        let mut neighbours = imports.as_ref().map_or(Vec::new(), |it| self.abroad(from, it.start as usize));
        let room = MAX_PROVIDERS - neighbours.len();
        neighbours.extend(self.introduce(from, usize::from(join.neighbours), room));
        if let Some(member) = self.members.get_mut(&from) {
            for piece in lease.iter().chain(&imports).cloned().flatten() {
                member.granted.insert(piece as usize);
                member.granted_at = now;
            }
            if lease.is_some() {
                member.leases += 1;
                self.zones.get_mut(&join.zone).into_iter().for_each(|zone| zone.taken.begin(now));
            }
            if let Some(imports) = &imports {
                member.imports.extend(imports.clone().map(|piece| (piece as usize, now)));
            }
        }
        // Whoever was just granted something is to be heard of soon: it may die with it.
        let again = self.again(from, now);
        if let Some(member) = self.members.get_mut(&from) {
            member.due = now + if member.held.is_full() { SEEDS } else { again * 2 + GRACE };
            self.soonest = self.soonest.min(member.due);
        }
        self.note_taker(from);
        Some(Joined { lease, imports, neighbours, again: again.as_millis() as u32, owner: epoch })
    }

    /// Whether `from` leaves the registry alone, because it will have all from others: those who were told of a holder.
    fn spares(&mut self, from: SocketAddr, zone: &str, now: Instant) -> bool {
        // Where there are zones, that somebody has it in another one is no help.
        if !zone.is_empty() && self.zones.get(zone).is_none_or(|zone| zone.whole == 0) {
            return false;
        }
        let grows = self.members.get(&from).is_some_and(|member| !member.starves(now));
        // For good: what a lease brings then is no sign of a holder.
        self.starved |= !grows;
        !self.starved
    }

    fn forget(&mut self, now: Instant) {
        if now < self.soonest {
            return;
        }
        let gone: Vec<_> = self.members.iter().filter(|(_, member)| member.due <= now).map(|(addr, _)| *addr).collect();
        for addr in gone {
            self.remove(addr);
        }
        self.soonest = self.members.values().map(|member| member.due).min().unwrap_or(now);
    }

    fn remove(&mut self, addr: SocketAddr) {
        let Some(member) = self.members.remove(&addr) else { return };
        self.fetchers.remove(&addr);
        if let Some(zone) = self.zones.get_mut(&member.zone) {
            zone.leave(addr, &member.held);
            zone.gives(member.rate, 0);
            if zone.len() == 0 {
                self.zones.remove(&member.zone);
            }
        }
        for link in member.links {
            if let Some(other) = self.members.get_mut(&link) {
                other.links.remove(&addr);
            }
        }
    }

    fn note_taker(&mut self, addr: SocketAddr) {
        let Some(member) = self.members.get(&addr) else { return };
        let mark = |set: &mut BTreeSet<SocketAddr>, is: bool| if is { set.insert(addr) } else { set.remove(&addr) };
        mark(&mut self.fetchers, member.is_leasing());
        if let Some(zone) = self.zones.get_mut(&member.zone) {
            mark(&mut zone.takers, member.is_fetching());
        }
    }

    fn note(&mut self, from: SocketAddr, join: &Join, held: FixedBitSet, fetching: FixedBitSet, now: Instant) {
        let count = self.layout.count() as usize;
        if self.members.get(&from).is_some_and(|member| member.zone != join.zone) {
            self.remove(from);
        }
        let zone = self.zones.entry(join.zone.clone()).or_insert_with(|| Zone::new(count));
        if !self.members.contains_key(&from) {
            zone.enter(from);
        }
        let member = self.members.entry(from).or_insert_with(|| Member {
            zone: join.zone.clone(),
            held: FixedBitSet::with_capacity(count),
            fetching: FixedBitSet::with_capacity(count),
            granted: FixedBitSet::with_capacity(count),
            granted_at: now,
            leases: 0,
            imports: BTreeMap::new(),
            rate: 0,
            links: BTreeSet::new(),
            progress: now,
            grew: now,
            due: now + GRACE,
        });
        if member.held != held {
            member.grew = now;
        }
        zone.taken.came(member.leased().intersection(&held).count(), now);
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
        // Held now, or given back.
        let mut awaited = fetching.clone();
        awaited.union_with(&member.granted);
        member.imports.retain(|piece, since| {
            if held.contains(*piece) {
                zone.imports.came(now.saturating_duration_since(*since), now);
                return false;
            }
            awaited.contains(*piece)
        });
        zone.holds(&member.held, &held);
        (member.held, member.fetching) = (held, fetching);
        if let Reach::Ranges { rate } = join.registry {
            let rate = rate.min(FASTEST);
            zone.gives(member.rate, rate);
            member.rate = rate;
        }
        self.note_taker(from);
    }

    /// What so many members have or one is about to have, for one who asks from the zone `asker`: all over, or in one zone.
    fn claimed(&self, asker: &str, zone: Option<&str>, holders: u32, now: Instant) -> FixedBitSet {
        let mut claimed = FixedBitSet::with_capacity(self.layout.count() as usize);
        for (name, members) in self.zones.iter().filter(|(name, _)| zone.is_none_or(|zone| *name == zone)) {
            members.add_parts(&mut claimed, holders);
            // One that has all no longer reports. Its neighbours see what it has; the owner could not tell if it died.
            if members.whole > 0 && name != asker {
                claimed.insert_range(..);
            }
            for taker in members.takers.iter().filter_map(|addr| self.members.get(addr)) {
                if taker.is_awaited(asker, self.layout.piece_size(), now) {
                    claimed.union_with(&taker.fetching);
                    claimed.union_with(&taker.granted);
                }
            }
        }
        claimed
    }

    fn pieces(&self, bytes: u64) -> usize {
        (bytes / self.layout.piece_size()).max(1) as usize
    }

    /// Neighbours for one that has so many, and no more than there is `room` for: of its zone where there are any, and any of them with the same chance, so that
    /// it is few steps from everybody to everybody.
    fn introduce(&mut self, from: SocketAddr, has: usize, room: usize) -> Vec<SocketAddr> {
        let wanted = if self.members.len() <= MESH + 1 { MESH } else { LINKS };
        let Self { members, zones, random, .. } = self;
        let Some(member) = members.get(&from) else { return Vec::new() };
        // Links that it was told of and has not are with nodes that it could not reach.
        let amount = wanted.saturating_sub(has.min(member.links.len())).min(room);
        if amount == 0 {
            return Vec::new();
        }
        let mut chosen: Vec<SocketAddr> = Vec::new();
        let own = zones.get_mut(&member.zone).into_iter();
        let mut near: Vec<&mut Zone> = own.collect();
        for full in [FULL, usize::MAX] {
            for zone in &mut near {
                let more = zone.some(amount - chosen.len(), random, |addr| {
                    let links = members.get(addr).map_or(usize::MAX, |other| other.links.len());
                    *addr != from && links < full && !member.links.contains(addr) && !chosen.contains(addr)
                });
                chosen.extend(more);
            }
        }
        let mut far: Vec<&mut Zone> =
            zones.iter_mut().filter(|(name, _)| **name != member.zone).map(|(_, zone)| zone).collect();
        while chosen.len() < amount && !far.is_empty() {
            let at = random.random_range(0..far.len());
            let one = far[at].some(1, random, |addr| !member.links.contains(addr) && !chosen.contains(addr));
            if one.is_empty() {
                far.swap_remove(at);
            }
            chosen.extend(one);
        }
        self.link(from, &chosen);
        chosen
    }

    fn link(&mut self, one: SocketAddr, others: &[SocketAddr]) {
        for other in others {
            for (from, to) in [(one, *other), (*other, one)] {
                if let Some(member) = self.members.get_mut(&from) {
                    member.links.insert(to);
                }
            }
        }
    }

    fn again(&self, from: SocketAddr, now: Instant) -> Duration {
        let listening = self.listens_until.is_some_and(|until| now < until);
        let busy = self.members.get(&from).is_some_and(Member::is_fetching);
        if busy || listening {
            return BUSY;
        }
        self.pace()
    }

    /// How far the reports of one that takes nothing are apart.
    fn pace(&self) -> Duration {
        (Duration::from_secs(1) * self.members.len() as u32 / REPORTS).clamp(BUSY, RARELY)
    }
}

/// The first run of pieces in a set, of at most so many.
fn run(set: &FixedBitSet, most: usize) -> Option<Range<u32>> {
    let first = set.ones().next()?;
    let length = (first..set.len()).take_while(|piece| set.contains(*piece)).take(most).count();
    Some(first as u32..(first + length) as u32)
}
