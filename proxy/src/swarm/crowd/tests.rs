//! The book of a crowd: each piece once, whoever dies, stalls or lies.

use proptest::prelude::*;

use super::{
    lease::FETCHERS,
    member::{STALLED, STALLED_ABROAD, STARVED},
    *,
};
use crate::{oci::digest::Digest, swarm::frame::Pieces};

const PIECE: u64 = 256 << 10;

fn addr(n: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 4500))
}

fn set(count: usize, indices: Range<usize>) -> FixedBitSet {
    let mut set = FixedBitSet::with_capacity(count);
    set.insert_range(indices);
    set
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
            served_by: String::new(),
            owner: self.owner,
        };
        let joined = crowd.join(self.addr, &join, false, 7, now).unwrap();
        self.fetching.extend(joined.lease.iter().chain(&joined.imports).cloned().flatten().map(|index| index as usize));
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
    let mut crowd = crowd(2, start);
    let (mut dies, mut lives) = (Node::new(1, 2), Node::new(2, 2));
    assert_eq!(dies.join(&mut crowd, start).lease, Some(0..1));
    dies.arrived();
    assert_eq!(lives.join(&mut crowd, start).lease, Some(1..2));
    lives.arrived();
    let soon = start + BUSY;
    assert_eq!(lives.join(&mut crowd, soon).lease, None, "the other has them and lives");
    let late = start + GRACE + BUSY * 3;
    assert_eq!(lives.join(&mut crowd, late).lease, Some(0..1));
}

/// That many who have nothing and ask for nothing.
fn onlookers(crowd: &mut Crowd, count: u16, now: Instant) {
    for n in 0..count {
        let mut onlooker = Node::new(10_000 + n, crowd.layout.count() as usize);
        onlooker.reach = Reach::No;
        onlooker.join(crowd, now);
    }
}

#[test]
fn where_reports_are_rare_what_only_one_is_known_to_have_is_leased_again_to_one_that_starves() {
    let now = Instant::now();
    for (others, holders, expected) in [(2_000, 1, Some(0..1)), (2_000, 2, None), (10, 1, None)] {
        let mut crowd = crowd(4, now);
        onlookers(&mut crowd, others, now);
        for n in 0..holders {
            let mut holder = Node::new(n, 4);
            // They lack the last one, and do not ask for it.
            (holder.reach, holder.held) = (Reach::No, set(4, 0..3));
            holder.join(&mut crowd, now);
        }
        let (mut takes_last, mut starves) = (Node::new(8, 4), Node::new(9, 4));
        takes_last.held = set(4, 1..3);
        assert_eq!(takes_last.join(&mut crowd, now).lease, Some(3..4));
        starves.held = set(4, 1..3);
        assert_eq!(starves.join(&mut crowd, now).lease, None);
        assert_eq!(starves.join(&mut crowd, now + STARVED).lease, expected, "{holders} of {others}");
    }
}

#[test]
fn who_was_just_granted_a_lease_in_a_large_crowd_is_to_be_heard_of_soon() {
    let now = Instant::now();
    let mut crowd = crowd(2, now);
    onlookers(&mut crowd, 2_000, now);
    let [mut dies, mut other, mut third] = [3_000, 3_001, 3_002].map(|n| Node::new(n, 2));
    let joined = dies.join(&mut crowd, now);
    assert_eq!((joined.lease, joined.again), (Some(0..1), BUSY.as_millis() as u32));
    assert_eq!(other.join(&mut crowd, now).lease, Some(1..2));
    let joined = third.join(&mut crowd, now);
    assert_eq!((joined.lease, joined.again), (None, 4_006), "nothing is left");
    other.join(&mut crowd, now + BUSY);
    assert_eq!(third.join(&mut crowd, now + BUSY * 2 + GRACE).lease, Some(0..1));
}

#[test]
fn a_lease_that_brings_nothing_becomes_anothers_although_its_lessee_reports() {
    let start = Instant::now();
    let mut crowd = crowd(4, start);
    let (mut stuck, mut waits) = (Node::new(1, 4), Node::new(2, 4));
    assert_eq!(stuck.join(&mut crowd, start).lease, Some(0..1));
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
    assert_eq!(taken, 0..1);
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
fn who_lags_takes_nothing_as_long_as_others_do() {
    let now = Instant::now();
    let mut crowd = crowd(100, now);
    let mut nodes: Vec<_> = (0..4).map(|n| Node::new(n, 100)).collect();
    // The first leases are too small to tell.
    for _ in 0..3 {
        for (node, rate) in nodes.iter_mut().zip([2_000_000, 80_000_000, 90_000_000, 100_000_000]) {
            assert!(node.join(&mut crowd, now).lease.is_some());
            node.reach = Reach::Ranges { rate };
        }
        nodes.iter_mut().for_each(Node::arrived);
    }
    for node in &mut nodes[1..] {
        assert!(node.join(&mut crowd, now).lease.is_some());
    }
    assert_eq!(nodes[0].join(&mut crowd, now).lease, None);
    for node in &mut nodes[1..] {
        node.arrived();
        node.reach = Reach::No;
        node.join(&mut crowd, now);
    }
    assert!(nodes[0].join(&mut crowd, now).lease.is_some(), "nobody else does");
}

#[test]
fn who_was_slow_when_all_were_is_not_left_out_for_two_that_were_quick_later() {
    let now = Instant::now();
    let mut crowd = crowd(400, now);
    let mut nodes: Vec<_> = (0..8).map(|n| Node::new(n, 400)).collect();
    for rate in [0, 600_000] {
        for node in &mut nodes {
            node.reach = Reach::Ranges { rate };
            assert!(node.join(&mut crowd, now).lease.is_some());
            node.arrived();
        }
    }
    for node in &mut nodes[..2] {
        node.reach = Reach::Ranges { rate: 10_000_000 };
        assert!(node.join(&mut crowd, now).lease.is_some());
    }
    for node in &mut nodes[2..] {
        assert!(node.join(&mut crowd, now).lease.is_some(), "most are as slow");
    }
}

#[test]
fn a_registry_without_ranges_is_asked_by_one_for_all() {
    let now = Instant::now();
    let mut crowd = crowd(50, now);
    let mut nodes: Vec<_> = (0..5).map(|n| Node::new(n, 50)).collect();
    nodes.iter_mut().for_each(|node| node.reach = Reach::Whole);
    let mut leases = nodes.iter_mut().filter_map(|node| node.join(&mut crowd, now).lease);
    assert_eq!((leases.next(), leases.next()), (Some(0..50), None));
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
fn the_first_lease_is_a_piece_and_the_next_are_larger_soonest_for_one_that_is_alone() {
    let now = Instant::now();
    for (others, expected) in [(0, [1, 4, 16, 16]), (1, [1, 2, 4, 8])] {
        let mut crowd = crowd(1000, now);
        onlookers(&mut crowd, others, now);
        let mut node = Node::new(1, 1000);
        let lengths = [(); 4].map(|()| {
            let lease = node.join(&mut crowd, now).lease.unwrap_or_default();
            node.arrived();
            lease.len()
        });
        assert_eq!(lengths, expected, "{others} others");
    }
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

/// Reports of an importer abroad, each so long after the last import came; how much it was granted each time.
fn imports(pauses: &[u64]) -> Vec<usize> {
    let mut now = Instant::now();
    let mut crowd = crowd(400, now);
    let mut seed = Node::new(0, 400);
    (seed.zone, seed.reach) = ("near", Reach::Ranges { rate: 10_000_000 });
    seed.held.insert_range(..);
    seed.join(&mut crowd, now);
    let mut far = Node::new(1, 400);
    (far.zone, far.reach) = ("far", Reach::No);
    let granted = pauses.iter().map(|pause| {
        now += Duration::from_millis(*pause);
        let imports = far.join(&mut crowd, now).imports.map_or(0, |pieces| pieces.len());
        far.arrived();
        imports
    });
    granted.collect()
}

#[test]
fn a_zone_that_imports_quickly_is_given_more_and_one_that_is_slow_less() {
    assert_eq!(imports(&[0, 100, 100, 100, 100]), [2, 4, 8, 16, 16]);
    assert_eq!(imports(&[0, 100, 100, 700, 2000, 2100, 2200, 100]), [2, 4, 8, 8, 4, 4, 2, 4]);
    assert_eq!(imports(&[0, 800, 900, 1100, 1700]), [2, 4, 8, 16, 8], "never faster than 800 ms");
    let largest = (LARGEST / PIECE) as usize;
    assert!(imports(&[100; 12]).iter().all(|pieces| *pieces <= largest));
}

#[test]
fn the_next_import_is_granted_when_the_last_has_nearly_come() {
    let now = Instant::now();
    let mut crowd = crowd(64, now);
    let (mut seed, mut far) = (Node::new(0, 64), Node::new(1, 64));
    (seed.zone, far.zone, far.reach) = ("near", "far", Reach::No);
    seed.held.insert_range(..);
    seed.join(&mut crowd, now);
    for pieces in [2, 4] {
        assert_eq!(far.join(&mut crowd, now).imports.map(|it| it.len()), Some(pieces));
        if pieces < 4 {
            far.arrived();
        }
    }
    let first = far.fetching.ones().next().unwrap();
    assert_eq!(far.join(&mut crowd, now).imports, None, "four are under way");
    far.held.extend(far.fetching.ones().filter(|piece| *piece > first));
    far.fetching = FixedBitSet::with_capacity(64);
    far.fetching.insert(first);
    assert!(far.join(&mut crowd, now).imports.is_some(), "one is");
}

#[test]
fn one_that_imports_is_told_of_two_abroad_who_have_it_within_the_bound_of_an_answer() {
    let now = Instant::now();
    let mut crowd = crowd(8, now);
    let mut seeds: Vec<_> = (0..20).map(|n| Node::new(n, 8)).collect();
    for (n, seed) in seeds.iter_mut().enumerate() {
        seed.zone = "near";
        // Most have nothing yet.
        if n >= 16 {
            seed.held.insert_range(..);
        }
        seed.join(&mut crowd, now);
    }
    let mut natives: Vec<_> = (20..40).map(|n| Node::new(n, 8)).collect();
    let mut imported = 0;
    for native in &mut natives {
        (native.zone, native.reach) = ("far", Reach::No);
        // The second time it has what it was to import, and others may.
        for _ in 0..2 {
            let joined = native.join(&mut crowd, now);
            let told = joined.neighbours.len();
            assert!(told <= MAX_PROVIDERS, "{told} is refused by the one who asked");
            if let Some(imports) = joined.imports {
                imported += imports.len();
                let known = &crowd.members[&native.addr].links;
                assert!((16..20).filter(|n| known.contains(&addr(*n))).count() >= 2, "{known:?}");
            }
            assert_eq!(joined.neighbours.iter().collect::<BTreeSet<_>>().len(), told, "each once");
            native.arrived();
        }
    }
    assert_eq!(imported, 8, "each piece once");
}

#[test]
fn a_zone_known_to_be_fast_that_does_not_begin_is_waited_for_until_the_slow_one_starves() {
    let now = Instant::now();
    let mut crowd = Crowd::new(Layout::new(64 * PIECE).unwrap(), 1, true, now);
    let (mut fast, mut slow) = (Node::new(0, 64), Node::new(1, 64));
    (fast.zone, fast.reach) = ("a", Reach::Ranges { rate: 10_000_000 });
    (slow.zone, slow.reach) = ("b", Reach::Ranges { rate: 1_000_000 });
    for node in [&mut fast, &mut slow] {
        assert_eq!(node.join(&mut crowd, now).lease, None, "a new owner listens first");
    }
    fast.reach = Reach::No;
    fast.join(&mut crowd, now + LISTEN);
    assert_eq!(slow.join(&mut crowd, now + LISTEN).lease, None);
    assert!(slow.join(&mut crowd, now + STARVED).lease.is_some());
}

#[test]
fn what_an_earlier_owner_granted_says_nothing_of_how_fast_a_zone_is() {
    let now = Instant::now();
    let mut crowd = Crowd::new(Layout::new(64 * PIECE).unwrap(), 1, true, now);
    let mut node = Node::new(0, 64);
    node.zone = "a";
    node.fetching.insert_range(..16);
    node.join(&mut crowd, now);
    node.arrived();
    assert_eq!(node.join(&mut crowd, now + LISTEN).lease, Some(16..17), "it shows it from here on");
    assert_eq!(crowd.zones["a"].taken.pace(), None);
    node.arrived();
    node.join(&mut crowd, now + LISTEN * 2);
    assert_eq!(crowd.zones["a"].taken.pace(), Some(2.0));
}

/// How much two zones are granted in turn, of which each lease takes so many milliseconds and shows that rate.
fn leases(took: [u64; 2], rates: [u64; 2]) -> [Vec<usize>; 2] {
    let start = Instant::now();
    let mut crowd = crowd(400, start);
    let mut nodes = [Node::new(0, 400), Node::new(1, 400)];
    (nodes[0].zone, nodes[1].zone) = ("a", "b");
    let mut granted = [Vec::new(), Vec::new()];
    for elapsed in 0..600 {
        for (n, node) in nodes.iter_mut().enumerate() {
            if elapsed % took[n] == 0 {
                node.arrived();
                if elapsed > 0 {
                    node.reach = Reach::Ranges { rate: rates[n] };
                }
                let joined = node.join(&mut crowd, start + Duration::from_millis(elapsed));
                granted[n].push(joined.lease.map_or(0, |lease| lease.len()));
            }
        }
    }
    granted
}

#[test]
fn a_zone_may_take_as_much_again_as_has_come_into_it() {
    let [a, b] = leases([100, 100], [10_000_000, 9_000_000]);
    assert_eq!((a, b), (vec![1, 1, 2, 4, 8, 16], vec![1, 1, 2, 4, 8, 16]), "both are about as fast");
}

#[test]
fn one_that_asks_beforehand_need_not_wait_until_its_own_lease_has_come() {
    let now = Instant::now();
    let mut crowd = crowd(64, now);
    let mut alone = Node::new(0, 64);
    alone.zone = "a";
    let mut taken = Vec::new();
    for _ in 0..5 {
        taken.push(alone.join(&mut crowd, now).lease.map_or(0, |lease| lease.len()));
        // All but the last piece.
        let last = alone.fetching.ones().next_back().unwrap();
        alone.arrived();
        alone.held.remove(last);
        alone.fetching.insert(last);
    }
    assert_eq!(taken, [1, 1, 1, 2, 4]);
}

#[test]
fn a_zone_into_which_far_less_comes_leaves_the_registry_to_the_other() {
    // A single lease of the narrow zone is as fast as one of the wide one.
    let [wide, narrow] = leases([50, 200], [10_000_000, 10_000_000]);
    assert_eq!(narrow, [1, 0, 0]);
    assert_eq!(wide[..5], [1, 1, 2, 4, 8]);
    // As much comes into it, and each lease takes longer.
    let [_, slow] = leases([100, 100], [10_000_000, 2_000_000]);
    assert_eq!(slow[..3], [1, 0, 0], "{slow:?}");
}

#[test]
fn a_zone_known_to_be_slow_takes_nothing_as_long_as_the_other_goes_on() {
    let now = Instant::now();
    let mut crowd = crowd(64, now);
    let (mut fast, mut slow) = (Node::new(0, 64), Node::new(1, 64));
    (fast.zone, fast.reach) = ("a", Reach::Ranges { rate: 10_000_000 });
    (slow.zone, slow.reach) = ("b", Reach::Ranges { rate: 4_000_000 });
    assert!(fast.join(&mut crowd, now).lease.is_some());
    assert_eq!(slow.join(&mut crowd, now).lease, None, "it was slow for another blob");
    let soon = now + STARVED / 2;
    fast.reach = Reach::No;
    fast.join(&mut crowd, soon);
    assert_eq!(slow.join(&mut crowd, soon).lease, None);
    fast.join(&mut crowd, now + STARVED);
    assert!(slow.join(&mut crowd, now + STARVED).lease.is_some(), "nothing comes from there");
}

#[test]
fn a_zone_whose_first_lease_brings_nothing_tries_another() {
    let now = Instant::now();
    let mut crowd = crowd(64, now);
    let (mut first, mut second) = (Node::new(0, 64), Node::new(1, 64));
    (first.zone, second.zone) = ("a", "a");
    assert_eq!(first.join(&mut crowd, now).lease, Some(0..1));
    assert_eq!(second.join(&mut crowd, now).lease, None, "that one shows it");
    assert_eq!(second.join(&mut crowd, now + STALLED_ABROAD + BUSY / 2).lease, Some(1..2), "it does not come on");
    // It failed, and is given back.
    first.fetching.clear();
    second.fetching.clear();
    let later = now + STALLED_ABROAD * 3;
    second.reach = Reach::No;
    second.join(&mut crowd, later);
    assert!(first.join(&mut crowd, later).lease.is_some(), "at once where its own has failed");
}

#[test]
fn what_a_member_abroad_is_slow_to_bring_is_leased_again() {
    let now = Instant::now();
    let mut crowd = crowd(8, now);
    let (mut near, mut far) = (Node::new(0, 8), Node::new(1, 8));
    (near.zone, far.zone) = ("near", "far");
    let taken = far.join(&mut crowd, now).lease.unwrap();
    near.reach = Reach::Ranges { rate: 10_000_000 };
    let mut others: Vec<u32> = Vec::new();
    for _ in 0..20 {
        others.extend(near.join(&mut crowd, now).lease.into_iter().flatten());
        near.arrived();
    }
    assert_eq!(others.len(), 7, "all but {taken:?}");
    far.reach = Reach::No;
    for seconds in 1..=3 {
        far.join(&mut crowd, now + Duration::from_secs(seconds));
    }
    assert_eq!(near.join(&mut crowd, now + Duration::from_secs(3)).lease, Some(taken));
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
    assert_eq!(crowd.members.len(), 200);
    assert!(degrees(&crowd).iter().all(|degree| *degree >= LINKS), "{:?}", degrees(&crowd));
}

proptest! {
    #[test]
    fn whatever_members_say_it_answers_within_its_bounds(
        words in proptest::collection::vec(
            (0..6u16, any::<[u64; 3]>(), 0..3u8, any::<u64>(), 0..4000u64, 0..2usize), 1..60,
        ),
    ) {
        let start = Instant::now();
        let mut crowd = crowd(60, start);
        let mut now = start;
        for (n, [held, fetching, unseen], reach, rate, pause, zone) in words {
            now += Duration::from_millis(pause);
            let set = |bits: u64| Pieces { size: 60 * PIECE, bits: Some(vec![bits]) };
            let registry = [Reach::No, Reach::Ranges { rate }, Reach::Whole][usize::from(reach)];
            let join = Join {
                blob: Digest::of(b"x"), size: 60 * PIECE, held: set(held), fetching: set(fetching), unseen: set(unseen),
                registry, zone: ["", "z"][zone].to_owned(), neighbours: n, owner: 0,
                served_by: String::new(),
            };
            let joined = crowd.join(addr(n), &join, false, 7, now).unwrap();
            for index in joined.lease.iter().chain(&joined.imports).cloned().flatten() {
                prop_assert!(index < 60 && unseen >> index & 1 == 1 && held >> index & 1 == 0);
            }
            prop_assert!(!joined.neighbours.contains(&addr(n)));
            prop_assert!(crowd.members.len() <= 6);
            let those = |fits: &dyn Fn(&Member) -> bool| -> BTreeSet<SocketAddr> {
                crowd.members.iter().filter(|(_, member)| fits(member)).map(|(addr, _)| *addr).collect()
            };
            prop_assert_eq!(&crowd.fetchers, &those(&Member::is_leasing));
            for (name, zone) in &crowd.zones {
                prop_assert_eq!(&zone.takers, &those(&|member| member.zone == *name && member.is_fetching()));
            }
        }
    }
}
