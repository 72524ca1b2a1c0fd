//! Owners are told again what is held in their shards: the herald's ledger of each node.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use rand::{RngExt as _, rngs::StdRng};
use waylay::{
    oci::digest::Digest,
    store::Provenance,
    swarm::pure::{Announce, Holding, Ledger, batches},
};

use super::{Preset, address};

/// The herald looks every second; every ten are enough against the hour after which it tells again.
const TICK_S: usize = 10;

/// Who owns and holds what.
pub(super) struct Cluster {
    owners: Vec<Vec<SocketAddr>>,
    /// With the most shards.
    busiest: SocketAddr,
    /// What each node holds in the shards of the busiest.
    announces: Vec<Vec<Announce>>,
}

/// Announcements in a second.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// That a node sends, in the mean, and the busiest owner.
    pub(super) sent: f64,
    pub(super) busiest_sent: f64,
    /// That come to the busiest owner in the mean, and in the minute with the most.
    pub(super) busiest_got: f64,
    pub(super) busiest_most: f64,
}

impl Cluster {
    /// Every node holds some of the blobs, any of them with the same chance.
    pub(super) fn new(preset: &Preset, owners: Vec<Vec<SocketAddr>>, random: &mut StdRng) -> Self {
        let mut load = HashMap::<SocketAddr, usize>::new();
        owners.iter().flatten().for_each(|owner| *load.entry(*owner).or_default() += 1);
        // Of several the one with the lowest address.
        let busiest = load.into_iter().max_by_key(|(owner, shards)| (*shards, std::cmp::Reverse(*owner)));
        let busiest = busiest.map_or(address(0), |(owner, _)| owner);
        let blobs: Vec<Digest> = (0..preset.blobs).map(|blob| Digest::of(&blob.to_le_bytes())).collect();
        let announces = (0..preset.nodes).map(|_| {
            let held = rand::seq::index::sample(random, blobs.len(), preset.held.min(blobs.len()));
            let held = held.into_iter().map(|blob| (blob, blobs[blob]));
            let told = held.filter(|(_, digest)| owners[usize::from(digest.as_bytes()[0])].contains(&busiest));
            batches(Announce { held: told.map(|(at, digest)| holding(at, digest)).collect(), gone: Vec::new() })
        });
        let announces = announces.collect();
        Self { owners, busiest, announces }
    }

    /// What every node tells the busiest owner.
    pub(super) fn to_busiest(&self) -> impl Iterator<Item = (SocketAddr, Announce)> + '_ {
        let numbered = (0..).zip(&self.announces);
        numbered.flat_map(|(node, announces)| announces.iter().map(move |announce| (address(node), announce.clone())))
    }

    /// How many shards the busiest owner answers for.
    pub(super) fn busiest_shards(&self) -> usize {
        self.owners.iter().filter(|owners| owners.contains(&self.busiest)).count()
    }

    /// Lets the time go by for every node.
    pub(super) fn told(&self, preset: &Preset, began: Instant, random: &mut StdRng) -> Told {
        let mut told = Told::default();
        let counted = f64::from(preset.counted_s);
        let minutes = preset.counted_s.div_ceil(60) as usize;
        let mut by_minute = vec![0_u32; minutes];
        // Who tells all owners, and who only the busiest: what one is told depends on no other.
        let whole = (preset.tables as u32).min(preset.nodes);
        for node in 0..preset.nodes {
            let (everybody, me) = (node < whole || address(node) == self.busiest, address(node));
            let (mut ledger, starts) = (Ledger::default(), random.random_range(0..preset.started_within_s.max(1)));
            let owners = |shard: u8| -> Vec<SocketAddr> {
                let owners = self.owners[usize::from(shard)].iter();
                owners.filter(|owner| everybody || **owner == self.busiest).copied().collect()
            };
            for second in (starts..preset.from_s + preset.counted_s).step_by(TICK_S) {
                let now = began + Duration::from_secs(second.into());
                for (owner, (boot, shards)) in ledger.ignorant(owners, |_| Some(1), now) {
                    ledger.note(owner, boot, &shards, now, random);
                    // An owner tells itself without a message.
                    if second < preset.from_s || owner == me {
                        continue;
                    }
                    // Eight blobs of a shard are in one message, as those of the busiest owner's shards are.
                    let messages = self.announces[node as usize].len().max(usize::from(owner != self.busiest)) as u32;
                    if owner == self.busiest {
                        by_minute[((second - preset.from_s) / 60) as usize] += messages;
                    }
                    if me == self.busiest {
                        told.busiest_sent += f64::from(messages) / counted;
                    }
                    if node < whole {
                        told.sent += f64::from(messages) / counted / f64::from(whole);
                    }
                }
            }
        }
        told.busiest_got = f64::from(by_minute.iter().sum::<u32>()) / counted;
        told.busiest_most = f64::from(by_minute.iter().copied().max().unwrap_or_default()) / 60.0;
        told
    }
}

/// A blob as the herald announces it, with names as long as they usually are.
fn holding(blob: usize, digest: Digest) -> Holding {
    let provenance =
        Provenance { registry: "registry.example.com".into(), repository: format!("team/app-{}", blob % 5000) };
    Holding { blob: digest, size: 1 << 24, complete: true, provenance: vec![provenance] }
}
