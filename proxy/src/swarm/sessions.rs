//! The blobs that this node fetches now: who watches us for one of them brings it too, and is a neighbour.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::mpsc;

use crate::oci::digest::Digest;

/// Newcomers that wait to be looked at; more are found by the owner's answers.
const WAITING: usize = 64;

/// All fetches; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sessions(
    // std: held for a look-up, never across an await.
    Arc<Mutex<HashMap<Digest, mpsc::Sender<SocketAddr>>>>,
);

/// One fetch's place among them, until dropped.
#[derive(Debug)]
pub(crate) struct Session {
    sessions: Sessions,
    blob: Digest,
    newcomers: mpsc::Receiver<SocketAddr>,
}

impl Sessions {
    /// A fetch of `blob` begins.
    pub(crate) fn begin(&self, blob: Digest) -> Session {
        let (sender, newcomers) = mpsc::channel(WAITING);
        self.lock().insert(blob, sender);
        Session { sessions: self.clone(), blob, newcomers }
    }

    /// `from` wants to know what we get of `blob`.
    pub(crate) fn watched_by(&self, blob: &Digest, from: SocketAddr) {
        if let Some(session) = self.lock().get(blob) {
            // Full: then it has neighbours enough.
            let _ = session.try_send(from);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, mpsc::Sender<SocketAddr>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// The next member that began to watch us; pending while there is none.
    pub(crate) async fn newcomer(&mut self) -> SocketAddr {
        match self.newcomers.recv().await {
            Some(addr) => addr,
            // A later fetch of the same blob took our place.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut sessions = self.sessions.lock();
        // Closed: ours. Open: of a later fetch.
        self.newcomers.close();
        if sessions.get(&self.blob).is_some_and(mpsc::Sender::is_closed) {
            sessions.remove(&self.blob);
        }
    }
}
