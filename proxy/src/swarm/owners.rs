//! Who answers for which digest: three members for each of 256 shards, by rendezvous hashing over addresses, not
//! identities, so that nodes agree while the secret rotates. One that comes or goes moves only its own shards.

use std::{collections::BTreeMap, net::SocketAddr};

use crate::oci::digest::Digest;

/// How many members answer for one digest.
pub(crate) const OWNERS: usize = 3;
/// How many parts the digests are in.
pub(crate) const SHARDS: usize = 256;

/// The owners of all shards.
#[derive(Debug)]
pub(crate) struct Owners {
    /// Everybody who can be one, and what its scores are made of.
    seeds: BTreeMap<SocketAddr, u64>,
    /// Best first.
    shards: Vec<Vec<(u64, SocketAddr)>>,
}

impl Owners {
    /// One member owns all.
    pub(crate) fn new(me: SocketAddr) -> Self {
        let mut owners = Self { seeds: BTreeMap::new(), shards: vec![Vec::new(); SHARDS] };
        owners.add(me);
        owners
    }

    /// Who answers for this digest, best first.
    pub(crate) fn of(&self, digest: &Digest) -> Vec<SocketAddr> {
        self.of_shard(shard(digest))
    }

    /// Who answers for a shard, best first.
    pub(crate) fn of_shard(&self, shard: u8) -> Vec<SocketAddr> {
        self.shards[usize::from(shard)].iter().map(|(_, addr)| *addr).collect()
    }

    /// A member came.
    pub(crate) fn add(&mut self, addr: SocketAddr) {
        let seed = seed(addr);
        if self.seeds.insert(addr, seed).is_some() {
            return;
        }
        for (shard, owners) in self.shards.iter_mut().enumerate() {
            enter(owners, (score(seed, shard), addr));
        }
    }

    /// A member went.
    pub(crate) fn remove(&mut self, addr: SocketAddr) {
        self.seeds.remove(&addr);
        for (shard, owners) in self.shards.iter_mut().enumerate() {
            if owners.iter().any(|(_, owner)| *owner == addr) {
                owners.clear();
                for (addr, seed) in &self.seeds {
                    enter(owners, (score(*seed, shard), *addr));
                }
            }
        }
    }
}

/// Which shard a digest is in.
pub(crate) fn shard(digest: &Digest) -> u8 {
    digest.as_bytes()[0]
}

fn enter(owners: &mut Vec<(u64, SocketAddr)>, candidate: (u64, SocketAddr)) {
    let at = owners.partition_point(|owner| *owner > candidate);
    if at < OWNERS {
        owners.truncate(OWNERS - 1);
        owners.insert(at.min(owners.len()), candidate);
    }
}

fn seed(addr: SocketAddr) -> u64 {
    let hash = blake3::hash(format!("waylay owner v2 {addr}").as_bytes());
    let mut seed = [0; 8];
    seed.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(seed)
}

/// The finalizer of SplitMix64: hashing each member for each shard anew would cost a second for ten thousand.
fn score(seed: u64, shard: usize) -> u64 {
    let mut z = seed.wrapping_add((shard as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn addr(n: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 4500))
    }

    fn owners(of: impl IntoIterator<Item = u16>) -> Owners {
        let mut of = of.into_iter();
        let mut owners = Owners::new(addr(of.next().unwrap()));
        of.for_each(|n| owners.add(addr(n)));
        owners
    }

    #[test]
    fn everybody_agrees_on_three_owners_and_little_moves_when_one_leaves() {
        let (all, mut without) = (owners(1..=20), owners((1..=20).rev()));
        without.remove(addr(20));
        let (mut moved, mut load) = (0, HashMap::<_, u32>::new());
        for shard in 0..=255u8 {
            let these = all.of_shard(shard);
            assert_eq!(these.len(), OWNERS);
            moved += u32::from(without.of_shard(shard) != these);
            these.into_iter().for_each(|owner| *load.entry(owner).or_default() += 1);
        }
        assert_eq!(moved, load[&addr(20)], "only shards of the one that left have other owners");
        assert!(load.values().all(|shards| (15..70).contains(shards)), "{load:?}");
    }

    #[test]
    fn alone_one_owns_everything() {
        assert_eq!(owners([1]).of(&Digest::of(b"x")), [addr(1)]);
        assert_eq!(owners([1, 2]).of(&Digest::of(b"x")).len(), 2);
    }

    proptest! {
        #[test]
        fn the_way_to_a_set_of_members_does_not_matter(steps in proptest::collection::vec((1..12u16, any::<bool>()), 0..60)) {
            let mut walked = owners([0]);
            for (n, comes) in &steps {
                if *comes { walked.add(addr(*n)) } else { walked.remove(addr(*n)) }
            }
            let there: Vec<_> = (1..12).filter(|n| {
                steps.iter().rev().find(|(of, _)| of == n).is_some_and(|(_, comes)| *comes)
            }).collect();
            let straight = owners([0].into_iter().chain(there));
            for shard in 0..=255 {
                prop_assert_eq!(walked.of_shard(shard), straight.of_shard(shard));
            }
        }
    }

    /// What the arithmetic in `herald`'s documentation stands on.
    #[test]
    fn in_a_cluster_of_ten_thousand_no_member_owns_many_shards() {
        let all = owners(0..10_000);
        let mut load = HashMap::<_, u32>::new();
        for shard in 0..=255u8 {
            all.of_shard(shard).into_iter().for_each(|owner| *load.entry(owner).or_default() += 1);
        }
        assert!((700..=768).contains(&load.len()), "{}", load.len());
        assert!(load.values().all(|shards| *shards <= 4), "{:?}", load.values().max());
    }
}
