//! Telling owners what we hold.
//!
//! Changes go out in batches after a short pause. Beyond that each owner is told all that we hold in its shards: when a shard
//! becomes its, when it started again, and now and then, because what it knows expires. So when members come and go, only
//! the shards that change hands are told again.
//!
//! What that and looking after members costs at rest, for 10 000 nodes with 2 000 blobs each: 3 x 256 places are held by some
//! 740 owners, so a node tells 740 owners about eight blobs each within [`ledger::REFRESH`], one message each: 0.21 messages a second,
//! and as many answers. It asks three neighbours in [`Pace::ping`](super::roster::Pace), and as many ask it: 1.0 questions
//! and 1.0 answers a second. One more question goes to anybody every 30 s. The gossip mixes members every 120 s, on a walk
//! of six hops. That is 0.41 + 2.0 + 0.07 + 0.07 = 2.6 messages sent a second in the mean. An owner is told by everybody,
//! however many shards it has, so the busiest one gets 10 000 / 3600 s = 2.8 a second and sends as many answers: with the
//! rest 5.2 sent and as many received, 10.3 a second. With a refresh every ten minutes it would be 17 and 17.

mod batches;
mod ledger;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use fixedbitset::FixedBitSet;
use futures_util::{StreamExt, stream};
use tokio::{sync::Notify, time::MissedTickBehavior};

pub use self::{
    batches::batches,
    ledger::{Ignorant, Ledger},
};
use super::{
    exchange::Exchange,
    frame::{Announce, Answer, Holding, MAX_TOLD, Request},
    owners::{SHARDS, shard},
    pool::Pool,
};
use crate::{
    oci::digest::Digest,
    store::{Event, Provenance, Store},
};

/// Changes wait this long for company.
const BATCH: Duration = Duration::from_millis(20);
/// How often it is seen whether somebody has to be told again.
const TICK: Duration = Duration::from_secs(1);
/// Members asked at the same time.
const AT_ONCE: usize = 8;
/// Above this many unsent changes it is cheaper to tell everything.
const MAX_CHANGES: usize = 1 << 16;

/// Where changes are handed in; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Herald {
    news: Arc<(Mutex<News>, Notify)>,
}

#[derive(Debug, Default)]
struct News {
    /// `None`: no longer held.
    changes: HashMap<Digest, Option<Holding>>,
    everything: bool,
}

impl Herald {
    /// We hold this.
    pub(crate) fn held(&self, holding: Holding) {
        self.change(holding.blob, Some(holding));
    }

    /// We no longer hold this.
    pub(crate) fn gone(&self, blob: Digest) {
        self.change(blob, None);
    }

    fn change(&self, blob: Digest, holding: Option<Holding>) {
        let mut news = self.news();
        news.changes.insert(blob, holding);
        if news.changes.len() > MAX_CHANGES {
            news.changes.clear();
            news.everything = true;
        }
        drop(news);
        self.news.1.notify_one();
    }

    fn everything(&self) {
        self.news().everything = true;
        self.news.1.notify_one();
    }

    fn news(&self) -> MutexGuard<'_, News> {
        self.news.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task behind the herald.
pub(crate) struct Round {
    exchange: Arc<Exchange>,
    pool: Pool,
    told: Ledger,
    /// How often others had thought that we were gone then.
    refuted: u64,
    expired: Instant,
}

impl Round {
    pub(crate) fn new(exchange: Arc<Exchange>, pool: Pool) -> Self {
        Self { exchange, pool, told: Ledger::default(), refuted: 0, expired: Instant::now() }
    }

    /// Runs until dropped.
    pub(crate) async fn run(mut self) {
        let mut events = self.exchange.store.events();
        let mut members = self.exchange.members.changes();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let herald = self.exchange.herald.clone();
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    self.look_after();
                    // Some may be back, or due.
                    herald.news.1.notify_one();
                }
                _ = members.changed() => {
                    self.exchange.tracker().keep_of(&self.exchange.members.present());
                    herald.news.1.notify_one();
                }
                event = events.recv() => match event {
                    Ok(Event::Dropped(blob)) => herald.gone(blob),
                    Ok(Event::Verified(blob) | Event::Stored(blob)) => self.stored(blob).await,
                    Err(_) => herald.everything(),
                },
                () = herald.news.1.notified() => {
                    tokio::time::sleep(BATCH).await;
                    let news = std::mem::take(&mut *herald.news());
                    self.tell(news).await;
                }
            }
        }
    }

    /// A blob is complete, on the disk or on its way there, or more is known about where it came from.
    async fn stored(&self, blob: Digest) {
        let store = self.exchange.store.clone();
        let info = tokio::task::spawn_blocking(move || store.info(&blob)).await.ok().flatten();
        if let Some(info) = info {
            self.exchange.herald.held(holding(blob, info.size, info.provenance));
        }
    }

    fn look_after(&mut self) {
        self.pool.sweep();
        if self.expired.elapsed() > ledger::REFRESH {
            self.expired = Instant::now();
            self.exchange.tracker().expire(Instant::now());
        }
    }

    async fn tell(&mut self, news: News) {
        let refuted = self.exchange.members.refuted();
        if news.everything || self.refuted != refuted {
            self.told = Ledger::default();
            self.refuted = refuted;
        }
        let members = &self.exchange.members;
        let owners = |shard| members.owners_of_shard(shard);
        let ignorant = self.told.ignorant(owners, |owner| members.boot_of(owner), Instant::now());
        let mut tidings = self.changes(news.changes);
        if !ignorant.is_empty() {
            self.add_everything(&ignorant, &mut tidings).await;
        }
        let me = self.exchange.members.me();
        if let Some(announce) = tidings.remove(&me) {
            self.exchange.tracker().note(me, announce, Instant::now());
        }
        let failed = self.send(tidings).await;
        for (owner, (boot, shards)) in ignorant {
            if !failed.contains(&owner) {
                self.told.note(owner, boot, &shards, Instant::now(), &mut rand::rng());
            }
        }
    }

    fn changes(&self, changes: HashMap<Digest, Option<Holding>>) -> BTreeMap<SocketAddr, Announce> {
        let mut tidings = BTreeMap::<_, Announce>::new();
        for (blob, change) in changes {
            for owner in self.exchange.members.owners(&blob) {
                let announce = tidings.entry(owner).or_default();
                match &change {
                    Some(holding) => announce.held.push(holding.clone()),
                    None => announce.gone.push(blob),
                }
            }
        }
        tidings
    }

    async fn add_everything(&self, to: &Ignorant, tidings: &mut BTreeMap<SocketAddr, Announce>) {
        let mut shards = FixedBitSet::with_capacity(SHARDS);
        to.values().for_each(|(_, wanted)| shards.union_with(wanted));
        for holding in holdings(self.exchange.store.clone(), shards).await {
            for owner in self.exchange.members.owners(&holding.blob) {
                let is_wanted = |(_, wanted): &(u64, FixedBitSet)| wanted.contains(usize::from(shard(&holding.blob)));
                if to.get(&owner).is_some_and(is_wanted) {
                    tidings.entry(owner).or_default().held.push(holding.clone());
                }
            }
        }
    }

    /// Who did not take it all.
    async fn send(&mut self, tidings: BTreeMap<SocketAddr, Announce>) -> HashSet<SocketAddr> {
        let sent = stream::iter(tidings).map(|(owner, announce)| {
            let (pool, members) = (self.pool.clone(), self.exchange.members.clone());
            async move {
                for batch in batches(announce) {
                    // Asleep or failing: it is told everything when it is back.
                    if !members.is_awake(owner) {
                        return (owner, None);
                    }
                    match pool.ask(owner, &Request::Announce(batch)).await {
                        Ok(Answer::Noted(boot)) if members.boot_of(owner).is_none_or(|known| known == boot) => {}
                        // Gone, or it started again since, and has only what was sent now.
                        _ => return (owner, None),
                    }
                }
                (owner, Some(()))
            }
        });
        let sent: Vec<_> = sent.buffer_unordered(AT_ONCE).collect().await;
        let failed: HashSet<_> = sent.into_iter().filter(|(_, done)| done.is_none()).map(|(owner, _)| owner).collect();
        self.told.forget(&failed);
        failed
    }
}

/// Everything in these shards that is complete in the store.
async fn holdings(store: Store, shards: FixedBitSet) -> Vec<Holding> {
    let list = move || {
        let held = store.held().into_iter().filter(|blob| shards.contains(usize::from(shard(blob))));
        held.filter_map(|blob| {
            let info = store.info(&blob)?;
            Some(holding(blob, info.size, info.provenance))
        })
        .collect()
    };
    tokio::task::spawn_blocking(list).await.unwrap_or_default()
}

/// A complete blob as it is announced: with the provenance learned last.
fn holding(blob: Digest, size: u64, mut provenance: Vec<Provenance>) -> Holding {
    provenance.retain(Provenance::is_bounded);
    let old = provenance.len().saturating_sub(MAX_TOLD);
    provenance.drain(..old);
    Holding { blob, size, complete: true, provenance }
}
