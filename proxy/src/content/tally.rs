//! What one client got: bytes by where they came from, and what went wrong on the way.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use crate::{
    fault::{Fault, Side, What},
    metrics::Source,
    upstream::{Body, BoxError},
};

/// Faults kept for one request; more tell nothing new.
const MOST_FAULTS: usize = 16;

/// Gathered by the body of an answer, read when that ends.
#[derive(Debug, Default)]
pub struct Tally {
    store: AtomicU64,
    peer: AtomicU64,
    registry: AtomicU64,
    faults: Mutex<Vec<String>>,
}

impl Tally {
    /// `bytes` more came from `source`.
    pub fn add(&self, source: Source, bytes: u64) {
        self.of(source).fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes from `source` so far.
    pub fn get(&self, source: Source) -> u64 {
        self.of(source).load(Ordering::Relaxed)
    }

    /// What was sent from the store was brought there for this client, from where `before` says: it is told so, once.
    pub fn came_before(&self, before: &Self) {
        // What it followed while that came it was told already.
        for source in [Source::Peer, Source::Registry] {
            let take = |left: u64| Some(left.saturating_sub(self.get(source)));
            let _ = before.of(source).fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        }
        let mut stored = self.get(Source::Store).saturating_sub(before.get(Source::Store));
        for source in [Source::Peer, Source::Registry] {
            let take = |left: u64| Some(left - left.min(stored));
            let left = before.of(source).fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
            let came = left.map_or(0, |left| left.min(stored));
            self.of(Source::Store).fetch_sub(came, Ordering::Relaxed);
            self.add(source, came);
            stored -= came;
        }
    }

    /// Something went wrong, by its label; the same thing again is not repeated.
    pub fn note(&self, fault: String) {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if faults.len() < MOST_FAULTS && !faults.contains(&fault) {
            faults.push(fault);
        }
    }

    /// What went wrong so far.
    pub fn faults(&self) -> Vec<String> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A registry's body on its way through, counted.
    pub fn counting<B>(tally: Arc<Self>, body: B) -> Counting<B> {
        Counting { tally, body }
    }

    const fn of(&self, source: Source) -> &AtomicU64 {
        match source {
            Source::Store => &self.store,
            Source::Peer => &self.peer,
            Source::Registry => &self.registry,
        }
    }
}

/// See [`Tally::counting`]. An error of the body becomes a [`Fault`].
pub struct Counting<B> {
    tally: Arc<Tally>,
    body: B,
}

/// Bodies that a registry's answer may have.
pub trait FromRegistry: HttpBody<Data = Bytes> + Unpin {
    /// What an error of this body means.
    fn fault(error: Self::Error) -> BoxError;
}

impl FromRegistry for Incoming {
    fn fault(error: hyper::Error) -> BoxError {
        Fault::with(Side::Registry, What::Cut, error).into()
    }
}

impl FromRegistry for Body {
    fn fault(error: BoxError) -> BoxError {
        Fault::with(Side::Registry, What::Cut, error).into()
    }
}

impl<B: FromRegistry> HttpBody for Counting<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.tally.add(Source::Registry, data.len() as u64);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(B::fault)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(store: u64, peer: u64, registry: u64) -> Tally {
        let tally = Tally::default();
        for (source, bytes) in [(Source::Store, store), (Source::Peer, peer), (Source::Registry, registry)] {
            tally.add(source, bytes);
        }
        tally
    }

    fn told(tally: &Tally) -> [u64; 3] {
        [Source::Store, Source::Peer, Source::Registry].map(|source| tally.get(source))
    }

    #[test]
    fn what_was_brought_for_a_client_is_told_once_and_by_its_true_source() {
        // Ten bytes were here before anything was brought.
        let before = tally(10, 60, 30);
        let (half, whole, again) = (tally(50, 0, 0), tally(100, 0, 0), tally(100, 0, 0));
        half.came_before(&before);
        assert_eq!(told(&half), [10, 40, 0]);
        whole.came_before(&before);
        assert_eq!(told(&whole), [50, 20, 30]);
        again.came_before(&before);
        assert_eq!(told(&again), [100, 0, 0]);
    }

    #[test]
    fn who_followed_what_was_still_coming_knows_its_sources() {
        let (before, followed, again) = (tally(10, 60, 30), tally(10, 60, 30), tally(100, 0, 0));
        followed.came_before(&before);
        assert_eq!(told(&followed), [10, 60, 30]);
        again.came_before(&before);
        assert_eq!(told(&again), [100, 0, 0]);
    }
}
