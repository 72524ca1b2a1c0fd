//! Serving a complete blob from this node's store.

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

use super::Tally;
use crate::{
    metrics::Source,
    store::{Blob, StoreError},
    upstream::{Body, BoxError},
};

/// How much is read at once.
pub(super) const CHUNK: u64 = 256 << 10;

/// The bytes `part` of `blob`. One chunk is read ahead, so that the disk and the network work at the same time.
pub(super) fn body(blob: Arc<Blob>, part: Range<u64>, tally: Arc<Tally>) -> Body {
    let length = part.end - part.start;
    let first = ahead(&blob, &part);
    let chunks = futures_util::stream::try_unfold((first, part), move |(next, mut part)| {
        let (blob, tally) = (blob.clone(), tally.clone());
        async move {
            if part.is_empty() {
                return Ok(None);
            }
            let chunk = next.await.map_err(BoxError::from)??;
            part.start += chunk.len() as u64;
            tally.add(Source::Store, chunk.len() as u64);
            let next = ahead(&blob, &part);
            Ok(Some((chunk, (next, part))))
        }
    });
    exactly(length, chunks)
}

fn ahead(blob: &Arc<Blob>, part: &Range<u64>) -> tokio::task::JoinHandle<Result<Bytes, StoreError>> {
    let (blob, offset, length) = (blob.clone(), part.start, CHUNK.min(part.end - part.start));
    tokio::task::spawn_blocking(move || {
        let mut buffer = vec![0; length as usize];
        let read = blob.read_at(offset, &mut buffer)?;
        buffer.truncate(read);
        if read == 0 && length > 0 { Err(StoreError::Missing { offset }) } else { Ok(Bytes::from(buffer)) }
    })
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
