//! Getting pieces of one blob from several peers: the plan says whom to ask for what, this file asks.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    ops::Range,
    sync::Arc,
    time::Instant,
};

use fixedbitset::FixedBitSet;
use tokio::task::JoinSet;

use super::{
    Located, Quarantine,
    exchange::get::{self, GetError, Want},
    plan::{Ask, Failure, Plan},
    pool::Pool,
};
use crate::store::{Partial, StoreError};

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

enum Report {
    Map(SocketAddr, Result<FixedBitSet, GetError>),
    Piece(Ask, Result<u64, GetError>),
}

/// Fetches what it can of `wanted`. Ends when all is here, when nobody has the rest, or when the store fails; each wait in
/// it has a deadline, so it ends.
pub(super) async fn fetch(
    pool: &Pool,
    quarantine: &Arc<Quarantine>,
    partial: &Arc<Partial>,
    located: &Located,
    wanted: Range<u32>,
) -> Fetched {
    let layout = partial.layout();
    let mut fetch = Fetch {
        pool,
        quarantine,
        partial,
        plan: Plan::new(&partial.pieces(), wanted.clone()),
        running: JoinSet::new(),
        bytes: BTreeMap::new(),
        fetched: Fetched::default(),
    };
    // Another size is another blob: the registry knows better.
    if located.size == layout.size() {
        fetch.ask_around(located);
        fetch.run().await;
    }
    // Dropping the set ends the requests still open.
    let Fetch { running, bytes, mut fetched, .. } = fetch;
    drop(running);
    fetched.bytes = bytes.into_iter().collect();
    let end = wanted.end.min(layout.count());
    fetched.missing = (wanted.start..end).filter(|index| !partial.has(*index)).collect();
    fetched
}

struct Fetch<'a> {
    pool: &'a Pool,
    quarantine: &'a Arc<Quarantine>,
    partial: &'a Arc<Partial>,
    plan: Plan,
    running: JoinSet<Report>,
    bytes: BTreeMap<SocketAddr, u64>,
    fetched: Fetched,
}

impl Fetch<'_> {
    fn ask_around(&mut self, located: &Located) {
        let layout = self.partial.layout();
        let mut all = FixedBitSet::with_capacity(layout.count() as usize);
        all.insert_range(..);
        for provider in &located.providers {
            if provider.complete {
                self.plan.add_peer(provider.addr, &all);
                continue;
            }
            let (pool, peer, blob) = (self.pool.clone(), provider.addr, self.partial.digest());
            self.running.spawn(async move { Report::Map(peer, get::map(&pool, peer, blob, layout).await) });
        }
    }

    async fn run(&mut self) {
        loop {
            let mut asks: HashMap<u32, Ask> = HashMap::new();
            while let Some(ask) = self.plan.next(Instant::now()) {
                asks.insert(ask.index, ask);
            }
            for ask in asks.into_values() {
                if !self.start(ask) {
                    return;
                }
            }
            let Some(report) = self.running.join_next().await else {
                if self.plan.is_over() {
                    return;
                }
                // Pieces were taken by somebody else meanwhile; the plan has others to ask for.
                continue;
            };
            if let Ok(report) = report
                && !self.note(report)
            {
                return;
            }
        }
    }

    /// Whether it is worth going on.
    fn start(&mut self, ask: Ask) -> bool {
        let writer = match self.partial.writer(ask.index) {
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
        let (pool, quarantine) = (self.pool.clone(), self.quarantine.clone());
        let layout = self.partial.layout();
        let want = Want { peer: ask.peer, blob: self.partial.digest(), layout, patience: ask.patience };
        self.running.spawn(async move {
            Report::Piece(ask, get::piece(&pool, want, writer, |sealer| quarantine.holds(sealer)).await)
        });
        true
    }

    /// Whether it is worth going on.
    fn note(&mut self, report: Report) -> bool {
        match report {
            Report::Map(peer, Ok(pieces)) => self.plan.add_peer(peer, &pieces),
            Report::Map(peer, Err(error)) => self.blame(peer, &error),
            Report::Piece(ask, Ok(bytes)) => {
                self.plan.done(ask.index, Instant::now());
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
        }
        true
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
        tracing::debug!(%peer, blame = blame.name(), blob = %self.partial.digest(), "a peer failed");
        // One fault for each peer, the first: others follow from it. Only damage is worth more, because a peer that finds
        // its blob damaged has not got it for the next request, and that answer may be read first.
        match self.fetched.faults.iter_mut().find(|fault| fault.peer == peer) {
            Some(fault) if blame == Blame::Corrupt => fault.blame = blame,
            Some(_) => {}
            None => self.fetched.faults.push(PeerFault { peer, blame }),
        }
    }
}
