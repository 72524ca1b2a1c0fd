//! The plan ends, keeps to its budgets, and asks nobody for what he lacks.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn peer(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 4500))
}

fn set(count: usize, indices: impl IntoIterator<Item = usize>) -> FixedBitSet {
    let mut set = FixedBitSet::with_capacity(count);
    set.extend(indices);
    set
}

fn asked(plan: &mut Plan, now: Instant) -> Vec<Ask> {
    std::iter::from_fn(|| plan.next(0, now)).collect()
}

#[test]
fn what_everybody_has_is_taken_in_order_from_the_cursor() {
    let now = Instant::now();
    let mut plan = Plan::new(&set(10, [5]), 0..u32::MAX, 1);
    for n in 0..2 {
        plan.set_peer(peer(n), &set(10, 0..10), true);
    }
    plan.set_cursor(4);
    let mut indices: Vec<_> = asked(&mut plan, now).iter().map(|ask| ask.index).collect();
    assert_eq!(indices, [4, 6, 7, 8, 9, 0, 1, 2], "four for each of two");
    plan.done(4, now);
    indices = asked(&mut plan, now).iter().map(|ask| ask.index).collect();
    assert_eq!(indices, [3]);
}

#[test]
fn every_second_request_is_for_the_rarest() {
    let now = Instant::now();
    let mut plan = Plan::new(&set(100, []), 0..100, 1);
    plan.set_peer(peer(0), &set(100, 0..100), true);
    for n in 1..5 {
        plan.set_peer(peer(n), &set(100, (0..100).filter(|index| *index != 70 && *index != 71)), true);
    }
    let of_first: Vec<_> =
        asked(&mut plan, now).iter().filter(|ask| ask.peer == peer(0)).map(|ask| ask.index).collect();
    assert!(of_first.iter().any(|index| [70, 71].contains(index)), "{of_first:?}");
    assert_eq!(of_first.len(), IN_ALL / 5, "each of five its share");
}

#[test]
fn a_slow_peer_is_asked_again_with_more_patience_and_given_up_the_third_time() {
    let mut now = Instant::now();
    let mut plan = Plan::new(&set(100, []), 0..100, 1);
    plan.set_peer(peer(0), &set(100, 0..100), true);
    let mut patience = Vec::new();
    for _ in 0..3 {
        let asks = asked(&mut plan, now);
        assert_eq!(asks.len(), PER_PEER_OF_FEW);
        patience.push(asks[0].patience);
        now += asks[0].patience;
        asks.iter().for_each(|ask| plan.failed(ask.index, Failure::Slow, now));
        assert!(asked(&mut plan, now).is_empty(), "it rests");
        now = plan.rested(now).unwrap_or(now);
    }
    assert_eq!(patience, [FIRST_PATIENCE, MAX_PATIENCE, MAX_PATIENCE], "all that was asked at once is one lag");
    assert!(plan.is_over(), "three times in a row");
    plan.set_peer(peer(1), &set(100, 0..100), true);
    let asks = asked(&mut plan, now);
    assert_eq!((asks[0].peer, asks[0].patience), (peer(1), FIRST_PATIENCE), "the slow one's time is forgotten with it");
    assert!(asks.iter().any(|ask| ask.index == 0), "a piece that came too late is asked for again");
}

#[test]
fn a_piece_between_shows_that_a_slow_peer_gives() {
    let mut now = Instant::now();
    let mut plan = Plan::new(&set(100, []), 0..100, 1);
    plan.set_peer(peer(0), &set(100, 0..100), true);
    for _ in 0..6 {
        let asks = asked(&mut plan, now);
        now += asks[0].patience;
        plan.done(asks[0].index, now);
        asks[1..].iter().for_each(|ask| plan.failed(ask.index, Failure::Slow, now));
        now = plan.rested(now).unwrap();
    }
    assert!(!asked(&mut plan, now).is_empty());
}

#[test]
fn while_other_blobs_have_all_requests_one_still_has_a_few() {
    let now = Instant::now();
    let mut plan = Plan::new(&set(100, []), 0..100, 1);
    for n in 0..7 {
        plan.set_peer(peer(n), &set(100, 0..100), true);
    }
    let mut open = |others| std::iter::from_fn(|| plan.next(others, now)).count();
    assert_eq!(open(OF_ALL_BLOBS), ALWAYS);
    assert_eq!(open(OF_ALL_BLOBS - 5), 3, "up to five");
    assert_eq!(open(0), IN_ALL - 5);
}

#[test]
fn a_busy_peer_is_left_alone_for_a_moment_and_not_blamed() {
    let mut now = Instant::now();
    let mut plan = Plan::new(&set(8, []), 0..8, 1);
    plan.set_peer(peer(0), &set(8, 0..8), true);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let asks = asked(&mut plan, now);
        assert_eq!(asks.len(), PER_PEER_OF_FEW, "as many as ever");
        asks.iter().for_each(|ask| plan.failed(ask.index, Failure::Busy, now));
        assert!(asked(&mut plan, now).is_empty());
        let rested = plan.rested(now).unwrap();
        pauses.push((rested - now).as_millis());
        now = rested;
    }
    assert_eq!(pauses, [20, 40, 80, 160, 320, 640, 640, 640], "all that it refuses at once counts once");
    assert_eq!(plan.rested(now), None);
    let asks = asked(&mut plan, now);
    plan.done(asks[0].index, now);
    plan.failed(asks[1].index, Failure::Busy, now);
    assert_eq!(plan.rested(now), Some(now + Duration::from_millis(20)), "it gave something meanwhile");
    plan.set_peer(peer(1), &set(8, 0..8), true);
    assert!(asked(&mut plan, now).iter().any(|ask| (ask.peer, ask.index) == (peer(1), asks[1].index)));
}

#[test]
fn one_that_is_always_busy_hides_nothing_from_leases_and_is_asked_on() {
    let mut now = Instant::now();
    let mut plan = Plan::new(&set(4, []), 0..4, 1);
    plan.set_peer(peer(0), &set(4, 0..4), true);
    let mut refusals = 0;
    while !plan.is_over() {
        assert!(plan.unseen().is_clear());
        asked(&mut plan, now).iter().for_each(|ask| plan.failed(ask.index, Failure::Busy, now));
        now = plan.rested(now).unwrap();
        refusals += 1;
    }
    assert_eq!((refusals, plan.unseen().count_ones(..)), (6, 4));
    let asks = asked(&mut plan, now);
    assert_eq!(asks.len(), 4);
    plan.done(asks[0].index, now);
    assert!(plan.unseen().is_clear(), "it gives again");
}

#[test]
fn another_zone_is_asked_only_for_imports_and_its_pieces_are_unseen() {
    let now = Instant::now();
    let mut plan = Plan::new(&set(10, []), 0..10, 1);
    plan.set_peer(peer(0), &set(10, 0..10), false);
    plan.set_peer(peer(1), &set(10, [9]), true);
    assert_eq!(asked(&mut plan, now).iter().map(|ask| (ask.peer, ask.index)).collect::<Vec<_>>(), [(peer(1), 9)]);
    assert_eq!(plan.unseen().ones().collect::<Vec<_>>(), (0..9).collect::<Vec<_>>());
    plan.import(3..5);
    assert_eq!(asked(&mut plan, now).iter().map(|ask| ask.index).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(plan.fetching(&set(10, [])).ones().collect::<Vec<_>>(), [3, 4]);
}

#[test]
fn imports_that_nobody_there_has_are_given_up_and_those_asked_for_are_not() {
    let now = Instant::now();
    let mut plan = Plan::new(&set(10, []), 0..10, 1);
    plan.import(0..4);
    plan.set_peer(peer(0), &set(10, [0, 1]), false);
    plan.set_peer(peer(1), &set(10, [3]), true);
    assert_eq!(plan.imports(), 4);
    assert_eq!(asked(&mut plan, now).len(), 3);
    plan.set_peer(peer(0), &set(10, [1]), false);
    plan.give_up_imports();
    assert_eq!(plan.imports(), 3, "0 and 3 are asked for, 1 is to be had; nobody abroad has 2");
    assert!(plan.unseen().contains(2), "another may import it");
    plan.done(0, now);
    plan.done(1, now);
    assert_eq!(plan.imports(), 1);
}

#[test]
fn what_is_leased_is_asked_of_nobody_until_the_lease_ends() {
    let now = Instant::now();
    let mut plan = Plan::new(&set(4, []), 0..4, 1);
    plan.lease(0..3);
    plan.set_peer(peer(0), &set(4, 0..4), true);
    assert_eq!(asked(&mut plan, now).iter().map(|ask| ask.index).collect::<Vec<_>>(), [3]);
    assert_eq!(plan.leased(&set(4, [0])), 2);
    plan.unlease(0..3);
    plan.settle(&set(4, [0]));
    assert_eq!(asked(&mut plan, now).iter().map(|ask| ask.index).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn patience_follows_the_usual_time_of_a_piece() {
    let now = Instant::now();
    let mut plan = Plan::new(&set(10, []), 0..10, 1);
    plan.set_peer(peer(0), &set(10, 0..10), true);
    let ask = plan.next(0, now).unwrap();
    assert_eq!(ask.patience, FIRST_PATIENCE);
    plan.done(ask.index, now + Duration::from_secs(2));
    assert_eq!(plan.next(0, now).unwrap().patience, Duration::from_secs(8));
}

#[derive(Debug, Clone, Copy)]
enum Fate {
    Comes,
    LosesPiece,
    LosesPeer,
    IsBusy,
    Elsewhere,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![6 => Just(Fate::Comes), 2 => Just(Fate::LosesPiece), 2 => Just(Fate::IsBusy), 1 => Just(Fate::LosesPeer), 1 => Just(Fate::Elsewhere)]
}

proptest! {
    #[test]
    fn it_ends_within_its_budget_and_never_asks_for_what_a_peer_lacks(
        count in 1..60usize,
        held in proptest::collection::vec(any::<bool>(), 60),
        maps in proptest::collection::vec(proptest::collection::vec(any::<bool>(), 60), 0..12),
        fates in proptest::collection::vec(fate(), 1..500),
        wanted in (0..60u32, 0..70u32),
        cursor in 0..60u32,
    ) {
        let mut now = Instant::now();
        let held = set(count, (0..count).filter(|index| held[*index]));
        let maps: Vec<_> = maps.iter().map(|map| set(count, (0..count).filter(|index| map[*index]))).collect();
        let mut plan = Plan::new(&held, wanted.0..wanted.1, 1);
        plan.set_cursor(cursor);
        for (n, map) in maps.iter().enumerate() {
            plan.set_peer(peer(n as u8), map, true);
        }
        let mut open: Vec<Ask> = Vec::new();
        let mut asked = HashSet::new();
        let mut steps = 0;
        let mut dropped = HashSet::new();
        let mut got = held.clone();
        let mut fates = fates.iter().cycle();
        while !plan.is_over() {
            steps += 1;
            prop_assert!(steps < 5_000, "does not end");
            // What other blobs have open changes all the time.
            let others = steps % 3 * OF_ALL_BLOBS;
            while let Some(ask) = plan.next(others, now) {
                prop_assert!(open.len() < ALWAYS || open.len() + others < OF_ALL_BLOBS, "more than all blobs may have");
                let n = (0..12).find(|n| peer(*n) == ask.peer).unwrap() as usize;
                prop_assert!(maps[n].contains(ask.index as usize) && !got.contains(ask.index as usize));
                prop_assert!(wanted.0 <= ask.index && ask.index < wanted.1);
                prop_assert!(!dropped.contains(&ask.peer), "asked a peer that was dropped");
                prop_assert!(asked.insert((ask.peer, ask.index)), "asked twice");
                open.push(ask);
                prop_assert!(open.len() <= IN_ALL);
                prop_assert!(open.iter().filter(|other| other.peer == ask.peer).count() <= PER_PEER_OF_FEW);
            }
            if open.is_empty() {
                now = plan.rested(now).expect("idle but not over");
                continue;
            }
            let ask = open.remove(steps % open.len());
            match fates.next().unwrap() {
                Fate::Comes => { plan.done(ask.index, now); got.insert(ask.index as usize); }
                Fate::LosesPiece => plan.failed(ask.index, Failure::Piece, now),
                Fate::LosesPeer => { plan.failed(ask.index, Failure::Peer, now); dropped.insert(ask.peer); }
                Fate::IsBusy => { plan.failed(ask.index, Failure::Busy, now); asked.remove(&(ask.peer, ask.index)); }
                Fate::Elsewhere => { plan.elsewhere(ask.index); got.insert(ask.index as usize); }
            }
        }
        let end = (wanted.1 as usize).min(count);
        let expected: Vec<_> =
            (wanted.0 as usize..end.max(wanted.0 as usize)).filter(|index| !got.contains(*index)).map(|index| index as u32).collect();
        prop_assert_eq!(plan.missing(), expected);
    }

    #[test]
    fn it_finishes_while_one_good_source_remains(count in 1..60usize, bad in 0..8u8, order in any::<u64>()) {
        let now = Instant::now();
        let mut plan = Plan::new(&set(count, []), 0..count as u32, 1);
        for n in 0..=bad {
            plan.set_peer(peer(n), &set(count, 0..count), true);
        }
        let mut open = Vec::new();
        while !plan.is_over() {
            open.extend(std::iter::from_fn(|| plan.next(0, now)));
            let ask: Ask = open.remove(order as usize % open.len());
            if ask.peer == peer(bad) {
                plan.done(ask.index, now);
            } else {
                plan.failed(ask.index, if order % 2 == 0 { Failure::Peer } else { Failure::Piece }, now);
            }
        }
        prop_assert!(plan.missing().is_empty());
    }
}
