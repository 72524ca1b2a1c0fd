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

use fixedbitset::FixedBitSet;
use tokio::task::AbortHandle;

use super::{Declined, Fetch, RETRY, Report};

/// Leases under way of one blob: the next one is asked for when the last has nearly come.
const LEASES: usize = 2;
/// Leases under way of all blobs together. A registry's wire is shared by all fetchers, and the more there are, the later
/// each has its first piece to give.
const LEASES_IN_ALL: usize = 2;
/// A lease of which not a byte comes for so long is given up.
const STALLED: Duration = Duration::from_secs(5);
/// When nothing came for so long, from anywhere, the registry is asked without a lease.
const IMPATIENT: Duration = Duration::from_secs(5);
/// A registry that failed so often, one time after the other, is not asked again.
const FAILURES: u32 = 3;

/// What is being taken from the registry.
pub(super) struct Lease {
    pieces: Range<u32>,
    /// Bytes of it so far.
    received: Arc<AtomicU64>,
    /// How many there were when one last came, and when that was.
    had: u64,
    progress: Instant,
    task: AbortHandle,
    /// Counted among the leases of all blobs.
    _slot: Arc<()>,
}

/// How the registry does.
#[derive(Debug, Default)]
pub(super) struct Registry {
    pub(super) rate: u64,
    pub(super) whole: bool,
    pub(super) never: bool,
    /// Failures since it last brought something.
    failures: u32,
    not_before: Option<Instant>,
}

impl Fetch<'_> {
    /// Takes these from the registry.
    pub(super) fn lease(&mut self, pieces: Range<u32>) {
        let pieces = pieces.start..pieces.end.min(self.layout.count());
        if pieces.is_empty() {
            return;
        }
        self.plan.lease(pieces.clone());
        let received = Arc::<AtomicU64>::default();
        let taking = (self.wish.registry)(pieces.clone(), self.registry.whole, received.clone());
        let (reports, leased, began) = (self.reports.clone(), pieces.clone(), Instant::now());
        let task = self.tasks.spawn(async move {
            let ended = taking.await;
            let _ = reports.send(Report::Lease { pieces: leased, took: began.elapsed(), ended }).await;
        });
        let _slot = self.exchange.leases.clone();
        self.leases.push(Lease { pieces, received, had: 0, progress: began, task, _slot });
    }

    /// Gives up leases that bring nothing, so that their pieces can be had elsewhere: the owner leases them anew.
    pub(super) fn give_up_stalled(&mut self, now: Instant) {
        let mut stalled = Vec::new();
        for lease in &mut self.leases {
            let has = lease.received.load(Ordering::Relaxed);
            if has > lease.had {
                (lease.had, lease.progress) = (has, now);
            } else if now.saturating_duration_since(lease.progress) > STALLED {
                lease.task.abort();
                stalled.push(lease.pieces.clone());
            }
        }
        for pieces in stalled {
            tracing::info!(blob = %self.wish.partial.digest(), ?pieces, "the registry brings nothing, giving the lease up");
            self.lease_ended(pieces, Duration::ZERO, Err(Declined::Failed), now);
        }
    }

    /// Nothing comes from anywhere: an owner that is wrong, or holders that are, must not stop a pull.
    pub(super) fn push_on(&mut self, now: Instant) {
        self.pushing |= now.saturating_duration_since(self.progress) > IMPATIENT;
        if !self.pushing || !self.leases.is_empty() || !self.may_ask_registry(now) {
            return;
        }
        // Not what is asked of somebody already: it could not be written, and would be fetched over and over.
        if let Some(&index) = self.plan.missing().first() {
            tracing::info!(blob = %self.wish.partial.digest(), index, "nobody brings anything, asking the registry");
            self.lease(index..index + 1);
        }
    }

    fn may_ask_registry(&self, now: Instant) -> bool {
        !self.registry.never && self.registry.not_before.is_none_or(|until| until <= now)
    }

    pub(super) fn lease_ended(
        &mut self,
        pieces: Range<u32>,
        took: Duration,
        ended: Result<(), Declined>,
        now: Instant,
    ) {
        let Some(at) = self.leases.iter().position(|lease| lease.pieces == pieces) else { return };
        self.leases.swap_remove(at);
        self.plan.unlease(pieces.clone());
        match ended {
            Ok(()) => {
                let bytes: u64 = pieces.map(|index| self.layout.len(index)).sum();
                let rate = (bytes as f64 / took.as_secs_f64().max(0.001)) as u64;
                self.registry.failures = 0;
                self.registry.rate = if self.registry.rate == 0 { rate } else { (self.registry.rate * 3 + rate) / 4 };
            }
            Err(Declined::Failed) => {
                self.registry.failures += 1;
                self.registry.never |= self.registry.failures >= FAILURES;
                self.registry.not_before = Some(now + RETRY * 2u32.pow(self.registry.failures.min(5)));
            }
            Err(Declined::Later(wait)) => self.registry.not_before = Some(now + wait),
            Err(Declined::Ranges) => self.registry.whole = true,
            Err(Declined::Never) => self.registry.never = true,
        }
    }

    /// Whether another lease may be asked for.
    pub(super) fn has_room(&self, held: &FixedBitSet, now: Instant) -> bool {
        // The exchange holds one of them itself.
        let in_all = Arc::strong_count(&self.exchange.leases) - 1;
        let nearly = self.plan.leased(held) <= 1;
        self.leases.len() < LEASES && in_all < LEASES_IN_ALL && nearly && self.may_ask_registry(now)
    }
}
