//! What comes into a zone from another one, once: who brings it, how much at a time, and from whom.

use std::{
    net::SocketAddr,
    ops::Range,
    time::{Duration, Instant},
};

use fixedbitset::FixedBitSet;

use super::{Crowd, LARGEST, run};

/// A member that had an import sooner than this is given twice as much the next time, and half as much when it took
/// [`SLOW_IMPORT`]: what waits in line on a narrow wire is given up as stalled, and was carried for nothing.
const QUICK_IMPORT: Duration = Duration::from_millis(500);
const SLOW_IMPORT: Duration = Duration::from_secs(1);
/// So many members abroad, who have it, are known to one that imports.
const ABROAD: usize = 2;

impl Crowd {
    /// What another zone has, and this one neither has nor awaits.
    pub(super) fn import(&self, from: SocketAddr, unseen: &FixedBitSet, now: Instant) -> Option<Range<u32>> {
        let member = self.members.get(&from)?;
        // The next one is asked for when the last has nearly come.
        if member.imports.count_ones(..) > 1 {
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
        let here = self.zones.get(&member.zone).map_or(0, |zone| zone.len() - zone.whole);
        let fair = free.count_ones(..) / (4 * here.max(1));
        let took = now.saturating_duration_since(member.imported_at);
        let usual = match member.import {
            0 => 1,
            last if took < QUICK_IMPORT => last * 2,
            last if took > SLOW_IMPORT => last / 2,
            last => last,
        };
        run(&free, fair.min(usual).clamp(1, self.pieces(LARGEST)))
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
        for (_, zone) in zones.iter_mut().filter(|(name, _)| **name != member.zone) {
            let some = zone.some(wanted, random, |addr| has(addr) && !member.links.contains(addr));
            wanted -= some.len();
            chosen.extend(some);
        }
        self.link(from, &chosen);
        chosen
    }
}
