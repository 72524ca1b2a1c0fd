//! What comes into a zone from another one, once: who brings it, how much at a time, and from whom.

use std::{
    net::SocketAddr,
    ops::Range,
    time::{Duration, Instant},
};

use fixedbitset::FixedBitSet;

use super::{Crowd, LARGEST, run};

/// Imports that come sooner than this let a zone have more of them under way, and ones that take [`SLOW`] fewer: what waits in
/// line on a narrow wire is given up as stalled, and was carried for nothing. Where the quickest of all took long, because
/// pieces are large or their givers slow, one and a half times and twice as long as that.
const QUICK: Duration = Duration::from_millis(500);
const SLOW: Duration = Duration::from_secs(1);
/// A zone begins with so many pieces under way, and never has fewer: one may be stuck.
const FIRST: usize = 2;

/// How many pieces a zone may have under way from others.
#[derive(Debug)]
pub(super) struct Imports {
    most: usize,
    /// When that became less.
    fewer_since: Option<Instant>,
    /// What the quickest took.
    least: Duration,
}

impl Default for Imports {
    fn default() -> Self {
        Self { most: FIRST, fewer_since: None, least: Duration::MAX }
    }
}

impl Imports {
    /// A piece came, so long after it was granted.
    pub(super) fn came(&mut self, took: Duration, now: Instant) {
        self.least = self.least.min(took);
        if took < QUICK.max(self.least * 3 / 2) {
            self.most = self.most.saturating_add(1);
        } else if took > SLOW.max(self.least * 2)
            && self.fewer_since.is_none_or(|since| now.saturating_duration_since(since) > took)
        {
            // What was under way already came as slowly for the same reason.
            (self.most, self.fewer_since) = ((self.most / 2).max(FIRST), Some(now));
        }
    }
}

/// So many members abroad, who have it, are known to one that imports.
const ABROAD: usize = 2;

impl Crowd {
    /// What another zone has, and this one neither has nor awaits.
    pub(super) fn import(&self, from: SocketAddr, unseen: &FixedBitSet, now: Instant) -> Option<Range<u32>> {
        let member = self.members.get(&from)?;
        // The next one is asked for when the last has nearly come.
        if member.imports.len() > 1 {
            return None;
        }
        let own = self.zones.get(&member.zone)?;
        let near = own.takers.iter().filter_map(|addr| self.members.get(addr));
        let awaited = near.filter(|taker| taker.is_awaited(&member.zone, self.layout.piece_size(), now));
        let under_way: usize = awaited.map(|taker| taker.imports.len()).sum();
        let room = own.imports.most.saturating_sub(under_way);
        if room == 0 {
            return None;
        }
        let mut free = FixedBitSet::with_capacity(unseen.len());
        for (_, abroad) in self.zones.iter().filter(|(name, _)| **name != member.zone) {
            abroad.add_parts(&mut free, 1);
            if abroad.whole > 0 {
                free.insert_range(..);
            }
        }
        free.intersect_with(unseen);
        free.difference_with(&self.claimed(&member.zone, Some(&member.zone), 1, now));
        let fair = free.count_ones(..) / (4 * (own.len() - own.whole).max(1));
        run(&free, fair.max(1).min(room).min(self.pieces(LARGEST)))
    }

    /// Links one that is to import a piece, and knows too few who have it, with members of other zones who do.
    pub(super) fn abroad(&mut self, from: SocketAddr, piece: usize) -> Vec<SocketAddr> {
        let Self { members, zones, random, .. } = self;
        let Some(member) = members.get(&from) else { return Vec::new() };
        let has = |addr: &SocketAddr| {
            members.get(addr).is_some_and(|other| other.zone != member.zone && other.held.contains(piece))
        };
        let mut wanted = ABROAD.saturating_sub(member.links.iter().filter(|link| has(link)).count());
        let mut chosen = Vec::new();
        for (_, zone) in zones.iter_mut().filter(|(name, zone)| **name != member.zone && zone.has(piece)) {
            let some = zone.some(wanted, random, |addr| has(addr) && !member.links.contains(addr));
            wanted -= some.len();
            chosen.extend(some);
        }
        self.link(from, &chosen);
        chosen
    }
}
