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

/// The list that is in force, and which of them are left alone for now. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Listing(Arc<Lists>);

// std: held for a copy of a pointer or one look, never across an await.
#[derive(Debug, Default)]
struct Lists {
    listed: RwLock<Arc<Listed>>,
    bypassed: RwLock<HashSet<RegistryName>>,
}

impl Listing {
    /// Begins with this list.
    pub fn new(listed: Listed) -> Self {
        Self(Arc::new(Lists { listed: RwLock::new(Arc::new(listed)), bypassed: RwLock::default() }))
    }

    /// The list as it is now.
    pub fn now(&self) -> Arc<Listed> {
        self.0.listed.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on this list.
    pub fn set(&self, listed: Listed) {
        *self.0.listed.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(listed);
    }

    /// Whether the operator wants it left alone, listed or not.
    pub fn is_bypassed(&self, name: &RegistryName) -> bool {
        self.0.bypassed.read().unwrap_or_else(PoisonError::into_inner).contains(name)
    }

    /// From now on these are left alone, and no others.
    pub fn bypass(&self, names: HashSet<RegistryName>) {
        *self.0.bypassed.write().unwrap_or_else(PoisonError::into_inner) = names;
    }
}
