//! Where bytes come from: this node's store, other members, the registry, joined by one flight per digest.
//!
//! Who may have them was decided above. Bytes are verified before a response is completed: blobs up to
//! [`VERIFIED_FIRST`] before their first byte, larger ones before their last piece.

mod chunks;
mod course;
mod damage;
mod doubt;
mod flight;
pub mod image;
mod import;
mod keep;
mod local;
mod proof;
mod reader;
mod registry;
mod tally;
mod together;
mod turn;

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::Response;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use self::{
    doubt::Doubts,
    flight::{Flight, Plan},
    import::name_of,
    local::stored,
    proof::{Proof, begin, served_by},
    turn::Turns,
};
use crate::{
    fault::{Fault, Side, What},
    metrics::Metrics,
    oci::Digest,
    store::{Blob, Partial, Provenance, Store, StoreError, piece::Layout},
    swarm::{Located, Swarm},
    telemetry::Trace,
    upstream::{Body, Head, Origin, Upstream},
};

pub use import::ImportError;
pub use proof::Refusal;
pub use tally::Tally;
pub use turn::Turn;

/// Blobs up to this size are verified before their first byte leaves.
pub const VERIFIED_FIRST: u64 = 32 << 20;

/// How the registry can be asked for a blob: where, and with whose headers.
#[derive(Clone)]
pub struct Supply {
    /// The registry.
    pub origin: Arc<Origin>,
    /// The client's request, which carries the client's credential.
    pub head: Head,
    /// The registry and repository that this is.
    pub provenance: Provenance,
}

/// A digest that can be had without the registry.
pub struct Found {
    place: Place,
    /// The blob's size in bytes.
    pub size: u64,
    /// Registries and repositories that are known to have served it themselves.
    pub provenance: Vec<Provenance>,
    /// Where an operator imported it for.
    pub imported: Vec<Provenance>,
    /// A manifest's media type, where it is remembered.
    pub media_type: Option<String>,
}

enum Place {
    Stored(Arc<Blob>),
    /// All of it is here, and is being verified and synced; or all that was asked for.
    Gathered(Arc<Partial>),
    Flying(Arc<Flight>),
    Members(Located),
}

/// Bytes on their way to a client.
pub struct Opened {
    /// Of exactly the length that was asked for, or cut short.
    pub body: Body,
}

/// All content of this node. Clones share it.
#[derive(Clone)]
pub struct Content(Arc<Inner>);

struct Inner {
    store: Store,
    swarm: Swarm,
    upstream: Upstream,
    metrics: Arc<Metrics>,
    trace: Trace,
    // std: held for a look-up, never across an await.
    flights: Mutex<HashMap<Digest, Weak<Flight>>>,
    turns: Turns,
    /// Whose blob an unfinished one is gets decided by one at a time.
    begins: Turns,
    doubts: Doubts,
}

impl Found {
    /// Whether it is on this node, or on its way.
    pub fn is_here(&self) -> bool {
        !matches!(self.place, Place::Members(_))
    }
}

impl Content {
    /// Serves from these sources.
    pub fn new(store: Store, swarm: Swarm, upstream: Upstream, metrics: Arc<Metrics>, trace: Trace) -> Self {
        let (flights, turns, begins, doubts) = Default::default();
        Self(Arc::new(Inner { store, swarm, upstream, metrics, trace, flights, turns, begins, doubts }))
    }

    /// This node's own store.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Whether `digest` can be had without the registry: held, on its way, or held by members. With `part`, a size and the
    /// bytes that are wanted of a blob of that size, it is enough that these are held.
    ///
    /// What `registry` has never served to any member does not exist for it: one that says yes to whoever asks would
    /// otherwise open the blobs of all others.
    pub async fn find(&self, digest: Digest, registry: &str, part: Option<(u64, Range<u64>)>) -> Option<Found> {
        if let Some(found) = self.here(digest, registry, part).await {
            return Some(found);
        }
        if self.0.doubts.needs_registry(&digest) {
            return None;
        }
        let located = self.0.swarm.locate(&digest).await?;
        let (size, provenance) = (located.size, located.provenance.clone());
        let (imported, media_type) = Default::default();
        let found = Found { place: Place::Members(located), size, provenance, imported, media_type };
        served_by(&found.provenance, registry).then_some(found)
    }

    /// The same, but without asking members.
    pub async fn here(&self, digest: Digest, registry: &str, part: Option<(u64, Range<u64>)>) -> Option<Found> {
        if let Some(flight) = self.flying(&digest).filter(|flight| flight.registry() == registry) {
            let (size, provenance) = (flight.size(), flight.provenance());
            let fits = part.is_none_or(|(listed, _)| listed == size);
            let (imported, media_type) = Default::default();
            return fits.then_some(Found { place: Place::Flying(flight), size, provenance, imported, media_type });
        }
        let store = self.0.store.clone();
        let stored = blocking(move || {
            let (size, place) = stored(&store, &digest, part)?;
            let info = store.info(&digest);
            let (provenance, imported, media_type) =
                info.map(|info| (info.provenance, info.imported, info.media_type)).unwrap_or_default();
            Some(Found { place, size, provenance, imported, media_type })
        });
        stored
            .await
            .flatten()
            .filter(|found| served_by(&found.provenance, registry) || served_by(&found.imported, name_of(registry)))
    }

    /// A blob of `size` bytes that nobody has yet, to be brought here together with other members that want it of this
    /// registry. `None` where there are none.
    pub fn together(&self, digest: Digest, registry: &str, size: u64) -> Option<Found> {
        let shared = self.0.swarm.has_members() && !self.0.doubts.needs_registry(&digest);
        let place = Place::Members(Located::nowhere(size));
        let free = || self.flying(&digest).is_none_or(|flight| flight.registry() == registry && flight.size() == size);
        let (provenance, imported, media_type) = Default::default();
        let found = Found { place, size, provenance, imported, media_type };
        (shared && free() && self.0.store.get(&digest).is_none()).then_some(found)
    }

    /// The turn to bring `digest` here, which is to be held until it is on its way.
    pub async fn turn(&self, digest: Digest) -> Turn {
        self.0.turns.take(digest).await
    }

    /// The bytes `part` of a blob that was found.
    ///
    /// # Errors
    /// When the store cannot take it; nothing was sent then.
    pub async fn open(
        &self,
        digest: Digest,
        found: Found,
        supply: Supply,
        part: Range<u64>,
        tally: Arc<Tally>,
    ) -> Result<Opened, Fault> {
        let mut provenance = found.provenance;
        let _alone = self.0.begins.alone(digest).await;
        let place = match self.flying(&digest) {
            Some(flight) if flight.registry() == supply.provenance.registry && flight.size() == found.size => {
                Place::Flying(flight)
            }
            Some(_) if !matches!(found.place, Place::Stored(_) | Place::Flying(_)) => {
                return Err(Fault::with(Side::Ours, What::Gone, "another registry is giving it"));
            }
            _ => found.place,
        };
        let flight = match place {
            Place::Stored(blob) => {
                let (content, size, noted) = (self.clone(), found.size, tally.clone());
                let afresh = move |rest| -> BoxFuture<'static, _> {
                    Box::pin(async move { content.afresh(digest, size, (provenance, supply), rest, noted).await })
                };
                return Ok(Opened { body: local::body(blob, part, tally, Box::new(afresh)) });
            }
            Place::Flying(flight) => {
                flight.supply(supply);
                flight
            }
            Place::Gathered(partial) => {
                self.0.spares(&digest)?;
                self.launch(digest, partial, Plan { located: None, first: None }, provenance, supply)
            }
            Place::Members(located) => {
                self.0.spares(&digest)?;
                provenance.push(supply.provenance.clone());
                let partial = self.partial(digest, found.size, &supply, provenance.clone()).await.map_err(fault)?;
                self.launch(digest, partial, Plan { located: Some(located), first: None }, provenance, supply)
            }
        };
        Ok(Opened { body: reader::body(flight, part, tally) })
    }

    /// The bytes `part` of a blob that only the registry has, whose answer `first` to a request for
    /// [`Content::span`] has begun.
    ///
    /// # Errors
    /// When it cannot be taken in; `first` comes back then, so that it can be relayed.
    pub async fn begin(
        &self,
        digest: Digest,
        size: u64,
        supply: Supply,
        first: Response<Incoming>,
        part: Range<u64>,
        tally: Arc<Tally>,
    ) -> Result<Opened, Box<(Refusal, Response<Incoming>)>> {
        let _alone = self.0.begins.alone(digest).await;
        let flight = match self.flying(&digest) {
            Some(flight) if flight.registry() == supply.provenance.registry && flight.size() == size => {
                flight.supply(supply);
                flight
            }
            Some(_) => return Err(Box::new((Refusal::Unproven, first))),
            None => {
                if let Err(fault) = self.0.spares(&digest) {
                    return Err(Box::new((Refusal::Fault(fault), first)));
                }
                let provenance = vec![supply.provenance.clone()];
                let partial = match self.partial(digest, size, &supply, provenance.clone()).await {
                    Ok(partial) => partial,
                    Err(StoreError::AlreadyHeld(_)) => return Err(Box::new((Refusal::Unproven, first))),
                    Err(error) => return Err(Box::new((Refusal::Fault(fault(error)), first))),
                };
                self.launch(digest, partial, Plan { located: None, first: Some(first) }, provenance, supply)
            }
        };
        Ok(Opened { body: reader::body(flight, part, tally) })
    }

    /// The whole answer of a registry on its way to a client. If it is the blob, that is noted, and the next one who may
    /// have it of this registry is given what is here.
    pub fn proving(&self, digest: Digest, provenance: Provenance, body: Body) -> Body {
        let store = self.0.store.clone();
        let proven = move || {
            // Nobody waits for it; not noted, it is proven anew by the next one.
            drop(tokio::task::spawn_blocking(move || store.add_provenance(&digest, provenance)));
        };
        Proof::new(digest, body, proven).boxed_unsync()
    }

    /// Which bytes to ask a registry for, so that `part` of a blob can be answered; `None` asks for the whole.
    pub async fn span(&self, digest: Digest, registry: &str, size: u64, part: Range<u64>) -> Option<Range<u64>> {
        let layout = Layout::new(size).ok()?;
        let (store, registry) = (self.0.store.clone(), registry.to_owned());
        let partial = blocking(move || {
            let info = store.info(&digest)?;
            store.partial(&digest).filter(|_| served_by(&info.provenance, &registry))
        });
        let partial = partial.await.flatten().filter(|partial| partial.layout() == layout);
        let wanted = if part.end == size { 0..layout.count() } else { layout.pieces(part) };
        let missing = match &partial {
            Some(partial) => partial.missing(wanted),
            None => wanted.collect(),
        };
        let run = flight::first_run(&missing)?;
        let bytes = layout.range(run.start).start..layout.range(run.end - 1).end;
        (bytes != (0..size)).then_some(bytes)
    }

    /// A small blob as a whole, verified.
    ///
    /// # Errors
    /// When no source could give it.
    pub async fn bytes(&self, digest: Digest, found: Found, supply: Supply, tally: Arc<Tally>) -> Result<Bytes, Fault> {
        let size = found.size;
        let opened = self.open(digest, found, supply, 0..size, tally).await?;
        let collected = opened.body.collect().await;
        collected.map(|body| body.to_bytes()).map_err(|error| Fault::with(Side::Ours, What::Cut, error))
    }

    /// Upstream has just shown that it has `digest` under `provenance`.
    pub fn came_from(&self, digest: Digest, provenance: Provenance) {
        if let Err(error) = self.0.store.add_provenance(&digest, provenance) {
            tracing::debug!(%digest, %error, "cannot note where a blob came from");
        }
    }

    fn flying(&self, digest: &Digest) -> Option<Arc<Flight>> {
        self.0
            .flights
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(digest)?
            .upgrade()
            .filter(|flight| flight.is_live())
    }

    async fn partial(
        &self,
        digest: Digest,
        size: u64,
        supply: &Supply,
        provenance: Vec<Provenance>,
    ) -> Result<Arc<Partial>, StoreError> {
        let (store, registry) = (self.0.store.clone(), supply.provenance.registry.clone());
        let begun = blocking(move || {
            let partial = begin(&store, &digest, size, &registry)?;
            for one in provenance {
                store.add_provenance(&digest, one)?;
            }
            Ok(partial)
        });
        begun.await.unwrap_or(Err(StoreError::Discarded(digest)))
    }

    fn launch(
        &self,
        digest: Digest,
        partial: Arc<Partial>,
        plan: Plan,
        provenance: Vec<Provenance>,
        supply: Supply,
    ) -> Arc<Flight> {
        let mut flights = self.0.flights.lock().unwrap_or_else(PoisonError::into_inner);
        // Two clients may have come here together.
        if let Some(flight) = flights.get(&digest).and_then(Weak::upgrade).filter(|flight| flight.is_live()) {
            flight.supply(supply);
            return flight;
        }
        flights.retain(|_, flight| flight.strong_count() > 0);
        let flight = Arc::new(Flight::launch(self.0.clone(), partial, plan, provenance, supply));
        flights.insert(digest, Arc::downgrade(&flight));
        flight
    }
}

/// A store's error as a fault.
fn fault(error: StoreError) -> Fault {
    let what = match &error {
        error if error.is_full() => What::Full,
        StoreError::SizeConflict { .. } | StoreError::Length { .. } => What::Length,
        StoreError::Mismatch { .. } | StoreError::WrongPiece { .. } => What::Corrupt,
        _ => What::Disk,
    };
    Fault::with(Side::Ours, what, error)
}

/// Runs what waits for the disk where waiting is allowed. `None` only while the runtime shuts down.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}
