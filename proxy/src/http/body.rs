//! A response body that tells its outcome whether it was sent to the end.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::{
    pull::Outcome,
    upstream::{Body, BoxError},
};

/// A body and the outcome of its request.
pub(super) struct Tracked {
    inner: Body,
    outcome: Outcome,
}

impl Tracked {
    pub(super) fn new(inner: Body, mut outcome: Outcome) -> Self {
        if inner.is_end_stream() {
            outcome.ended();
        }
        Self { inner, outcome }
    }
}

impl HttpBody for Tracked {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                if let Some(fault) = error.downcast_ref() {
                    self.outcome.fault(fault);
                }
            }
            None => self.outcome.ended(),
        }
        // With a known length the server stops asking after the last frame.
        if self.inner.is_end_stream() {
            self.outcome.ended();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
