//! Who did not answer this node lately, and is left alone for a while.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

/// At first for so long, doubling up to [`MAX`].
const MIN: Duration = Duration::from_secs(2);
const MAX: Duration = Duration::from_secs(60);

/// Those who did not answer the last time.
#[derive(Debug, Default)]
pub(super) struct Resting {
    members: HashMap<SocketAddr, Rest>,
}

#[derive(Debug)]
struct Rest {
    failures: u32,
    until: Instant,
}

impl Resting {
    /// Whether it did not answer the last time.
    pub(super) fn missed_last(&self, addr: SocketAddr) -> bool {
        self.members.contains_key(&addr)
    }

    /// Whether it is to be left alone now.
    pub(super) fn rests(&self, addr: SocketAddr) -> bool {
        self.members.get(&addr).is_some_and(|rest| rest.until > Instant::now())
    }

    /// It did not answer.
    pub(super) fn missed(&mut self, addr: SocketAddr, now: Instant) {
        let rest = self.members.entry(addr).or_insert(Rest { failures: 0, until: now });
        rest.failures = rest.failures.saturating_add(1);
        rest.until = now + MIN.saturating_mul(1 << (rest.failures - 1).min(5)).min(MAX);
    }

    /// It answered, or is another than it was.
    pub(super) fn end(&mut self, addr: SocketAddr) {
        self.members.remove(&addr);
    }
}
