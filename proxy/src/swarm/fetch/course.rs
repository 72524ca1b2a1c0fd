//! What one fetch does next. A state machine like the plan in it: no I/O, no clock of its own. Whoever drives it makes the
//! requests and reports how they went; the daemon does, and the simulator.

mod registry;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    ops::Range,
    time::{Duration, Instant},
};

use fixedbitset::FixedBitSet;

pub(in crate::swarm) use self::registry::Pace;
use self::registry::{RETRY, Registry};
use super::{
    super::plan::{Ask, Failure, Plan},
    wish::Declined,
};
use crate::{
    oci::digest::Digest,
    store::piece::Layout,
    swarm::{
        crowd::LINKS,
        frame::{Join, Joined, Pieces, Reach},
    },
};

/// Neighbours at most, whoever named them.
const NEIGHBOURS: usize = 32;
/// When nothing came for so long and the registry will not help, it is over.
const HOPELESS: Duration = Duration::from_secs(10);
/// Members at random that one fetch meets at most: the owner may be busy with another crowd, and nobody else pull this.
const AT_RANDOM: usize = NEIGHBOURS;
/// The owner is not asked more often than this.
const MIN_PAUSE: Duration = Duration::from_millis(10);
/// The owner is asked again after this when it would not have us, or was busy.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// Leases under way of one blob, for a node that is alone: the next one is asked for when the last has nearly come.
const LEASES: usize = 2;
/// The same of all blobs of one registry together. Among others a node has one lease in all: the registry's wire is shared by all
/// fetchers, and the more there are, the later each has its first piece to give. While it asks for the next one, others use the wire.
const LEASES_IN_ALL: usize = 4;
/// A blob of which nothing comes for so long may have a lease although another blob has one. Sixteen who take from a registry of
/// 50 Mbit/s have their first pieces after 0.7 s.
const STARVING: Duration = Duration::from_secs(3);
/// When nothing came for so long, from anywhere, the owner is told though it is not time, and again after as long: it may take
/// for held what nobody has any more, and sees by two reports that say the same that this node starves.
const NEED: Duration = Duration::from_secs(1);
/// A lease of which not a byte comes for so long is given up.
const STALLED: Duration = Duration::from_secs(5);
/// What is to be imported and nobody is known to have for so long is another's to import.
const NOWHERE: Duration = Duration::from_secs(2);
/// When nothing came for so long, from anywhere, the registry is asked without a lease.
const IMPATIENT: Duration = Duration::from_secs(5);
/// One fetch.
#[derive(Debug)]
pub struct Course {
    layout: Layout,
    wanted: Range<u32>,
    plan: Plan,
    neighbours: BTreeSet<SocketAddr>,
    /// How many members at random were met.
    at_random: usize,
    registry: Registry,
    leases: Vec<Lease>,
    /// When imports were last granted, or looked through.
    imported: Option<Instant>,
    owner: Owner,
    /// How many pieces there were when one last came, from anywhere, and when that was.
    had: usize,
    progress: Instant,
    /// Nothing came for too long; until a neighbour gives something, the registry is asked without leases.
    pushing: bool,
}

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlook {
    /// Something is still to come.
    Going,
    /// All is here.
    Done,
    /// Neither the registry nor anybody else gives more.
    Hopeless,
}

/// What is being taken from the registry.
#[derive(Debug)]
struct Lease {
    pieces: Range<u32>,
    /// How many bytes there were when one last came, and when that was.
    had: u64,
    progress: Instant,
}

/// How we stand with the owner.
#[derive(Debug)]
struct Owner {
    asking: bool,
    asked: Instant,
    due: Instant,
    /// The last answer had nothing for us.
    nothing: bool,
    epoch: u64,
}

impl Course {
    /// A fetch of those pieces of `wanted` that are not in `held`. `seed` decides between equals.
    pub fn new(layout: Layout, held: &FixedBitSet, wanted: Range<u32>, seed: u64, now: Instant) -> Self {
        Self {
            layout,
            plan: Plan::new(held, wanted.clone(), seed),
            wanted,
            neighbours: BTreeSet::new(),
            at_random: 0,
            registry: Registry::default(),
            leases: Vec::new(),
            imported: None,
            owner: Owner { asking: false, asked: now, due: now, nothing: false, epoch: 0 },
            had: 0,
            progress: now,
            pushing: false,
        }
    }

    /// How fast the registry was for other blobs, a moment ago.
    pub(in crate::swarm) fn recall(&mut self, pace: Pace) {
        self.registry.pace = pace;
    }

    /// How fast the registry is.
    pub(in crate::swarm) fn pace(&self) -> Pace {
        self.registry.pace
    }

    /// A member that may be a neighbour; whether it is one now and was none before.
    pub fn meet(&mut self, peer: SocketAddr) -> bool {
        self.neighbours.len() < NEIGHBOURS && self.neighbours.insert(peer)
    }

    /// How many members at random to meet now that the owner has no time: where it has none, many pull. Those that do not are
    /// no neighbours, so others may be met the next time.
    pub fn at_random(&mut self) -> usize {
        let more = LINKS.saturating_sub(self.neighbours.len()).min(AT_RANDOM - self.at_random);
        self.at_random += more;
        more
    }

    /// A neighbour has these pieces; `near` when it is in our zone.
    pub fn has(&mut self, peer: SocketAddr, pieces: &FixedBitSet, near: bool) {
        self.plan.set_peer(peer, pieces, near);
    }

    /// A neighbour can no longer be followed.
    pub fn lost(&mut self, peer: SocketAddr) {
        self.plan.drop_peer(peer);
        self.neighbours.remove(&peer);
    }

    /// Leases that bring nothing and are given up, so that their pieces can be had elsewhere: the owner leases them anew.
    /// `received` tells how many bytes came of one.
    pub fn give_up_stalled(&mut self, received: impl Fn(&Range<u32>) -> u64, now: Instant) -> Vec<Range<u32>> {
        let mut stalled = Vec::new();
        for lease in &mut self.leases {
            let has = received(&lease.pieces);
            if has > lease.had {
                (lease.had, lease.progress) = (has, now);
            } else if now.saturating_duration_since(lease.progress) > STALLED {
                stalled.push(lease.pieces.clone());
            }
        }
        for pieces in &stalled {
            self.lease_ended(pieces, Duration::ZERO, Err(Declined::Failed), now);
        }
        stalled
    }

    /// Looks at what is here by now, and at where the client reads. To be called after each report and before asking for
    /// what to do.
    pub fn look(&mut self, held: &FixedBitSet, cursor: u32, now: Instant) -> Outlook {
        let has = held.count_ones(..);
        if has > self.had {
            (self.had, self.progress) = (has, now);
        }
        self.plan.settle(held);
        self.plan.set_cursor(cursor);
        if now.saturating_duration_since(self.progress) >= NEED {
            self.owner.due = self.owner.due.min(self.owner.asked + NEED);
        }
        if self.imported.is_some_and(|since| now.saturating_duration_since(since) > NOWHERE) {
            self.plan.give_up_imports();
            self.imported = Some(now);
        }
        // The last piece is here before its bearer has said so.
        if self.is_done(held) && self.plan.is_idle() {
            Outlook::Done
        } else if self.is_hopeless(now) {
            Outlook::Hopeless
        } else {
            Outlook::Going
        }
    }

    /// The next request to make of a neighbour while the node's other blobs have `others` open; call until `None`.
    pub fn next(&mut self, others: usize, now: Instant) -> Option<Ask> {
        self.plan.next(others, now)
    }

    /// How many requests to neighbours are open.
    pub fn open(&self) -> usize {
        self.plan.open()
    }

    /// Somebody else brings a piece that was to be asked for.
    pub fn elsewhere(&mut self, index: u32) {
        self.plan.elsewhere(index);
    }

    /// Nothing comes from anywhere: what to take from the registry without a lease. An owner that is wrong, or holders
    /// that are, must not stop a pull.
    pub fn push_on(&mut self, now: Instant) -> Option<Range<u32>> {
        self.pushing |= now.saturating_duration_since(self.progress) > IMPATIENT;
        if !self.pushing || !self.leases.is_empty() || !self.may_ask_registry(now) {
            return None;
        }
        // Not what is asked of somebody already: it could not be written, and would be fetched over and over.
        let index = *self.plan.missing().first()?;
        self.leased(index..index + 1, now)
    }

    /// Whether to ask the owner now, because it is time or because there is room for another lease; and if so, how the
    /// registry can be asked. `in_all` counts the leases of all blobs of the registry that are under way
    /// or being asked for.
    pub fn join(&mut self, held: &FixedBitSet, in_all: usize, now: Instant) -> Option<Reach> {
        if self.owner.asking {
            return None;
        }
        let room = self.has_room(held, in_all, now);
        let imports = self.imported.is_some() && self.plan.imports() <= 1;
        let wants = (room || imports) && !self.owner.nothing && !self.plan.unseen().is_clear();
        let pause = now.saturating_duration_since(self.owner.asked) >= MIN_PAUSE || self.owner.epoch == 0;
        if self.owner.due > now && !(wants && pause) {
            return None;
        }
        self.owner.asking = true;
        self.owner.asked = now;
        Some(match (room, self.registry.whole) {
            (false, _) => Reach::No,
            (true, true) => Reach::Whole,
            (true, false) => Reach::Ranges { rate: self.registry.pace.rate() },
        })
    }

    /// What the owner is told.
    pub fn report(&self, blob: Digest, held: &FixedBitSet, registry: Reach, (zone, served_by): (&str, &str)) -> Join {
        let size = self.layout.size();
        Join {
            blob,
            size,
            held: Pieces::some(size, held),
            fetching: Pieces::some(size, &self.plan.fetching(held)),
            unseen: Pieces::some(size, &self.plan.unseen()),
            registry,
            zone: zone.to_owned(),
            neighbours: self.neighbours.len() as u16,
            served_by: served_by.to_owned(),
            owner: self.owner.epoch,
        }
    }

    /// The owner answered, or did not; what to take from the registry. Its neighbours are to be met.
    pub fn joined(&mut self, joined: Option<&Joined>, now: Instant) -> Option<Range<u32>> {
        self.owner.asking = false;
        let Some(joined) = joined else {
            // Not again with the next piece: an owner that is busy would be asked by all, all the time.
            (self.owner.due, self.owner.nothing) = (now + ASK_AGAIN, true);
            return None;
        };
        self.owner.epoch = joined.owner;
        self.owner.due = now + Duration::from_millis(joined.again.into()).max(MIN_PAUSE);
        self.owner.nothing = joined.lease.is_none() && joined.imports.is_none();
        if let Some(pieces) = &joined.imports {
            self.plan.import(pieces.clone());
            self.imported = Some(now);
        }
        let pieces = joined.lease.clone()?;
        self.pushing = false;
        self.leased(pieces, now)
    }

    /// A piece came from a neighbour.
    pub fn came(&mut self, index: u32, now: Instant) {
        self.plan.done(index, now);
        self.pushing = false;
        if self.imported.is_some() && self.plan.imports() <= 1 {
            self.owner.nothing = false;
        }
    }

    /// A piece did not come from a neighbour.
    pub fn failed(&mut self, index: u32, failure: Failure, now: Instant) {
        self.plan.failed(index, failure, now);
    }

    /// A lease has ended; whether it was under way.
    pub fn lease_ended(
        &mut self,
        pieces: &Range<u32>,
        took: Duration,
        ended: Result<(), Declined>,
        now: Instant,
    ) -> bool {
        let Some(at) = self.leases.iter().position(|lease| lease.pieces == *pieces) else { return false };
        self.leases.swap_remove(at);
        self.plan.unlease(pieces.clone());
        let bytes: u64 = pieces.clone().map(|index| self.layout.len(index)).sum();
        self.registry.lease_ended(bytes, took, ended, now);
        // What the owner said meanwhile was about no lease, or about one more; and it may have waited for this one to show how
        // fast the registry is.
        self.owner.nothing = false;
        true
    }

    /// Whether the registry is to be asked for the whole, because it ignores ranges.
    pub fn whole(&self) -> bool {
        self.registry.whole
    }

    /// When to look again if nothing happens.
    pub fn wake(&self, now: Instant) -> Instant {
        let due = if self.owner.asking { now + RETRY } else { self.owner.due };
        let need = self.progress + NEED;
        let due = if need > now { due.min(need) } else { due };
        self.plan.rested(now).map_or(due, |rested| due.min(rested)).max(now + MIN_PAUSE)
    }

    fn leased(&mut self, pieces: Range<u32>, now: Instant) -> Option<Range<u32>> {
        let pieces = pieces.start..pieces.end.min(self.layout.count());
        if pieces.is_empty() {
            return None;
        }
        self.plan.lease(pieces.clone());
        self.leases.push(Lease { pieces: pieces.clone(), had: 0, progress: now });
        Some(pieces)
    }

    fn is_done(&self, held: &FixedBitSet) -> bool {
        let end = self.wanted.end.min(self.layout.count()) as usize;
        let start = (self.wanted.start as usize).min(end);
        held.count_ones(start..end) == end - start
    }

    fn is_hopeless(&self, now: Instant) -> bool {
        let quiet = now.saturating_duration_since(self.progress);
        let alone = self.owner.epoch != 0 && self.neighbours.is_empty();
        let late = self.registry.never && (alone || quiet > HOPELESS) || quiet > HOPELESS * 6;
        late && self.leases.is_empty() && self.plan.is_over()
    }

    fn may_ask_registry(&self, now: Instant) -> bool {
        self.registry.may_be_asked(now)
    }

    /// Whether another lease may be asked for.
    fn has_room(&self, held: &FixedBitSet, in_all: usize, now: Instant) -> bool {
        let alone = || {
            // Before its owner has answered, any blob seems to be this node's alone.
            let (known, nearly) = (self.owner.epoch != 0, self.plan.leased(held) <= 1);
            known && self.neighbours.is_empty() && nearly && self.leases.len() < LEASES && in_all < LEASES_IN_ALL
        };
        let starving = || {
            let quiet = now.saturating_duration_since(self.progress);
            quiet > STARVING && self.leases.is_empty() && in_all < LEASES_IN_ALL
        };
        self.may_ask_registry(now) && (in_all == 0 || alone() || starving())
    }
}
