//! What this node's store has, and serving a complete blob from it. Each piece is compared with its statement before it is sent: a disk may
//! have changed since the blob was verified. From a damaged piece on, the rest comes from elsewhere, and the client does
//! not notice.

use std::{
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, future::BoxFuture};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyDataStream, BodyExt as _};

use super::{Place, Tally, blocking, chunks::Chunks};
use crate::{
    fault::Fault,
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

/// Brings the rest of a blob that turned out to be damaged.
pub(super) type Afresh = Box<dyn FnOnce(Range<u64>) -> BoxFuture<'static, Result<Body, Fault>> + Send>;

/// Where the next bytes come from.
enum Sending {
    Store(Box<Reading>),
    Elsewhere(BodyDataStream<Body>),
}

struct Reading {
    blob: Arc<Blob>,
    source: Source,
    left: Range<u64>,
    /// The piece that was compared last.
    intact: Option<u32>,
    chunks: Chunks,
    tally: Arc<Tally>,
    afresh: Afresh,
}

/// The bytes `part` of `blob`; `afresh` is asked for those from a damaged piece on.
pub(super) fn body(blob: Arc<Blob>, part: Range<u64>, tally: Arc<Tally>, afresh: Afresh) -> Body {
    let (length, source) = (part.end - part.start, Source::Blob(blob.clone()));
    let reading = Reading { blob, source, left: part, intact: None, chunks: Chunks::default(), tally, afresh };
    exactly(length, futures_util::stream::try_unfold(Sending::Store(Box::new(reading)), Sending::next))
}

impl Sending {
    async fn next(self) -> Result<Option<(Bytes, Self)>, BoxError> {
        match self {
            Self::Store(reading) => reading.next().await,
            Self::Elsewhere(mut rest) => {
                let next = rest.next().await.transpose()?;
                Ok(next.map(|bytes| (bytes, Self::Elsewhere(rest))))
            }
        }
    }
}

impl Reading {
    async fn next(mut self: Box<Self>) -> Result<Option<(Bytes, Sending)>, BoxError> {
        if self.left.is_empty() {
            return Ok(None);
        }
        let layout = self.blob.layout();
        let index = layout.index_of(self.left.start);
        if self.intact != Some(index) && !is_intact(self.blob.clone(), index).await {
            let mut rest = (self.afresh)(self.left).await?.into_data_stream();
            let first = rest.next().await.transpose()?;
            return Ok(first.map(|bytes| (bytes, Sending::Elsewhere(rest))));
        }
        self.intact = Some(index);
        let end = self.left.end.min(layout.range(index).end);
        let chunk = self.chunks.next(&self.source, self.left.start, end - self.left.start).await?;
        self.left.start += chunk.len() as u64;
        self.tally.add(metrics::Source::Store, chunk.len() as u64);
        Ok(Some((chunk, Sending::Store(self))))
    }
}

async fn is_intact(blob: Arc<Blob>, index: u32) -> bool {
    let digest = blob.digest();
    match blocking(move || blob.is_intact(index)).await {
        Some(Ok(intact)) => intact,
        Some(Err(error)) => {
            tracing::warn!(blob = %digest, index, %error, "a stored piece cannot be read");
            false
        }
        None => true,
    }
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
