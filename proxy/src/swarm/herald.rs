//! Telling owners what we hold, and keeping in touch with members.
//!
//! Changes go out in batches after a short pause. An owner that is new, or has forgotten (its boot epoch is another),
//! is told everything in its shards; so is everybody now and then, because what owners know expires.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use tokio::{sync::Notify, time::MissedTickBehavior};

use super::{
    exchange::Exchange,
    frame::{Announce, Answer, Holding, MAX_HOLDINGS, MAX_TOLD, Request},
    pool::Pool,
    tracker::TTL,
};
use crate::{
    oci::digest::Digest,
    store::{Event, Provenance, Store},
};

/// Changes wait this long for company.
const BATCH: Duration = Duration::from_millis(20);
/// How often members are looked after.
const TICK: Duration = Duration::from_secs(1);
/// Everybody is told everything again this often.
const REFRESH: Duration = Duration::from_secs(TTL.as_secs() / 3);
/// Members asked at the same time.
const AT_ONCE: usize = 8;
/// Above this many unsent changes it is cheaper to tell everything.
const MAX_CHANGES: usize = 1 << 16;
/// What the provenance in one announcement may take, so that it fits a frame.
const MAX_BYTES: usize = 48 << 10;

/// Where changes are handed in; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Herald {
    news: Arc<(Mutex<News>, Notify)>,
}

#[derive(Debug, Default)]
struct News {
    /// `None`: no longer held.
    changes: HashMap<Digest, Option<Holding>>,
    /// Members that introduced themselves, with their boot epoch.
    met: HashMap<SocketAddr, u64>,
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

    /// A member introduced itself.
    pub(crate) fn met(&self, member: SocketAddr, boot: u64) {
        self.news().met.insert(member, boot);
        self.news.1.notify_one();
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
    /// The boot epoch that each member had when it was last heard of.
    boots: HashMap<SocketAddr, u64>,
    /// The boot epoch of each member that knows everything it should.
    told: HashMap<SocketAddr, u64>,
    refreshed: Instant,
}

impl Round {
    pub(crate) fn new(exchange: Arc<Exchange>, pool: Pool) -> Self {
        Self { exchange, pool, boots: HashMap::new(), told: HashMap::new(), refreshed: Instant::now() }
    }

    /// Runs until dropped.
    pub(crate) async fn run(mut self) {
        let mut events = self.exchange.store.events();
        let mut members = self.exchange.members.changes();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let herald = self.exchange.herald.clone();
        herald.everything();
        loop {
            tokio::select! {
                _ = tick.tick() => self.look_after().await,
                _ = members.changed() => {
                    // Shards have other owners now.
                    herald.everything();
                    self.greet().await;
                }
                event = events.recv() => match event {
                    Ok(Event::Dropped(blob)) => herald.gone(blob),
                    Ok(Event::Stored(blob)) => self.stored(blob).await,
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

    /// A blob is complete, or more is known about where it came from.
    async fn stored(&self, blob: Digest) {
        let store = self.exchange.store.clone();
        let info = tokio::task::spawn_blocking(move || store.info(&blob)).await.ok().flatten();
        if let Some(info) = info {
            self.exchange.herald.held(holding(blob, info.size, info.provenance));
        }
    }

    async fn look_after(&mut self) {
        self.pool.sweep();
        self.exchange.members.forget_silent();
        if self.refreshed.elapsed() > REFRESH {
            self.refreshed = Instant::now();
            self.exchange.tracker().expire(Instant::now());
            self.exchange.herald.everything();
        }
        self.greet().await;
    }

    /// Introduces us to members that are due for it.
    async fn greet(&mut self) {
        let members = &self.exchange.members;
        let greeted = stream::iter(members.ungreeted()).map(|addr| {
            let (pool, hello) = (self.pool.clone(), self.exchange.hello());
            async move { (addr, pool.ask(addr, &Request::Hello(hello)).await) }
        });
        let answers: Vec<_> = greeted.buffer_unordered(AT_ONCE).collect().await;
        for (addr, answer) in answers {
            if let Ok(Answer::Hello(hello)) = answer {
                members.heard(addr);
                members.is_in(addr, &hello.zone);
                members.add(&hello.members, false);
                self.exchange.herald.met(addr, hello.boot);
            }
        }
    }

    async fn tell(&mut self, news: News) {
        if news.everything {
            self.told.clear();
        }
        for (addr, boot) in news.met {
            if self.told.get(&addr).is_some_and(|told| *told != boot) {
                self.told.remove(&addr);
            }
            self.boots.insert(addr, boot);
        }
        let mut tidings = self.changes(news.changes);
        let ignorant = self.ignorant();
        if !ignorant.is_empty() {
            self.add_everything(&ignorant, &mut tidings).await;
        }
        let me = self.exchange.members.me();
        if let Some(announce) = tidings.remove(&me) {
            self.exchange.tracker().note(me, announce, Instant::now());
        }
        self.told.insert(me, self.exchange.boot);
        for addr in ignorant {
            // Those with nothing to be told know everything.
            if let (false, Some(boot)) = (tidings.contains_key(&addr), self.boots.get(&addr)) {
                self.told.insert(addr, *boot);
            }
        }
        self.send(tidings).await;
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

    /// Who can be reached and has to be told everything.
    fn ignorant(&self) -> HashSet<SocketAddr> {
        let reachable = self.exchange.members.status().into_iter().filter(|member| member.reachable == Some(true));
        let everybody = reachable.map(|member| member.addr).chain([self.exchange.members.me()]);
        everybody.filter(|addr| !self.told.contains_key(addr)).collect()
    }

    async fn add_everything(&self, to: &HashSet<SocketAddr>, tidings: &mut BTreeMap<SocketAddr, Announce>) {
        for holding in holdings(self.exchange.store.clone()).await {
            for owner in self.exchange.members.owners(&holding.blob) {
                if to.contains(&owner) {
                    tidings.entry(owner).or_default().held.push(holding.clone());
                }
            }
        }
    }

    async fn send(&mut self, tidings: BTreeMap<SocketAddr, Announce>) {
        let sent = stream::iter(tidings).map(|(owner, announce)| {
            let (pool, members) = (self.pool.clone(), self.exchange.members.clone());
            async move {
                let mut boot = None;
                for batch in batches(announce) {
                    // Asleep or failing: it is told everything when it is back.
                    if !members.is_awake(owner) {
                        return (owner, None);
                    }
                    match pool.ask(owner, &Request::Announce(batch)).await {
                        Ok(Answer::Noted(epoch)) => boot = Some(epoch),
                        _ => return (owner, None),
                    }
                }
                (owner, boot)
            }
        });
        let sent: Vec<_> = sent.buffer_unordered(AT_ONCE).collect().await;
        for (owner, boot) in sent {
            let before = self.told.remove(&owner);
            match boot {
                // It restarted since, and has only what was sent now.
                Some(boot) if before.is_some_and(|before| before != boot) => self.exchange.herald.met(owner, boot),
                Some(boot) => {
                    self.told.insert(owner, boot);
                }
                None => {}
            }
        }
    }
}

/// Everything that is complete in the store.
async fn holdings(store: Store) -> Vec<Holding> {
    let list = move || {
        let held = store.held().into_iter();
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

/// Cuts an announcement so that each part fits a frame.
fn batches(announce: Announce) -> Vec<Announce> {
    let mut out: Vec<_> =
        announce.gone.chunks(MAX_HOLDINGS).map(|gone| Announce { gone: gone.to_vec(), held: Vec::new() }).collect();
    let mut batch = Announce::default();
    let mut bytes = 0;
    for holding in announce.held {
        let length: usize =
            64 + holding.provenance.iter().map(|pair| 8 + pair.registry.len() + pair.repository.len()).sum::<usize>();
        if batch.held.len() >= MAX_HOLDINGS || bytes + length > MAX_BYTES {
            out.push(std::mem::take(&mut batch));
            bytes = 0;
        }
        bytes += length;
        batch.held.push(holding);
    }
    if !batch.held.is_empty() {
        out.push(batch);
    }
    out
}
