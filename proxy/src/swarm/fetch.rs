//! Getting the pieces of one blob together with everybody else who wants it: neighbours give what they have, the owner
//! says what this node takes from the registry for all, and the plan says whom to ask for what. This file asks.

pub(super) mod course;
mod lease;
mod wish;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    ops::Range,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use fixedbitset::FixedBitSet;
use tokio::{sync::mpsc, task::JoinSet};

pub use self::wish::{Blame, Declined, Fetched, Given, Leases, PeerFault, Wish};
use self::{
    course::{Course, Outlook},
    lease::Taking,
};

use super::{
    Located, Quarantine,
    exchange::{
        Exchange,
        get::{self, GetError, Want},
    },
    frame::{Joined, Reach},
    locate,
    places::Place,
    plan::{Ask, Failure},
    pool::Pool,
    sessions::Session,
};
use crate::store::{StoreError, piece::Layout};

/// A place among the leases of all blobs of the registry, where one was asked for.
type LeaseSlot = Option<Place<String>>;

enum Report {
    Has(SocketAddr, Result<FixedBitSet, GetError>),
    Piece(Ask, Result<u64, GetError>),
    Lease { pieces: Range<u32>, took: Duration, ended: Result<(), Declined> },
    Joined(Option<Joined>, LeaseSlot),
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
        course: Course::new(layout, &partial.pieces(), wanted.clone(), rand::random(), Instant::now()),
        tasks: JoinSet::new(),
        reports,
        bytes: BTreeMap::new(),
        fetched: Fetched::default(),
        takings: Vec::new(),
        wish,
    };
    // Another size is another blob: the registry knows better.
    if located.size == layout.size() {
        if let Some(pace) = exchange.paces.get(&fetch.wish.served_by) {
            fetch.course.recall(pace);
        }
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
    course: Course,
    tasks: JoinSet<()>,
    reports: mpsc::Sender<Report>,
    bytes: BTreeMap<SocketAddr, u64>,
    fetched: Fetched,
    takings: Vec<Taking>,
}

impl Fetch<'_> {
    async fn run(&mut self, mut session: Session, incoming: &mut mpsc::Receiver<Report>) {
        let mut changes = self.wish.partial.watch();
        loop {
            changes.mark_unchanged();
            self.fetched.failed = self.wish.partial.failure();
            if self.fetched.failed.is_some() {
                return;
            }
            let held = self.wish.partial.pieces();
            let now = Instant::now();
            self.give_up_stalled(now);
            match self.course.look(&held, self.wish.cursor.load(Ordering::Relaxed), now) {
                Outlook::Going => {}
                Outlook::Done => return self.say_goodbye(&held),
                Outlook::Hopeless => return,
            }
            while let Some(ask) = self.course.next(self.others(), now) {
                if !self.ask(ask) {
                    return;
                }
            }
            if let Some(pieces) = self.course.push_on(now) {
                tracing::info!(blob = %self.wish.partial.digest(), ?pieces, "nobody brings anything, asking the registry");
                self.take(pieces);
            }
            if let Some(registry) = self.course.join(&held, self.under_way(), now) {
                self.join(&held, registry);
            }
            let wake = self.course.wake(now);
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

    /// Follows what a neighbour has. One that has all of it needs not be followed.
    fn watch(&mut self, peer: SocketAddr, complete: bool) {
        if peer == self.exchange.members.me() || !self.course.meet(peer) {
            return;
        }
        if complete {
            let mut all = FixedBitSet::with_capacity(self.layout.count() as usize);
            all.insert_range(..);
            self.course.has(peer, &all, self.exchange.members.is_near(peer));
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

    /// Requests that this node's other fetches have open.
    fn others(&self) -> usize {
        // The exchange holds one of them itself.
        (Arc::strong_count(&self.exchange.asks) - 1).saturating_sub(self.course.open())
    }

    /// Whether it is worth going on.
    fn ask(&mut self, ask: Ask) -> bool {
        let writer = match self.wish.partial.writer(ask.index) {
            Ok(writer) => writer,
            Err(StoreError::Taken(_)) => {
                self.course.elsewhere(ask.index);
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
        let counted = self.exchange.asks.clone();
        self.tasks.spawn(async move {
            let _counted = counted;
            // Not yet asked for, so nobody is taken for slow.
            pool.download().pass(writer.remaining()).await;
            let came = move || given(ask.index, ask.peer);
            let piece = get::piece(&pool, want, writer, |sealer| quarantine.holds(sealer), came).await;
            let _ = reports.send(Report::Piece(ask, piece)).await;
        });
        true
    }

    /// Asks the owner.
    fn join(&mut self, held: &FixedBitSet, registry: Reach) {
        let join = self.course.report(self.wish.partial.digest(), held, registry, self.who());
        let (exchange, pool, reports) = (self.exchange.clone(), self.pool.clone(), self.reports.clone());
        // What may be granted counts: all blobs of an image ask in the same moment.
        let slot = if registry == Reach::No { None } else { self.lease_slot() };
        self.tasks.spawn(async move {
            let joined = locate::join(&exchange, &pool, join).await;
            let _ = reports.send(Report::Joined(joined, slot)).await;
        });
    }

    /// Our zone, and by which registry's word we may have the blob.
    fn who(&self) -> (&str, &str) {
        (self.exchange.members.zone(), &self.wish.served_by)
    }

    /// The owner shall know that all is here: members in other zones will want it.
    fn say_goodbye(&self, held: &FixedBitSet) {
        if self.exchange.members.zone().is_empty() {
            return;
        }
        let (exchange, pool) = (self.exchange.clone(), self.pool.clone());
        let join = self.course.report(self.wish.partial.digest(), held, Reach::No, self.who());
        // Not among the tasks, which end with the fetch. It ends by its own deadline.
        tokio::spawn(async move { locate::join(&exchange, &pool, join).await });
    }

    /// Whether it is worth going on.
    fn note(&mut self, report: Report) -> bool {
        let now = Instant::now();
        match report {
            Report::Has(peer, Ok(pieces)) => {
                self.course.has(peer, &pieces, self.exchange.members.is_near(peer));
            }
            Report::Has(peer, Err(error)) => {
                self.course.lost(peer);
                // That it has something is what others said.
                if !matches!(error, GetError::NotHere) {
                    self.blame(peer, &error, false);
                }
            }
            Report::Piece(ask, Ok(bytes)) => {
                self.course.came(ask.index, now);
                *self.bytes.entry(ask.peer).or_default() += bytes;
            }
            Report::Piece(_, Err(GetError::Store(error))) => {
                self.fetched.failed = Some(error);
                return false;
            }
            Report::Piece(ask, Err(error)) => {
                // One that is slow with a piece may be there for others' questions.
                let slow = matches!(error, GetError::Stall) && self.pool.hears(ask.peer);
                self.blame(ask.peer, &error, slow);
                let failure = match error {
                    GetError::Quarantined | GetError::NotHere => Failure::Piece,
                    GetError::Busy => Failure::Busy,
                    _ if slow => Failure::Slow,
                    _ => Failure::Peer,
                };
                self.course.failed(ask.index, failure, now);
            }
            Report::Lease { pieces, took, ended } => self.took(&pieces, took, ended, now),
            // Its own place is counted by now.
            Report::Joined(joined, _slot) => self.joined(joined, now),
        }
        true
    }

    fn joined(&mut self, joined: Option<Joined>, now: Instant) {
        let leased = self.course.joined(joined.as_ref(), now);
        let neighbours = match joined {
            Some(joined) => joined.neighbours,
            // Not where there are zones: in simulation imports starved, probably because those abroad found no place any more.
            None if self.exchange.members.zone().is_empty() => self.exchange.members.some_near(self.course.at_random()),
            None => Vec::new(),
        };
        for addr in neighbours {
            self.watch(addr, false);
        }
        if let Some(pieces) = leased {
            self.take(pieces);
        }
    }

    fn blame(&mut self, peer: SocketAddr, error: &GetError, lives: bool) {
        let blame = match error {
            GetError::Gone | GetError::Left => Blame::Gone,
            GetError::Stall => Blame::Stall,
            GetError::Corrupt => Blame::Corrupt,
            GetError::Lied => Blame::Lied,
            // It said that it had the piece. It may have been evicted since, so this costs it no more than the piece.
            GetError::NotHere => Blame::Lied,
            GetError::Quarantined | GetError::Busy | GetError::Store(_) => return,
        };
        // Who has left is known to have, and who is back must not suffer for it.
        if matches!(error, GetError::Gone | GetError::Stall) && !lives {
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
