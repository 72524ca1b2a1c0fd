//! Nodes that may have stated wrong bytes: their pieces are not taken for a while, whoever relays them.

use std::time::Duration;

use iroh::EndpointId;
use moka::sync::Cache;

/// How long.
const SENTENCE: Duration = Duration::from_secs(600);
/// The most nodes remembered.
const MAX: u64 = 1024;

/// Who is in it.
#[derive(Debug)]
pub(crate) struct Quarantine {
    sealers: Cache<EndpointId, ()>,
}

impl Default for Quarantine {
    fn default() -> Self {
        Self { sealers: Cache::builder().max_capacity(MAX).time_to_live(SENTENCE).build() }
    }
}

impl Quarantine {
    pub(crate) fn add(&self, sealer: EndpointId) {
        tracing::warn!(sealer = %sealer.fmt_short(), "a node stated pieces of a blob that did not add up, none of its are taken for a while");
        self.sealers.insert(sealer, ());
    }

    /// It was somebody else.
    pub(crate) fn lift(&self, sealer: &EndpointId) {
        if self.sealers.remove(sealer).is_some() {
            tracing::info!(sealer = %sealer.fmt_short(), "a node had stated the right pieces, and is believed again");
        }
    }

    pub(crate) fn holds(&self, sealer: &EndpointId) -> bool {
        self.sealers.contains_key(sealer)
    }

    pub(crate) fn list(&self) -> Vec<EndpointId> {
        self.sealers.iter().map(|(sealer, ())| *sealer).collect()
    }
}
