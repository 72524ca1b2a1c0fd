//! Who looks for a blob that this node does not have: one request at a time for each digest, so that a crowd of clients
//! costs one question to the members and one GET. Only the asking is in turns; the bytes are a flight's business.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::sync::{Mutex as Queue, OwnedMutexGuard};

use crate::oci::Digest;

/// How long a request waits for the one before it to be answered. It asks itself then: a registry that is slow to say no to
/// one client must not use up the 30 s that containerd gives another.
const PATIENCE: Duration = Duration::from_secs(5);

/// All turns that are taken or waited for.
#[derive(Debug, Default)]
pub(super) struct Turns(
    // std: held for a look-up, never across an await.
    Mutex<HashMap<Digest, Weak<Queue<()>>>>,
);

/// The turn to ask, or none after waiting long enough; dropping it lets the next one look.
#[derive(Debug)]
pub struct Turn {
    _guard: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    pub(super) async fn take(&self, digest: Digest) -> Turn {
        Turn { _guard: tokio::time::timeout(PATIENCE, self.queue(digest).lock_owned()).await.ok() }
    }

    /// The same without giving up: for what is short.
    pub(super) async fn alone(&self, digest: Digest) -> OwnedMutexGuard<()> {
        self.queue(digest).lock_owned().await
    }

    fn queue(&self, digest: Digest) -> Arc<Queue<()>> {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get(&digest).and_then(Weak::upgrade) {
            return queue;
        }
        queues.retain(|_, queue| queue.strong_count() > 0);
        let queue = Arc::new(Queue::new(()));
        queues.insert(digest, Arc::downgrade(&queue));
        queue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_second_waits_for_the_first_but_not_for_ever() {
        let (turns, digest) = (Turns::default(), Digest::of(b"x"));
        let first = turns.take(digest).await;
        assert!(first._guard.is_some() && turns.take(Digest::of(b"y")).await._guard.is_some());
        let (second, ()) = tokio::join!(turns.take(digest), async { drop(first) });
        assert!(second._guard.is_some());
        let started = tokio::time::Instant::now();
        assert!(turns.take(digest).await._guard.is_none());
        assert_eq!(started.elapsed(), PATIENCE);
        drop(second);
        assert!(turns.take(digest).await._guard.is_some());
    }
}
