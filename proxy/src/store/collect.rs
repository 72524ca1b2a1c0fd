//! Eviction by an operator's word, instead of when room is needed: to the limits, and no further.

use super::{Store, StoreError};
use crate::oci::digest::Digest;

/// What was removed, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// The blobs, least recently used first.
    pub removed: Vec<(Digest, u64)>,
    /// Bytes by which the store still is above its limits: all that is left is pinned or being written.
    pub above: u64,
}

impl Store {
    /// Evicts until the quota and the watermark of the disk are kept; with `dry_run` it only says what would go.
    ///
    /// # Errors
    /// When the disk cannot be asked, or a file stays.
    pub fn collect(&self, dry_run: bool) -> Result<Collected, StoreError> {
        let mut index = self.directory.index();
        let excess = self.directory.excess(&index, 0, 0)?;
        let can_go = index.bytes() - index.kept();
        let victims = index.victims(excess.min(can_go)).unwrap_or_default();
        let removed: Vec<_> = victims.iter().filter_map(|digest| Some((*digest, index.get(digest)?.size))).collect();
        if !dry_run {
            self.directory.evict(&mut index, &victims)?;
        }
        Ok(Collected { removed, above: excess.saturating_sub(can_go) })
    }
}
