//! Getting the pieces of one blob together with everybody else who wants it: neighbours give what they have, the owner
//! says what this node takes from the registry for all, and the plan says whom to ask for what. This file asks.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use fixedbitset::FixedBitSet;
use futures_util::future::BoxFuture;
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

use super::{
    Located, Quarantine,
    exchange::{
        Exchange,
        get::{self, GetError, Want},
    },
    frame::{Join, Joined, Pieces, Reach},
    locate,
    plan::{Ask, Failure, Plan},
    pool::Pool,
    sessions::Session,
};
use crate::store::{Partial, StoreError, piece::Layout};

/// Neighbours at most, whoever named them.
const NEIGHBOURS: usize = 32;
/// Leases under way of one blob: the next one is asked for when the last has nearly come.
const LEASES: usize = 2;
/// Leases under way of all blobs together. A registry's wire is shared by all fetchers, and the more there are, the later
/// each has its first piece to give.
const LEASES_IN_ALL: usize = 2;
/// A lease of which not a byte comes for so long is given up.
const STALLED: Duration = Duration::from_secs(5);
/// When nothing came for so long, from anywhere, the registry is asked without a lease.
const IMPATIENT: Duration = Duration::from_secs(5);
/// When nothing came for so long and the registry will not help, it is over.
const HOPELESS: Duration = Duration::from_secs(10);
/// A registry that failed so often, one time after the other, is not asked again.
const FAILURES: u32 = 3;
/// The owner is not asked more often than this.
const MIN_PAUSE: Duration = Duration::from_millis(10);
/// The owner is asked again after this when it did not answer.
const RETRY: Duration = Duration::from_millis(250);

/// What a peer did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Blame {
    /// Its bytes were not what was stated, or it found them damaged itself.
    Corrupt,
    /// It was silent for too long.
    Stall,
    /// It could not be reached or went away.
    Gone,
    /// It said something untrue: pieces it has not got, a statement nobody signed, nonsense.
    Lied,
}

impl Blame {
    /// A stable name for metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Corrupt => "corrupt",
            Self::Stall => "stall",
            Self::Gone => "gone",
            Self::Lied => "lied",
        }
    }
}

/// One fault of one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerFault {
    /// Which peer.
    pub peer: SocketAddr,
    /// What it did.
    pub blame: Blame,
}

/// How a fetch ended.
#[derive(Debug, Clone, Default)]
pub struct Fetched {
    /// Bytes that came from each peer and count.
    pub bytes: Vec<(SocketAddr, u64)>,
    /// What went wrong, at most one for each peer.
    pub faults: Vec<PeerFault>,
    /// Pieces that were wanted and are still not here: for the registry.
    pub missing: Vec<u32>,
    /// Our own store failed, and that is why it ended.
    pub failed: Option<StoreError>,
}

/// Why a registry did not give what was leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Declined {
    /// It may be asked again after this.
    Later(Duration),
    /// It failed, and may be better soon.
    Failed,
    /// It gives the whole only, and was not asked for that.
    Ranges,
    /// It will not give it, or not to us.
    Never,
}

/// What is to be fetched, and what may help.
#[derive(Clone)]
pub struct Wish {
    /// The blob.
    pub partial: Arc<Partial>,
    /// Which pieces of it.
    pub wanted: Range<u32>,
    /// The piece that the client reads now.
    pub cursor: Arc<AtomicU32>,
    /// Brings pieces from the registry; with `true`, an answer that ignores the range will do.
    pub registry: Arc<Leases>,
}

/// See [`Wish::registry`]. It counts the bytes as they come in the last argument.
pub type Leases = dyn Fn(Range<u32>, bool, Arc<AtomicU64>) -> BoxFuture<'static, Result<(), Declined>> + Send + Sync;

enum Report {
    Has(SocketAddr, Result<FixedBitSet, GetError>),
    Piece(Ask, Result<u64, GetError>),
    Lease { pieces: Range<u32>, took: Duration, ended: Result<(), Declined> },
    Joined(Option<Joined>),
}

/// Fetches what it can of what is wished for. Ends when all is here, when neither the registry nor anybody else gives
/// more, or when the store fails; each wait in it has a deadline, so it ends.
pub(super) async fn fetch(
    exchange: &Arc<Exchange>,
    pool: &Pool,
    quarantine: &Arc<Quarantine>,
    located: &Located,
    wish: Wish,
) -> Fetched {
    let (partial, wanted) = (wish.partial.clone(), wish.wanted.clone());
    let layout = partial.layout();
    let (reports, mut incoming) = mpsc::channel(256);
    let mut fetch = Fetch {
        exchange,
        pool,
        quarantine,
        layout,
        plan: Plan::new(&partial.pieces(), wanted.clone(), rand::random()),
        tasks: JoinSet::new(),
        reports,
        neighbours: BTreeSet::new(),
        bytes: BTreeMap::new(),
        fetched: Fetched::default(),
        registry: Registry::default(),
        leases: Vec::new(),
        crowd: Crowd::new(),
        progress: Instant::now(),
        wish,
    };
    // Another size is another blob: the registry knows better.
    if located.size == layout.size() {
        let session = exchange.sessions.begin(partial.digest());
        for provider in &located.providers {
            fetch.watch(provider.addr, provider.complete);
        }
        fetch.run(session, &mut incoming).await;
    }
    // Dropping the set ends what is still open.
    let Fetch { tasks, bytes, mut fetched, .. } = fetch;
    drop(tasks);
    fetched.bytes = bytes.into_iter().collect();
    let end = wanted.end.min(layout.count());
    fetched.missing = (wanted.start..end).filter(|index| !partial.has(*index)).collect();
    fetched
}

struct Fetch<'a> {
    exchange: &'a Arc<Exchange>,
    pool: &'a Pool,
    quarantine: &'a Arc<Quarantine>,
    wish: Wish,
    layout: Layout,
    plan: Plan,
    tasks: JoinSet<()>,
    reports: mpsc::Sender<Report>,
    neighbours: BTreeSet<SocketAddr>,
    bytes: BTreeMap<SocketAddr, u64>,
    fetched: Fetched,
    registry: Registry,
    leases: Vec<Lease>,
    crowd: Crowd,
    /// When a piece last came, from anywhere.
    progress: Instant,
}

/// What is being taken from the registry.
struct Lease {
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
struct Registry {
    rate: u64,
    whole: bool,
    never: bool,
    /// Failures since it last brought something.
    failures: u32,
    not_before: Option<Instant>,
}

/// How we stand with the owner.
#[derive(Debug)]
struct Crowd {
    asking: bool,
    asked: Instant,
    due: Instant,
    /// The last answer had nothing for us.
    nothing: bool,
    owner: u64,
}

impl Crowd {
    fn new() -> Self {
        let now = Instant::now();
        Self { asking: false, asked: now, due: now, nothing: false, owner: 0 }
    }
}

impl Fetch<'_> {
    async fn run(&mut self, mut session: Session, incoming: &mut mpsc::Receiver<Report>) {
        let mut changes = self.wish.partial.watch();
        let mut had = 0;
        loop {
            changes.mark_unchanged();
            self.fetched.failed = self.wish.partial.failure();
            if self.fetched.failed.is_some() {
                return;
            }
            let held = self.wish.partial.pieces();
            let now = Instant::now();
            let has = held.count_ones(..);
            if has > had {
                (had, self.progress) = (has, now);
            }
            self.give_up_stalled(now);
            self.plan.settle(&held);
            self.plan.set_cursor(self.wish.cursor.load(Ordering::Relaxed));
            // The last piece is here before its bearer has said so.
            if self.is_done(&held) && self.plan.is_idle() || self.is_hopeless(now) {
                return;
            }
            while let Some(ask) = self.plan.next(now) {
                if !self.ask(ask) {
                    return;
                }
            }
            self.push_on(&held, now);
            self.join(&held, now);
            let wake = self.wake(now);
            tokio::select! {
                Some(report) = incoming.recv() => {
                    if !self.note(report) {
                        return;
                    }
                }
                addr = session.newcomer() => self.watch(addr, false),
                _ = changes.changed() => {}
                () = tokio::time::sleep_until(wake.into()) => {}
            }
            while self.tasks.try_join_next().is_some() {}
        }
    }

    fn is_done(&self, held: &FixedBitSet) -> bool {
        let end = self.wish.wanted.end.min(self.layout.count());
        (self.wish.wanted.start..end).all(|index| held.contains(index as usize))
    }

    fn is_hopeless(&self, now: Instant) -> bool {
        let alone = self.crowd.owner != 0 && self.neighbours.is_empty();
        let stuck = self.leases.is_empty() && self.plan.is_over();
        let quiet = now.saturating_duration_since(self.progress);
        stuck && (self.registry.never && (alone || quiet > HOPELESS) || quiet > HOPELESS * 6)
    }

    /// When to look again if nothing happens.
    fn wake(&self, now: Instant) -> Instant {
        let due = if self.crowd.asking { now + RETRY } else { self.crowd.due };
        due.max(now + MIN_PAUSE)
    }

    /// Follows what a neighbour has. One that has all of it needs not be followed.
    fn watch(&mut self, peer: SocketAddr, complete: bool) {
        if peer == self.exchange.members.me() || self.neighbours.len() >= NEIGHBOURS || !self.neighbours.insert(peer) {
            return;
        }
        if complete {
            let mut all = FixedBitSet::with_capacity(self.layout.count() as usize);
            all.insert_range(..);
            self.plan.set_peer(peer, &all, self.exchange.members.is_near(peer));
            return;
        }
        let (pool, blob, layout) = (self.pool.clone(), self.wish.partial.digest(), self.layout);
        let reports = self.reports.clone();
        self.tasks.spawn(async move {
            let followed = get::follow(&pool, peer, blob, layout, |has| {
                let reports = reports.clone();
                async move { reports.send(Report::Has(peer, Ok(has))).await.is_ok() }
            });
            if let Err(error) = followed.await {
                let _ = reports.send(Report::Has(peer, Err(error))).await;
            }
        });
    }

    /// Whether it is worth going on.
    fn ask(&mut self, ask: Ask) -> bool {
        let writer = match self.wish.partial.writer(ask.index) {
            Ok(writer) => writer,
            Err(StoreError::Taken(_)) => {
                self.plan.elsewhere(ask.index);
                return true;
            }
            Err(error) => {
                self.fetched.failed = Some(error);
                return false;
            }
        };
        let (pool, quarantine, reports) = (self.pool.clone(), self.quarantine.clone(), self.reports.clone());
        let blob = self.wish.partial.digest();
        let want = Want { peer: ask.peer, blob, layout: self.layout, patience: ask.patience };
        self.tasks.spawn(async move {
            let piece = get::piece(&pool, want, writer, |sealer| quarantine.holds(sealer)).await;
            let _ = reports.send(Report::Piece(ask, piece)).await;
        });
        true
    }

    /// Takes these from the registry.
    fn lease(&mut self, pieces: Range<u32>) {
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
    fn give_up_stalled(&mut self, now: Instant) {
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
    fn push_on(&mut self, held: &FixedBitSet, now: Instant) {
        let quiet = now.saturating_duration_since(self.progress) > IMPATIENT;
        if !quiet || !self.leases.is_empty() || !self.may_ask_registry(now) {
            return;
        }
        let end = self.wish.wanted.end.min(self.layout.count());
        if let Some(index) = (self.wish.wanted.start..end).find(|index| !held.contains(*index as usize)) {
            tracing::info!(blob = %self.wish.partial.digest(), index, "nobody brings anything, asking the registry");
            self.lease(index..index + 1);
        }
    }

    fn may_ask_registry(&self, now: Instant) -> bool {
        !self.registry.never && self.registry.not_before.is_none_or(|until| until <= now)
    }

    /// Asks the owner, when it is time or when there is room for another lease.
    fn join(&mut self, held: &FixedBitSet, now: Instant) {
        let crowd = &self.crowd;
        if crowd.asking {
            return;
        }
        let (unseen, fetching) = (self.plan.unseen(), self.plan.fetching(held));
        // The exchange holds one of them itself.
        let in_all = Arc::strong_count(&self.exchange.leases) - 1;
        let nearly = self.plan.leased(held) <= 1;
        let room = self.leases.len() < LEASES && in_all < LEASES_IN_ALL && nearly && self.may_ask_registry(now);
        let wants = room && !unseen.is_clear() && !crowd.nothing;
        let pause = now.saturating_duration_since(crowd.asked) >= MIN_PAUSE || crowd.owner == 0;
        if crowd.due > now && !(wants && pause) {
            return;
        }
        let size = self.layout.size();
        let join = Join {
            blob: self.wish.partial.digest(),
            size,
            held: Pieces::some(size, held),
            fetching: Pieces::some(size, &fetching),
            unseen: Pieces::some(size, &unseen),
            registry: match (room, self.registry.whole) {
                (false, _) => Reach::No,
                (true, true) => Reach::Whole,
                (true, false) => Reach::Ranges { rate: self.registry.rate },
            },
            zone: self.exchange.members.zone().to_owned(),
            neighbours: self.neighbours.len() as u16,
            owner: crowd.owner,
        };
        self.crowd.asking = true;
        self.crowd.asked = now;
        let (exchange, pool, reports) = (self.exchange.clone(), self.pool.clone(), self.reports.clone());
        self.tasks.spawn(async move {
            let _ = reports.send(Report::Joined(locate::join(&exchange, &pool, join).await)).await;
        });
    }

    /// Whether it is worth going on.
    fn note(&mut self, report: Report) -> bool {
        let now = Instant::now();
        match report {
            Report::Has(peer, Ok(pieces)) => {
                self.plan.set_peer(peer, &pieces, self.exchange.members.is_near(peer));
            }
            Report::Has(peer, Err(error)) => {
                self.plan.drop_peer(peer);
                self.neighbours.remove(&peer);
                self.blame(peer, &error);
            }
            Report::Piece(ask, Ok(bytes)) => {
                self.plan.done(ask.index, now);
                *self.bytes.entry(ask.peer).or_default() += bytes;
            }
            Report::Piece(_, Err(GetError::Store(error))) => {
                self.fetched.failed = Some(error);
                return false;
            }
            Report::Piece(ask, Err(error)) => {
                self.blame(ask.peer, &error);
                let failure = match error {
                    GetError::Quarantined | GetError::NotHere => Failure::Piece,
                    _ => Failure::Peer,
                };
                self.plan.failed(ask.index, failure);
            }
            Report::Lease { pieces, took, ended } => self.lease_ended(pieces, took, ended, now),
            Report::Joined(joined) => self.joined(joined, now),
        }
        true
    }

    fn lease_ended(&mut self, pieces: Range<u32>, took: Duration, ended: Result<(), Declined>, now: Instant) {
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

    fn joined(&mut self, joined: Option<Joined>, now: Instant) {
        self.crowd.asking = false;
        let Some(joined) = joined else {
            self.crowd.due = now + RETRY;
            return;
        };
        self.crowd.owner = joined.owner;
        self.crowd.due = now + Duration::from_millis(joined.again.into()).max(MIN_PAUSE);
        self.crowd.nothing = joined.lease.is_none() && joined.imports.is_none();
        if let Some(pieces) = joined.imports {
            self.plan.import(pieces);
        }
        for addr in joined.neighbours {
            self.watch(addr, false);
        }
        if let Some(pieces) = joined.lease {
            self.lease(pieces);
        }
    }

    fn blame(&mut self, peer: SocketAddr, error: &GetError) {
        let blame = match error {
            GetError::Gone => Blame::Gone,
            GetError::Stall => Blame::Stall,
            GetError::Corrupt => Blame::Corrupt,
            GetError::Lied => Blame::Lied,
            // It said that it had the piece. It may have been evicted since, so this costs it no more than the piece.
            GetError::NotHere => Blame::Lied,
            GetError::Quarantined | GetError::Store(_) => return,
        };
        if matches!(blame, Blame::Gone | Blame::Stall) {
            self.pool.missed(peer);
        }
        tracing::debug!(%peer, blame = blame.name(), blob = %self.wish.partial.digest(), "a peer failed");
        // One fault for each peer, the first: others follow from it. Only damage is worth more, because a peer that finds
        // its blob damaged has not got it for the next request, and that answer may be read first.
        match self.fetched.faults.iter_mut().find(|fault| fault.peer == peer) {
            Some(fault) if blame == Blame::Corrupt => fault.blame = blame,
            Some(_) => {}
            None => self.fetched.faults.push(PeerFault { peer, blame }),
        }
    }
}
