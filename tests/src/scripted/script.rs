//! What goes wrong, and when: rules that a test adds to a scripted server, before or while it runs.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{Method, StatusCode, header};
use tokio::sync::watch;
use waylay::oci::Digest;

use super::{
    log::Seen,
    place::{Kind, Place},
};

/// Which requests a fault befalls.
#[derive(Clone)]
pub struct When {
    matches: Arc<dyn Fn(&Seen) -> bool + Send + Sync>,
    left: Arc<AtomicUsize>,
}

/// Every request.
pub fn any() -> When {
    when(|_| true)
}

/// Every GET and HEAD of a blob.
pub fn blobs() -> When {
    when(|seen| matches!(seen.kind, Kind::BlobGet | Kind::BlobHead))
}

/// Every GET and HEAD of this blob.
pub fn blob(digest: Digest) -> When {
    blobs().and(move |seen| seen.digest() == Some(digest))
}

/// Every GET and HEAD of a manifest, by tag or digest.
pub fn manifests() -> When {
    when(|seen| matches!(seen.kind, Kind::ManifestGet | Kind::ManifestHead))
}

/// Every GET and HEAD of a manifest by tag.
pub fn tags() -> When {
    manifests().and(|seen| seen.digest().is_none())
}

/// Every request in this repository.
pub fn repository(name: &str) -> When {
    let name = name.to_owned();
    when(move |seen| seen.place.repository() == Some(&name))
}

/// Every request for a token.
pub fn tokens() -> When {
    when(|seen| matches!(seen.place, Place::Token))
}

/// Every request that this is true of.
pub fn when(matches: impl Fn(&Seen) -> bool + Send + Sync + 'static) -> When {
    When { matches: Arc::new(matches), left: Arc::new(AtomicUsize::new(usize::MAX)) }
}

impl When {
    /// Only those of which this is true as well.
    pub fn and(self, also: impl Fn(&Seen) -> bool + Send + Sync + 'static) -> Self {
        let matches = self.matches;
        Self { matches: Arc::new(move |seen| matches(seen) && also(seen)), left: self.left }
    }

    /// Only GET.
    pub fn gets(self) -> Self {
        self.and(|seen| seen.method == Method::GET)
    }

    /// Only HEAD.
    pub fn heads(self) -> Self {
        self.and(|seen| seen.method == Method::HEAD)
    }

    /// Only those with a `Range`.
    pub fn ranged(self) -> Self {
        self.and(|seen| seen.headers.contains_key(header::RANGE))
    }

    /// Only the first `count` of them, from now on.
    pub fn first(self, count: usize) -> Self {
        Self { left: Arc::new(AtomicUsize::new(count)), ..self }
    }

    fn takes(&self, seen: &Seen) -> bool {
        (self.matches)(seen) && self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

/// What goes wrong. Several can befall one request; of those that set the status the first counts.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This status, with an error body of the distribution spec.
    Status(StatusCode),
    /// 429 with `Retry-After` in seconds.
    TooMany(u32),
    /// 401 with the challenge of the registry, whatever the credentials.
    Unauthorized,
    /// 307 to this URL.
    Redirect(String),
    /// 307 to a CDN, signed for it.
    ToCdn(super::cdn::Signer),
    /// This many bytes of body a second.
    Slow(u64),
    /// The connection ends after this many bytes of body.
    CutAfter(u64),
    /// The byte at this offset of the blob is wrong.
    CorruptAt(u64),
    /// The answer stops after this many bytes of body until the gate opens.
    Stall(u64, Gate),
    /// There is no answer at all until the gate opens.
    Hold(Gate),
    /// The answer begins after this long.
    Late(Duration),
    /// `Range` is ignored: 200 and the whole.
    NoRange,
    /// The answer says to be this long.
    Length(u64),
    /// The body is compressed, and says so in `Content-Encoding`.
    Gzip,
    /// One more header in the answer.
    Header(&'static str, String),
    /// The connection ends without an answer.
    HangUp,
    /// The server itself breaks, which must fail the test.
    Panic,
}

/// Something that stalled answers wait for, and by which a test knows that they do.
#[derive(Clone)]
pub struct Gate {
    open: watch::Sender<bool>,
    waiting: watch::Sender<usize>,
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self { open: watch::Sender::new(false), waiting: watch::Sender::new(0) }
    }

    /// Lets everyone through, now and later.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Waits until `count` answers have come to the gate, in all.
    pub async fn reached(&self, count: usize) {
        let mut waiting = self.waiting.subscribe();
        let arrived = tokio::time::timeout(Duration::from_secs(20), waiting.wait_for(|&waiting| waiting >= count));
        assert!(matches!(arrived.await, Ok(Ok(_))), "{} of {count} answers came to the gate", *self.waiting.borrow());
    }

    pub(super) async fn pass(&self) {
        self.waiting.send_modify(|waiting| *waiting += 1);
        // The sender lives in this very value, so waiting cannot fail.
        let _ = self.open.subscribe().wait_for(|&open| open).await;
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gate(open: {})", *self.open.borrow())
    }
}

/// All rules of a server.
#[derive(Default)]
pub(super) struct Script {
    rules: Mutex<Vec<(When, Fault)>>,
}

impl Script {
    pub(super) fn add(&self, when: When, fault: Fault) {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).push((when, fault));
    }

    pub(super) fn clear(&self) {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(super) fn of(&self, seen: &Seen) -> Vec<Fault> {
        let rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        rules.iter().filter(|(when, _)| when.takes(seen)).map(|(_, fault)| fault.clone()).collect()
    }
}
