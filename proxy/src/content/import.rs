//! Blobs that an operator brings by hand. Their bytes are verified like all others; that a registry has them is nobody's
//! word yet, so they are told to no member and open nothing while their registry can be asked.

use futures_util::StreamExt as _;
use http_body_util::{BodyDataStream, BodyExt as _};

use super::{Content, blocking, registry::Sink};
use crate::{
    oci::Digest,
    store::{Blob, Source, StoreError},
    upstream::Body,
};

/// How much is gathered before a thread that may wait for the disk writes it.
const BATCH: usize = 1 << 20;

/// Why a blob could not be brought in. What was in the store before is as it was.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The same blob is on its way from elsewhere.
    #[error("{0} is being pulled at this moment; try again when that has ended")]
    Flying(Digest),
    /// The bytes ended early, or did not come.
    #[error("the bytes of {0} broke off")]
    Cut(Digest),
    /// The store did not take it: no room, or not the bytes of this digest.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The name of a registry, by its name or by its name and the address that it was seen at over plain HTTP: an operator
/// names it by its name.
pub(super) fn name_of(registry: &str) -> &str {
    registry.split_once(" at ").map_or(registry, |(name, _)| name)
}

impl Content {
    /// Takes in a blob of `size` bytes, unless it is held. It is there, verified and synced, when this returns. The body is
    /// read to its end in any case: who sends it looks for an answer only then.
    ///
    /// # Errors
    /// See [`ImportError`].
    pub async fn import(&self, digest: Digest, size: u64, body: Body) -> Result<(), ImportError> {
        let mut body = body.into_data_stream();
        let taken = self.take_in(digest, size, &mut body).await;
        while let Some(Ok(_)) = body.next().await {}
        taken
    }

    async fn take_in(&self, digest: Digest, size: u64, body: &mut BodyDataStream<Body>) -> Result<(), ImportError> {
        let _alone = self.0.begins.alone(digest).await;
        if self.0.store.get(&digest).is_some() {
            return Ok(());
        }
        if self.flying(&digest).is_some() {
            return Err(ImportError::Flying(digest));
        }
        let store = self.0.store.clone();
        let begun = blocking(move || {
            // What an interrupted pull left was not verified, and would spoil what is.
            store.discard(&digest)?;
            store.begin(&digest, size)
        });
        let partial = begun.await.ok_or(ImportError::Cut(digest))??;
        let mut sink = Sink::whole(partial.clone(), self.0.swarm.clone());
        let (mut batch, mut gathered) = (Vec::new(), 0);
        while size > 0 && !sink.is_done() {
            let frame = body.next().await.and_then(Result::ok);
            let end = frame.is_none();
            gathered += frame.as_ref().map_or(0, bytes::Bytes::len);
            batch.extend(frame);
            if gathered >= BATCH || end || sink.would_finish(gathered as u64) {
                let chunks = std::mem::take(&mut batch);
                gathered = 0;
                let writing = blocking(move || {
                    let written = sink.write(chunks);
                    (sink, written)
                });
                let (returned, written) = writing.await.ok_or(ImportError::Cut(digest))?;
                sink = returned;
                written?;
            }
            if end && !sink.is_done() {
                self.0.store.discard(&digest)?;
                return Err(ImportError::Cut(digest));
            }
        }
        partial.stored().await?;
        Ok(())
    }

    /// The bytes of a complete blob, from the disk as they are; whoever reads them compares them with the digest.
    pub fn export(blob: std::sync::Arc<Blob>) -> Body {
        let (size, source) = (blob.size(), Source::Blob(blob));
        let chunks =
            futures_util::stream::try_unfold((0, super::chunks::Chunks::default()), move |(at, mut chunks)| {
                let source = source.clone();
                async move {
                    if at == size {
                        return Ok(None);
                    }
                    let chunk = chunks.next(&source, at, size - at).await?;
                    let next = at + chunk.len() as u64;
                    Ok::<_, crate::upstream::BoxError>(Some((chunk, (next, chunks))))
                }
            });
        super::local::exactly(size, chunks)
    }
}
