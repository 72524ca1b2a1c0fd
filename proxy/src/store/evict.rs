//! Who has to go when room is needed: a list of what is held in the order of use. No file is touched here.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Weak},
    time::Instant,
};

use super::{blob::Blob, partial::Partial};
use crate::oci::digest::Digest;

/// Everything held, complete or not.
#[derive(Debug, Default)]
pub(super) struct Index {
    entries: HashMap<Digest, Entry>,
    clock: u64,
    bytes: u64,
    /// Names of registries that something was imported for. None leaves before the next start.
    imported: HashSet<String>,
}

#[derive(Debug)]
pub(super) struct Entry {
    /// Length of the complete blob: room is reserved for all of it when it is begun.
    pub(super) size: u64,
    pub(super) pinned: bool,
    pub(super) kind: Kind,
    used: u64,
    /// When the use was last written to disk.
    pub(super) noted: Option<Instant>,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// Complete, in a file of our own.
    Blob(Weak<Blob>),
    /// Complete, in somebody else's file that ours is a link to.
    Lent(Weak<Blob>),
    Partial {
        open: Weak<Partial>,
        /// Left by an unclean stop and not hashed again yet.
        suspect: bool,
    },
}

impl Entry {
    /// The unfinished blob, if somebody has it open.
    pub(super) fn open_partial(&self) -> Option<Arc<Partial>> {
        match &self.kind {
            Kind::Partial { open, .. } => open.upgrade(),
            Kind::Blob(_) | Kind::Lent(_) => None,
        }
    }

    /// Whether all of it is here.
    pub(super) fn is_complete(&self) -> bool {
        matches!(self.kind, Kind::Blob(_) | Kind::Lent(_))
    }

    pub(super) fn is_lent(&self) -> bool {
        matches!(self.kind, Kind::Lent(_))
    }

    /// What it takes of the quota.
    fn takes(&self) -> u64 {
        if self.is_lent() { 0 } else { self.size }
    }
}

impl Index {
    /// Bytes reserved by everything held.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<&Entry> {
        self.entries.get(digest)
    }

    pub(super) fn get_mut(&mut self, digest: &Digest) -> Option<&mut Entry> {
        self.entries.get_mut(digest)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Digest, &Entry)> {
        self.entries.iter()
    }

    /// Adds or replaces, as the most recently used.
    pub(super) fn insert(&mut self, digest: Digest, size: u64, pinned: bool, kind: Kind) {
        self.remove(&digest);
        self.clock += 1;
        let entry = Entry { size, pinned, kind, used: self.clock, noted: None };
        self.bytes += entry.takes();
        self.entries.insert(digest, entry);
    }

    pub(super) fn remove(&mut self, digest: &Digest) -> Option<Entry> {
        let entry = self.entries.remove(digest)?;
        self.bytes -= entry.takes();
        Some(entry)
    }

    /// Something of this registry was imported.
    pub(super) fn imported(&mut self, registry: String) {
        self.imported.insert(registry);
    }

    pub(super) fn has_imports_of(&self, registry: &str) -> bool {
        self.imported.contains(registry)
    }

    /// Bytes that eviction must leave alone: pinned, or being written.
    pub(super) fn kept(&self) -> u64 {
        let kept = |entry: &&Entry| entry.pinned || entry.open_partial().is_some();
        self.entries.values().filter(kept).map(Entry::takes).sum()
    }

    /// Marks it as the most recently used.
    pub(super) fn touch(&mut self, digest: &Digest) -> Option<&mut Entry> {
        self.clock += 1;
        let entry = self.entries.get_mut(digest)?;
        entry.used = self.clock;
        Some(entry)
    }

    /// What to remove, least recently used first, to free `bytes`: never what is pinned or being written, nor what is lent,
    /// which would free none. `None` when that is not enough, and then nothing should go.
    pub(super) fn victims(&self, bytes: u64) -> Option<Vec<Digest>> {
        if bytes == 0 {
            return Some(Vec::new());
        }
        let can_go = |entry: &Entry| !entry.pinned && !entry.is_lent() && entry.open_partial().is_none();
        let mut candidates: Vec<_> = self.entries.iter().filter(|(_, entry)| can_go(entry)).collect();
        candidates.sort_unstable_by_key(|(_, entry)| entry.used);
        let mut freed = 0u64;
        let mut victims = Vec::new();
        for (digest, entry) in candidates {
            victims.push(*digest);
            freed += entry.size;
            if freed >= bytes {
                return Some(victims);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(sizes: &[u64]) -> (Index, Vec<Digest>) {
        let mut index = Index::default();
        let digests: Vec<_> = (0..sizes.len()).map(|n| Digest::of(&n.to_le_bytes())).collect();
        for (digest, size) in digests.iter().zip(sizes) {
            index.insert(*digest, *size, false, Kind::Blob(Weak::new()));
        }
        (index, digests)
    }

    #[test]
    fn the_least_recently_used_goes_first_and_no_more_than_needed() {
        let (mut index, digests) = index(&[10, 20, 30]);
        assert_eq!(index.bytes(), 60);
        index.touch(&digests[0]);
        assert_eq!(index.victims(0), Some(vec![]));
        assert_eq!(index.victims(20), Some(vec![digests[1]]));
        assert_eq!(index.victims(21), Some(vec![digests[1], digests[2]]));
        assert_eq!(index.victims(60), Some(vec![digests[1], digests[2], digests[0]]));
        assert_eq!(index.victims(61), None);
    }

    #[test]
    fn what_is_pinned_stays() {
        let (mut index, digests) = index(&[10, 20]);
        index.get_mut(&digests[0]).unwrap().pinned = true;
        assert_eq!(index.victims(20), Some(vec![digests[1]]));
        assert_eq!(index.victims(21), None);
        index.remove(&digests[1]);
        assert_eq!(index.bytes(), 10);
    }

    #[test]
    fn what_is_lent_takes_nothing_and_frees_nothing() {
        let (mut index, digests) = index(&[10, 20]);
        index.insert(digests[0], 10, false, Kind::Lent(Weak::new()));
        assert_eq!(index.bytes(), 20);
        assert_eq!(index.victims(1), Some(vec![digests[1]]));
        assert_eq!(index.victims(21), None);
        index.insert(digests[0], 10, false, Kind::Blob(Weak::new()));
        assert_eq!(index.bytes(), 30);
    }
}
