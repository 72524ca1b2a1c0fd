//! Books are bounded, forgotten in time, and name nobody too often.

use fixedbitset::FixedBitSet;

use super::*;
use crate::swarm::frame::{Holding, Pieces, Reach};

fn addr(n: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], n))
}

fn holds(blob: Digest, size: u64, complete: bool) -> Announce {
    let provenance = vec![Provenance { registry: "docker.io".into(), repository: format!("r{size}") }];
    Announce { held: vec![Holding { blob, size, complete, provenance }], gone: vec![] }
}

/// What one of a crowd says that holds `held` of a blob and lacks `unseen`.
fn join(blob: Digest, size: u64, held: &FixedBitSet, unseen: &FixedBitSet, registry: Reach, served_by: &str) -> Join {
    Join {
        blob,
        size,
        held: Pieces::some(size, held),
        fetching: Pieces::some(size, &FixedBitSet::with_capacity(held.len())),
        unseen: Pieces::some(size, unseen),
        registry,
        zone: String::new(),
        neighbours: 0,
        served_by: served_by.to_owned(),
        owner: 0,
    }
}

#[test]
fn what_was_announced_is_found_by_others_until_it_goes_or_expires() {
    let (mut tracker, now, blob) = (Tracker::new(1), Instant::now(), Digest::of(b"x"));
    assert_eq!(tracker.find(&blob, addr(1), now), None);
    tracker.note(addr(1), holds(blob, 7, true), now);
    tracker.note(addr(2), holds(blob, 7, false), now + TTL / 2);
    assert_eq!(tracker.find(&blob, addr(3), now).unwrap().providers, [(addr(1), true), (addr(2), false)]);
    assert_eq!(tracker.find(&blob, addr(1), now).unwrap().providers, [(addr(2), false)]);
    assert_eq!(tracker.find(&blob, addr(3), now + TTL).unwrap().providers, [(addr(2), false)]);
    tracker.note(addr(2), Announce { held: vec![], gone: vec![blob, Digest::of(b"y")] }, now);
    assert_eq!(tracker.find(&blob, addr(1), now), None);
    assert_eq!(tracker.facts(), 1);
    tracker.expire(now + TTL);
    assert_eq!((tracker.facts(), tracker.blobs.len()), (0, 0));
}

#[test]
fn what_one_held_that_went_is_forgotten() {
    let (mut tracker, now, blob) = (Tracker::new(1), Instant::now(), Digest::of(b"x"));
    tracker.note(addr(1), holds(blob, 7, true), now);
    tracker.note(addr(2), holds(blob, 7, true), now);
    tracker.note(addr(2), holds(Digest::of(b"y"), 7, true), now);
    tracker.keep_of(&HashSet::from([addr(1)]));
    assert_eq!(tracker.find(&blob, addr(3), now).unwrap().providers, [(addr(1), true)]);
    assert_eq!((tracker.facts(), tracker.blobs.len()), (1, 1));
}

#[test]
fn answers_and_memory_are_bounded() {
    let (mut tracker, now, blob) = (Tracker::new(1), Instant::now(), Digest::of(b"x"));
    for n in 0..1000 {
        tracker.note(addr(n), holds(blob, 7, n % 2 == 0), now);
    }
    assert_eq!(tracker.facts(), MAX_HOLDERS);
    let record = tracker.find(&blob, addr(0), now).unwrap();
    assert_eq!(record.providers.len(), MAX_PROVIDERS);
    assert!(record.providers.iter().all(|(addr_, complete)| *complete && *addr_ != addr(0)));
    for n in 0..100 {
        let mut announce = holds(blob, 7, true);
        announce.held[0].provenance[0].repository = n.to_string();
        tracker.note(addr(1), announce, now);
    }
    assert_eq!(tracker.find(&blob, addr(0), now).unwrap().provenance.len(), MAX_TOLD);
}

#[test]
fn no_member_takes_the_room_of_the_others() {
    let (mut tracker, now) = (Tracker::new(1), Instant::now());
    let long = "x".repeat(255);
    let holding = |n: u64| {
        let provenance =
            (0..MAX_TOLD).map(|told| Provenance { registry: long.clone(), repository: format!("{told}/{long}") });
        Holding { blob: Digest::of(&n.to_le_bytes()), size: 7, complete: true, provenance: provenance.collect() }
    };
    for n in 0..MAX_OF_ONE as u64 + 1000 {
        tracker.note(addr(1), Announce { held: vec![holding(n)], gone: vec![] }, now);
    }
    assert_eq!((tracker.facts(), tracker.blobs.len()), (MAX_OF_ONE, MAX_OF_ONE), "nothing is kept of the others");
    let told: usize = tracker.blobs.values().flat_map(|known| &known.provenance).map(weight).sum();
    assert_eq!(told, tracker.told);
    assert!(told < MAX_PROVENANCE + 1024, "{told}");
    let last = Digest::of(&u64::MAX.to_le_bytes());
    tracker.note(addr(2), Announce { held: vec![holding(u64::MAX)], gone: vec![Digest::of(b"y")] }, now);
    assert!(tracker.find(&last, addr(3), now).is_some());
    let all = (0..MAX_OF_ONE as u64).map(|n| Digest::of(&n.to_le_bytes())).collect();
    tracker.note(addr(1), Announce { held: vec![], gone: all }, now);
    assert_eq!((tracker.facts(), tracker.told), (1, 0));
    tracker.note(addr(1), Announce { held: vec![holding(1)], gone: vec![] }, now);
    assert_eq!(tracker.facts(), 2);
    tracker.expire(now + TTL);
    assert!(tracker.facts() == 0 && tracker.told == 0 && tracker.by_member.is_empty());
}

#[test]
fn a_crowd_is_of_one_registry() {
    let (mut tracker, now, blob) = (Tracker::new(1), Instant::now(), Digest::of(b"x"));
    tracker.note(addr(9), holds(blob, 7, true), now);
    let none = FixedBitSet::with_capacity(1);
    let mut met = |n: u16, served_by: &str| {
        let join = join(blob, 7, &none, &none, Reach::No, served_by);
        tracker.join(addr(n), &join, 1, now).unwrap().neighbours
    };
    assert_eq!(met(1, "docker.io"), [addr(9)]);
    assert_eq!(met(2, "liar.test"), [], "neither who has it nor who brings it");
    assert_eq!(met(3, "liar.test"), [addr(2)]);
    assert!(met(4, "docker.io").contains(&addr(1)));
}

#[test]
fn crowds_take_no_more_memory_than_they_may_and_are_forgotten() {
    let (mut tracker, now) = (Tracker::new(1), Instant::now());
    let size = 1 << 39;
    let none = FixedBitSet::with_capacity(Layout::new(size).unwrap().count() as usize);
    let join = |n: u16| join(Digest::of(&n.to_le_bytes()), size, &none, &none, Reach::No, "registry.test");
    let taken = (0..20_000).filter(|n| tracker.join(addr(*n), &join(*n), 1, now).is_some()).count();
    let each = 3 * 32_768 / 8 + 512;
    assert_eq!(taken, MAX_CROWDED.div_ceil(each));
    assert!(tracker.join(addr(1), &join(20_001), 1, now + Duration::from_secs(60)).is_some());
    assert_eq!(tracker.crowds.len(), 1);
}

#[test]
fn one_that_lies_about_the_size_is_outvoted() {
    let (mut tracker, now, blob) = (Tracker::new(1), Instant::now(), Digest::of(b"x"));
    tracker.note(addr(1), holds(blob, 1 << 40, true), now);
    tracker.note(addr(2), holds(blob, 7, true), now);
    tracker.note(addr(3), holds(blob, 7, true), now);
    let record = tracker.find(&blob, addr(9), now).unwrap();
    assert_eq!(record.size, 7);
    assert!(!record.providers.contains(&(addr(1), true)));
}

#[test]
fn one_that_has_it_is_named_to_so_many_and_the_others_meet_them() {
    let (mut tracker, now, blob) = (Tracker::new(1), Instant::now(), Digest::of(b"x"));
    tracker.note(addr(1), holds(blob, 7, true), now);
    for n in 0..NAMED as u16 {
        assert_eq!(tracker.find(&blob, addr(100 + n), now).unwrap().providers, [(addr(1), true)]);
    }
    let unnamed = tracker.find(&blob, addr(99), now).unwrap();
    assert_eq!((unnamed.providers, unnamed.provenance.len()), (vec![], 1), "who has served it is told all the same");
    tracker.note(addr(1), holds(blob, 7, true), now);
    assert_eq!(tracker.find(&blob, addr(99), now).unwrap().providers, [], "telling again changes nothing");
    tracker.note(addr(2), holds(blob, 7, true), now);
    assert_eq!(tracker.find(&blob, addr(99), now).unwrap().providers, [(addr(2), true)]);
    assert_eq!(tracker.find(&blob, addr(1), now + NAMING).unwrap().providers, [(addr(2), true)]);
    assert_eq!(tracker.find(&blob, addr(2), now + NAMING).unwrap().providers, [(addr(1), true)]);
}

#[test]
fn what_somebody_has_whole_is_not_leased_to_those_who_were_not_told_until_one_starves() {
    let (mut tracker, now, blob) = (Tracker::new(1), Instant::now(), Digest::of(b"x"));
    let size = 4 << 20;
    let lease = |tracker: &mut Tracker, n: u16, has: usize, served_by: &str, after: u64| {
        let (mut held, mut rest) = (FixedBitSet::with_capacity(16), FixedBitSet::with_capacity(16));
        held.insert_range(..has);
        rest.insert_range(has..);
        let join = join(blob, size, &held, &rest, Reach::Ranges { rate: 0 }, served_by);
        tracker.join(addr(n), &join, 1, now + Duration::from_millis(after)).unwrap().lease.is_some()
    };
    tracker.note(addr(9), holds(blob, size, true), now);
    assert!(lease(&mut tracker, 1, 0, "docker.io", 0), "all who asked were told: it knows best what it lacks");
    let mut tracker = Tracker::new(1);
    tracker.note(addr(9), holds(blob, size, true), now);
    for n in 100..=100 + NAMED as u16 {
        tracker.find(&blob, addr(n), now);
    }
    assert!(lease(&mut tracker, 2, 0, "other.test", 0), "another registry's blob");
    for (step, has) in [0, 0, 1, 1, 2, 2, 3, 3, 4].into_iter().enumerate() {
        assert!(!lease(&mut tracker, 1, has, "docker.io", 500 * step as u64), "it gets on");
    }
    assert!(!lease(&mut tracker, 3, 0, "docker.io", 4000), "it has just come");
    assert!(lease(&mut tracker, 1, 4, "docker.io", 6000), "who has it gives no more");
    assert!(lease(&mut tracker, 1, 12, "docker.io", 6250), "and what a lease brought is no sign of him");
}
