//! The parts of the swarm that do no I/O and have no clock, for whoever runs them on a network that is not there: the
//! simulator of the benches. The daemon runs the same.

use std::net::SocketAddr;

use super::owners::{Owners, SHARDS};
pub use super::{
    endpoint::transport,
    exchange::{
        CONNECTIONS, CROWDED, CROWDED_IDLE, HANDSHAKES, HAVE_BATCH, HAVE_BATCH_ABROAD, LINE, SLOTS, SLOW_READER,
        get::SLOWEST,
    },
    fetch::{
        Declined,
        course::{Course, Outlook},
    },
    frame::{Announce, FRAME_DEADLINE, Holding, Join, Joined, Pieces, Reach, Record},
    gossip::overlay,
    herald::{Ignorant, Ledger, batches},
    locate::STAGGER,
    news::{Card, News},
    plan::{Ask, Failure, Plan},
    pool::CONNECT_DEADLINE,
    roster::{Act, Heard, Pace, Roster},
    tracker::Tracker,
};
use crate::oci::digest::Digest;

/// Who answers for each of these digests among `members`, best first.
pub fn owners(members: &[SocketAddr], digests: &[Digest]) -> Vec<Vec<SocketAddr>> {
    let owners = all_owners(members);
    digests.iter().map(|digest| owners.as_ref().map_or(Vec::new(), |owners| owners.of(digest))).collect()
}

/// Who answers for each shard of the digests among `members`, best first. The shard of a digest is its first byte.
pub fn owners_of_shards(members: &[SocketAddr]) -> Vec<Vec<SocketAddr>> {
    let owners = all_owners(members);
    let of = |shard| owners.as_ref().map_or(Vec::new(), |owners| owners.of_shard(shard as u8));
    (0..SHARDS).map(of).collect()
}

fn all_owners(members: &[SocketAddr]) -> Option<Owners> {
    let (first, others) = members.split_first()?;
    let mut owners = Owners::new(*first);
    others.iter().for_each(|member| owners.add(*member));
    Some(owners)
}
