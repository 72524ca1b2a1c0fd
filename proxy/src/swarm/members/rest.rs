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

    /// It did not answer. What fails while it is left alone was asked before, or only to see whether it lives, and says
    /// nothing new.
    pub(super) fn missed(&mut self, addr: SocketAddr, now: Instant) {
        let rest = self.members.entry(addr).or_insert(Rest { failures: 0, until: now });
        if rest.until > now {
            return;
        }
        rest.failures = rest.failures.saturating_add(1);
        rest.until = now + MIN.saturating_mul(1 << (rest.failures - 1).min(5)).min(MAX);
    }

    /// It answered, or is another than it was.
    pub(super) fn end(&mut self, addr: SocketAddr) {
        self.members.remove(&addr);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_fails_at_once_is_one_failure_and_the_next_is_left_alone_for_twice_as_long() {
        let (mut resting, addr, now) = (Resting::default(), ([10, 0, 0, 1], 1).into(), Instant::now());
        let until = |resting: &Resting| resting.members[&addr].until;
        for _ in 0..8 {
            resting.missed(addr, now);
        }
        assert_eq!(until(&resting), now + MIN);
        resting.missed(addr, now + MIN);
        assert_eq!(until(&resting), now + MIN + 2 * MIN);
    }
}
