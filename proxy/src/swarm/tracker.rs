//! What an owner knows: who holds which blob. Soft state in memory, bounded, forgotten unless refreshed.
//! No I/O and no clock of its own; `exchange` brings the questions and announcements of others.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use rand::seq::IteratorRandom;

use super::{
    crowd::Crowd,
    frame::{Announce, Join, Joined, MAX_PROVIDERS, MAX_TOLD, Record},
};
use crate::{
    oci::digest::Digest,
    store::{Provenance, piece::Layout},
};

/// How long an announcement counts. Who goes is forgotten at once, so this is only for what got lost.
pub(crate) const TTL: Duration = Duration::from_secs(3 * 3600);
/// The most holders remembered of one blob: more than are ever told.
const MAX_HOLDERS: usize = 256;
/// The most announcements remembered, of all blobs.
const MAX_FACTS: usize = 1 << 20;

/// With fewer neighbours than this, some that have the whole are named too.
const FEW: usize = 4;
/// What all crowds together may take in memory, in bytes.
const MAX_CROWDED: usize = 64 << 20;
/// Crowds that are over are looked for this often.
const SWEEP: Duration = Duration::from_secs(1);

/// The books of an owner.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    blobs: HashMap<Digest, Known>,
    facts: usize,
    crowds: HashMap<Digest, Crowd>,
    /// What the crowds took when they were last looked through, and when that was.
    crowded: usize,
    swept: Option<Instant>,
}

#[derive(Debug, Default)]
struct Known {
    holders: HashMap<SocketAddr, Holder>,
    provenance: Vec<Provenance>,
}

#[derive(Debug)]
struct Holder {
    size: u64,
    complete: bool,
    until: Instant,
}

impl Tracker {
    /// Notes what a member says of itself.
    pub(crate) fn note(&mut self, from: SocketAddr, announce: Announce, now: Instant) {
        for blob in announce.gone {
            self.remove(&blob, from);
        }
        if self.facts >= MAX_FACTS {
            self.expire(now);
        }
        for holding in announce.held {
            let known = self.blobs.entry(holding.blob).or_default();
            let new = !known.holders.contains_key(&from);
            if new && (known.holders.len() >= MAX_HOLDERS || self.facts >= MAX_FACTS) {
                continue;
            }
            self.facts += usize::from(new);
            let holder = Holder { size: holding.size, complete: holding.complete, until: now + TTL };
            known.holders.insert(from, holder);
            for provenance in holding.provenance {
                if !known.provenance.contains(&provenance) {
                    if known.provenance.len() >= MAX_TOLD {
                        known.provenance.remove(0);
                    }
                    known.provenance.push(provenance);
                }
            }
        }
    }

    /// Who has the blob, other than `asker`: complete holders first, chosen at random among equals so that they share the
    /// load. `None` when nobody has.
    pub(crate) fn find(&self, blob: &Digest, asker: SocketAddr, now: Instant) -> Option<Record> {
        let known = self.blobs.get(blob)?;
        let alive = || known.holders.iter().filter(|(addr, holder)| holder.until > now && **addr != asker);
        let size = usual_size(alive().map(|(_, holder)| holder.size))?;
        let pick = |complete: bool, amount: usize| {
            let fits = alive().filter(move |(_, holder)| holder.size == size && holder.complete == complete);
            fits.map(|(addr, _)| (*addr, complete)).sample(&mut rand::rng(), amount)
        };
        let mut providers = pick(true, MAX_PROVIDERS);
        providers.extend(pick(false, MAX_PROVIDERS - providers.len()));
        Some(Record { size, providers, provenance: known.provenance.clone() })
    }

    /// What one of a crowd may do now; `epoch` is our own. `None` when it may not be in it: it speaks of another size than
    /// the others, or there are too many.
    pub(crate) fn join(&mut self, from: SocketAddr, join: &Join, epoch: u64, now: Instant) -> Option<Joined> {
        let layout = Layout::new(join.size).ok()?;
        if self.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP) {
            self.crowds.retain(|_, crowd| !crowd.is_over(now));
            self.crowded = self.crowds.values().map(Crowd::weight).sum();
            self.swept = Some(now);
        }
        if self.crowded >= MAX_CROWDED {
            return None;
        }
        let followed = join.owner != 0 && join.owner != epoch;
        let crowd = self.crowds.entry(join.blob).or_insert_with(|| Crowd::new(layout, rand::random(), followed, now));
        let before = crowd.weight();
        let mut joined = crowd.join(from, join, epoch, now)?;
        self.crowded = (self.crowded + crowd.weight()).saturating_sub(before);
        if usize::from(join.neighbours) + joined.neighbours.len() < FEW
            && let Some(record) = self.find(&join.blob, from, now)
            && record.size == join.size
        {
            let known = |addr: &SocketAddr| joined.neighbours.contains(addr);
            let whole = record.providers.into_iter().filter(|(addr, complete)| *complete && !known(addr));
            let whole: Vec<_> = whole.map(|(addr, _)| addr).take(FEW - joined.neighbours.len()).collect();
            joined.neighbours.extend(whole);
        }
        Some(joined)
    }

    /// How many announcements are remembered.
    pub(crate) fn facts(&self) -> usize {
        self.facts
    }

    /// Forgets what was not refreshed.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.keep(|_, holder| holder.until > now);
    }

    /// Forgets all that is held by others than these.
    pub(crate) fn keep_of(&mut self, members: &HashSet<SocketAddr>) {
        self.keep(|addr, _| members.contains(addr));
    }

    fn keep(&mut self, keep: impl Fn(&SocketAddr, &Holder) -> bool) {
        self.blobs.retain(|_, known| {
            known.holders.retain(|addr, holder| keep(addr, holder));
            !known.holders.is_empty()
        });
        self.facts = self.blobs.values().map(|known| known.holders.len()).sum();
    }

    fn remove(&mut self, blob: &Digest, from: SocketAddr) {
        let Some(known) = self.blobs.get_mut(blob) else { return };
        self.facts -= usize::from(known.holders.remove(&from).is_some());
        if known.holders.is_empty() {
            self.blobs.remove(blob);
        }
    }
}

/// The size that most holders name; one that lies does not decide.
fn usual_size(sizes: impl Iterator<Item = u64>) -> Option<u64> {
    let mut votes = HashMap::<u64, usize>::new();
    for size in sizes {
        *votes.entry(size).or_default() += 1;
    }
    votes.into_iter().max_by_key(|(size, votes)| (*votes, *size)).map(|(size, _)| size)
}

#[cfg(test)]
mod tests {
    use fixedbitset::FixedBitSet;

    use super::*;
    use crate::swarm::frame::{Holding, Pieces, Reach};

    fn addr(n: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], n))
    }

    fn holds(blob: Digest, size: u64, complete: bool) -> Announce {
        let provenance = vec![Provenance { registry: "docker.io".into(), repository: format!("r{size}") }];
        Announce { held: vec![Holding { blob, size, complete, provenance }], gone: vec![] }
    }

    #[test]
    fn what_was_announced_is_found_by_others_until_it_goes_or_expires() {
        let (mut tracker, now, blob) = (Tracker::default(), Instant::now(), Digest::of(b"x"));
        assert_eq!(tracker.find(&blob, addr(1), now), None);
        tracker.note(addr(1), holds(blob, 7, true), now);
        tracker.note(addr(2), holds(blob, 7, false), now + TTL / 2);
        assert_eq!(tracker.find(&blob, addr(3), now).unwrap().providers, [(addr(1), true), (addr(2), false)]);
        assert_eq!(tracker.find(&blob, addr(1), now).unwrap().providers, [(addr(2), false)]);
        assert_eq!(tracker.find(&blob, addr(3), now + TTL).unwrap().providers, [(addr(2), false)]);
        tracker.note(addr(2), Announce { held: vec![], gone: vec![blob, Digest::of(b"y")] }, now);
        assert_eq!(tracker.find(&blob, addr(1), now), None);
        assert_eq!(tracker.facts(), 1);
        tracker.expire(now + TTL);
        assert_eq!((tracker.facts(), tracker.blobs.len()), (0, 0));
    }

    #[test]
    fn what_one_held_that_went_is_forgotten() {
        let (mut tracker, now, blob) = (Tracker::default(), Instant::now(), Digest::of(b"x"));
        tracker.note(addr(1), holds(blob, 7, true), now);
        tracker.note(addr(2), holds(blob, 7, true), now);
        tracker.note(addr(2), holds(Digest::of(b"y"), 7, true), now);
        tracker.keep_of(&HashSet::from([addr(1)]));
        assert_eq!(tracker.find(&blob, addr(3), now).unwrap().providers, [(addr(1), true)]);
        assert_eq!((tracker.facts(), tracker.blobs.len()), (1, 1));
    }

    #[test]
    fn answers_and_memory_are_bounded() {
        let (mut tracker, now, blob) = (Tracker::default(), Instant::now(), Digest::of(b"x"));
        for n in 0..1000 {
            tracker.note(addr(n), holds(blob, 7, n % 2 == 0), now);
        }
        assert_eq!(tracker.facts(), MAX_HOLDERS);
        let record = tracker.find(&blob, addr(0), now).unwrap();
        assert_eq!(record.providers.len(), MAX_PROVIDERS);
        assert!(record.providers.iter().all(|(addr_, complete)| *complete && *addr_ != addr(0)));
        for n in 0..100 {
            let mut announce = holds(blob, 7, true);
            announce.held[0].provenance[0].repository = n.to_string();
            tracker.note(addr(1), announce, now);
        }
        assert_eq!(tracker.find(&blob, addr(0), now).unwrap().provenance.len(), MAX_TOLD);
    }

    #[test]
    fn crowds_take_no_more_memory_than_they_may_and_are_forgotten() {
        let (mut tracker, now) = (Tracker::default(), Instant::now());
        let size = 1 << 39;
        let none = Pieces::some(size, &FixedBitSet::with_capacity(Layout::new(size).unwrap().count() as usize));
        let join = |n: u16| Join {
            blob: Digest::of(&n.to_le_bytes()),
            size,
            held: none.clone(),
            fetching: none.clone(),
            unseen: none.clone(),
            registry: Reach::No,
            zone: String::new(),
            neighbours: 0,
            owner: 0,
        };
        let taken = (0..20_000).filter(|n| tracker.join(addr(*n), &join(*n), 1, now).is_some()).count();
        let each = 3 * 32_768 / 8 + 512;
        assert_eq!(taken, MAX_CROWDED.div_ceil(each));
        assert!(tracker.join(addr(1), &join(20_001), 1, now + Duration::from_secs(60)).is_some());
        assert_eq!(tracker.crowds.len(), 1);
    }

    #[test]
    fn one_that_lies_about_the_size_is_outvoted() {
        let (mut tracker, now, blob) = (Tracker::default(), Instant::now(), Digest::of(b"x"));
        tracker.note(addr(1), holds(blob, 1 << 40, true), now);
        tracker.note(addr(2), holds(blob, 7, true), now);
        tracker.note(addr(3), holds(blob, 7, true), now);
        let record = tracker.find(&blob, addr(9), now).unwrap();
        assert_eq!(record.size, 7);
        assert!(!record.providers.contains(&(addr(1), true)));
    }
}
