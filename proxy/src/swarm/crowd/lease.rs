//! What is taken from the registry, each piece once: by whom, how many at a time, and how much each.

use std::{
    net::SocketAddr,
    ops::Range,
    time::{Duration, Instant},
};

use fixedbitset::FixedBitSet;

use super::{
    Crowd, GRACE, LARGEST, Reach,
    member::{Member, patience_abroad},
    run,
    zone::Zone,
};

/// Members that take from the registry at a time.
pub(super) const FETCHERS: usize = 16;
/// The same of a registry that is fast: one that gives each of them a piece in [`QUICK`].
const MANY_FETCHERS: usize = 64;
const QUICK: Duration = Duration::from_millis(250);
/// The first lease of a member is one piece: the more each takes, the later anybody has something to give. The next ones may be
/// twice as large each, or four times where nobody else pulls, up to [`LARGEST`], which so many doublings are enough for.
const DOUBLINGS: u32 = 8;
/// A lease of fewer bytes says how late the registry's first one comes, not how fast it gives.
const TELLING: u64 = 1 << 20;
/// Towards the end leases become smaller, down to this, in bytes.
const LEAST: u64 = 512 << 10;
/// A member to which the registry gives this many times more slowly than to most takes nothing as long as others do.
const LAGS: u64 = 4;
/// A zone whose registry is this many times slower than the fastest one's leaves the registry to that.
const SLOWER: f64 = 2.0;

impl Crowd {
    /// What `from` may take of what it has not seen with anybody; `None` when it may take nothing. What is quickly known comes
    /// first: most of a crowd are told no.
    pub(super) fn lease(
        &self,
        from: SocketAddr,
        reach: Reach,
        unseen: &FixedBitSet,
        now: Instant,
    ) -> Option<Range<u32>> {
        let member = self.members.get(&from)?;
        let (whole, most) = match reach {
            Reach::No => return None,
            Reach::Whole => (true, 1),
            Reach::Ranges { .. } => (false, self.most_fetchers()),
        };
        if self.fetchers.len() >= most && !self.fetchers.contains(&from) {
            return None;
        }
        let largest = if whole { usize::MAX } else { self.largest(from, member, now)? };
        let mut free = unseen.clone();
        free.difference_with(&self.claimed(&member.zone, None, 1, now));
        // Where reports are far apart, the only one known to have a piece may have died with it long ago.
        if free.is_clear() && self.pace() > GRACE && member.starves(now) {
            free.clone_from(unseen);
            free.difference_with(&self.claimed(&member.zone, None, 2, now));
        }
        if free.is_clear() || !whole && self.lags(from, member, now) {
            return None;
        }
        let fair = if whole { largest } else { free.count_ones(..) / (2 * self.fetchers.len().max(1)) };
        run(&free, fair.max(self.pieces(LEAST)).min(largest))
    }

    /// Whether one to which the registry gives at this rate leaves it to others: everybody waits for what a slow one has
    /// alone. Measured against all members, not against those who take now: half of them are never slow then. A rate is
    /// that of the last lease; against takers alone, those who had theirs in the first rush would never get another.
    fn lags(&self, from: SocketAddr, member: &Member, now: Instant) -> bool {
        let (piece, rate) = (self.layout.piece_size(), member.rate);
        if piece << member.leases.saturating_sub(1).min(DOUBLINGS) < TELLING {
            return false;
        }
        let mut others = self.fetchers.iter().filter(|addr| **addr != from).filter_map(|addr| self.members.get(addr));
        if rate == 0 || !others.any(|other| other.is_awaited(&other.zone, piece, now)) {
            return false;
        }
        let mut rates: Vec<u64> = self.members.values().map(|member| member.rate).filter(|rate| *rate > 0).collect();
        // Its own is one of them.
        let middle = rates.len().saturating_sub(1) / 2;
        *rates.select_nth_unstable(middle).1 / LAGS > rate
    }

    /// How many may take from the registry: each has its first piece to give the later, the more there are.
    fn most_fetchers(&self) -> usize {
        let rates = || self.fetchers.iter().filter_map(|addr| self.members.get(addr)).map(|member| member.rate);
        let known = rates().filter(|rate| *rate > 0).count() as u64;
        let quick = self.layout.piece_size() * 1000 / QUICK.as_millis() as u64;
        if known > 0 && rates().sum::<u64>() / known >= quick { MANY_FETCHERS } else { FETCHERS }
    }

    /// Whether the registry is so much faster from `zone` than for `member` that it is left to that: by what comes into a zone in a
    /// second, and by how fast each lease is. A single lease through a narrow wire may be as fast as one of many through a
    /// wide one, and a zone whose members are busy with other blobs has little of this one in a second.
    fn is_faster(&self, zone: &Zone, own: &Zone, member: &Member, now: Instant) -> bool {
        // One that gets nothing any more is not waited for, nor one that does not begin.
        let patience = patience_abroad(self.layout.piece_size(), zone.rate().unwrap_or_default() as u64);
        if !zone.taken.goes_on(patience, now).unwrap_or_else(|| !member.starves(now)) {
            return false;
        }
        let ratio = |theirs: Option<f64>, ours: Option<f64>| Some(theirs? / ours?);
        let paces = ratio(zone.taken.pace(), own.taken.pace());
        let known: Vec<f64> = paces.into_iter().chain(ratio(zone.rate(), own.rate())).collect();
        !known.is_empty() && known.iter().product::<f64>() >= SLOWER.powi(known.len() as i32)
    }

    /// The most pieces of one lease to `member`; `None` when its zone leaves the registry to another, or has as much under way as it
    /// may.
    fn largest(&self, from: SocketAddr, member: &Member, now: Instant) -> Option<usize> {
        let doublings = if self.members.len() > 1 { member.leases } else { member.leases.saturating_mul(2) };
        let largest = self.pieces((self.layout.piece_size() << doublings.min(DOUBLINGS)).min(LARGEST));
        // Where there are zones, others of them may be about to come.
        if self.zones.len() <= 1 && member.zone.is_empty() {
            return Some(largest);
        }
        let own = self.zones.get(&member.zone)?;
        let mut others = self.zones.iter().filter(|(name, _)| **name != member.zone);
        if others.any(|(_, zone)| self.is_faster(zone, own, member, now)) {
            return None;
        }
        // As much again as has come: one piece shows how fast the registry is from here, and the first through a shaped wire
        // would show too much. Its own last one has nearly come.
        let piece = self.layout.piece_size();
        let takers = own.takers.iter().filter(|addr| **addr != from).filter_map(|addr| self.members.get(addr));
        let awaited = takers.filter(|taker| taker.is_awaited("", piece, now));
        let under_way: usize = awaited.map(|taker| taker.leased().count_ones(..)).sum();
        let room = own.taken.pieces.max(1).saturating_sub(under_way);
        Some(largest.min(room)).filter(|room| *room > 0)
    }
}
