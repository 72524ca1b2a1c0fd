//! What a scripted server was asked and what it sent, and waiting for either.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{HeaderMap, Method, Version, header};
use tokio::sync::watch;
use waylay::oci::Digest;

use super::place::{Kind, Place};

/// How long a test waits for a request before it fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// One request.
#[derive(Debug, Clone)]
pub struct Seen {
    /// What it was.
    pub kind: Kind,
    /// Where it went.
    pub place: Place,
    /// Its method.
    pub method: Method,
    /// Its path and query as they came.
    pub target: String,
    /// HTTP/1.1 or HTTP/2.
    pub version: Version,
    /// The host it was for: `Host` or `:authority`.
    pub host: String,
    /// All its headers.
    pub headers: HeaderMap,
    /// The number of the connection it came on, from 0.
    pub connection: u64,
    /// The status that was answered; 0 while there is none.
    pub status: u16,
    /// Bytes of the answer's body that were handed to the connection.
    pub sent: u64,
    /// Bytes of the request's body.
    pub received: u64,
    /// Whether the answer's body was sent to its end.
    pub finished: bool,
}

impl Seen {
    /// Whether it carried credentials.
    pub fn authorised(&self) -> bool {
        self.headers.contains_key(header::AUTHORIZATION)
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The digest in its path.
    pub fn digest(&self) -> Option<Digest> {
        self.place.digest()
    }
}

/// A request while it is being answered.
pub(super) struct Entry {
    pub(super) request: Seen,
    pub(super) status: AtomicU16,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) finished: AtomicBool,
    changed: watch::Sender<()>,
}

impl Entry {
    /// Tells those who wait that something about it is new.
    pub(super) fn changed(&self) {
        self.changed.send_replace(());
    }

    fn seen(&self) -> Seen {
        Seen {
            status: self.status.load(Relaxed),
            sent: self.sent.load(Relaxed),
            received: self.received.load(Relaxed),
            finished: self.finished.load(Relaxed),
            ..self.request.clone()
        }
    }
}

/// All requests in the order in which their heads arrived.
pub(super) struct Log {
    entries: Mutex<Vec<Arc<Entry>>>,
    changed: watch::Sender<()>,
}

impl Log {
    pub(super) fn new() -> Self {
        Self { entries: Mutex::default(), changed: watch::Sender::new(()) }
    }

    pub(super) fn add(&self, request: Seen) -> Arc<Entry> {
        let entry = Arc::new(Entry {
            request,
            status: AtomicU16::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            finished: AtomicBool::new(false),
            changed: self.changed.clone(),
        });
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).push(entry.clone());
        entry.changed();
        entry
    }

    pub(super) fn requests(&self) -> Vec<Seen> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|entry| entry.seen()).collect()
    }

    pub(super) fn count(&self, kind: Kind) -> usize {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().filter(|entry| entry.request.kind == kind).count()
    }

    pub(super) fn sent(&self, kind: Option<Kind>) -> u64 {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = entries.iter().filter(|entry| kind.is_none_or(|kind| entry.request.kind == kind));
        counted.map(|entry| entry.sent.load(Relaxed)).sum()
    }

    /// Waits until `enough` says so of the requests so far.
    pub(super) async fn until(&self, what: &str, mut enough: impl FnMut(&[Seen]) -> bool) -> Vec<Seen> {
        let mut changed = self.changed.subscribe();
        let waiting = async {
            loop {
                let requests = self.requests();
                if enough(&requests) {
                    return requests;
                }
                changed.changed().await.expect("the log keeps a sender");
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(requests) => requests,
            Err(_) => panic!("{what}: not within {PATIENCE:?}; so far {:#?}", self.requests()),
        }
    }
}
