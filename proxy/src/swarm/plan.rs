//! Whom to ask for which piece of one blob. A state machine: no I/O, no clock of its own, so that it can be tested and
//! simulated; whoever drives it performs the requests and reports how they went.
//!
//! Every second request goes for the piece that the client needs next, the others for pieces that the fewest neighbours
//! have: in order alone, everybody would have the same pieces and nothing to give. What all neighbours have is taken in
//! order. A few requests for each peer; the one with the fewest open first, the faster one on a tie. Members in another
//! zone are asked only for what this node is to import. A failed piece is never asked of the same peer again.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    ops::Range,
    time::{Duration, Instant},
};

use fixedbitset::FixedBitSet;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

/// Open requests in all. All nodes have about the same number open, and so the same share of what the crowd gives; more
/// would only wait in line.
pub const IN_ALL: usize = 20;
/// Open requests to one peer when there are many.
pub const PER_PEER: usize = 2;
/// The same when there are few.
const PER_PEER_OF_FEW: usize = 4;
/// So many requests are shared out to few peers.
const TO_FEW: usize = IN_ALL;
/// A peer that failed so often is not asked again.
const STRIKES: u32 = 3;
/// No request is called stalled before this much silence.
pub const MIN_PATIENCE: Duration = Duration::from_secs(2);
/// The same before any piece has come: all of a crowd ask at once then, and a first request may stand in a long line.
const FIRST_PATIENCE: Duration = Duration::from_secs(5);
/// Nobody waits longer than this for a byte.
const MAX_PATIENCE: Duration = Duration::from_secs(10);
/// Silence is measured against this many times the usual time of a piece.
const PATIENCE: u32 = 4;

/// Pieces in one word of a set.
const WORD: usize = usize::BITS as usize;

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
    /// Wanted, not here, not asked for and not leased.
    todo: FixedBitSet,
    wanted: FixedBitSet,
    leased: FixedBitSet,
    /// What may be asked of members in other zones.
    imports: FixedBitSet,
    peers: BTreeMap<SocketAddr, Peer>,
    open: BTreeMap<u32, Open>,
    /// How many peers have each piece.
    holders: Vec<u16>,
    in_order: bool,
    random: StdRng,
}

#[derive(Debug)]
struct Peer {
    has: FixedBitSet,
    /// Never asked of it again.
    failed: FixedBitSet,
    near: bool,
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
    /// A plan to get those pieces of `wanted` that are not in `held`, which has one bit per piece of the blob. `seed`
    /// decides between equals.
    pub fn new(held: &FixedBitSet, wanted: Range<u32>, seed: u64) -> Self {
        let mut all = FixedBitSet::with_capacity(held.len());
        let end = (wanted.end as usize).min(held.len());
        let start = (wanted.start as usize).min(end);
        all.insert_range(start..end);
        let mut todo = all.clone();
        todo.difference_with(held);
        Self {
            cursor: wanted.start,
            todo,
            wanted: all,
            leased: FixedBitSet::with_capacity(held.len()),
            imports: FixedBitSet::with_capacity(held.len()),
            peers: BTreeMap::new(),
            open: BTreeMap::new(),
            holders: vec![0; held.len()],
            in_order: false,
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// A peer and all pieces that it says it has now; `near` when it is in our zone.
    pub fn set_peer(&mut self, peer: SocketAddr, has: &FixedBitSet, near: bool) {
        let size = self.todo.len();
        let known = self.peers.entry(peer).or_insert_with(|| Peer {
            has: FixedBitSet::with_capacity(size),
            failed: FixedBitSet::with_capacity(size),
            near,
            open: 0,
            strikes: 0,
            usual: None,
        });
        if known.strikes >= STRIKES {
            return;
        }
        known.near = near;
        let mut now = FixedBitSet::with_capacity(size);
        now.union_with(has);
        now.difference_with(&known.failed);
        // A crowd tells often and little, so whole words are compared.
        for (word, (old, new)) in known.has.as_slice().iter().zip(now.as_slice()).enumerate() {
            for index in bits(old ^ new).map(|bit| word * WORD + bit).take_while(|index| *index < size) {
                let count = &mut self.holders[index];
                *count = if now.contains(index) { count.saturating_add(1) } else { count.saturating_sub(1) };
            }
        }
        known.has = now;
    }

    /// The peer is gone; what is open with it ends by itself.
    pub fn drop_peer(&mut self, peer: SocketAddr) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.strikes = STRIKES;
            peer.lose_all(&mut self.holders);
        }
    }

    /// How many peers have anything.
    pub fn neighbours(&self) -> usize {
        self.peers.values().filter(|peer| peer.strikes < STRIKES).count()
    }

    /// The piece that the client reads now.
    pub fn set_cursor(&mut self, index: u32) {
        self.cursor = index;
    }

    /// These come from the registry.
    pub fn lease(&mut self, pieces: Range<u32>) {
        for index in self.inside(pieces) {
            self.leased.insert(index);
            self.todo.remove(index);
        }
    }

    /// The lease has ended, whatever it brought.
    pub fn unlease(&mut self, pieces: Range<u32>) {
        for index in self.inside(pieces) {
            self.leased.remove(index);
        }
    }

    /// These may be asked of members in other zones.
    pub fn import(&mut self, pieces: Range<u32>) {
        for index in self.inside(pieces) {
            self.imports.insert(index);
        }
    }

    /// How many of these are still to come.
    pub fn imports(&self) -> usize {
        self.imports.count_ones(..)
    }

    /// Keeps only those that are asked for, or that somebody there has: others can be had by another node.
    pub fn give_up_imports(&mut self) {
        let mut kept = FixedBitSet::with_capacity(self.todo.len());
        for peer in self.peers.values().filter(|peer| !peer.near) {
            kept.union_with(&peer.has);
        }
        kept.extend(self.open.keys().map(|index| *index as usize));
        self.imports.intersect_with(&kept);
    }

    /// What is here by now, from whomever: the rest is still to do.
    pub fn settle(&mut self, held: &FixedBitSet) {
        self.todo.clone_from(&self.wanted);
        self.todo.difference_with(held);
        self.todo.difference_with(&self.leased);
        self.imports.difference_with(held);
        for index in self.open.keys() {
            self.todo.remove(*index as usize);
        }
    }

    /// Leased or imported, and not here yet.
    pub fn fetching(&self, held: &FixedBitSet) -> FixedBitSet {
        let mut fetching = self.leased.clone();
        fetching.union_with(&self.imports);
        fetching.difference_with(held);
        fetching
    }

    /// How many leased pieces are still to come.
    pub fn leased(&self, held: &FixedBitSet) -> usize {
        self.leased.difference(held).count()
    }

    /// What is still to do and with no peer of this zone.
    pub fn unseen(&self) -> FixedBitSet {
        let mut unseen = self.todo.clone();
        for peer in self.peers.values().filter(|peer| peer.near) {
            unseen.difference_with(&peer.has);
        }
        unseen.difference_with(&self.imports);
        unseen
    }

    /// The next request to make; call until `None`, and again after each report.
    pub fn next(&mut self, now: Instant) -> Option<Ask> {
        if self.open.len() >= IN_ALL {
            return None;
        }
        let usable = self.peers.values().filter(|peer| !peer.has.is_clear()).count();
        let per_peer = (TO_FEW / usable.max(1)).clamp(PER_PEER, PER_PEER_OF_FEW);
        let mut ready: Vec<_> = self.peers.iter().filter(|(_, peer)| peer.is_ready(per_peer)).collect();
        ready.sort_by_key(|(_, peer)| (peer.open, peer.usual.unwrap_or_default()));
        let ready: Vec<SocketAddr> = ready.into_iter().map(|(addr, _)| *addr).collect();
        let (peer, index) = ready.into_iter().find_map(|addr| Some((addr, self.pick(addr, usable)?)))?;
        let patience = self.patience();
        self.in_order = !self.in_order;
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
        self.imports.remove(index as usize);
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
        peer.failed.insert(index as usize);
        if peer.has.contains(index as usize) {
            peer.has.remove(index as usize);
            self.holders[index as usize] = self.holders[index as usize].saturating_sub(1);
        }
        peer.strikes += 1;
        if failure == Failure::Peer || peer.strikes >= STRIKES {
            peer.strikes = STRIKES;
            peer.lose_all(&mut self.holders);
        }
    }

    /// Somebody outside this plan brings the piece; [`settle`](Self::settle) finds out whether it did.
    pub fn elsewhere(&mut self, index: u32) {
        self.close(index);
        if (index as usize) < self.todo.len() {
            self.todo.remove(index as usize);
        }
    }

    /// Whether no request is open.
    pub fn is_idle(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether nothing is open and nothing can be asked: all is done, or nobody has the rest.
    pub fn is_over(&self) -> bool {
        let askable = |peer: &Peer| peer.among(&self.todo, &self.imports).next().is_some();
        self.open.is_empty() && !self.peers.values().any(askable)
    }

    /// Pieces that nobody was found for, so far.
    pub fn missing(&self) -> Vec<u32> {
        self.todo.ones().map(|index| index as u32).collect()
    }

    fn pick(&mut self, addr: SocketAddr, usable: usize) -> Option<u32> {
        let Self { peers, todo, imports, holders, random, .. } = self;
        let peer = peers.get(&addr)?;
        let askable = || peer.among(todo, imports);
        let ahead = || askable().find(|index| *index >= self.cursor as usize);
        if self.in_order
            && let Some(first) = ahead()
        {
            return Some(first as u32);
        }
        let count = |index: &usize| usize::from(holders[*index]);
        let least = askable().map(|index| count(&index)).min()?;
        if least >= usable {
            return ahead().or_else(|| askable().next()).map(|index| index as u32);
        }
        let rarest = || askable().filter(|index| count(index) == least);
        rarest().nth(random.random_range(0..rarest().count())).map(|index| index as u32)
    }

    fn close(&mut self, index: u32) -> Option<(Instant, SocketAddr)> {
        let open = self.open.remove(&index)?;
        if let Some(peer) = self.peers.get_mut(&open.peer) {
            peer.open -= 1;
        }
        Some((open.since, open.peer))
    }

    fn inside(&self, pieces: Range<u32>) -> Range<usize> {
        let end = (pieces.end as usize).min(self.todo.len());
        (pieces.start as usize).min(end)..end
    }

    /// Measured against the slowest peer's usual time: a loaded crowd is slow everywhere, and giving up helps nobody.
    fn patience(&self) -> Duration {
        let usual = self.peers.values().filter_map(|peer| peer.usual).max();
        usual.map_or(FIRST_PATIENCE, |usual| (usual * PATIENCE).clamp(MIN_PATIENCE, MAX_PATIENCE))
    }
}

impl Peer {
    fn is_ready(&self, per_peer: usize) -> bool {
        self.open < per_peer && !self.has.is_clear()
    }

    /// Those of `todo` that it may be asked for, lowest first.
    fn among<'a>(&'a self, todo: &'a FixedBitSet, imports: &'a FixedBitSet) -> impl Iterator<Item = usize> + 'a {
        let words = todo.as_slice().iter().zip(self.has.as_slice()).zip(imports.as_slice()).enumerate();
        words.flat_map(|(word, ((todo, has), imports))| {
            let may = if self.near { usize::MAX } else { *imports };
            bits(todo & has & may).map(move |bit| word * WORD + bit)
        })
    }

    fn lose_all(&mut self, holders: &mut [u16]) {
        for index in self.has.ones() {
            holders[index] = holders[index].saturating_sub(1);
        }
        self.has.clear();
    }
}

/// The bits that are set, lowest first.
fn bits(word: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(word), |word| Some(word & word.wrapping_sub(1)))
        .take_while(|word| *word != 0)
        .map(|word| word.trailing_zeros() as usize)
}
