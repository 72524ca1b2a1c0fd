//! Whom to ask for which piece of one blob. A state machine: no I/O, no clock of its own, so that it can be tested and
//! simulated; whoever drives it performs the requests and reports how they went.
//!
//! In order from the client's cursor, then what lies before it; two requests per peer, so many in all; the peer with the
//! fewest open requests first, the faster one on a tie. A failed piece is never asked of the same peer again, which is
//! why this ends.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    ops::Range,
    time::{Duration, Instant},
};

use fixedbitset::FixedBitSet;

/// Open requests to one peer.
pub const PER_PEER: usize = 2;
/// Open requests in all.
pub const IN_ALL: usize = 16;
/// A peer that failed so often is not asked again.
const STRIKES: u32 = 3;
/// No request is called stalled before this much silence.
pub const MIN_PATIENCE: Duration = Duration::from_secs(2);
/// Nobody waits longer than this for a byte.
const MAX_PATIENCE: Duration = Duration::from_secs(10);
/// Silence is measured against this many times the usual time of a piece.
const PATIENCE: u32 = 4;

/// A request to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// Whom.
    pub peer: SocketAddr,
    /// For which piece.
    pub index: u32,
    /// Call it stalled after this much silence.
    pub patience: Duration,
}

/// How bad a failure was for the peer that caused it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Never ask this peer again: it lied, sent wrong bytes, stalled or vanished.
    Peer,
    /// The peer may be fine, this piece from it was not to be had.
    Piece,
}

/// The plan for one blob.
#[derive(Debug)]
pub struct Plan {
    cursor: u32,
    todo: FixedBitSet,
    peers: BTreeMap<SocketAddr, Peer>,
    open: BTreeMap<u32, Open>,
}

#[derive(Debug)]
struct Peer {
    has: FixedBitSet,
    open: usize,
    strikes: u32,
    /// Usual time of a piece; `None` before the first.
    usual: Option<Duration>,
}

#[derive(Debug)]
struct Open {
    peer: SocketAddr,
    since: Instant,
}

impl Plan {
    /// A plan to get those pieces of `wanted` that are not in `held`, which has one bit per piece of the blob.
    pub fn new(held: &FixedBitSet, wanted: Range<u32>) -> Self {
        let mut todo = FixedBitSet::with_capacity(held.len());
        let end = (wanted.end as usize).min(held.len());
        let start = (wanted.start as usize).min(end);
        todo.insert_range(start..end);
        todo.difference_with(held);
        Self { cursor: wanted.start, todo, peers: BTreeMap::new(), open: BTreeMap::new() }
    }

    /// A peer and the pieces it says it has; more of them when it is already known.
    pub fn add_peer(&mut self, peer: SocketAddr, has: &FixedBitSet) {
        let size = self.todo.len();
        let known = self.peers.entry(peer).or_insert_with(|| Peer {
            has: FixedBitSet::with_capacity(size),
            open: 0,
            strikes: 0,
            usual: None,
        });
        known.has.union_with(has);
        known.has.grow(size);
    }

    /// The piece that the client reads now.
    pub fn set_cursor(&mut self, index: u32) {
        self.cursor = index;
    }

    /// The next request to make; call until `None`, and again after each report.
    pub fn next(&mut self, now: Instant) -> Option<Ask> {
        if self.open.len() >= IN_ALL {
            return None;
        }
        let mut ready: Vec<_> = self.peers.iter().filter(|(_, peer)| peer.is_ready()).collect();
        ready.sort_by_key(|(_, peer)| (peer.open, peer.usual.unwrap_or_default()));
        let (peer, index) = ready.into_iter().find_map(|(id, peer)| Some((*id, self.first(peer)?)))?;
        let patience = self.patience();
        self.todo.remove(index as usize);
        self.open.insert(index, Open { peer, since: now });
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.open += 1;
        }
        Some(Ask { peer, index, patience })
    }

    /// The piece came.
    pub fn done(&mut self, index: u32, now: Instant) {
        let Some((open, peer)) = self.close(index) else { return };
        let took = now.saturating_duration_since(open);
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.usual = Some(peer.usual.map_or(took, |usual| (usual * 7 + took) / 8));
        }
    }

    /// The piece did not come; it is asked of somebody else.
    pub fn failed(&mut self, index: u32, failure: Failure) {
        let Some((_, id)) = self.close(index) else { return };
        self.todo.insert(index as usize);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.has.remove(index as usize);
        peer.strikes += 1;
        if failure == Failure::Peer || peer.strikes >= STRIKES {
            peer.has.clear();
        }
    }

    /// Somebody outside this plan brings the piece or has brought it.
    pub fn elsewhere(&mut self, index: u32) {
        self.close(index);
        if (index as usize) < self.todo.len() {
            self.todo.remove(index as usize);
        }
    }

    /// Whether nothing is open and nothing can be asked: all is done, or nobody has the rest.
    pub fn is_over(&self) -> bool {
        self.open.is_empty() && !self.peers.values().any(|peer| self.first(peer).is_some())
    }

    /// Pieces that nobody was found for, so far.
    pub fn missing(&self) -> Vec<u32> {
        self.todo.ones().map(|index| index as u32).collect()
    }

    fn first(&self, peer: &Peer) -> Option<u32> {
        let wanted = |index: &usize| peer.has.contains(*index);
        let mut at = None;
        for index in self.todo.ones().filter(wanted) {
            if index >= self.cursor as usize {
                return Some(index as u32);
            }
            at.get_or_insert(index as u32);
        }
        at
    }

    fn close(&mut self, index: u32) -> Option<(Instant, SocketAddr)> {
        let open = self.open.remove(&index)?;
        if let Some(peer) = self.peers.get_mut(&open.peer) {
            peer.open -= 1;
        }
        Some((open.since, open.peer))
    }

    /// Measured against the slowest peer's usual time: a loaded crowd is slow everywhere, and giving up helps nobody.
    fn patience(&self) -> Duration {
        let usual = self.peers.values().filter_map(|peer| peer.usual).max().unwrap_or_default();
        (usual * PATIENCE).clamp(MIN_PATIENCE, MAX_PATIENCE)
    }
}

impl Peer {
    fn is_ready(&self) -> bool {
        self.open < PER_PEER && !self.has.is_clear()
    }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn in_order_from_the_cursor_and_two_for_each_peer() {
        let now = Instant::now();
        let mut plan = Plan::new(&set(10, [5]), 0..u32::MAX);
        plan.add_peer(peer(0), &set(10, 0..10));
        plan.add_peer(peer(1), &set(10, [9]));
        plan.set_cursor(4);
        let asked: Vec<_> = std::iter::from_fn(|| plan.next(now)).map(|ask| (ask.peer, ask.index)).collect();
        let of = |n| asked.iter().filter(|(id, _)| *id == peer(n)).map(|(_, index)| *index).collect::<Vec<_>>();
        assert_eq!(of(0), [4, 6]);
        assert_eq!(of(1), [9]);
        plan.done(4, now);
        assert_eq!(plan.next(now).map(|ask| ask.index), Some(7));
    }

    #[test]
    fn patience_follows_the_usual_time_of_a_piece() {
        let now = Instant::now();
        let mut plan = Plan::new(&set(10, []), 0..10);
        plan.add_peer(peer(0), &set(10, 0..10));
        let ask = plan.next(now).unwrap();
        assert_eq!(ask.patience, MIN_PATIENCE);
        plan.done(ask.index, now + Duration::from_secs(2));
        assert_eq!(plan.next(now).unwrap().patience, Duration::from_secs(8));
    }

    #[derive(Debug, Clone, Copy)]
    enum Fate {
        Comes,
        LosesPiece,
        LosesPeer,
        Elsewhere,
    }

    fn fate() -> impl Strategy<Value = Fate> {
        prop_oneof![6 => Just(Fate::Comes), 2 => Just(Fate::LosesPiece), 1 => Just(Fate::LosesPeer), 1 => Just(Fate::Elsewhere)]
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
            let now = Instant::now();
            let held = set(count, (0..count).filter(|index| held[*index]));
            let maps: Vec<_> = maps.iter().map(|map| set(count, (0..count).filter(|index| map[*index]))).collect();
            let mut plan = Plan::new(&held, wanted.0..wanted.1);
            plan.set_cursor(cursor);
            for (n, map) in maps.iter().enumerate() {
                plan.add_peer(peer(n as u8), map);
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
                while let Some(ask) = plan.next(now) {
                    let n = (0..12).find(|n| peer(*n) == ask.peer).unwrap() as usize;
                    prop_assert!(maps[n].contains(ask.index as usize) && !got.contains(ask.index as usize));
                    prop_assert!(wanted.0 <= ask.index && ask.index < wanted.1);
                    prop_assert!(!dropped.contains(&ask.peer), "asked a peer that was dropped");
                    prop_assert!(asked.insert((ask.peer, ask.index)), "asked twice");
                    open.push(ask);
                    prop_assert!(open.len() <= IN_ALL);
                    prop_assert!(open.iter().filter(|other| other.peer == ask.peer).count() <= PER_PEER);
                }
                prop_assert!(!open.is_empty(), "idle but not over");
                let ask = open.remove(steps % open.len());
                match fates.next().unwrap() {
                    Fate::Comes => { plan.done(ask.index, now); got.insert(ask.index as usize); }
                    Fate::LosesPiece => plan.failed(ask.index, Failure::Piece),
                    Fate::LosesPeer => { plan.failed(ask.index, Failure::Peer); dropped.insert(ask.peer); }
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
            let mut plan = Plan::new(&set(count, []), 0..count as u32);
            for n in 0..=bad {
                plan.add_peer(peer(n), &set(count, 0..count));
            }
            let mut open = Vec::new();
            while !plan.is_over() {
                open.extend(std::iter::from_fn(|| plan.next(now)));
                let ask: Ask = open.remove(order as usize % open.len());
                if ask.peer == peer(bad) {
                    plan.done(ask.index, now);
                } else {
                    plan.failed(ask.index, if order % 2 == 0 { Failure::Peer } else { Failure::Piece });
                }
            }
            prop_assert!(plan.missing().is_empty());
        }
    }
}
