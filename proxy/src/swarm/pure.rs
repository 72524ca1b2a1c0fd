//! The parts of the swarm that do no I/O and have no clock, for whoever runs them on a network that is not there: the
//! simulator of the benches. The daemon runs the same.

use std::net::SocketAddr;

use super::owners::Owners;
pub use super::{
    exchange::{CONNECTIONS, CROWDED, CROWDED_IDLE, HAVE_BATCH, SLOTS, SLOW_READER, get::SLOWEST},
    fetch::{
        Declined,
        course::{Course, Outlook},
    },
    frame::{Announce, FRAME_DEADLINE, Holding, Join, Joined, Pieces, Reach, Record},
    locate::STAGGER,
    plan::{Ask, Failure, Plan},
    pool::CONNECT_DEADLINE,
    tracker::Tracker,
};
use crate::oci::digest::Digest;

/// Who answers for each of these digests among `members`, best first.
pub fn owners(members: &[SocketAddr], digests: &[Digest]) -> Vec<Vec<SocketAddr>> {
    let Some((first, others)) = members.split_first() else { return Vec::new() };
    let mut owners = Owners::new(*first);
    others.iter().for_each(|member| owners.add(*member));
    digests.iter().map(|digest| owners.of(digest)).collect()
}
