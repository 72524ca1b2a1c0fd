//! Which registry has shown that it has a blob: by what is noted of it, or by the bytes that pass through to a client.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use sha2::{Digest as _, Sha256};

use crate::{
    fault::Fault,
    oci::Digest,
    store::{Partial, Provenance, Store, StoreError},
    upstream::{Body, BoxError},
};

/// Why an answer of a registry is not taken in.
pub enum Refusal {
    /// Something of ours failed.
    Fault(Fault),
    /// The blob is here, or on its way, by another registry's word. Which bytes it is has to be shown by this one too.
    Unproven,
}

/// Whether the registry of this name has itself served it, in whatever repository.
pub(super) fn served_by(provenance: &[Provenance], registry: &str) -> bool {
    provenance.iter().any(|one| one.registry == registry)
}

/// Begins a blob, or goes on with what came of it from the same registry. Bytes by another's word are thrown away: nothing
/// has verified them.
pub(super) fn begin(store: &Store, digest: &Digest, size: u64, registry: &str) -> Result<Arc<Partial>, StoreError> {
    if store.info(digest).is_some_and(|info| !served_by(&info.provenance, registry)) && store.get(digest).is_none() {
        store.discard(digest)?;
    }
    store.begin(digest, size)
}

/// Calls `proven` once, when all of the body has passed and is what its digest says.
pub(super) struct Proof<F> {
    digest: Digest,
    body: Body,
    hasher: Sha256,
    proven: Option<F>,
}

impl<F: FnOnce()> Proof<F> {
    pub(super) fn new(digest: Digest, body: Body, proven: F) -> Self {
        Self { digest, body, hasher: Sha256::new(), proven: Some(proven) }
    }

    fn end(&mut self) {
        if let Some(proven) = self.proven.take()
            && self.hasher.finalize_reset().as_slice() == self.digest.as_bytes()
        {
            proven();
        }
    }
}

impl<F: FnOnce() + Unpin> HttpBody for Proof<F> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.hasher.update(data);
                }
                // A server that has sent as much as it promised does not look for the end.
                if self.body.is_end_stream() {
                    self.end();
                }
            }
            Some(Err(_)) => self.proven = None,
            None => self.end(),
        }
        Poll::Ready(frame)
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
    use std::{cell::Cell, rc::Rc};

    use http_body_util::{BodyExt as _, Full};

    use super::*;

    async fn proves(promised: &[u8], sent: &'static [u8]) -> bool {
        let body = Full::new(Bytes::from_static(sent)).map_err(|never| match never {}).boxed_unsync();
        let seen = Rc::new(Cell::new(false));
        let told = seen.clone();
        let passed = Proof::new(Digest::of(promised), body, move || told.set(true)).collect().await.unwrap();
        assert_eq!(passed.to_bytes(), sent);
        seen.get()
    }

    #[tokio::test]
    async fn only_the_blob_itself_proves_it() {
        assert!(proves(b"blob", b"blob").await);
        assert!(proves(b"", b"").await);
        for sent in [&b"blo"[..], b"blob ", b""] {
            assert!(!proves(b"blob", sent).await);
        }
    }
}
