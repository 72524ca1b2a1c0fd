//! The owner's book of one blob that several members bring in at the same time: who takes which pieces from the registry,
//! who imports which into a zone, and who knows whom. No I/O, no clock of its own.
//!
//! A lease is a few pieces and is taken up at once; who has used most of one asks for the next. Every member tells
//! everything about itself each time, so this state may be lost: whoever owns the digest next knows it again after one
//! round of questions, and grants nothing before that.

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

    /// How many are in it.
    pub(crate) fn len(&self) -> usize {
        self.members.len()
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
            member.due = now + again * 2 + GRACE;
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

    /// What somebody has or is about to have: all over, or in one zone.
    fn claimed(&self, zone: Option<&str>, now: Instant) -> FixedBitSet {
        let mut claimed = FixedBitSet::with_capacity(self.layout.count() as usize);
        for member in self.members.values().filter(|member| zone.is_none_or(|zone| member.zone == zone)) {
            claimed.union_with(&member.held);
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
        free.difference_with(&self.claimed(None, now));
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
        free.difference_with(&self.claimed(Some(&member.zone), now));
        let here = self.members.values().filter(|other| other.zone == member.zone).count();
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{oci::digest::Digest, swarm::frame::Pieces};

    const PIECE: u64 = 256 << 10;

    fn addr(n: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 4500))
    }

    /// One member, as it would tell of itself.
    struct Node {
        addr: SocketAddr,
        held: FixedBitSet,
        fetching: FixedBitSet,
        zone: &'static str,
        neighbours: usize,
        owner: u64,
        reach: Reach,
    }

    impl Node {
        fn new(n: u16, count: usize) -> Self {
            let none = FixedBitSet::with_capacity(count);
            let reach = Reach::Ranges { rate: 0 };
            Self { addr: addr(n), held: none.clone(), fetching: none, zone: "", neighbours: 0, owner: 0, reach }
        }

        fn join(&mut self, crowd: &mut Crowd, now: Instant) -> Joined {
            let size = self.held.len() as u64 * PIECE;
            let mut unseen = self.held.clone();
            unseen.toggle_range(..);
            unseen.difference_with(&self.fetching);
            let pieces = |set: &FixedBitSet| Pieces::some(size, set);
            let join = Join {
                blob: Digest::of(b"x"),
                size,
                held: pieces(&self.held),
                fetching: pieces(&self.fetching),
                unseen: pieces(&unseen),
                registry: self.reach,
                zone: self.zone.to_owned(),
                neighbours: self.neighbours as u16,
                owner: self.owner,
            };
            let joined = crowd.join(self.addr, &join, 7, now).unwrap();
            self.fetching
                .extend(joined.lease.iter().chain(&joined.imports).cloned().flatten().map(|index| index as usize));
            self.neighbours += joined.neighbours.len();
            self.owner = joined.owner;
            joined
        }

        fn arrived(&mut self) {
            self.held.union_with(&self.fetching);
            self.fetching.clear();
        }
    }

    fn crowd(count: u64, now: Instant) -> Crowd {
        Crowd::new(Layout::new(count * PIECE).unwrap(), 1, false, now)
    }

    #[test]
    fn each_piece_is_leased_once_while_its_lessee_lives() {
        let now = Instant::now();
        let mut crowd = crowd(100, now);
        let mut nodes: Vec<_> = (0..8).map(|n| Node::new(n, 100)).collect();
        let mut leased = Vec::new();
        for _ in 0..40 {
            for node in &mut nodes {
                leased.extend(node.join(&mut crowd, now).lease.into_iter().flatten());
                node.arrived();
            }
        }
        leased.sort_unstable();
        assert_eq!(leased, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn what_a_dead_lessee_had_is_leased_again_and_what_others_have_is_not() {
        let start = Instant::now();
        let mut crowd = crowd(4, start);
        let (mut dies, mut lives) = (Node::new(1, 4), Node::new(2, 4));
        assert_eq!(dies.join(&mut crowd, start).lease, Some(0..2));
        dies.arrived();
        assert_eq!(lives.join(&mut crowd, start).lease, Some(2..4));
        lives.arrived();
        let soon = start + BUSY;
        assert_eq!(lives.join(&mut crowd, soon).lease, None, "the other has them and lives");
        let late = start + GRACE + BUSY * 3;
        assert_eq!(lives.join(&mut crowd, late).lease, Some(0..2));
    }

    #[test]
    fn a_lease_that_brings_nothing_becomes_anothers_although_its_lessee_reports() {
        let start = Instant::now();
        let mut crowd = crowd(4, start);
        let (mut stuck, mut waits) = (Node::new(1, 4), Node::new(2, 4));
        assert_eq!(stuck.join(&mut crowd, start).lease, Some(0..2));
        stuck.reach = Reach::No;
        let mut now = start;
        let taken = loop {
            now += BUSY;
            stuck.join(&mut crowd, now);
            if let Some(lease) = waits.join(&mut crowd, now).lease.filter(|lease| lease.start == 0) {
                break lease;
            }
            waits.arrived();
            assert!(now < start + STALLED * 3, "never");
        };
        assert_eq!(taken, 0..2);
        assert!(now >= start + STALLED);
    }

    #[test]
    fn a_new_owner_listens_before_it_grants_what_others_may_have() {
        let start = Instant::now();
        let mut crowd = Crowd::new(Layout::new(4 * PIECE).unwrap(), 1, true, start);
        let (mut first, mut second) = (Node::new(1, 4), Node::new(2, 4));
        second.held.insert_range(0..3);
        assert_eq!(first.join(&mut crowd, start).lease, None);
        assert_eq!(second.join(&mut crowd, start + BUSY).lease, None);
        assert_eq!(first.join(&mut crowd, start + LISTEN).lease, Some(3..4));
    }

    #[test]
    fn a_registry_without_ranges_is_asked_by_one_for_all() {
        let now = Instant::now();
        let mut crowd = crowd(50, now);
        let mut nodes: Vec<_> = (0..5).map(|n| Node::new(n, 50)).collect();
        nodes.iter_mut().for_each(|node| node.reach = Reach::Whole);
        let leases: Vec<_> = nodes.iter_mut().filter_map(|node| node.join(&mut crowd, now).lease).collect();
        assert_eq!(leases, [0..50]);
    }

    #[test]
    fn a_crowd_that_may_not_ask_is_granted_nothing() {
        let now = Instant::now();
        let mut crowd = crowd(4, now);
        let mut limited = Node::new(1, 4);
        limited.reach = Reach::No;
        assert_eq!(limited.join(&mut crowd, now).lease, None);
    }

    #[test]
    fn at_most_so_many_take_from_the_registry_at_a_time() {
        let now = Instant::now();
        let mut crowd = crowd(1000, now);
        let granted = (0..40).filter(|n| Node::new(*n, 1000).join(&mut crowd, now).lease.is_some()).count();
        assert_eq!(granted, FETCHERS);
    }

    #[test]
    fn each_piece_goes_into_a_zone_once_and_the_far_registry_is_left_to_the_near() {
        let now = Instant::now();
        let mut crowd = crowd(64, now);
        let mut nodes: Vec<_> = (0..6).map(|n| Node::new(n, 64)).collect();
        for (n, node) in nodes.iter_mut().enumerate() {
            node.zone = if n % 2 == 0 { "near" } else { "far" };
            node.reach = Reach::Ranges { rate: if n % 2 == 0 { 10_000_000 } else { 1_000_000 } };
        }
        let (mut into_far, mut leased_far) = (Vec::new(), 0);
        for _ in 0..60 {
            for node in &mut nodes {
                let joined = node.join(&mut crowd, now);
                if node.zone == "far" {
                    into_far.extend(joined.imports.into_iter().flatten());
                    leased_far += joined.lease.map_or(0, |lease| lease.len());
                } else {
                    assert_eq!(joined.imports.into_iter().flatten().count(), 0);
                }
                node.arrived();
            }
        }
        into_far.sort_unstable();
        assert_eq!(leased_far, 0);
        assert_eq!(into_far, (0..64).collect::<Vec<_>>());
    }

    #[test]
    fn a_large_crowd_is_nearly_regular_and_is_mended() {
        let mut now = Instant::now();
        let mut crowd = crowd(8, now);
        let mut nodes: Vec<_> = (0..300).map(|n| Node::new(n, 8)).collect();
        for node in &mut nodes {
            node.join(&mut crowd, now);
        }
        let degrees = |crowd: &Crowd| crowd.members.values().map(|member| member.links.len()).collect::<Vec<_>>();
        let all = degrees(&crowd);
        assert!(all.iter().all(|degree| (LINKS..=2 * LINKS + 12).contains(degree)), "{all:?}");
        // A third goes away; those that miss neighbours are given others.
        nodes.truncate(200);
        for _ in 0..4 {
            now += GRACE / 2;
            for node in &mut nodes {
                let links = crowd.members.get(&node.addr).map(|member| member.links.clone()).unwrap_or_default();
                node.neighbours = links.iter().filter(|link| (0..200).any(|n| addr(n) == **link)).count();
                node.join(&mut crowd, now);
            }
        }
        assert_eq!(crowd.len(), 200);
        assert!(degrees(&crowd).iter().all(|degree| *degree >= LINKS), "{:?}", degrees(&crowd));
    }

    proptest! {
        #[test]
        fn whatever_members_say_it_answers_within_its_bounds(
            words in proptest::collection::vec((0..6u16, any::<[u64; 3]>(), 0..3u8, 0..4000u64), 1..60),
        ) {
            let start = Instant::now();
            let mut crowd = crowd(60, start);
            let mut now = start;
            for (n, [held, fetching, unseen], reach, pause) in words {
                now += Duration::from_millis(pause);
                let set = |bits: u64| Pieces { size: 60 * PIECE, bits: Some(vec![bits]) };
                let registry = [Reach::No, Reach::Ranges { rate: u64::from(n) }, Reach::Whole][usize::from(reach)];
                let join = Join {
                    blob: Digest::of(b"x"), size: 60 * PIECE, held: set(held), fetching: set(fetching), unseen: set(unseen),
                    registry, zone: ["", "z"][usize::from(n % 2)].to_owned(), neighbours: n, owner: 0,
                };
                let joined = crowd.join(addr(n), &join, 7, now).unwrap();
                for index in joined.lease.iter().chain(&joined.imports).cloned().flatten() {
                    prop_assert!(index < 60 && unseen >> index & 1 == 1 && held >> index & 1 == 0);
                }
                prop_assert!(!joined.neighbours.contains(&addr(n)));
                prop_assert!(crowd.len() <= 6);
            }
        }
    }
}
