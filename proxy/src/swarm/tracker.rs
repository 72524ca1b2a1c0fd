//! What an owner knows: who holds which blob. Soft state in memory, bounded, forgotten unless refreshed.
//! No I/O and no clock of its own; `exchange` brings the questions and announcements of others.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IteratorRandom as _};

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
/// The most announcements remembered of one member: it cannot push those of all others out.
const MAX_OF_ONE: usize = MAX_FACTS / 8;
/// What provenance of all blobs may take in memory, in bytes.
const MAX_PROVENANCE: usize = 64 << 20;

/// With fewer neighbours than this, some that have the whole are named too.
const FEW: usize = 4;
/// What all crowds together may take in memory, in bytes.
const MAX_CROWDED: usize = 64 << 20;
/// Crowds that are over are looked for this often.
const SWEEP: Duration = Duration::from_secs(1);

/// The books of an owner.
#[derive(Debug)]
pub struct Tracker {
    blobs: HashMap<Digest, Known>,
    facts: usize,
    /// Announcements of each member that are remembered.
    by_member: HashMap<SocketAddr, usize>,
    /// What all provenance takes, in bytes.
    told: usize,
    /// By blob and the registry by whose word it is brought.
    crowds: HashMap<(Digest, String), Crowd>,
    /// What the crowds took when they were last looked through, and when that was.
    crowded: usize,
    swept: Option<Instant>,
    random: StdRng,
}

#[derive(Debug, Default)]
struct Known {
    holders: BTreeMap<SocketAddr, Holder>,
    provenance: Vec<Provenance>,
}

#[derive(Debug)]
struct Holder {
    size: u64,
    complete: bool,
    until: Instant,
}

impl Tracker {
    /// Empty books, with the seed of their choices.
    pub fn new(seed: u64) -> Self {
        Self {
            blobs: HashMap::new(),
            facts: 0,
            by_member: HashMap::new(),
            told: 0,
            crowds: HashMap::new(),
            crowded: 0,
            swept: None,
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// Notes what a member says of itself.
    pub fn note(&mut self, from: SocketAddr, announce: Announce, now: Instant) {
        for blob in announce.gone {
            self.remove(&blob, from);
        }
        if self.facts >= MAX_FACTS {
            self.expire(now);
        }
        for holding in announce.held {
            let room = self.facts < MAX_FACTS && self.by_member.get(&from).is_none_or(|facts| *facts < MAX_OF_ONE);
            let new = match self.blobs.get(&holding.blob) {
                Some(known) if known.holders.contains_key(&from) => false,
                Some(known) if known.holders.len() < MAX_HOLDERS && room => true,
                None if room => true,
                _ => continue,
            };
            if new {
                self.facts += 1;
                *self.by_member.entry(from).or_default() += 1;
            }
            let known = self.blobs.entry(holding.blob).or_default();
            let holder = Holder { size: holding.size, complete: holding.complete, until: now + TTL };
            known.holders.insert(from, holder);
            for provenance in holding.provenance {
                if known.provenance.contains(&provenance) {
                    continue;
                }
                if known.provenance.len() >= MAX_TOLD {
                    self.told -= weight(&known.provenance.remove(0));
                }
                // Without it the registry is asked once more, no worse.
                if self.told < MAX_PROVENANCE {
                    self.told += weight(&provenance);
                    known.provenance.push(provenance);
                }
            }
        }
    }

    /// Who has the blob, other than `asker`: complete holders first, chosen at random among equals so that they share the
    /// load. `None` when nobody has.
    pub fn find(&mut self, blob: &Digest, asker: SocketAddr, now: Instant) -> Option<Record> {
        let Self { blobs, random, .. } = self;
        let known = blobs.get(blob)?;
        let alive = || known.holders.iter().filter(|(addr, holder)| holder.until > now && **addr != asker);
        let size = usual_size(alive().map(|(_, holder)| holder.size))?;
        let mut pick = |complete: bool, amount: usize| {
            let fits = alive().filter(move |(_, holder)| holder.size == size && holder.complete == complete);
            fits.map(|(addr, _)| (*addr, complete)).sample(random, amount)
        };
        let mut providers = pick(true, MAX_PROVIDERS);
        providers.extend(pick(false, MAX_PROVIDERS - providers.len()));
        Some(Record { size, providers, provenance: known.provenance.clone() })
    }

    /// What one of a crowd may do now; `epoch` is our own. `None` when it may not be in it: it speaks of another size than
    /// the others, or there are too many.
    pub fn join(&mut self, from: SocketAddr, join: &Join, epoch: u64, now: Instant) -> Option<Joined> {
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
        let (key, seed) = ((join.blob, join.served_by.clone()), self.random.random());
        let crowd = self.crowds.entry(key).or_insert_with(|| Crowd::new(layout, seed, followed, now));
        let before = crowd.weight();
        let mut joined = crowd.join(from, join, epoch, now)?;
        self.crowded = (self.crowded + crowd.weight()).saturating_sub(before);
        if usize::from(join.neighbours) + joined.neighbours.len() < FEW
            && let Some(record) = self.find(&join.blob, from, now)
            && record.size == join.size
            && record.provenance.iter().any(|one| one.registry == join.served_by)
        {
            let known = |addr: &SocketAddr| joined.neighbours.contains(addr);
            let whole = record.providers.into_iter().filter(|(addr, complete)| *complete && !known(addr));
            let whole: Vec<_> = whole.map(|(addr, _)| addr).take(FEW - joined.neighbours.len()).collect();
            joined.neighbours.extend(whole);
        }
        Some(joined)
    }

    /// How many announcements are remembered.
    pub fn facts(&self) -> usize {
        self.facts
    }

    /// Forgets what was not refreshed.
    pub fn expire(&mut self, now: Instant) {
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
        self.told = self.blobs.values().flat_map(|known| &known.provenance).map(weight).sum();
        self.by_member.clear();
        for from in self.blobs.values().flat_map(|known| known.holders.keys()) {
            *self.by_member.entry(*from).or_default() += 1;
        }
    }

    fn remove(&mut self, blob: &Digest, from: SocketAddr) {
        let Some(known) = self.blobs.get_mut(blob) else { return };
        if known.holders.remove(&from).is_some() {
            self.facts -= 1;
            if let Some(facts) = self.by_member.get_mut(&from) {
                *facts -= 1;
            }
        }
        if known.holders.is_empty() {
            self.told -= known.provenance.iter().map(weight).sum::<usize>();
            self.blobs.remove(blob);
        }
    }
}

/// What a pair of names takes in memory, in bytes.
fn weight(provenance: &Provenance) -> usize {
    size_of::<Provenance>() + provenance.registry.len() + provenance.repository.len()
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
        let (mut tracker, now, blob) = (Tracker::new(1), Instant::now(), Digest::of(b"x"));
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
        let (mut tracker, now, blob) = (Tracker::new(1), Instant::now(), Digest::of(b"x"));
        tracker.note(addr(1), holds(blob, 7, true), now);
        tracker.note(addr(2), holds(blob, 7, true), now);
        tracker.note(addr(2), holds(Digest::of(b"y"), 7, true), now);
        tracker.keep_of(&HashSet::from([addr(1)]));
        assert_eq!(tracker.find(&blob, addr(3), now).unwrap().providers, [(addr(1), true)]);
        assert_eq!((tracker.facts(), tracker.blobs.len()), (1, 1));
    }

    #[test]
    fn answers_and_memory_are_bounded() {
        let (mut tracker, now, blob) = (Tracker::new(1), Instant::now(), Digest::of(b"x"));
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
    fn no_member_takes_the_room_of_the_others() {
        let (mut tracker, now) = (Tracker::new(1), Instant::now());
        let long = "x".repeat(255);
        let holding = |n: u64| {
            let provenance =
                (0..MAX_TOLD).map(|told| Provenance { registry: long.clone(), repository: format!("{told}/{long}") });
            Holding { blob: Digest::of(&n.to_le_bytes()), size: 7, complete: true, provenance: provenance.collect() }
        };
        for n in 0..MAX_OF_ONE as u64 + 1000 {
            tracker.note(addr(1), Announce { held: vec![holding(n)], gone: vec![] }, now);
        }
        assert_eq!((tracker.facts(), tracker.blobs.len()), (MAX_OF_ONE, MAX_OF_ONE), "nothing is kept of the others");
        let told: usize = tracker.blobs.values().flat_map(|known| &known.provenance).map(weight).sum();
        assert_eq!(told, tracker.told);
        assert!(told < MAX_PROVENANCE + 1024, "{told}");
        let last = Digest::of(&u64::MAX.to_le_bytes());
        tracker.note(addr(2), Announce { held: vec![holding(u64::MAX)], gone: vec![Digest::of(b"y")] }, now);
        assert!(tracker.find(&last, addr(3), now).is_some());
        let all = (0..MAX_OF_ONE as u64).map(|n| Digest::of(&n.to_le_bytes())).collect();
        tracker.note(addr(1), Announce { held: vec![], gone: all }, now);
        assert_eq!((tracker.facts(), tracker.told), (1, 0));
        tracker.note(addr(1), Announce { held: vec![holding(1)], gone: vec![] }, now);
        assert_eq!(tracker.facts(), 2);
        tracker.expire(now + TTL);
        assert!(tracker.facts() == 0 && tracker.told == 0 && tracker.by_member.is_empty());
    }

    #[test]
    fn a_crowd_is_of_one_registry() {
        let (mut tracker, now, blob) = (Tracker::new(1), Instant::now(), Digest::of(b"x"));
        tracker.note(addr(9), holds(blob, 7, true), now);
        let none = Pieces::some(7, &FixedBitSet::with_capacity(1));
        let mut join = |n: u16, served_by: &str| {
            let join = Join {
                blob,
                size: 7,
                held: none.clone(),
                fetching: none.clone(),
                unseen: none.clone(),
                registry: Reach::No,
                zone: String::new(),
                neighbours: 0,
                served_by: served_by.to_owned(),
                owner: 0,
            };
            tracker.join(addr(n), &join, 1, now).unwrap().neighbours
        };
        assert_eq!(join(1, "docker.io"), [addr(9)]);
        assert_eq!(join(2, "liar.test"), [], "neither who has it nor who brings it");
        assert_eq!(join(3, "liar.test"), [addr(2)]);
        assert!(join(4, "docker.io").contains(&addr(1)));
    }

    #[test]
    fn crowds_take_no_more_memory_than_they_may_and_are_forgotten() {
        let (mut tracker, now) = (Tracker::new(1), Instant::now());
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
            served_by: "registry.test".into(),
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
        let (mut tracker, now, blob) = (Tracker::new(1), Instant::now(), Digest::of(b"x"));
        tracker.note(addr(1), holds(blob, 1 << 40, true), now);
        tracker.note(addr(2), holds(blob, 7, true), now);
        tracker.note(addr(3), holds(blob, 7, true), now);
        let record = tracker.find(&blob, addr(9), now).unwrap();
        assert_eq!(record.size, 7);
        assert!(!record.providers.contains(&(addr(1), true)));
    }
}
