//! Following a blob that is still arriving: bytes go to the client as they come, and the end only when it is verified.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use tokio::sync::watch;

use super::{
    Tally, VERIFIED_FIRST,
    chunks::Chunks,
    flight::{Flight, Sight},
    local::exactly,
};
use crate::{
    metrics::Source,
    store::{self, Partial, StoreError},
    upstream::{Body, BoxError},
};

/// The answer was cut short; what went wrong was noted where it happened.
#[derive(Debug, thiserror::Error)]
#[error("the blob could not be completed")]
pub(super) struct CutShort;

struct Reader {
    flight: Arc<Flight>,
    sight: watch::Receiver<Sight>,
    left: Range<u64>,
    whole: bool,
    tally: Arc<Tally>,
    chunks: Chunks,
}

/// The bytes `part` of the blob in `flight`.
pub(super) fn body(flight: Arc<Flight>, part: Range<u64>, tally: Arc<Tally>) -> Body {
    flight.want(&part, &tally);
    let (sight, whole) = (flight.sight(), flight.wants_whole());
    let length = part.end - part.start;
    let reader = Reader { flight, sight, left: part, whole, tally, chunks: Chunks::default() };
    exactly(length, futures_util::stream::try_unfold(reader, Reader::next))
}

impl Reader {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, BoxError> {
        if self.left.is_empty() {
            return Ok(None);
        }
        loop {
            let Sight { partial, failed } = self.sight.borrow_and_update().clone();
            if failed {
                return Err(CutShort.into());
            }
            let layout = partial.layout();
            let index = layout.index_of(self.left.start);
            self.flight.reads(index);
            let mut sight = self.sight.clone();
            let ready = tokio::select! {
                ready = self.ready(&partial, index) => ready,
                _ = sight.changed() => continue,
            };
            let read = match ready {
                Ok(()) => self.read(partial, layout.range(index).end).await,
                Err(error) => Err(error),
            };
            match read {
                Ok(bytes) => {
                    let source = self.flight.source(index);
                    self.sent(source, bytes.len() as u64);
                    return Ok(Some((bytes, self)));
                }
                // The driver decides what follows: another file, or the end.
                Err(_) => {
                    if self.sight.changed().await.is_err() {
                        return Err(CutShort.into());
                    }
                }
            }
        }
    }

    /// Waits until piece `index` may be sent.
    async fn ready(&self, partial: &Partial, index: u32) -> Result<(), StoreError> {
        let layout = partial.layout();
        // A part whose pieces this node took from the registry itself is what the client would have got.
        let held_back = self.whole && (layout.size() <= VERIFIED_FIRST || index + 1 == layout.count());
        if !held_back {
            return partial.wait(index).await;
        }
        partial.verified().await?;
        self.flight.verified();
        Ok(())
    }

    async fn read(&mut self, partial: Arc<Partial>, piece_end: u64) -> Result<Bytes, StoreError> {
        let offset = self.left.start;
        let length = self.left.end.min(piece_end) - offset;
        self.chunks.next(&store::Source::Partial(partial), offset, length).await
    }

    fn sent(&mut self, source: Source, bytes: u64) {
        self.left.start += bytes;
        self.tally.add(source, bytes);
    }
}
