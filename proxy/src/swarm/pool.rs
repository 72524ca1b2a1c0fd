//! Connections to members: one each, made when needed, closed when idle.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use iroh::{
    Endpoint,
    endpoint::{
        ConnectError, ConnectingError, Connection, ConnectionError, RecvStream, SendStream, TransportErrorCode,
    },
};

use super::{
    control::Tally,
    frame::{self, ALPN, Answer, Ask, FrameError, Request, Word, code},
    members::Members,
    roster::Standing,
};
use crate::throttle::Throttle;

/// A peer of which nothing came for so long may be dead: less than the least patience with a request, so that one that dies just
/// after it was asked is not taken for slow.
const HEARD: Duration = Duration::from_secs(1);
/// A member of the same cluster that takes longer than this is as good as away.
pub const CONNECT_DEADLINE: Duration = Duration::from_millis(500);
/// An unused connection is closed after this: each costs a heartbeat every few seconds.
const IDLE: Duration = Duration::from_secs(30);

/// Why a peer could not be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// Not a member, or it could not be reached.
    #[error("the peer cannot be reached")]
    Unreachable,
    /// It lives, and has as many connections as it may.
    #[error("the peer has too many connections")]
    Busy,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Connection(#[from] ConnectionError),
    /// The answer was bad, late or missing.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// The connections; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    endpoint: Endpoint,
    members: Members,
    // std: held for a look-up only.
    slots: Arc<Mutex<HashMap<SocketAddr, Arc<Slot>>>>,
    download: Throttle,
    tally: Arc<Tally>,
}

/// How to reach a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Not at all, when it rests.
    Awake,
    /// Also when it rests: to see whether it lives.
    Resting,
    /// On a new connection: the old one may lead to nobody.
    Anew,
}

/// Why a question about membership has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unheard {
    /// It lives, and has as many connections as it may.
    Busy,
    /// Nothing came in time, or nothing that is an answer.
    Silent,
}

impl Unheard {
    /// Whether what was heard shows that the member lives.
    pub(crate) fn lives<T>(heard: &Result<T, Self>) -> bool {
        !matches!(heard, Err(Self::Silent))
    }
}

/// The stream that an answer comes on.
#[derive(Debug)]
pub(crate) struct Reply {
    /// What the peer says.
    pub(crate) stream: RecvStream,
    /// The connection stays open while this lives.
    slot: Arc<Slot>,
}

#[derive(Debug)]
struct Slot {
    // tokio: held while connecting, so that others wait for the same connection.
    connection: tokio::sync::Mutex<Option<Link>>,
    used: Mutex<Instant>,
    /// When a part of a piece last came.
    heard: Mutex<Option<Instant>>,
}

/// A connection, and to whom it leads.
#[derive(Debug)]
struct Link {
    connection: Connection,
    /// The boot epoch that the peer had shown when it was first used.
    boot: Option<u64>,
}

impl Link {
    /// Whether it may still lead to somebody: QUIC notices a peer that was killed and started again only by its silence.
    fn is_open(&self, boot: Option<u64>) -> bool {
        let restarted = self.boot.is_some_and(|before| boot.is_some_and(|now| now != before));
        self.connection.close_reason().is_none() && !restarted
    }
}

impl Reply {
    /// A part of the piece came.
    pub(crate) fn came(&self) {
        *self.slot.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

impl Pool {
    pub(crate) fn new(endpoint: Endpoint, members: Members, tally: Arc<Tally>, download: Throttle) -> Self {
        Self { endpoint, members, slots: Arc::default(), tally, download }
    }

    /// What limits how fast pieces come.
    pub(crate) fn download(&self) -> &Throttle {
        &self.download
    }

    /// A connection to `peer`, within [`CONNECT_DEADLINE`].
    async fn connect(&self, peer: SocketAddr, slot: &Slot, way: Way) -> Result<Connection, AskError> {
        let mut held = slot.connection.lock().await;
        slot.touch();
        if way == Way::Anew {
            // Not closed: something may still be on its way on it.
            *held = None;
        }
        let boot = self.members.shown_boot(peer);
        if let Some(link) = held.as_mut().filter(|link| link.is_open(boot)) {
            link.boot = link.boot.or(boot);
            return Ok(link.connection.clone());
        }
        // Somebody found out just now, while we waited for the lock or before.
        if way == Way::Awake && !self.members.is_awake(peer) {
            return Err(AskError::Unreachable);
        }
        let connecting = async {
            let mut failed = None;
            for to in self.members.dial(peer) {
                match self.endpoint.connect(to, ALPN).await {
                    Ok(connection) => return Ok(connection),
                    Err(error) => failed = Some(error),
                }
            }
            Err(failed)
        };
        match tokio::time::timeout(CONNECT_DEADLINE, connecting).await {
            Ok(Ok(connection)) => {
                *held = Some(Link { connection: connection.clone(), boot });
                Ok(connection)
            }
            // Not a member.
            Ok(Err(None)) => Err(AskError::Unreachable),
            // It answered: others would be asked in vain, or would grant what it has granted.
            Ok(Err(Some(error))) if is_refused(&error) => Err(AskError::Busy),
            Ok(Err(Some(error))) => {
                tracing::debug!(%peer, %error, "cannot connect to a peer");
                self.members.missed(peer);
                Err(AskError::Unreachable)
            }
            Err(_) => {
                tracing::debug!(%peer, "connecting to a peer took too long");
                self.members.missed(peer);
                Err(AskError::Unreachable)
            }
        }
    }

    /// Sends a request; the stream that its answer comes on.
    pub(crate) async fn open(&self, peer: SocketAddr, request: &Request) -> Result<Reply, AskError> {
        self.open_by(peer, request, Way::Awake).await
    }

    /// As [`Self::open`], and how the peer may be reached.
    pub(crate) async fn open_by(&self, peer: SocketAddr, request: &Request, way: Way) -> Result<Reply, AskError> {
        let slot = self.slot(peer);
        let connection = self.connect(peer, &slot, way).await?;
        let opening = tokio::time::timeout(frame::FRAME_DEADLINE, connection.open_bi());
        let (mut send, stream): (SendStream, RecvStream) = opening.await.map_err(|_| FrameError::Late)??;
        // Requests are small, and pieces that we give may be on their way on the same connection.
        let _ = send.set_priority(1);
        frame::send(&mut send, request).await?;
        // Closed already by the other side: then it has answered.
        let _ = send.finish();
        Ok(Reply { stream, slot })
    }

    /// Asks and waits for a one-frame answer. A peer that does not answer is left alone for a while.
    pub(crate) async fn ask(&self, peer: SocketAddr, request: &Request) -> Result<Answer, AskError> {
        self.ask_by(peer, request, Way::Awake).await
    }

    async fn ask_by(&self, peer: SocketAddr, request: &Request, way: Way) -> Result<Answer, AskError> {
        let is_control = matches!(request, Request::Member(_) | Request::Announce(_));
        let asked = async {
            let mut reply = self.open_by(peer, request, way).await?;
            self.tally.sent(is_control);
            let answer = frame::receive::<Answer>(&mut reply.stream, frame::FRAME_DEADLINE).await?;
            self.tally.received(is_control);
            Ok(answer)
        };
        let answer: Result<Answer, AskError> = asked.await;
        match &answer {
            Ok(_) => self.members.heard(peer),
            // That is noted already, or it lives.
            Err(AskError::Unreachable | AskError::Busy) => {}
            Err(AskError::Connection(_) | AskError::Frame(_)) => self.missed(peer),
        }
        answer
    }

    /// Asks about membership.
    pub(crate) async fn probe(&self, peer: SocketAddr, ask: Ask, way: Way) -> Result<Word, Unheard> {
        let request = Request::Member(ask);
        match tokio::time::timeout(self.members.pace().reply, self.ask_by(peer, &request, way)).await {
            Ok(Ok(Answer::Member(word))) => Ok(word),
            Ok(Err(AskError::Busy)) => Err(Unheard::Busy),
            Ok(_) => Err(Unheard::Silent),
            Err(_) => {
                self.members.missed(peer);
                Err(Unheard::Silent)
            }
        }
    }

    /// The peer did not keep up its end: it is left alone for a while, and then reached by another connection. It may have been
    /// restarted, and nobody reads on this one.
    pub(crate) fn missed(&self, peer: SocketAddr) {
        self.members.missed(peer);
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut held) = slots.get(&peer).and_then(|slot| slot.connection.try_lock().ok()) {
            // Not closed: something may still be on its way on it.
            *held = None;
        }
    }

    /// Whether a part of a piece, of any blob, came from the peer in the last moment.
    pub(crate) fn hears(&self, peer: SocketAddr) -> bool {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let heard = slots.get(&peer).and_then(|slot| *slot.heard.lock().unwrap_or_else(PoisonError::into_inner));
        heard.is_some_and(|heard| heard.elapsed() < HEARD)
    }

    /// Ends when the members find that `peer` is gone, unless it is heard, or when it has started again.
    pub(crate) async fn left(&self, peer: SocketAddr) {
        let mut changes = self.members.changes();
        let boot = self.members.shown_boot(peer);
        loop {
            if boot.is_some() && self.members.shown_boot(peer) != boot {
                return;
            }
            if self.members.standing(peer).is_some_and(Standing::is_present) {
                // The sender lives as long as we do.
                let _ = changes.changed().await;
            } else if self.hears(peer) {
                // Others are wrong, and it will say so.
                tokio::time::sleep(HEARD).await;
            } else {
                return;
            }
        }
    }

    /// Closes what nobody used for a while and nobody uses now.
    pub(crate) fn sweep(&self) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|_, slot| {
            let used = *slot.used.lock().unwrap_or_else(PoisonError::into_inner);
            // Every look-up goes through the lock that we hold, so a count of one stays one.
            if used.elapsed() < IDLE || Arc::strong_count(slot) > 1 {
                return true;
            }
            let Ok(mut held) = slot.connection.try_lock() else { return true };
            if let Some(link) = held.take() {
                link.connection.close(code::IDLE.into(), b"idle");
            }
            false
        });
    }

    /// How many connections are open.
    pub(crate) fn len(&self) -> usize {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Which connection leads to `peer` now.
    #[cfg(test)]
    pub(crate) async fn connection_to(&self, peer: SocketAddr) -> Option<usize> {
        self.slot(peer).connection.lock().await.as_ref().map(|link| link.connection.stable_id())
    }

    fn slot(&self, peer: SocketAddr) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            let (connection, heard) = Default::default();
            Arc::new(Slot { connection, used: Mutex::new(Instant::now()), heard })
        };
        slots.entry(peer).or_insert_with(new).clone()
    }
}

impl Slot {
    fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

/// Whether the other side turned a connection away because it has too many.
fn is_refused(error: &ConnectError) -> bool {
    let (ConnectError::Connecting { source: ConnectingError::ConnectionError { source, .. }, .. }
    | ConnectError::Connection { source, .. }) = error
    else {
        return false;
    };
    matches!(source, ConnectionError::ConnectionClosed(close) if close.error_code == TransportErrorCode::CONNECTION_REFUSED)
}
