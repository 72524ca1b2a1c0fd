//! Reading ahead: runtimes ask for three layers at a time, and each new one costs them the search for those who have it.
//! Among other members, layers that come later in the image are brought here before they are asked for, with the client's
//! own right and never by a request of their own kind: the registry is asked as for any blob that a crowd shares. Besides the
//! next ones each node begins others, at random: were it the next ones alone, nobody would have anything of the last ones
//! when everybody comes to them.

use std::{
    collections::VecDeque,
    iter::successors,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http_body_util::BodyExt as _;
use moka::sync::Cache;
use rand::{Rng, RngExt as _};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{Pull, Question, Right, access::Scope};
use crate::{
    content::Tally,
    metrics::Metrics,
    oci::{Digest, range::Asked},
};

/// One request looks at so many layers after its own.
pub const FARTHEST: usize = 64;
/// So many layers may be here, or on their way, before they are asked for.
pub const AT_ONCE: usize = 16;
/// When nobody has asked for a layer, nor for one before it in its image, for so long, it makes room for others: its pull was
/// given up, or the runtime had it already.
const UNASKED: Duration = Duration::from_secs(60);
/// Layers remembered at most.
const MOST: u64 = 10_000;
/// Room is counted in these.
const KIB: u64 = 1 << 10;

/// What is being read ahead on this node.
pub struct Ahead {
    begun: Cache<(Scope, Digest), Arc<Begun>>,
    room: Arc<Semaphore>,
    places: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

/// Room for the bytes of one layer, and its place among those that were not asked for yet.
type Room = (OwnedSemaphorePermit, OwnedSemaphorePermit);

/// One layer that was begun before it was asked for.
struct Begun {
    size: u64,
    /// Where its bytes came from.
    tally: Arc<Tally>,
    /// Held until it is asked for.
    room: Mutex<Option<Room>>,
    /// It came to its end.
    came: AtomicBool,
    /// A client has asked for it.
    told: AtomicBool,
    metrics: Arc<Metrics>,
}

impl Ahead {
    /// Layers of `most` bytes together may be here, or on their way, before they are asked for.
    pub fn new(most: u64, metrics: Arc<Metrics>) -> Self {
        let room = usize::try_from(most / KIB).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let begun = Cache::builder().max_capacity(MOST).time_to_idle(UNASKED).build();
        let [room, places] = [room, AT_ONCE].map(|most| Arc::new(Semaphore::new(most)));
        Self { begun, room, places, metrics }
    }

    /// A client asks for `digest` itself; where the bytes came from that were brought before.
    pub(super) fn asked(&self, scope: &Scope, digest: Digest) -> Arc<Tally> {
        // Noted also when it was not begun before, so that it will not be.
        let asked = || Arc::new(Begun::of(0, None, self.metrics.clone()));
        let begun = self.begun.get_with((scope.clone(), digest), asked);
        begun.make_room();
        // Whoever asks before all of it is here follows it, and sees itself where each byte comes from. It is told once.
        let follows = !begun.came.load(Ordering::Relaxed);
        if begun.told.swap(true, Ordering::Relaxed) || follows { Arc::default() } else { begun.tally.clone() }
    }

    /// `None` when it is or was under way, or there is no room for it.
    fn begin(&self, scope: &Scope, digest: Digest, size: u64) -> Option<Arc<Begun>> {
        let key = (scope.clone(), digest);
        // Looked at, one that waits for its turn stays: its pull goes on.
        if self.begun.get(&key).is_some() {
            return None;
        }
        let room = self.room.clone().try_acquire_many_owned(u32::try_from(size.div_ceil(KIB)).ok()?).ok()?;
        let room = (room, self.places.clone().try_acquire_owned().ok()?);
        // A client may have asked for it in this moment.
        let entry =
            self.begun.entry(key).or_insert_with(|| Arc::new(Begun::of(size, Some(room), self.metrics.clone())));
        entry.is_fresh().then(|| entry.into_value())
    }
}

impl Begun {
    fn of(size: u64, room: Option<Room>, metrics: Arc<Metrics>) -> Self {
        let (tally, came, told) = Default::default();
        Self { size, tally, room: Mutex::new(room), came, told, metrics }
    }

    fn came(&self) {
        self.came.store(true, Ordering::Relaxed);
        self.metrics.read_ahead.inc_by(self.size);
    }

    /// Whether it had room until now.
    fn make_room(&self) -> bool {
        self.room.lock().unwrap_or_else(PoisonError::into_inner).take().is_some()
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if self.make_room() && self.came.load(Ordering::Relaxed) {
            self.metrics.read_ahead_unasked.inc_by(self.size);
        }
    }
}

/// Which of the layers that come later to begin first: in turn the next one, and any of the others.
pub fn order<T>(later: Vec<T>, random: &mut impl Rng) -> Vec<T> {
    let mut later = VecDeque::from(later);
    let mut order = Vec::with_capacity(later.len());
    while let Some(next) = later.pop_front() {
        order.push(next);
        if !later.is_empty() {
            order.extend(later.remove(random.random_range(0..later.len())));
        }
    }
    order
}

impl Pull {
    /// A client asks for `layer`: some that come after it are begun, as far as there is room.
    pub(super) fn read_ahead(self: &Arc<Self>, question: &Question, layer: Digest) {
        let Some(ahead) = &self.ahead else { return };
        let scope = &question.scope;
        let next = |after: &(Digest, u64)| {
            let digest = self.access.listed(scope, after.0)?.next?;
            Some((digest, self.access.listed(scope, digest)?.size))
        };
        // Those whose time is over keep their room until they are looked for.
        ahead.begun.run_pending_tasks();
        let later = successors(Some((layer, 0)), next).skip(1).take(FARTHEST).collect();
        for (digest, size) in order(later, &mut rand::rng()) {
            if let Some(question) = question.of(digest)
                && let Some(begun) = ahead.begin(scope, digest, size)
            {
                tokio::spawn(self.clone().bring(question, digest, begun));
            }
        }
    }

    /// Brings a layer here that nobody has asked for yet. Whatever goes wrong is for the client's own request to tell.
    async fn bring(self: Arc<Self>, question: Question, digest: Digest, begun: Arc<Begun>) {
        let (found, turn) = self.blob_near(&question, digest, Asked::Whole).await;
        let size = begun.size;
        let found = found.filter(|found| !found.is_here() && found.size == size);
        let opened = match found {
            Some(found) if matches!(self.right(&question, digest, &found).await, Right::Granted) => {
                self.content.open(digest, found, question.supply(), 0..size, begun.tally.clone()).await.ok()
            }
            _ => None,
        };
        drop(turn);
        let mut left = size;
        if let Some(mut opened) = opened {
            // Whoever is served from it meanwhile keeps it going without us.
            while let Ok(Some(Ok(frame))) = timeout(UNASKED, opened.body.frame()).await {
                left -= frame.data_ref().map_or(0, |data| data.len() as u64).min(left);
            }
        }
        if left == 0 {
            begun.came();
        } else {
            begun.make_room();
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    #[test]
    fn each_node_begins_the_next_layer_and_another_one_than_most() {
        let orders: Vec<Vec<usize>> =
            (0..100).map(|seed| order((0..30).collect(), &mut StdRng::seed_from_u64(seed))).collect();
        for order in &orders {
            let mut all = order.clone();
            all.sort_unstable();
            assert!(all.into_iter().eq(0..30), "each once: {order:?}");
            assert_eq!(order[0], 0);
        }
        for layer in 1..30 {
            let soon = orders.iter().filter(|order| order[..8].contains(&layer)).count();
            assert!(soon > 0, "nobody begins {layer} soon");
        }
        let last = orders.iter().filter(|order| order[..8].contains(&29)).count();
        assert!(last < 50, "{last} of 100 begin the last one soon");
    }
}
