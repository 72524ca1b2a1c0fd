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
