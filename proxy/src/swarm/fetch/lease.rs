//! What a fetch takes from the registry: leases of the crowd's owner, and when nothing comes from anywhere, what it takes
//! without one.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::AbortHandle;

use super::{Declined, Fetch, LeaseSlot, Report};

/// What is being taken from the registry.
pub(super) struct Taking {
    pieces: Range<u32>,
    /// Bytes of it so far.
    received: Arc<AtomicU64>,
    task: AbortHandle,
    /// Counted among the leases of all blobs of the registry.
    _slot: LeaseSlot,
}

impl Fetch<'_> {
    /// Takes these from the registry.
    pub(super) fn take(&mut self, pieces: Range<u32>) {
        let received = Arc::<AtomicU64>::default();
        let taking = (self.wish.registry)(pieces.clone(), self.course.whole(), received.clone());
        let (reports, leased, began) = (self.reports.clone(), pieces.clone(), Instant::now());
        let task = self.tasks.spawn(async move {
            let ended = taking.await;
            let _ = reports.send(Report::Lease { pieces: leased, took: began.elapsed(), ended }).await;
        });
        let _slot = self.lease_slot();
        self.takings.push(Taking { pieces, received, task, _slot });
    }

    /// Stops what brings nothing.
    pub(super) fn give_up_stalled(&mut self, now: Instant) {
        let received = |pieces: &Range<u32>| {
            let taking = self.takings.iter().find(|taking| taking.pieces == *pieces);
            taking.map_or(0, |taking| taking.received.load(Ordering::Relaxed))
        };
        for pieces in self.course.give_up_stalled(received, now) {
            tracing::info!(blob = %self.wish.partial.digest(), ?pieces, "the registry brings nothing, giving the lease up");
            for taking in self.takings.extract_if(.., |taking| taking.pieces == pieces) {
                taking.task.abort();
            }
        }
    }

    /// What was taken has come, or not.
    pub(super) fn took(&mut self, pieces: &Range<u32>, took: Duration, ended: Result<(), Declined>, now: Instant) {
        let came = ended.is_ok();
        if self.course.lease_ended(pieces, took, ended, now) {
            self.takings.retain(|taking| taking.pieces != *pieces);
            // One that failed says nothing of it.
            if came {
                self.exchange.paces.insert(self.wish.served_by.clone(), self.course.pace());
            }
        }
    }

    /// Leases of all blobs of this registry that are under way or asked for.
    pub(super) fn under_way(&self) -> usize {
        self.exchange.leases.count(&self.wish.served_by)
    }

    /// One more of them. How many there may be is the course's to say.
    pub(super) fn lease_slot(&self) -> LeaseSlot {
        self.exchange.leases.take(self.wish.served_by.clone(), usize::MAX)
    }
}
