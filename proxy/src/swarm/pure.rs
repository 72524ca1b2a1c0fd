//! The parts of the swarm that do no I/O and have no clock, for whoever runs them on a network that is not there: the
//! simulator of the benches. The daemon runs the same.

use std::net::SocketAddr;

use waylay_certs::cluster::ClusterSecret;

use super::members::Members;
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
    let Some((me, others)) = members.split_first() else { return Vec::new() };
    let members = Members::new(*me, "", vec![ClusterSecret::new([0; 32], 0)], others);
    digests.iter().map(|digest| members.owners(digest)).collect()
}
