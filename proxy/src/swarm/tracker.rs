//! What an owner knows: who holds which blob. Soft state in memory, bounded, forgotten unless refreshed.
//! No I/O and no clock of its own; `exchange` brings the questions and announcements of others.

#[cfg(test)]
mod tests;

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

/// One that has a blob is named to so many askers in [`NAMING`]. Everybody who asks would know the same few otherwise, and
/// they would send the same pieces over and over. Who is told of nobody meets the others that want it.
const NAMED: u32 = 16;
const NAMING: Duration = Duration::from_secs(1);
/// For so long it is remembered that not all askers were told of a holder.
const OVERRUN: Duration = Duration::from_secs(600);
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
    /// When an asker was last told of nobody, because all holders had just been named to others.
    overrun: Option<Instant>,
}

#[derive(Debug)]
struct Holder {
    size: u64,
    complete: bool,
    until: Instant,
    /// How often it was named, and since when that is counted.
    named: u32,
    naming: Instant,
}

impl Holder {
    fn is_named_often(&self, now: Instant) -> bool {
        self.named >= NAMED && now.saturating_duration_since(self.naming) < NAMING
    }

    fn note_named(&mut self, now: Instant) {
        if now.saturating_duration_since(self.naming) >= NAMING {
            (self.named, self.naming) = (0, now);
        }
        self.named += 1;
    }
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
            let (size, complete, until) = (holding.size, holding.complete, now + TTL);
            let (named, naming) = known.holders.get(&from).map_or((0, now), |holder| (holder.named, holder.naming));
            known.holders.insert(from, Holder { size, complete, until, named, naming });
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
    /// load. None are named when all were just named to enough others. `None` when nobody has it.
    pub fn find(&mut self, blob: &Digest, asker: SocketAddr, now: Instant) -> Option<Record> {
        let record = self.record(blob, asker, now, |holder| !holder.is_named_often(now))?;
        let known = self.blobs.get_mut(blob)?;
        if record.providers.is_empty() {
            known.overrun = Some(now);
        }
        for (addr, _) in &record.providers {
            known.holders.entry(*addr).and_modify(|holder| holder.note_named(now));
        }
        Some(record)
    }

    /// The same of those holders that fit.
    fn record(
        &mut self,
        blob: &Digest,
        asker: SocketAddr,
        now: Instant,
        fits: impl Fn(&Holder) -> bool,
    ) -> Option<Record> {
        let Self { blobs, random, .. } = self;
        let known = blobs.get(blob)?;
        let alive = || known.holders.iter().filter(|(addr, holder)| holder.until > now && **addr != asker);
        let size = usual_size(alive().map(|(_, holder)| holder.size))?;
        let mut pick = |complete: bool, amount: usize| {
            let right = |holder: &Holder| holder.size == size && holder.complete == complete && fits(holder);
            let named = alive().filter(|(_, holder)| right(holder));
            named.map(|(addr, _)| (*addr, complete)).sample(random, amount)
        };
        let mut providers = pick(true, MAX_PROVIDERS);
        providers.extend(pick(false, MAX_PROVIDERS - providers.len()));
        Some(Record { size, providers, provenance: known.provenance.clone() })
    }

    /// Whether somebody other than `asker` has all of it, by the word of that registry, and not all who want it were told.
    fn is_overrun(&self, join: &Join, asker: SocketAddr, now: Instant) -> bool {
        self.blobs.get(&join.blob).is_some_and(|known| {
            let has = |holder: &Holder| holder.complete && holder.size == join.size && holder.until > now;
            known.overrun.is_some_and(|since| now.saturating_duration_since(since) < OVERRUN)
                && known.provenance.iter().any(|one| one.registry == join.served_by)
                && known.holders.iter().any(|(addr, holder)| *addr != asker && has(holder))
        })
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
        let overrun = self.is_overrun(join, from, now);
        let crowd = self.crowds.entry(key).or_insert_with(|| Crowd::new(layout, seed, followed, now));
        let before = crowd.weight();
        let mut joined = crowd.join(from, join, overrun, epoch, now)?;
        self.crowded = (self.crowded + crowd.weight()).saturating_sub(before);
        if usize::from(join.neighbours) + joined.neighbours.len() < FEW
            && let Some(record) = self.record(&join.blob, from, now, |_| true)
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
