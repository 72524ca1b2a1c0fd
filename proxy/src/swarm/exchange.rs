//! Serving: members' requests for maps, pieces and the books of the tracker.
//!
//! Pieces are hashed while they are read, and one that is not what was stated is never finished: the reader sees a reset,
//! and we throw the blob away. Asking others is `get`'s job.

pub(super) mod get;
mod reader;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use iroh::{
    Endpoint,
    endpoint::{Connection, Incoming, RecvStream, SendStream},
};
use moka::sync::Cache;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};

use self::reader::{ReadError, Reader};
use super::{
    control::Control,
    fetch::course::Pace,
    frame::{self, ALPN, Answer, FrameError, Pieces, Request, code},
    gossip::Gossip,
    herald::Herald,
    members::Members,
    order::Orders,
    places::Places,
    plan::LINE_OF_ONE,
    sessions::Sessions,
    tracker::Tracker,
};
use crate::{
    oci::digest::Digest,
    store::{Source, Store},
    throttle::Throttle,
};

/// Pieces served at a time, to all peers together; more wait in line. 8 and more served a crowd best.
pub const SLOTS: usize = 16;
/// So many wait in line; others are told to come back: a crowd has the piece elsewhere by then.
pub const LINE: usize = 48;
/// Connections from members at a time.
pub const CONNECTIONS: usize = 1024;
/// Connections from one member at a time: it makes one, and another when that broke.
const OF_ONE_MEMBER: usize = 8;
/// Handshakes at a time. One takes a processor 0.4 ms, and who is told at once that there is no time for it asks somebody
/// else and comes again. In line behind a thousand others, those who are let in would wait just as long for each answer, and
/// the whole crowd for the first of them that takes something from the registry.
pub const HANDSHAKES: usize = 128;
/// How long a handshake may take: longer than members wait for one.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// A peer that takes nothing for so long loses its slot.
pub const SLOW_READER: Duration = Duration::from_secs(10);
/// A watcher is told no more often than this; pieces that come meanwhile are told of together.
pub const HAVE_BATCH: Duration = Duration::from_millis(30);
/// The same of one in another zone, which imports a few pieces at a time: what eight nodes in two zones tell each other would be, as
/// reckoned, nearly one percent of a 96 MiB image.
pub const HAVE_BATCH_ABROAD: Duration = Duration::from_millis(250);
/// How fast a registry was counts for so long, and that of so many is remembered.
const LATELY: Duration = Duration::from_secs(600);
const REGISTRIES: u64 = 1000;
/// A connection on which nothing is asked for so long is closed; its maker closes it sooner.
const IDLE: Duration = Duration::from_secs(90);
/// With so many connections taken they are closed this soon: a large crowd's owner talks to each of it now and then.
pub const CROWDED: usize = CONNECTIONS / 4;
/// See [`CROWDED`].
pub const CROWDED_IDLE: Duration = Duration::from_millis(10);

/// The serving side; one per node.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) store: Store,
    pub(crate) members: Members,
    pub(crate) herald: Herald,
    pub(crate) boot: u64,
    pub(crate) control: Arc<Control>,
    pub(crate) sessions: Sessions,
    pub(super) orders: Orders,
    /// Leases of each registry, of all blobs, under way or asked for.
    pub(super) leases: Places<String>,
    /// Cloned for each request for a piece.
    pub(crate) asks: Arc<()>,
    /// How fast each registry was for this node lately: whoever is slow does not have to show it for each blob anew.
    pub(super) paces: Cache<String, Pace>,
    tracker: Mutex<Tracker>,
    pub(super) slots: Semaphore,
    /// Those that are served and those that wait.
    pub(super) line: Semaphore,
    /// The same of each member.
    pub(super) asking: Places<SocketAddr>,
    turned_away: AtomicU64,
    upload: Throttle,
    pub(super) handshakes: Arc<Semaphore>,
    /// Connections of each member.
    places: Places<SocketAddr>,
    sent: AtomicU64,
    /// From members, now.
    connections: AtomicUsize,
}

impl Exchange {
    pub(crate) fn new(store: Store, members: Members, herald: Herald, control: Arc<Control>, upload: Throttle) -> Self {
        let (slots, line, boot) = (Semaphore::new(SLOTS), Semaphore::new(SLOTS + LINE), members.boot());
        let (sessions, tracker) = (Sessions::default(), Mutex::new(Tracker::new(rand::random())));
        Self {
            store,
            members,
            herald,
            boot,
            control,
            sessions,
            orders: Orders::default(),
            leases: Places::default(),
            asks: Arc::default(),
            paces: Cache::builder().max_capacity(REGISTRIES).time_to_live(LATELY).build(),
            tracker,
            slots,
            line,
            asking: Places::default(),
            turned_away: AtomicU64::new(0),
            upload,
            handshakes: Arc::new(Semaphore::new(HANDSHAKES)),
            places: Places::default(),
            sent: AtomicU64::new(0),
            connections: AtomicUsize::new(0),
        }
    }

    /// The books, for when we are asked by ourselves.
    pub(crate) fn tracker(&self) -> MutexGuard<'_, Tracker> {
        self.tracker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of pieces given to peers since the start.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Requests for pieces, since the start, that found too many in line.
    pub(crate) fn turned_away(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }

    /// Accepts connections until the endpoint is closed. Dropping the future ends them all.
    pub(crate) async fn serve(self: Arc<Self>, endpoint: Endpoint, gossip: Gossip) {
        let mut connections = JoinSet::new();
        loop {
            self.connections.store(connections.len(), Ordering::Relaxed);
            tokio::select! {
                incoming = endpoint.accept() => {
                    let Some(incoming) = incoming else { return };
                    match self.handshakes.clone().try_acquire_owned() {
                        Ok(handshake) if connections.len() < CONNECTIONS => {
                            connections.spawn(self.clone().connection(incoming, handshake, gossip.clone()));
                        }
                        _ => incoming.refuse(),
                    }
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }

    async fn connection(self: Arc<Self>, incoming: Incoming, handshake: OwnedSemaphorePermit, gossip: Gossip) {
        // Strangers end here: the members' hook runs before the handshake counts as done.
        let Ok(accepting) = incoming.accept() else { return };
        let Ok(Ok(connection)) = tokio::time::timeout(HANDSHAKE, accepting).await else { return };
        drop(handshake);
        let Some(from) = self.members.addr_of(&connection.remote_id()) else { return };
        let Some(_place) = self.places.take(from, OF_ONE_MEMBER) else {
            return connection.close(code::TOO_MANY.into(), b"too many connections");
        };
        if connection.alpn() != ALPN {
            return gossip.serve(connection).await;
        }
        let mut streams = JoinSet::new();
        loop {
            let crowded = self.connections.load(Ordering::Relaxed) > CROWDED;
            let idle = if crowded { CROWDED_IDLE } else { IDLE };
            tokio::select! {
                stream = connection.accept_bi() => match stream {
                    Ok((send, receive)) => { streams.spawn(self.clone().stream(from, send, receive)); }
                    Err(_) => return,
                },
                Some(_) = streams.join_next() => {}
                () = tokio::time::sleep(idle), if streams.is_empty() => return close_idle(&connection),
            }
        }
    }

    async fn stream(self: Arc<Self>, from: SocketAddr, mut send: SendStream, mut receive: RecvStream) {
        // What is said goes before what is given; a piece steps back again.
        let _ = send.set_priority(1);
        let request = match frame::receive::<Request>(&mut receive, frame::FRAME_DEADLINE).await {
            Ok(request) => request,
            Err(error) => {
                tracing::debug!(peer = %from, %error, "a bad request");
                let _ = send.reset(code::BAD_REQUEST.into());
                return;
            }
        };
        if let Err(error) = self.answer(from, request, &mut send).await {
            tracing::debug!(peer = %from, %error, "a request could not be answered");
        }
    }

    async fn answer(&self, from: SocketAddr, request: Request, send: &mut SendStream) -> Result<(), FrameError> {
        self.members.asked_by(from);
        let is_control = matches!(request, Request::Member(_) | Request::Announce(_));
        self.control.tally.received(is_control);
        let answer = match request {
            Request::Member(ask) => Answer::Member(self.control.answer(from, ask).await),
            Request::Announce(announce) => {
                self.tracker().note(from, announce, Instant::now());
                Answer::Noted(self.boot)
            }
            Request::Query(blob) => Answer::Located(self.tracker().find(&blob, from, Instant::now())),
            Request::Piece { blob, index } => return self.piece(from, blob, index, send).await,
            Request::Watch(blob) => return self.watch(from, blob, send).await,
            Request::Pull(image) => return self.orders.obey(from, &image, send).await,
            Request::Join(join) => Answer::Joined(self.tracker().join(from, &join, self.boot, Instant::now())),
        };
        frame::send(send, &answer).await?;
        self.control.tally.sent(is_control);
        let _ = send.finish();
        Ok(())
    }

    /// Tells `from` of each further piece, until the blob is whole or nobody listens any more.
    async fn watch(&self, from: SocketAddr, blob: Digest, send: &mut SendStream) -> Result<(), FrameError> {
        self.sessions.watched_by(&blob, from);
        let source = self.source(blob).await;
        let Some(Source::Partial(partial)) = &source else {
            frame::send(send, &Answer::Map(source.as_ref().map(pieces))).await?;
            let _ = send.finish();
            return Ok(());
        };
        let (mut changes, size) = (partial.watch(), partial.layout().size());
        let (mut told, mut since) = (None, Instant::now());
        let batch = if self.members.is_near(from) { HAVE_BATCH } else { HAVE_BATCH_ABROAD };
        loop {
            changes.mark_unchanged();
            let held = partial.pieces();
            if told.as_ref() != Some(&held) {
                frame::send(send, &Answer::Map(Some(Pieces::some(size, &held)))).await?;
                since = Instant::now();
            }
            if held.is_full() || partial.failure().is_some() {
                break;
            }
            told = Some(held);
            tokio::select! {
                // The sender lives in the partial, which we hold.
                _ = changes.changed() => tokio::time::sleep_until((since + batch).into()).await,
                _ = send.stopped() => return Ok(()),
            }
        }
        let _ = send.finish();
        Ok(())
    }

    async fn piece(&self, from: SocketAddr, blob: Digest, index: u32, send: &mut SendStream) -> Result<(), FrameError> {
        let (Some(_place), Ok(_turn)) = (self.asking.take(from, LINE_OF_ONE), self.line.try_acquire()) else {
            self.turned_away.fetch_add(1, Ordering::Relaxed);
            let _ = send.reset(code::BUSY.into());
            return Ok(());
        };
        // Never closed while we live, so this only waits, first come first served.
        let _slot = tokio::select! {
            slot = self.slots.acquire() => slot.map_err(|_| FrameError::Late)?,
            _ = send.stopped() => return Ok(()),
        };
        let store = self.store.clone();
        let opened = tokio::task::spawn_blocking(move || Reader::open(store.source(&blob)?, index));
        let _ = send.set_priority(0);
        let Some(mut reader) = opened.await.ok().flatten() else {
            frame::send(send, &Answer::Piece(None)).await?;
            let _ = send.finish();
            return Ok(());
        };
        frame::send(send, &Answer::Piece(Some(reader.statement().clone()))).await?;
        let limit = Instant::now() + SLOW_READER + Duration::from_secs(reader.remaining() / get::SLOWEST);
        loop {
            match reader.next().await {
                Ok(Some(chunk)) => {
                    let length = chunk.len() as u64;
                    self.upload.pass(length).await;
                    let until = limit.min(Instant::now() + SLOW_READER);
                    match tokio::time::timeout_at(until.into(), send.write_chunk(chunk)).await {
                        Ok(written) => written?,
                        Err(_) => {
                            let _ = send.reset(code::TOO_SLOW.into());
                            return Err(FrameError::Late);
                        }
                    }
                    self.sent.fetch_add(length, Ordering::Relaxed);
                }
                Ok(None) => {
                    let _ = send.finish();
                    return Ok(());
                }
                Err(error) => {
                    let _ = send.reset(code::CORRUPT.into());
                    tracing::warn!(peer = %from, %blob, index, %error, "a piece on our disk is damaged, the blob is thrown away");
                    self.discard(blob, error).await;
                    return Ok(());
                }
            }
        }
    }

    async fn discard(&self, blob: Digest, error: ReadError) {
        // An error of the disk may pass; wrong bytes do not.
        if matches!(error, ReadError::Corrupt) {
            let store = self.store.clone();
            if let Ok(Err(error)) = tokio::task::spawn_blocking(move || store.discard(&blob)).await {
                tracing::warn!(%blob, %error, "cannot throw a damaged blob away");
            }
        }
    }

    /// Off the reactor: what an unclean stop left is hashed when it is first opened.
    async fn source(&self, blob: Digest) -> Option<Source> {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || store.source(&blob)).await.ok().flatten()
    }
}

fn pieces(source: &Source) -> Pieces {
    match source {
        Source::Blob(blob) => Pieces::all(blob.size()),
        Source::Partial(partial) => Pieces::some(partial.layout().size(), &partial.pieces()),
    }
}

fn close_idle(connection: &Connection) {
    connection.close(code::IDLE.into(), b"idle");
}
