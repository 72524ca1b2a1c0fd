//! What this node's store has, and serving a complete blob from it.

use std::{
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::Stream;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;

use super::{Place, Tally, chunks::Chunks};
use crate::{
    metrics,
    oci::Digest,
    store::{Blob, Source, Store},
    upstream::{Body, BoxError},
};

/// What the store has all bytes of, or those of `part`. Blocks for the disk.
pub(super) fn stored(store: &Store, digest: &Digest, part: Option<(u64, Range<u64>)>) -> Option<(u64, Place)> {
    let complete = || store.get(digest).map(|blob| (blob.size(), Place::Stored(blob)));
    let gathered = || {
        let partial = store.partial(digest)?;
        let layout = partial.layout();
        let covers = |(size, part)| size == layout.size() && layout.pieces(part).all(|index| partial.has(index));
        let enough = partial.bytes() == layout.size() || part.is_some_and(covers);
        enough.then_some((layout.size(), Place::Gathered(partial)))
    };
    // It may become complete between the first two looks.
    complete().or_else(gathered).or_else(complete)
}

/// The bytes `part` of `blob`.
pub(super) fn body(blob: Arc<Blob>, part: Range<u64>, tally: Arc<Tally>) -> Body {
    let length = part.end - part.start;
    let begin = (Source::Blob(blob), part, Chunks::default());
    let chunks = futures_util::stream::try_unfold(begin, move |(blob, mut part, mut chunks)| {
        let tally = tally.clone();
        async move {
            if part.is_empty() {
                return Ok(None);
            }
            let chunk = chunks.next(&blob, part.start, part.end - part.start).await?;
            part.start += chunk.len() as u64;
            tally.add(metrics::Source::Store, chunk.len() as u64);
            Ok(Some((chunk, (blob, part, chunks))))
        }
    });
    exactly(length, chunks)
}

/// A body of `length` bytes; the server sends that as `Content-Length` and knows when it is over.
pub(super) fn exactly<S>(length: u64, chunks: S) -> Body
where
    S: Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
{
    Exactly { chunks: Box::pin(chunks), left: length }.boxed_unsync()
}

struct Exactly<S> {
    chunks: Pin<Box<S>>,
    left: u64,
}

impl<S: Stream<Item = Result<Bytes, BoxError>>> HttpBody for Exactly<S> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let chunk = ready!(self.chunks.as_mut().poll_next(cx));
        if let Some(Ok(bytes)) = &chunk {
            self.left = self.left.saturating_sub(bytes.len() as u64);
        }
        Poll::Ready(chunk.map(|chunk| chunk.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
