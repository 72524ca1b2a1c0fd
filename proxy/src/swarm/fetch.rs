//! Getting the pieces of one blob together with everybody else who wants it: neighbours give what they have, the owner
//! says what this node takes from the registry for all, and the plan says whom to ask for what. This file asks.

mod lease;
mod wish;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    ops::Range,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use fixedbitset::FixedBitSet;
use tokio::{sync::mpsc, task::JoinSet};

use self::lease::{Lease, Registry};
pub use self::wish::{Blame, Declined, Fetched, Given, Leases, PeerFault, Wish};

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
use crate::store::{StoreError, piece::Layout};

/// Neighbours at most, whoever named them.
const NEIGHBOURS: usize = 32;
/// When nothing came for so long and the registry will not help, it is over.
const HOPELESS: Duration = Duration::from_secs(10);
/// The owner is not asked more often than this.
const MIN_PAUSE: Duration = Duration::from_millis(10);
/// The owner is asked again after this when it did not answer.
const RETRY: Duration = Duration::from_millis(250);

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
        pushing: false,
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
    /// Nothing came for too long; until a neighbour gives something, the registry is asked without leases.
    pushing: bool,
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
            if self.is_done(&held) && self.plan.is_idle() {
                self.say_goodbye(&held);
                return;
            }
            if self.is_hopeless(now) {
                return;
            }
            while let Some(ask) = self.plan.next(now) {
                if !self.ask(ask) {
                    return;
                }
            }
            self.push_on(now);
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
        let (blob, given) = (self.wish.partial.digest(), self.wish.given.clone());
        let want = Want { peer: ask.peer, blob, layout: self.layout, patience: ask.patience };
        self.tasks.spawn(async move {
            let came = move || given(ask.index, ask.peer);
            let piece = get::piece(&pool, want, writer, |sealer| quarantine.holds(sealer), came).await;
            let _ = reports.send(Report::Piece(ask, piece)).await;
        });
        true
    }

    /// Asks the owner, when it is time or when there is room for another lease.
    fn join(&mut self, held: &FixedBitSet, now: Instant) {
        let crowd = &self.crowd;
        if crowd.asking {
            return;
        }
        let unseen = self.plan.unseen();
        let room = self.has_room(held, now);
        let wants = room && !unseen.is_clear() && !crowd.nothing;
        let pause = now.saturating_duration_since(crowd.asked) >= MIN_PAUSE || crowd.owner == 0;
        if crowd.due > now && !(wants && pause) {
            return;
        }
        let registry = match (room, self.registry.whole) {
            (false, _) => Reach::No,
            (true, true) => Reach::Whole,
            (true, false) => Reach::Ranges { rate: self.registry.rate },
        };
        let join = self.report(held, registry);
        self.crowd.asking = true;
        self.crowd.asked = now;
        let (exchange, pool, reports) = (self.exchange.clone(), self.pool.clone(), self.reports.clone());
        self.tasks.spawn(async move {
            let _ = reports.send(Report::Joined(locate::join(&exchange, &pool, join).await)).await;
        });
    }

    /// The owner shall know that all is here: members in other zones will want it.
    fn say_goodbye(&self, held: &FixedBitSet) {
        if self.exchange.members.zone().is_empty() {
            return;
        }
        let (exchange, pool) = (self.exchange.clone(), self.pool.clone());
        let join = self.report(held, Reach::No);
        // Not among the tasks, which end with the fetch. It ends by its own deadline.
        tokio::spawn(async move { locate::join(&exchange, &pool, join).await });
    }

    fn report(&self, held: &FixedBitSet, registry: Reach) -> Join {
        let size = self.layout.size();
        Join {
            blob: self.wish.partial.digest(),
            size,
            held: Pieces::some(size, held),
            fetching: Pieces::some(size, &self.plan.fetching(held)),
            unseen: Pieces::some(size, &self.plan.unseen()),
            registry,
            zone: self.exchange.members.zone().to_owned(),
            neighbours: self.neighbours.len() as u16,
            served_by: self.wish.served_by.clone(),
            owner: self.crowd.owner,
        }
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
                self.pushing = false;
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
            self.pushing = false;
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
