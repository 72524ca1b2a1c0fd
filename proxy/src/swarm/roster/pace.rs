//! How fast members look after one another.

use std::time::Duration;

/// How fast members look after one another.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Between two questions to a member that is watched.
    pub ping: Duration,
    /// A member that takes longer to answer one is silent.
    pub reply: Duration,
    /// How much longer each further one of its watchers waits before it acts, so that one speaks for all.
    pub stagger: Duration,
    /// Between two attempts to reach members that are gone.
    pub retry: Duration,
    /// Between two comparisons of tables.
    pub compare: Duration,
    /// A member that has been gone for so long is forgotten, unless the operator named it.
    pub forget: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            ping: Duration::from_secs(3),
            reply: Duration::from_millis(1500),
            stagger: Duration::from_secs(1),
            retry: Duration::from_secs(10),
            compare: Duration::from_secs(10),
            forget: Duration::from_secs(24 * 3600),
        }
    }
}

impl Pace {
    /// So many times faster, for a test; only answers may take their time, because all nodes share its processors.
    #[cfg(test)]
    pub(crate) fn faster(times: u32) -> Self {
        let Self { ping, reply, stagger, retry, compare, forget } = Self::default();
        Self {
            ping: ping / times,
            reply: reply / 2,
            stagger: stagger / times,
            retry: retry / times,
            compare: compare / times,
            forget: forget / times,
        }
    }

    /// How often the roster should be asked what to do.
    pub fn tick(&self) -> Duration {
        self.ping / 12
    }
}
