//! How many connections there may be at one time, how much memory they may take, and when to let new ones go directly
//! instead.

use std::sync::Arc;

use procfs::process::Process;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The limit of memory.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// From so many bytes on, new connections go directly.
    pub most: u64,
    /// Tells how many are used; `None`: it cannot be told, and nothing is limited. Must not block.
    pub used: fn() -> Option<u64>,
}

impl Memory {
    /// At most so much of this process's own: what it allocated and the kernel gave it pages for, not what it reads of files.
    pub fn own(most: u64) -> Self {
        let used = || Some(Process::myself().ok()?.status().ok()?.rssanon?.saturating_mul(1024));
        Self { most, used }
    }
}

/// Counts connections against a limit. Near the limit the kernel is told to step aside: what it has already sent to
/// us must still find a permit, or it would wait for somebody else's pull to end.
pub(super) struct Limit {
    permits: Arc<Semaphore>,
    max: usize,
    memory: Memory,
    /// Memory is short.
    short: bool,
    /// Accepting fails, for want of descriptors or memory.
    pub(super) failing: bool,
    /// The shutdown has begun; this never goes back.
    pub(super) stopping: bool,
    full: bool,
    told: bool,
}

impl Limit {
    pub(super) fn new(max: usize, memory: Memory) -> Self {
        let max = max.clamp(1, Semaphore::MAX_PERMITS);
        let permits = Arc::new(Semaphore::new(max));
        Self { permits, max, memory, short: false, failing: false, stopping: false, full: false, told: false }
    }

    /// Looks at the memory.
    pub(super) fn measure(&mut self) {
        let used = (self.memory.used)().unwrap_or_default();
        let threshold = if self.short { self.memory.most - self.memory.most / 4 } else { self.memory.most };
        self.short = used >= threshold;
    }

    /// Waits until one more connection is allowed.
    pub(super) async fn permit(&self) -> OwnedSemaphorePermit {
        match self.permits.clone().acquire_owned().await {
            Ok(permit) => permit,
            // Nobody closes the semaphore; if anybody did, no permit is the safe answer.
            Err(_) => std::future::pending().await,
        }
    }

    /// What to tell the kernel now: `Some(true)` to step aside, `Some(false)` to come back, `None` when it knows.
    pub(super) fn change(&mut self) -> Option<bool> {
        let used = self.max - self.permits.available_permits();
        // Two thresholds, so that it does not flap around one.
        self.full = if self.full { used >= self.max - self.max / 4 } else { used >= self.max - self.max / 8 };
        let aside = self.full || self.short || self.failing || self.stopping;
        (aside != std::mem::replace(&mut self.told, aside)).then_some(aside)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const PLENTY: Memory = Memory { most: u64::MAX, used: || Some(0) };

    #[tokio::test]
    async fn steps_aside_before_the_limit_and_comes_back_well_below() {
        let mut limit = Limit::new(16, PLENTY);
        let mut held = Vec::new();
        let mut changes = Vec::new();
        for _ in 0..16 {
            held.push(limit.permit().await);
            changes.extend(limit.change().map(|aside| (held.len(), aside)));
        }
        while held.pop().is_some() {
            changes.extend(limit.change().map(|aside| (held.len(), aside)));
        }
        assert_eq!(changes, [(14, true), (11, false)]);
    }

    #[tokio::test]
    async fn a_limit_of_one_works() {
        let mut limit = Limit::new(1, PLENTY);
        assert_eq!(limit.change(), None);
        let held = limit.permit().await;
        assert_eq!(limit.change(), Some(true));
        drop(held);
        assert_eq!(limit.change(), Some(false));
    }

    #[test]
    fn failing_and_stopping_step_aside_too() {
        let mut limit = Limit::new(8, PLENTY);
        limit.failing = true;
        assert_eq!(limit.change(), Some(true));
        limit.failing = false;
        assert_eq!(limit.change(), Some(false));
        limit.stopping = true;
        assert_eq!((limit.change(), limit.change()), (Some(true), None));
    }

    #[test]
    fn short_of_memory_it_steps_aside_and_comes_back_well_below() {
        static USED: AtomicU64 = AtomicU64::new(0);
        let mut limit = Limit::new(8, Memory { most: 1000, used: || Some(USED.load(Ordering::Relaxed)) });
        let mut changes = Vec::new();
        for used in [999, 1000, 900, 750, 749, 999] {
            USED.store(used, Ordering::Relaxed);
            limit.measure();
            changes.extend(limit.change().map(|aside| (used, aside)));
        }
        assert_eq!(changes, [(1000, true), (749, false)]);
    }

    #[test]
    fn ones_own_memory_is_told() {
        let used = Memory::own(u64::MAX).used;
        let before = used().unwrap();
        let taken = std::hint::black_box(vec![1_u8; 64 << 20]);
        assert!(used().unwrap() >= before + (32 << 20), "{} bytes are not seen", taken.len());
    }
}
