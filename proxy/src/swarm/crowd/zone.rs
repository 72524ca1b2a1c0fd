//! The members of one zone taken together, so that a book of many is not read through for each report.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use fixedbitset::FixedBitSet;
use rand::{RngExt as _, rngs::StdRng};

use super::import::Imports;

/// One zone.
#[derive(Debug)]
pub(super) struct Zone {
    /// How many members have each piece, of those that lack another.
    holders: Vec<u32>,
    /// Members that have all.
    pub(super) whole: usize,
    /// In no order.
    members: Vec<SocketAddr>,
    /// Those of them with a lease or an import.
    pub(super) takers: BTreeSet<SocketAddr>,
    /// What its members took from the registry, all together.
    pub(super) taken: Taken,
    pub(super) imports: Imports,
    /// The rates of those whose is known, added up, and how many those are.
    rates: (u64, u64),
}

/// Pieces that the members of a zone took from the registry by leases.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) pieces: usize,
    /// The first lease of all, and when a piece last came.
    since: Option<Instant>,
    last: Option<Instant>,
}

impl Taken {
    /// A member has a lease.
    pub(super) fn begin(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// So many more came. What an owner before this one granted does not count: nobody knows when it began.
    pub(super) fn came(&mut self, pieces: usize, now: Instant) {
        if pieces > 0 && self.since.is_some() {
            self.pieces += pieces;
            self.last = Some(now);
        }
    }

    /// Pieces per second, of all members together; `None` before the first.
    pub(super) fn pace(&self) -> Option<f64> {
        let took = self.last?.saturating_duration_since(self.since?);
        Some(self.pieces as f64 / took.as_secs_f64().max(0.001))
    }

    /// Whether a piece came, or the first was granted, in the last `time`; `None` before that.
    pub(super) fn goes_on(&self, time: Duration, now: Instant) -> Option<bool> {
        Some(now.saturating_duration_since(self.last.or(self.since)?) < time)
    }
}

impl Zone {
    /// Nobody, of a blob with so many pieces.
    pub(super) fn new(count: usize) -> Self {
        Self {
            holders: vec![0; count],
            whole: 0,
            members: Vec::new(),
            takers: BTreeSet::new(),
            taken: Taken::default(),
            imports: Imports::default(),
            rates: (0, 0),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// A member that has nothing yet.
    pub(super) fn enter(&mut self, member: SocketAddr) {
        self.members.push(member);
    }

    /// A member that had this.
    pub(super) fn leave(&mut self, member: SocketAddr, had: &FixedBitSet) {
        self.members.retain(|other| *other != member);
        self.takers.remove(&member);
        self.holds(had, &FixedBitSet::with_capacity(had.len()));
    }

    /// The registry gave a member this many bytes per second, and gives it that many now; 0 where it is not known.
    pub(super) fn gives(&mut self, gave: u64, gives: u64) {
        let (sum, count) = self.rates;
        self.rates = (sum + gives - gave, count + u64::from(gives > 0) - u64::from(gave > 0));
    }

    /// How fast the registry gives to a member in the mean, in bytes per second.
    pub(super) fn rate(&self) -> Option<f64> {
        let (sum, count) = self.rates;
        (count > 0).then(|| sum as f64 / count as f64)
    }

    /// A member that had the one has the other.
    pub(super) fn holds(&mut self, had: &FixedBitSet, has: &FixedBitSet) {
        self.whole = self.whole + usize::from(has.is_full()) - usize::from(had.is_full());
        let parts = |set: &FixedBitSet| if set.is_full() { FixedBitSet::with_capacity(set.len()) } else { set.clone() };
        let (had, has) = (parts(had), parts(has));
        for piece in has.difference(&had) {
            self.holders[piece] += 1;
        }
        for piece in had.difference(&has) {
            self.holders[piece] = self.holders[piece].saturating_sub(1);
        }
    }

    /// Whether any member has this piece.
    pub(super) fn has(&self, piece: usize) -> bool {
        self.whole > 0 || self.holders.get(piece).is_some_and(|holders| *holders > 0)
    }

    /// Adds to `set` what at least so many members have that lack something.
    pub(super) fn add_parts(&self, set: &mut FixedBitSet, least: u32) {
        set.extend(self.holders.iter().enumerate().filter(|(_, holders)| **holders >= least).map(|(piece, _)| piece));
    }

    /// Up to `amount` members that fit, any of them with the same chance.
    pub(super) fn some(
        &mut self,
        amount: usize,
        random: &mut StdRng,
        fits: impl Fn(&SocketAddr) -> bool,
    ) -> Vec<SocketAddr> {
        let mut chosen = Vec::new();
        for first in 0..self.members.len() {
            if chosen.len() >= amount {
                break;
            }
            let other = random.random_range(first..self.members.len());
            self.members.swap(first, other);
            chosen.extend(Some(self.members[first]).filter(&fits));
        }
        chosen
    }
}
