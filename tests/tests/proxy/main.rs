//! Whole proxies in this process, between a client and a scripted registry. Each scenario asks three witnesses: what the
//! client got, what the counters say (the registry's and ours), what the access line says.
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of test functions")]

mod access;
mod ahead;
mod away;
mod crowd;
mod explain;
mod faults;
mod images;
mod liars;
mod limits;
mod passed;
mod peers;
mod pulls;
mod ranges;
mod redirects;
mod registries;
mod smuggling;
mod strangers;
mod way_in;

use std::collections::HashSet;

use http::StatusCode;
use waylay_tests::{
    fleet::{AccessLine, BySource},
    scripted::ClientError,
};

/// Bytes by source over all these lines.
fn sum<'a>(lines: impl IntoIterator<Item = &'a AccessLine>) -> BySource {
    lines.into_iter().fold(BySource::default(), |sum, line| BySource {
        store: sum.store + line.store_bytes,
        peer: sum.peer + line.peer_bytes,
        registry: sum.registry + line.registry_bytes,
    })
}

/// The line about this digest or tag, which must be the only one.
fn line<'a>(lines: &'a [AccessLine], reference: &impl ToString) -> &'a AccessLine {
    let reference = reference.to_string();
    let mut about = lines.iter().filter(|line| line.digest == reference);
    let (Some(only), None) = (about.next(), about.next()) else { panic!("not one line about {reference}: {lines:#?}") };
    only
}

/// The status that a client met instead of what it wanted.
fn status<T: std::fmt::Debug>(result: Result<T, ClientError>) -> StatusCode {
    match result {
        Err(ClientError::Status { status, .. }) => status,
        other => panic!("not a status: {other:?}"),
    }
}

/// Whether `reply` holds any 64 bytes in a row of `secret`.
fn has_part_of(reply: &[u8], secret: &[u8]) -> bool {
    const BLOCK: usize = 32;
    let blocks: HashSet<&[u8]> = secret.chunks_exact(BLOCK).collect();
    reply.windows(BLOCK).any(|window| blocks.contains(window))
}
