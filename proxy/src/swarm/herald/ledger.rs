//! Which owner was told of which shards, and when it should hear it again. No I/O and no clock of its own.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use fixedbitset::FixedBitSet;
use rand::{Rng, RngExt as _};

use crate::swarm::{owners::SHARDS, tracker::TTL};

/// Everybody is told everything again this often in the mean, each at a time of its own.
pub(super) const REFRESH: Duration = Duration::from_secs(TTL.as_secs() / 3);

/// Owners that do not know all that we hold in these shards, with their boot epochs.
pub type Ignorant = HashMap<SocketAddr, (u64, FixedBitSet)>;

/// What each owner was told.
#[derive(Debug, Default)]
pub struct Ledger {
    told: HashMap<SocketAddr, Told>,
}

#[derive(Debug)]
struct Told {
    /// Its boot epoch then.
    boot: u64,
    /// All that we hold in these shards.
    shards: FixedBitSet,
    /// When it should be told again.
    due: Instant,
}

impl Ledger {
    /// Who can be reached and has to be told all that we hold in which shards. `owners` answers for a shard, best first;
    /// `boot` is the epoch of a member that can be reached.
    pub fn ignorant(
        &mut self,
        owners: impl Fn(u8) -> Vec<SocketAddr>,
        boot: impl Fn(SocketAddr) -> Option<u64>,
        now: Instant,
    ) -> Ignorant {
        let mut owned = HashMap::<_, FixedBitSet>::new();
        for shard in 0..=u8::MAX {
            for owner in owners(shard) {
                let shards = owned.entry(owner).or_insert_with(|| FixedBitSet::with_capacity(SHARDS));
                shards.insert(usize::from(shard));
            }
        }
        // What was told to one that is no owner any more counts no longer when it is one again.
        self.told.retain(|owner, told| {
            let Some(shards) = owned.get(owner) else { return false };
            told.shards.intersect_with(shards);
            told.due > now
        });
        let wanting = owned.into_iter().filter_map(|(owner, mut shards)| {
            let boot = boot(owner)?;
            if let Some(told) = self.told.get(&owner).filter(|told| told.boot == boot) {
                shards.difference_with(&told.shards);
            }
            (!shards.is_clear()).then_some((owner, (boot, shards)))
        });
        wanting.collect()
    }

    /// An owner was told of these shards.
    pub fn note(&mut self, owner: SocketAddr, boot: u64, shards: &FixedBitSet, now: Instant, random: &mut impl Rng) {
        let due = now + REFRESH.mul_f64(random.random_range(0.75..1.25));
        let new = || Told { boot, shards: FixedBitSet::with_capacity(SHARDS), due };
        let told = self.told.entry(owner).or_insert_with(new);
        if told.boot != boot {
            *told = new();
        }
        told.shards.union_with(shards);
    }

    /// These did not take what they were told.
    pub(super) fn forget(&mut self, owners: &HashSet<SocketAddr>) {
        self.told.retain(|owner, _| !owners.contains(owner));
    }
}
