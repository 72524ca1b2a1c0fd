//! Which registries we may answer for. The list can be exchanged at any time: it counts for connections that come later.

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError, RwLock},
};

use waylay_certs::RegistryName;

/// Registries, as their clients reach them (`registry-1.docker.io`, not `docker.io`).
#[derive(Debug, Clone, Default)]
pub struct Listed {
    /// Those that speak TLS.
    pub tls: HashSet<RegistryName>,
    /// Those that speak plain HTTP.
    pub plain: HashSet<RegistryName>,
}

/// The list that is in force. Clones share it.
#[derive(Debug, Clone, Default)]
// std: held for a copy of a pointer, never across an await.
pub struct Listing(Arc<RwLock<Arc<Listed>>>);

impl Listing {
    /// Begins with this list.
    pub fn new(listed: Listed) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(listed))))
    }

    /// The list as it is now.
    pub fn now(&self) -> Arc<Listed> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on this list.
    pub fn set(&self, listed: Listed) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(listed);
    }
}
