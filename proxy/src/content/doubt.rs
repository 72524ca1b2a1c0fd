//! Blobs that something went wrong with, for a while: which of their sources are not to be tried again, and what was stated
//! about them.

use std::{sync::Arc, time::Duration};

use iroh_base::EndpointId;
use moka::sync::Cache;

use crate::{oci::Digest, store::piece::Statement};

/// How long a digest is taken from the registry alone after members gave wrong bytes for it.
const DISTRUST: Duration = Duration::from_secs(600);
/// How long a digest passes by the store after that failed in the middle of it: its client asks again at once, and must not be
/// cut at the same place.
const SPARE: Duration = Duration::from_secs(60);
/// Digests remembered at most.
const MOST: u64 = 10_000;
/// Statements remembered at most: some megabytes.
const MOST_STATED: u64 = 1 << 14;

/// What is not believed now.
pub(super) struct Doubts {
    members: Cache<Digest, ()>,
    store: Cache<Digest, ()>,
    stated: Cache<Digest, Arc<[Statement]>>,
}

impl Default for Doubts {
    fn default() -> Self {
        let weigh = |_: &Digest, stated: &Arc<[Statement]>| u32::try_from(stated.len()).unwrap_or(u32::MAX).max(1);
        Self {
            members: Cache::builder().max_capacity(MOST).time_to_live(DISTRUST).build(),
            store: Cache::builder().max_capacity(MOST).time_to_live(SPARE).build(),
            stated: Cache::builder().weigher(weigh).max_capacity(MOST_STATED).time_to_live(DISTRUST).build(),
        }
    }
}

impl Doubts {
    /// Members gave wrong bytes for it. Whether that is new.
    pub(super) fn of_members(&self, digest: Digest) -> bool {
        let known = self.members.contains_key(&digest);
        self.members.insert(digest, ());
        !known
    }

    /// Whether members gave wrong bytes for it.
    pub(super) fn doubts_members(&self, digest: &Digest) -> bool {
        self.members.contains_key(digest)
    }

    /// The store failed in the middle of it.
    pub(super) fn of_store(&self, digest: Digest) {
        self.store.insert(digest, ());
    }

    /// Whether the store failed in the middle of it.
    pub(super) fn doubts_store(&self, digest: &Digest) -> bool {
        self.store.contains_key(digest)
    }

    /// Whether neither members nor the store are to be tried with it now.
    pub(super) fn needs_registry(&self, digest: &Digest) -> bool {
        self.doubts_members(digest) || self.doubts_store(digest)
    }

    /// It did not add up, and this had been stated about it.
    pub(super) fn accuse(&self, digest: Digest, stated: Arc<[Statement]>) {
        self.stated.insert(digest, stated);
    }

    /// The right bytes are here, with the hashes that `right` tells: who had stated nothing else.
    pub(super) fn acquit(&self, digest: &Digest, right: impl Fn(u32) -> Option<[u8; 32]>) -> Vec<EndpointId> {
        self.stated.remove(digest).map_or_else(Vec::new, |stated| honest(&stated, right))
    }
}

/// Those who said nothing about the pieces but what is `right`.
fn honest(stated: &[Statement], right: impl Fn(u32) -> Option<[u8; 32]>) -> Vec<EndpointId> {
    let mut sealers = std::collections::BTreeMap::new();
    for said in stated {
        *sealers.entry(said.sealer).or_insert(true) &= right(said.index) == Some(said.blake3);
    }
    let honest = sealers.into_iter().filter(|(_, honest)| *honest);
    honest.filter_map(|(sealer, _)| EndpointId::from_bytes(&sealer).ok()).collect()
}

#[cfg(test)]
mod tests {
    use iroh_base::SecretKey;

    use super::*;

    #[test]
    fn who_was_wrong_about_one_piece_stays_accused_and_nobody_else() {
        let [always, once, unknown] = [1, 2, 3].map(|n| SecretKey::from_bytes(&[n; 32]));
        let right = |index: u32| (index < 4).then_some([index as u8; 32]);
        let blob = Digest::of(b"x");
        let say = |key: &SecretKey, index, blake3| Statement::sign(key, blob, 9, index, blake3);
        let stated = [
            say(&always, 0, [0; 32]),
            say(&once, 1, [1; 32]),
            say(&once, 2, [9; 32]),
            say(&always, 3, [3; 32]),
            say(&unknown, 4, [4; 32]),
        ];
        let doubts = Doubts::default();
        assert_eq!(doubts.acquit(&blob, right), [], "nobody was accused");
        doubts.accuse(blob, stated.into());
        assert_eq!(doubts.acquit(&blob, right), [always.public()]);
        assert_eq!(doubts.acquit(&blob, right), [], "once");
    }

    #[test]
    fn a_doubt_of_members_is_new_once_and_each_source_is_doubted_by_itself() {
        let (doubts, blob) = (Doubts::default(), Digest::of(b"x"));
        assert!(!doubts.needs_registry(&blob));
        assert!(doubts.of_members(blob) && !doubts.of_members(blob));
        assert!(doubts.needs_registry(&blob) && !doubts.doubts_store(&blob));
        doubts.of_store(blob);
        assert!(doubts.doubts_store(&blob));
    }
}
