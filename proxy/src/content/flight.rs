//! One download per digest and node, whatever number of clients, ranges or parallel GETs ask. Readers follow the
//! growing file; when the last one is gone the download stops, and what there is stays for the next.

use std::{
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering},
    },
    time::Duration,
};

use fixedbitset::FixedBitSet;
use http::Response;
use hyper::body::Incoming;
use iroh_base::EndpointId;
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Inner, Supply, Tally, VERIFIED_FIRST, blocking,
    course::Course,
    damage, fault as store_fault,
    registry::{self, Miss, Request},
    together,
};
use crate::{
    fault::{Fault, Side, What},
    metrics::Source,
    oci::Digest,
    store::{Partial, Provenance, StoreError},
    swarm::{Given, Located, Swarm},
};

/// Attempts at the registry that brought nothing, one after the other, before a flight gives up.
const FRUITLESS: u32 = 3;
/// The pause after the first of them; it doubles.
const PAUSE: Duration = Duration::from_millis(200);

/// Where a flight starts from.
pub(super) struct Plan {
    /// Members that have the blob.
    pub(super) located: Option<Located>,
    /// A registry's answer that has begun.
    pub(super) first: Option<Response<Incoming>>,
}

/// A download and all who follow it. Dropping the last reference stops it.
pub(super) struct Flight {
    shared: Arc<Shared>,
    _driver: AbortOnDropHandle<()>,
}

/// What readers see of a flight.
#[derive(Clone)]
pub(super) struct Sight {
    /// The file that grows now.
    pub(super) partial: Arc<Partial>,
    /// Nothing more will come.
    pub(super) failed: bool,
}

pub(super) struct Shared {
    pub(super) digest: Digest,
    /// Whose blob it is: no other registry's word counts for it.
    registry: String,
    swarm: Swarm,
    sight: watch::Sender<Sight>,
    /// Pieces that were there before, or by whom they came.
    sources: Vec<AtomicU8>,
    provenance: Vec<Provenance>,
    supplies: Mutex<Vec<Supply>>,
    wants: Mutex<Wants>,
    wanted: Notify,
    tallies: Mutex<Vec<Weak<Tally>>>,
    /// The piece that a client reads now.
    pub(super) cursor: Arc<AtomicU32>,
    live: AtomicBool,
    course: Course,
}

/// What readers want: all of it, or some pieces.
struct Wants {
    whole: bool,
    pieces: FixedBitSet,
}

/// Clients' requests that are remembered at most, to ask the registry with: the latest.
const SUPPLIES: usize = 16;

const BEFORE: u8 = 0;
const PEER: u8 = 1;
const REGISTRY: u8 = 2;

impl Flight {
    /// Begins with the request of its first client.
    pub(super) fn launch(
        content: Arc<Inner>,
        partial: Arc<Partial>,
        plan: Plan,
        provenance: Vec<Provenance>,
        supply: Supply,
    ) -> Self {
        let held = partial.pieces();
        let source = |index: u32| AtomicU8::new(if held.contains(index as usize) { BEFORE } else { PEER });
        let course = Course::begin(partial.digest(), partial.layout(), partial.bytes(), content.trace.clone());
        let wants = Wants { whole: false, pieces: FixedBitSet::with_capacity(partial.layout().count() as usize) };
        let shared = Arc::new(Shared {
            course,
            digest: partial.digest(),
            registry: supply.provenance.registry.clone(),
            swarm: content.swarm.clone(),
            sources: (0..partial.layout().count()).map(source).collect(),
            sight: watch::Sender::new(Sight { partial, failed: false }),
            provenance,
            supplies: Mutex::new(vec![supply]),
            wants: Mutex::new(wants),
            wanted: Notify::new(),
            tallies: Mutex::default(),
            cursor: Arc::default(),
            live: AtomicBool::new(true),
        });
        let driver = tokio::spawn(drive(content, shared.clone(), plan));
        Self { shared, _driver: AbortOnDropHandle::new(driver) }
    }

    pub(super) fn size(&self) -> u64 {
        self.shared.sight.borrow().partial.layout().size()
    }

    /// Whose blob it is.
    pub(super) fn registry(&self) -> &str {
        &self.shared.registry
    }

    pub(super) fn provenance(&self) -> Vec<Provenance> {
        self.shared.provenance.clone()
    }

    /// Whether it can still be joined.
    pub(super) fn is_live(&self) -> bool {
        self.shared.live.load(Ordering::Acquire)
    }

    /// One more client whose request may be used to ask the registry.
    pub(super) fn supply(&self, supply: Supply) {
        let mut supplies = lock(&self.shared.supplies);
        supplies.retain(|other| !other.is_same(&supply));
        if supplies.len() >= SUPPLIES {
            supplies.remove(0);
        }
        supplies.push(supply);
    }

    /// One more reader of `part`, to whom faults are told.
    pub(super) fn want(&self, part: &Range<u64>, tally: &Arc<Tally>) {
        let mut tallies = lock(&self.shared.tallies);
        tallies.retain(|tally| tally.strong_count() > 0);
        tallies.push(Arc::downgrade(tally));
        drop(tallies);
        let layout = self.shared.sight.borrow().partial.layout();
        let pieces = layout.pieces(part.clone());
        let mut wants = lock(&self.shared.wants);
        // A part that reaches the end is a resumed or parallel pull of the whole. One that touches pieces which other
        // members stated can only be verified with the whole.
        if part.end == layout.size() || !self.shared.are_ours_or_missing(pieces.clone()) {
            wants.whole = true;
        } else {
            wants.pieces.insert_range(pieces.start as usize..pieces.end as usize);
        }
        drop(wants);
        self.shared.wanted.notify_one();
    }

    /// A client was told that all is here and right.
    pub(super) fn verified(&self) {
        self.shared.course.verified();
    }

    pub(super) fn sight(&self) -> watch::Receiver<Sight> {
        self.shared.sight.subscribe()
    }

    /// A client has come to this piece.
    pub(super) fn reads(&self, index: u32) {
        self.shared.cursor.store(index, Ordering::Relaxed);
    }

    /// Where a piece came from, for the reader that is about to send it.
    pub(super) fn source(&self, index: u32) -> Source {
        match self.shared.sources.get(index as usize).map(|source| source.load(Ordering::Relaxed)) {
            Some(REGISTRY) => Source::Registry,
            Some(PEER) => Source::Peer,
            _ => Source::Store,
        }
    }

    /// Whether a part may be sent piece by piece, because this node took each from the registry itself.
    pub(super) fn wants_whole(&self) -> bool {
        lock(&self.shared.wants).whole
    }
}

impl Supply {
    /// Whether it asks the same place with the same headers.
    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.origin, &other.origin) && self.head.headers == other.head.headers
    }
}

impl Shared {
    /// Whether this node took each of these pieces from the registry itself, or will: now, or in an earlier flight.
    fn are_ours_or_missing(&self, mut pieces: Range<u32>) -> bool {
        let partial = self.sight.borrow().partial.clone();
        let stated_by_us = |index| match partial.statement(index) {
            Ok(Some(statement)) => {
                EndpointId::from_bytes(&statement.sealer).is_ok_and(|sealer| self.swarm.is_own(&sealer))
            }
            Ok(None) => true,
            Err(_) => false,
        };
        pieces.all(|index| {
            let source = self.sources.get(index as usize).map(|source| source.load(Ordering::Relaxed));
            source == Some(REGISTRY) || stated_by_us(index)
        })
    }

    pub(super) fn note(&self, content: &Inner, fault: &Fault) {
        content.metrics.fault(fault.side.name(), fault.what.name());
        tracing::debug!(digest = %self.digest, %fault, "a source failed");
        for tally in lock(&self.tallies).iter().filter_map(Weak::upgrade) {
            tally.note(fault.label());
        }
    }

    /// Told of pieces that come from the registry.
    pub(super) fn mark(self: &Arc<Self>) -> registry::Mark {
        let shared = self.clone();
        Arc::new(move |index| {
            if let Some(source) = shared.sources.get(index as usize) {
                source.store(REGISTRY, Ordering::Relaxed);
            }
            shared.course.came(index, None);
        })
    }

    /// Told of pieces that come from members.
    pub(super) fn given(self: &Arc<Self>) -> Arc<Given> {
        let shared = self.clone();
        Arc::new(move |index, peer| shared.course.came(index, Some(peer)))
    }

    /// Whose blob it is.
    pub(super) fn registry(&self) -> &str {
        &self.registry
    }

    /// This client's request is no longer good; another's may be.
    pub(super) fn withdraw(&self, supply: &Supply) {
        lock(&self.supplies).retain(|other| !other.is_same(supply));
    }

    /// The last client's request to ask the registry with, if there is one.
    pub(super) fn supply(&self) -> Option<Supply> {
        lock(&self.supplies).last().cloned()
    }

    fn fail(&self) {
        self.live.store(false, Ordering::Release);
        self.sight.send_modify(|sight| sight.failed = true);
    }

    /// The next run of pieces that somebody wants, nobody has and nobody is writing.
    fn next_run(&self, partial: &Partial) -> Option<Range<u32>> {
        let wants = lock(&self.wants);
        let mut missing = partial.missing(0..partial.layout().count());
        missing.retain(|index| wants.whole || wants.pieces.contains(*index as usize));
        first_run(&missing)
    }
}

/// The first run of consecutive numbers.
pub(super) fn first_run(pieces: &[u32]) -> Option<Range<u32>> {
    let first = *pieces.first()?;
    let length = pieces.iter().zip(first..).take_while(|(piece, expected)| **piece == *expected).count();
    Some(first..first + length as u32)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Fills the blob from members, then from the registry, until it is verified or nobody can give more.
async fn drive(content: Arc<Inner>, shared: Arc<Shared>, plan: Plan) {
    let Plan { mut located, mut first } = plan;
    loop {
        let partial = shared.sight.borrow().partial.clone();
        match fill(&content, &shared, &partial, located.take(), first.take()).await {
            Ok(()) => {
                shared.course.verified();
                // The store goes on under its own power; later clients find it there.
                let stored = partial.stored().await;
                damage::acquit(&content, partial).await;
                shared.live.store(false, Ordering::Release);
                if let Err(error) = stored {
                    shared.note(&content, &store_fault(error));
                }
                return;
            }
            Err(StoreError::Mismatch { stated, .. }) => {
                damage::blame(&content, &shared, stated);
                // Nobody has seen a byte of a blob that is verified first: begin again, from the registry alone.
                let again = content.doubts.of_members(shared.digest) && partial.layout().size() <= VERIFIED_FIRST;
                let fresh = if again { fresh(&content, &partial).await } else { None };
                match fresh {
                    Some(fresh) => {
                        for source in &shared.sources {
                            source.store(PEER, Ordering::Relaxed);
                        }
                        shared.sight.send_modify(|sight| sight.partial = fresh);
                    }
                    None => return shared.fail(),
                }
            }
            Err(error) => {
                if !matches!(error, StoreError::Discarded(_)) {
                    content.doubts.of_store(shared.digest);
                }
                shared.note(&content, &store_fault(error));
                return shared.fail();
            }
        }
    }
}

async fn fresh(content: &Arc<Inner>, partial: &Partial) -> Option<Arc<Partial>> {
    let (store, digest, size) = (content.store.clone(), partial.digest(), partial.layout().size());
    blocking(move || store.begin(&digest, size).ok()).await.flatten()
}

/// Until all of it is here and verified. An error is the end of this attempt.
async fn fill(
    content: &Arc<Inner>,
    shared: &Arc<Shared>,
    partial: &Arc<Partial>,
    located: Option<Located>,
    first: Option<Response<Incoming>>,
) -> Result<(), StoreError> {
    let (mut first, mut located) = (first, located);
    let mut alone = !content.swarm.has_members();
    let (mut fruitless, mut had) = (0, partial.bytes());
    loop {
        let wanted = shared.wanted.notified();
        let together = first.is_none() && !alone && lock(&shared.wants).whole;
        if together && !content.doubts.doubts_members(&shared.digest) {
            let nowhere = || Located::nowhere(partial.layout().size());
            together::bring(content, shared, partial, located.take().unwrap_or_else(nowhere)).await?;
        }
        // What the crowd could not bring is asked of the registry as if there were no others.
        alone |= together;
        let Some(run) = shared.next_run(partial) else {
            if lock(&shared.wants).whole {
                return partial.verified().await.map(|_| ());
            }
            tokio::select! {
                () = wanted => continue,
                verified = partial.verified() => return verified.map(|_| ()),
            }
        };
        let Some(supply) = shared.supply() else {
            // No client's request is good any more: the crowd's leases have shown that.
            shared.fail();
            return std::future::pending().await;
        };
        let filled = {
            let request = Request { run, whole: true, first: first.take(), received: Arc::default() };
            registry::fill(content, &supply, partial, request, shared.mark()).await
        };
        let Err(Miss { fault, .. }) = filled else { continue };
        if let Some(error) = partial.failure() {
            return Err(error);
        }
        shared.note(content, &fault);
        let has = partial.bytes();
        fruitless = if has > had { 0 } else { fruitless + 1 };
        had = has;
        if fault.what == What::Status {
            shared.withdraw(&supply);
        }
        if fault.side == Side::Ours {
            content.doubts.of_store(shared.digest);
        }
        if fruitless >= FRUITLESS || lock(&shared.supplies).is_empty() || fault.side == Side::Ours {
            shared.fail();
            return std::future::pending().await;
        }
        tokio::time::sleep(PAUSE * 2u32.pow(fruitless)).await;
    }
}
