//! How many connections there may be at one time, and when to let new ones go directly instead.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Counts connections against a limit. Near the limit the kernel is told to step aside: what it has already sent to
/// us must still find a permit, or it would wait for somebody else's pull to end.
pub(super) struct Limit {
    permits: Arc<Semaphore>,
    max: usize,
    /// Accepting fails, for want of descriptors or memory.
    pub(super) failing: bool,
    /// The shutdown has begun; this never goes back.
    pub(super) stopping: bool,
    full: bool,
    told: bool,
}

impl Limit {
    pub(super) fn new(max: usize) -> Self {
        let max = max.clamp(1, Semaphore::MAX_PERMITS);
        let permits = Arc::new(Semaphore::new(max));
        Self { permits, max, failing: false, stopping: false, full: false, told: false }
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
        let aside = self.full || self.failing || self.stopping;
        (aside != std::mem::replace(&mut self.told, aside)).then_some(aside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn steps_aside_before_the_limit_and_comes_back_well_below() {
        let mut limit = Limit::new(16);
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
        let mut limit = Limit::new(1);
        assert_eq!(limit.change(), None);
        let held = limit.permit().await;
        assert_eq!(limit.change(), Some(true));
        drop(held);
        assert_eq!(limit.change(), Some(false));
    }

    #[test]
    fn failing_and_stopping_step_aside_too() {
        let mut limit = Limit::new(8);
        limit.failing = true;
        assert_eq!(limit.change(), Some(true));
        limit.failing = false;
        assert_eq!(limit.change(), Some(false));
        limit.stopping = true;
        assert_eq!((limit.change(), limit.change()), (Some(true), None));
    }
}
