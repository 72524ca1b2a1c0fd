//! The files and the list of them, changed together under one lock, so that a name is one thing at a time.

use std::{
    fs::{File, OpenOptions},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::{runtime::Handle, sync::broadcast};

use super::{
    Blob, Event, Info, Partial, StoreError,
    disk::{self, DiskFile},
    evict::{Index, Kind},
    hash::VerifiedDigest,
    map::PieceMap,
    open::Paths,
    piece::Layout,
};
use crate::oci::digest::Digest;

/// How often at most the last use of a blob is written to disk.
const NOTE_USE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Directory {
    pub(super) quota: u64,
    pub(super) low_disk: u64,
    pub(super) paths: Paths,
    pub(super) boot: String,
    // std: never held across an await.
    pub(super) index: Mutex<Index>,
    pub(super) events: broadcast::Sender<Event>,
    /// Held by who gives a blob away to somebody else's file, or takes it back. Before the index.
    pub(super) moving: Mutex<()>,
    pub(super) runtime: Handle,
    /// Its lock goes with it.
    pub(super) _lock: File,
}

impl Directory {
    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn moving(&self) -> MutexGuard<'_, ()> {
        self.moving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn open_blob(&self, digest: &Digest, size: u64, lent: bool) -> Option<Arc<Blob>> {
        let path = self.paths.blob(digest);
        let file = File::open(&path).ok()?;
        if file.metadata().ok()?.len() != size {
            return None;
        }
        let (map, layout) = (self.map(digest), Layout::new(size).ok()?);
        let blob = if lent {
            Blob::lent(*digest, layout, file, path, map?)
        } else {
            Blob::new(*digest, layout, file, path, map)
        };
        Some(Arc::new(blob))
    }

    pub(super) fn map(&self, digest: &Digest) -> Option<PieceMap> {
        PieceMap::open(&self.paths.map(digest), *digest).ok().flatten()
    }

    /// Opens the files of an unfinished blob, with `create` anew when there are none of that size.
    pub(super) fn open_partial(
        self: &Arc<Self>,
        index: &mut Index,
        digest: &Digest,
        layout: Layout,
        create: bool,
    ) -> Result<Option<(Arc<Partial>, bool)>, StoreError> {
        let known = index.get(digest);
        let suspect = known.is_some_and(|entry| matches!(entry.kind, Kind::Partial { suspect: true, .. }));
        if let Some(open) = known.and_then(|entry| entry.open_partial()) {
            index.touch(digest);
            return Ok(Some((open, suspect)));
        }
        let (path, map_path) = (self.paths.partial(digest), self.paths.map(digest));
        let map = match known {
            Some(_) => PieceMap::open(&map_path, *digest).map_err(StoreError::io("open", &map_path))?,
            None => None,
        };
        let map = map.filter(|map| map.layout() == layout && path.exists());
        if map.is_none() && !create {
            return Ok(None);
        }
        if create {
            let reserved = if known.is_some() { 0 } else { layout.size() };
            self.make_room(index, digest, layout.size(), reserved)?;
        }
        let fresh = map.is_none();
        let map = match map {
            Some(map) => map,
            None => PieceMap::create(&map_path, *digest, layout).map_err(StoreError::io("create", &map_path))?,
        };
        let file = if fresh { DiskFile::create(&path) } else { DiskFile::open(&path) };
        let file = file
            .and_then(|file| file.set_len(layout.size()).map(|()| file))
            .map_err(StoreError::io("create", &path))?;
        let partial = Arc::new(Partial::new(*digest, layout, (file, path), map, self));
        let pinned = known_pin(index, digest);
        if fresh && !self.paths.info(digest).exists() {
            let info_path = self.paths.info(digest);
            Info::new(layout.size()).write(&info_path, false).map_err(StoreError::io("write", &info_path))?;
        }
        let open = Arc::downgrade(&partial);
        index.insert(*digest, layout.size(), pinned, Kind::Partial { open, suspect: suspect && !fresh });
        Ok(Some((partial, suspect && !fresh)))
    }

    /// The pieces were hashed again; from now on they are as good as any.
    pub(super) fn settled(&self, digest: &Digest) {
        if let Some(Kind::Partial { suspect, .. }) = self.index().get_mut(digest).map(|entry| &mut entry.kind) {
            *suspect = false;
        }
    }

    /// How many bytes have to go so that `reserve` bytes fit the quota and `size` bytes the disk.
    pub(super) fn excess(&self, index: &Index, size: u64, reserve: u64) -> Result<u64, StoreError> {
        let free = self.paths.free()?;
        let coming: u64 = index
            .iter()
            .filter_map(|(_, entry)| entry.open_partial())
            .map(|open| open.layout().size() - open.bytes())
            .sum();
        let over_quota = (index.bytes() + reserve).saturating_sub(self.quota);
        Ok(over_quota.max((self.low_disk + coming + size).saturating_sub(free)))
    }

    /// Evicts until `reserve` bytes fit the quota and `size` bytes the disk.
    pub(super) fn make_room(
        &self,
        index: &mut Index,
        digest: &Digest,
        size: u64,
        reserve: u64,
    ) -> Result<(), StoreError> {
        let (needed, free) = (self.excess(index, size, reserve)?, self.paths.free()?);
        let full = StoreError::Full { needed: size, used: index.bytes(), quota: self.quota, free };
        if size > self.quota {
            return Err(full);
        }
        let mut victims = index.victims(needed).ok_or(full)?;
        victims.retain(|victim| victim != digest);
        self.evict(index, &victims)
    }

    /// Removes blobs and everything about them, under the lock of the index.
    pub(super) fn evict(&self, index: &mut Index, victims: &[Digest]) -> Result<(), StoreError> {
        for digest in victims {
            let Some(entry) = index.remove(digest) else { continue };
            if let Some(open) = entry.open_partial() {
                open.fail(StoreError::Discarded(*digest));
            }
            let _ = self.events.send(Event::Dropped(*digest));
            for path in self.paths.all(digest) {
                disk::remove(&path).map_err(StoreError::io("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Ends an unfinished blob whose bytes were wrong, and drops it unless another took its place. One step under the
    /// lock: whoever hears of the error finds it gone.
    pub(super) fn forget(&self, partial: &Arc<Partial>, error: StoreError) {
        let mut index = self.index();
        partial.fail(error);
        let digest = partial.digest();
        if self.is_current(&index, partial)
            && let Err(error) = self.evict(&mut index, &[digest])
        {
            tracing::warn!(%digest, %error, "cannot remove a wrong blob");
        }
    }

    fn is_current(&self, index: &Index, partial: &Arc<Partial>) -> bool {
        let open = index.get(&partial.digest()).and_then(|entry| entry.open_partial());
        open.is_some_and(|open| Arc::ptr_eq(&open, partial))
    }

    /// Takes a synced file under its final name. The proof is what makes it a blob.
    pub(super) fn admit(&self, proof: VerifiedDigest, partial: &Arc<Partial>) -> Result<Arc<Blob>, StoreError> {
        let digest = proof.digest();
        let mut index = self.index();
        if !self.is_current(&index, partial) {
            return Err(StoreError::Discarded(digest));
        }
        let blob = self.name(&mut index, proof, partial.layout().size())?;
        let _ = self.events.send(Event::Stored(digest));
        Ok(blob)
    }

    /// Gives the synced file of an unfinished blob its final name, under the lock of the index.
    pub(super) fn name(&self, index: &mut Index, proof: VerifiedDigest, size: u64) -> Result<Arc<Blob>, StoreError> {
        let digest = proof.digest();
        let (from, to) = (self.paths.partial(&digest), self.paths.blob(&digest));
        // First under the name that it has: whatever comes between these, it is there under one of both.
        self.paths.sync_partials()?;
        disk::rename(&from, &to).map_err(StoreError::io("rename to", &to))?;
        self.paths.sync_blobs()?;
        let pinned = known_pin(index, &digest);
        let blob = self.open_blob(&digest, size, false).ok_or(StoreError::Discarded(digest))?;
        index.insert(digest, size, pinned, Kind::Blob(Arc::downgrade(&blob)));
        Ok(blob)
    }

    pub(super) fn read_info(&self, digest: &Digest, size: u64, pinned: bool) -> Info {
        let mut info = Info::read(&self.paths.info(digest)).unwrap_or_else(|| Info::new(size));
        (info.size, info.pinned) = (size, pinned);
        info
    }

    pub(super) fn used(&self, index: &mut Index, digest: &Digest) {
        let Some(entry) = index.touch(digest) else { return };
        if entry.noted.is_none_or(|noted| noted.elapsed() > NOTE_USE) {
            entry.noted = Some(Instant::now());
            // Only the order of eviction after a restart hangs on it.
            let noted = OpenOptions::new().write(true).open(self.paths.info(digest));
            let _ = noted.and_then(|file| file.set_modified(SystemTime::now()));
        }
    }
}

fn known_pin(index: &Index, digest: &Digest) -> bool {
    index.get(digest).is_some_and(|entry| entry.pinned)
}
