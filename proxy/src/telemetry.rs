//! Log lines and the live trace: how they are set up and what an event holds. Counting is `metrics`'.

use std::{sync::Arc, time::SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tracing_subscriber::{EnvFilter, filter::filter_fn, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Events kept for a follower that reads slowly; beyond it the follower is told how many it missed.
const BACKLOG: usize = 1024;

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter does not parse.
    #[error("log filter {filter:?} is not valid")]
    Filter {
        /// What was given.
        filter: String,
        /// What the parser said.
        source: tracing_subscriber::filter::ParseError,
    },
    /// A subscriber was there before.
    #[error("logging was already set up")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Sends log lines to standard error, as JSON objects if `json`, filtered by `filter`.
///
/// # Errors
/// When the filter does not parse, or logging was set up before.
pub fn init(filter: &str, json: bool) -> Result<(), TelemetryError> {
    let env =
        EnvFilter::try_new(filter).map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source })?;
    // Spans of libraries are entered for each packet, and no line of ours needs them.
    let ours = filter_fn(|metadata| metadata.is_event() || metadata.target().starts_with(env!("CARGO_PKG_NAME")));
    let subscriber = tracing_subscriber::registry().with(env).with(ours);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    if json {
        subscriber.with(lines.json().flatten_event(true)).try_init()?;
    } else {
        subscriber.with(lines).try_init()?;
    }
    Ok(())
}

/// Something that `waylay trace` shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A redirected connection was decided upon and has ended.
    Connection(ConnectionEvent),
    /// A request inside a terminated connection was answered.
    Request(RequestEvent),
    /// A blob that was brought to this node has arrived, or was given up.
    Flight(FlightEvent),
}

/// A redirected connection and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConnectionEvent {
    /// When it was accepted, in milliseconds since 1970.
    pub at_ms: u64,
    /// The calling program.
    pub program: String,
    /// Where it wanted to go.
    pub destination: String,
    /// The name in its ClientHello, if there was one.
    pub name: Option<String>,
    /// `terminate`, `splice` or `close`.
    pub decision: String,
    /// Why, in a stable word.
    pub reason: String,
    /// How long it lasted, in milliseconds.
    pub ms: u64,
}

/// A request and where its bytes came from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestEvent {
    /// When it arrived, in milliseconds since 1970.
    pub at_ms: u64,
    /// The calling program.
    pub program: String,
    /// The registry's name.
    pub registry: String,
    /// The HTTP method.
    pub method: String,
    /// What kind of request: `blob`, `manifest`, `tag`, or the reason that it passed through.
    pub route: String,
    /// The repository, where the route has one.
    pub repository: Option<String>,
    /// The digest or tag asked for.
    pub reference: Option<String>,
    /// What the tag meant, where one was asked for.
    #[serde(default)]
    pub meant: Option<String>,
    /// The answer's status; 0 when the client left before one.
    pub status: u16,
    /// Body bytes sent to the client.
    pub sent: u64,
    /// Of these, from this node's store.
    pub store_bytes: u64,
    /// Of these, from other members.
    pub peer_bytes: u64,
    /// Of these, from the registry.
    pub registry_bytes: u64,
    /// Until the answer's head, in milliseconds.
    pub first_ms: u64,
    /// Until its end, in milliseconds.
    pub ms: u64,
    /// What went wrong, as `side:what`, whether or not the client noticed.
    pub faults: Vec<String>,
}

/// A blob on its way to this node: from whom each byte came and when. Any number of requests may have waited for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlightEvent {
    /// When it began, in milliseconds since 1970.
    pub at_ms: u64,
    /// The blob.
    pub digest: String,
    /// Its size in bytes.
    pub size: u64,
    /// Bytes of it that were here before.
    pub held: u64,
    /// Whether all of it is here, with the right sha256.
    pub verified: bool,
    /// Until it was verified or given up, in milliseconds.
    pub ms: u64,
    /// Length of the steps that the curves are in, in milliseconds.
    pub step_ms: u64,
    /// Who gave what.
    pub parts: Vec<FlightPart>,
}

/// What one source gave of a blob.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlightPart {
    /// `registry`, or a peer's address.
    pub from: String,
    /// Bytes.
    pub bytes: u64,
    /// When its first piece was here, in milliseconds since the flight began.
    pub first_ms: u64,
    /// When its last piece was here.
    pub last_ms: u64,
    /// Bytes in each step of time.
    pub curve: Vec<u64>,
}

/// Where events go for whoever follows; costs next to nothing while nobody does.
#[derive(Debug, Clone)]
pub struct Trace(broadcast::Sender<Arc<Event>>);

impl Default for Trace {
    fn default() -> Self {
        Self(broadcast::channel(BACKLOG).0)
    }
}

impl Trace {
    /// Shows an event to all followers.
    pub fn tell(&self, event: Event) {
        // An error only means that nobody follows.
        let _ = self.0.send(Arc::new(event));
    }

    /// Events from now on.
    pub fn follow(&self) -> broadcast::Receiver<Arc<Event>> {
        self.0.subscribe()
    }
}

/// `time` in milliseconds since 1970; 0 before that.
pub fn millis(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
