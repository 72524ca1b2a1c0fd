//! Whom to ask for which piece of one blob. A state machine: no I/O, no clock of its own, so that it can be tested and
//! simulated; whoever drives it performs the requests and reports how they went.
//!
//! Every second request goes for the piece that the client needs next, the others for pieces that the fewest neighbours
//! have: in order alone, everybody would have the same pieces and nothing to give. What all neighbours have is taken in
//! order. A few requests for each peer; the one with the fewest open first, the faster one on a tie. Members in another
//! zone are asked only for what this node is to import. A failed piece is never asked of the same peer again; one that was
//! busy is asked again a little later.

mod peer;
#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    ops::Range,
    time::{Duration, Instant},
};

use fixedbitset::FixedBitSet;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use self::peer::Peer;

/// Open requests in all. All nodes have about the same number open, and so the same share of what the crowd gives; more
/// would only wait in line.
pub const IN_ALL: usize = 14;
/// Open requests of all blobs of a node: what three layers have, which is what runtimes ask for at a time. More would make lines so
/// long that peers are taken for stalled.
const OF_ALL_BLOBS: usize = 3 * IN_ALL;
/// Requests that a node may have open with one holder, served and in line: none takes the line of all others.
pub(crate) const LINE_OF_ONE: usize = 16;
/// A blob may have so many open however many others have.
const ALWAYS: usize = 2;
/// Open requests to one peer when there are many.
pub const PER_PEER: usize = 2;
/// The same when there are few.
const PER_PEER_OF_FEW: usize = 4;
/// So many requests are shared out to few peers.
const TO_FEW: usize = IN_ALL;
/// No request is called stalled before this much silence.
pub const MIN_PATIENCE: Duration = Duration::from_secs(2);
/// The same before any piece has come: all of a crowd ask at once then, and a first request may stand in a long line.
const FIRST_PATIENCE: Duration = Duration::from_secs(5);
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
    /// Never ask this peer again: it lied, sent wrong bytes, fell silent or vanished.
    Peer,
    /// The peer lives, and this took too long. It is asked again in a while, with more patience, until it was slow three times
    /// more often than it gave something.
    Slow,
    /// The peer may be fine, this piece from it was not to be had.
    Piece,
    /// The peer has too many in line. It is asked again a little later, for anything.
    Busy,
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
    /// Each has the same place in both, as long as the plan lasts. They are some twenty and looked up all the time: going
    /// through them is faster than any tree.
    addrs: Vec<SocketAddr>,
    peers: Vec<Peer>,
    open: Vec<Open>,
    /// How many peers have each piece.
    holders: Vec<u16>,
    in_order: bool,
    random: StdRng,
}

#[derive(Debug)]
struct Open {
    index: u32,
    /// The place of the peer.
    peer: usize,
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
            addrs: Vec::new(),
            peers: Vec::new(),
            open: Vec::new(),
            holders: vec![0; held.len()],
            in_order: false,
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// A peer and all pieces that it says it has now; `near` when it is in our zone.
    pub fn set_peer(&mut self, peer: SocketAddr, has: &FixedBitSet, near: bool) {
        let at = self.place(peer).unwrap_or_else(|| {
            self.addrs.push(peer);
            self.peers.push(Peer::new(self.todo.len(), near));
            self.peers.len() - 1
        });
        let known = &mut self.peers[at];
        if known.is_asked() {
            known.near = near;
            known.set(has, &mut self.holders);
        }
    }

    /// The peer is gone; what is open with it ends by itself.
    pub fn drop_peer(&mut self, peer: SocketAddr) {
        if let Some(at) = self.place(peer) {
            self.peers[at].leave(&mut self.holders);
        }
    }

    /// How many requests are open.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// How many peers have anything.
    pub fn neighbours(&self) -> usize {
        self.peers.iter().filter(|peer| peer.is_asked()).count()
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
        for peer in self.peers.iter().filter(|peer| !peer.near) {
            kept.union_with(&peer.has);
        }
        kept.extend(self.open.iter().map(|open| open.index as usize));
        self.imports.intersect_with(&kept);
    }

    /// What is here by now, from whomever: the rest is still to do.
    pub fn settle(&mut self, held: &FixedBitSet) {
        self.todo.clone_from(&self.wanted);
        self.todo.difference_with(held);
        self.todo.difference_with(&self.leased);
        self.imports.difference_with(held);
        for open in &self.open {
            self.todo.remove(open.index as usize);
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

    /// What is still to do and with no peer of this zone that can be counted on.
    pub fn unseen(&self) -> FixedBitSet {
        let mut unseen = self.todo.clone();
        for peer in self.peers.iter().filter(|peer| peer.near && !peer.is_overrun()) {
            unseen.difference_with(&peer.has);
        }
        unseen.difference_with(&self.imports);
        unseen
    }

    /// The next request to make while the node's other blobs have `others` open; call until `None`, and again after each
    /// report.
    pub fn next(&mut self, others: usize, now: Instant) -> Option<Ask> {
        let open = self.open.len();
        let usable = self.peers.iter().filter(|peer| peer.is_usable()).count();
        let of_all = OF_ALL_BLOBS.min(LINE_OF_ONE * usable);
        let enough = open >= IN_ALL || open >= ALWAYS && open + others >= of_all;
        if enough || self.todo.is_clear() {
            return None;
        }
        let per_peer = (TO_FEW / usable.max(1)).clamp(PER_PEER, PER_PEER_OF_FEW) as u32;
        let ready = self.peers.iter().enumerate();
        let ready = ready.filter(|(_, peer)| peer.is_usable() && peer.open < per_peer && !peer.rests(now));
        let mut ready: Vec<_> =
            ready.map(|(at, peer)| (peer.open, peer.usual.unwrap_or_default(), self.addrs[at], at)).collect();
        // Nearly always the first has something, so they are sorted only when it has not.
        let (.., best) = *ready.iter().min()?;
        let found = self.pick(best, usable).map(|index| (best, index)).or_else(|| {
            ready.sort_unstable();
            ready.into_iter().skip(1).find_map(|(.., at)| Some((at, self.pick(at, usable)?)))
        });
        let (peer, index) = found?;
        let patience = self.patience(&self.peers[peer]);
        self.in_order = !self.in_order;
        self.todo.remove(index as usize);
        self.open.push(Open { index, peer, since: now });
        self.peers[peer].open += 1;
        Some(Ask { peer: self.addrs[peer], index, patience })
    }

    /// The piece came.
    pub fn done(&mut self, index: u32, now: Instant) {
        let Some(Open { peer, since, .. }) = self.close(index) else { return };
        self.imports.remove(index as usize);
        self.peers[peer].refused = 0;
        self.peers[peer].lags = self.peers[peer].lags.saturating_sub(1);
        let (took, usual) = (now.saturating_duration_since(since), &mut self.peers[peer].usual);
        *usual = Some(usual.map_or(took, |usual| (usual * 7 + took) / 8));
    }

    /// The piece did not come.
    pub fn failed(&mut self, index: u32, failure: Failure, now: Instant) {
        let Some(Open { peer, since, .. }) = self.close(index) else { return };
        self.todo.insert(index as usize);
        let peer = &mut self.peers[peer];
        match failure {
            Failure::Busy => return peer.rest(now),
            Failure::Slow => return peer.lag(since, now, &mut self.holders),
            Failure::Piece => {}
            Failure::Peer => peer.leave(&mut self.holders),
        }
        peer.fail(index as usize, &mut self.holders);
    }

    /// When a peer that was busy may be asked again, if any was.
    pub fn rested(&self, now: Instant) -> Option<Instant> {
        self.peers.iter().filter_map(|peer| peer.rests_until).filter(|until| *until > now).min()
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

    /// Whether nothing is open and nothing can be asked: all is done, or nobody has the rest who can be counted on.
    pub fn is_over(&self) -> bool {
        let askable = |peer: &Peer| !peer.is_overrun() && peer.among(&self.todo, &self.imports).next().is_some();
        self.open.is_empty() && !self.peers.iter().any(askable)
    }

    /// Pieces that nobody was found for, so far.
    pub fn missing(&self) -> Vec<u32> {
        self.todo.ones().map(|index| index as u32).collect()
    }

    fn place(&self, peer: SocketAddr) -> Option<usize> {
        self.addrs.iter().position(|addr| *addr == peer)
    }

    fn pick(&mut self, peer: usize, usable: usize) -> Option<u32> {
        let Self { peers, todo, imports, holders, random, .. } = self;
        let askable = || peers[peer].among(todo, imports);
        let ahead = || askable().find(|index| *index >= self.cursor as usize);
        if self.in_order
            && let Some(first) = ahead()
        {
            return Some(first as u32);
        }
        let (mut least, mut equals) = (usize::MAX, 0);
        for index in askable() {
            let count = usize::from(holders[index]);
            if count < least {
                (least, equals) = (count, 0);
            }
            equals += usize::from(count == least);
        }
        if equals == 0 {
            return None;
        }
        if least >= usable {
            return ahead().or_else(|| askable().next()).map(|index| index as u32);
        }
        let mut rarest = askable().filter(|index| usize::from(holders[*index]) == least);
        rarest.nth(random.random_range(0..equals)).map(|index| index as u32)
    }

    fn close(&mut self, index: u32) -> Option<Open> {
        let at = self.open.iter().position(|open| open.index == index)?;
        let open = self.open.swap_remove(at);
        self.peers[open.peer].open -= 1;
        Some(open)
    }

    fn inside(&self, pieces: Range<u32>) -> Range<usize> {
        let end = (pieces.end as usize).min(self.todo.len());
        (pieces.start as usize).min(end)..end
    }

    /// Measured against the slowest peer's usual time: a loaded crowd is slow everywhere, and giving up helps nobody.
    fn patience(&self, with: &Peer) -> Duration {
        let alike = self.peers.iter().filter(|peer| peer.near == with.near && peer.is_asked());
        let usual = alike.filter_map(|peer| peer.usual).max();
        let patience = usual.map_or(FIRST_PATIENCE, |usual| (usual * PATIENCE).clamp(MIN_PATIENCE, MAX_PATIENCE));
        (patience * 2u32.pow(with.lags)).min(MAX_PATIENCE)
    }
}
