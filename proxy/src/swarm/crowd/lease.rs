//! What is taken from the registry, each piece once: by whom, how many at a time, and how much each.

use std::{
    net::SocketAddr,
    ops::Range,
    time::{Duration, Instant},
};

use fixedbitset::FixedBitSet;

use super::{Crowd, GRACE, LARGEST, Member, Reach, run};

/// Members that take from the registry at a time.
pub(super) const FETCHERS: usize = 16;
/// The same of a registry that is fast: one that gives each of them a piece in [`QUICK`].
const MANY_FETCHERS: usize = 64;
const QUICK: Duration = Duration::from_millis(250);
/// What the first lease of a member may be, in bytes.
const FIRST: u64 = 2 << 20;
/// Towards the end leases become smaller, down to this, in bytes.
const LEAST: u64 = 512 << 10;
/// A member to which the registry gives this many times more slowly than to most takes nothing as long as others do.
const LAGS: u64 = 4;
/// A zone whose registry is this many times slower than the fastest one's leaves the registry to that.
const SLOWER: u64 = 2;

impl Crowd {
    /// Members that take from the registry now.
    fn fetchers(&self) -> impl Iterator<Item = (SocketAddr, &Member)> {
        let takers = self.takers.iter().filter_map(|addr| Some((*addr, self.members.get(addr)?)));
        takers.filter(|(_, taker)| taker.is_leasing())
    }

    /// What `from` may take of what it has not seen with anybody; `None` when it may take nothing.
    pub(super) fn lease(
        &self,
        from: SocketAddr,
        reach: Reach,
        unseen: &FixedBitSet,
        now: Instant,
    ) -> Option<Range<u32>> {
        let member = self.members.get(&from)?;
        let mut free = unseen.clone();
        free.difference_with(&self.claimed(&member.zone, None, 1, now));
        // Where reports are far apart, the only one known to have a piece may have died with it long ago.
        if free.is_clear() && self.pace() > GRACE && member.starves(now) {
            free.clone_from(unseen);
            free.difference_with(&self.claimed(&member.zone, None, 2, now));
        }
        if free.is_clear() {
            return None;
        }
        let fetchers = self.fetchers().count();
        match reach {
            Reach::Whole if fetchers == 0 || member.is_leasing() => run(&free, usize::MAX),
            Reach::Ranges { .. } if fetchers < self.most_fetchers() || member.is_leasing() => {
                let largest = self.largest(member, now).filter(|_| !self.lags(from, member.rate, now))?;
                let fair = free.count_ones(..) / (2 * fetchers.max(1));
                run(&free, fair.max(self.pieces(LEAST)).min(largest))
            }
            _ => None,
        }
    }

    /// Whether one to which the registry gives at this rate leaves it to others: everybody waits for what a slow one has
    /// alone. Measured against all members, not against those who take now: half of them are never slow then. A rate is
    /// that of the last lease; against takers alone, those who had theirs in the first rush would never get another.
    fn lags(&self, from: SocketAddr, rate: u64, now: Instant) -> bool {
        let piece = self.layout.piece_size();
        let goes = |taker: &Member| taker.is_awaited(&taker.zone, piece, now);
        if rate == 0 || !self.fetchers().any(|(addr, taker)| addr != from && goes(taker)) {
            return false;
        }
        let mut rates: Vec<u64> = self.members.values().map(|member| member.rate).filter(|rate| *rate > 0).collect();
        // Its own is one of them.
        let middle = rates.len().saturating_sub(1) / 2;
        *rates.select_nth_unstable(middle).1 / LAGS > rate
    }

    /// How many may take from the registry: each has its first piece to give the later, the more there are.
    fn most_fetchers(&self) -> usize {
        let rates = || self.takers.iter().filter_map(|addr| self.members.get(addr)).map(|member| member.rate);
        let known = rates().filter(|rate| *rate > 0).count() as u64;
        let quick = self.layout.piece_size() * 1000 / QUICK.as_millis() as u64;
        if known > 0 && rates().sum::<u64>() / known >= quick { MANY_FETCHERS } else { FETCHERS }
    }

    /// The most pieces of one lease to `member`; `None` when its zone leaves the registry to another.
    fn largest(&self, member: &Member, now: Instant) -> Option<usize> {
        let largest = self.pieces((FIRST << member.leases.min(1)).min(LARGEST));
        // Where there are zones, others of them may be about to come.
        if self.zones.len() <= 1 && member.zone.is_empty() {
            return Some(largest);
        }
        let (here, abroad): (Vec<_>, Vec<_>) = self.members.values().partition(|other| other.zone == member.zone);
        let fastest = |zone: &[&Member]| zone.iter().map(|member| member.rate).max().unwrap_or_default();
        let tries = |other: &&Member| other.is_leasing() && other.is_awaited("", self.layout.piece_size(), now);
        match (fastest(&here), fastest(&abroad)) {
            // One piece shows how fast the registry is from here; if that does not come, another one's.
            (0, _) => (!here.iter().any(tries)).then_some(1),
            // Not known there yet: no more than what shows it here.
            (_, 0) if abroad.iter().any(tries) => Some(1),
            (own, other) => (other / own < SLOWER).then_some(largest),
        }
    }
}
