//! The node's own store: one plain file per blob, so that `sha256sum` can check it, and unfinished ones beside a map of
//! their pieces.
//!
//! No byte is admitted under its digest before its sha256 agrees: only a [`VerifiedDigest`] opens that door. Where bytes
//! come from and who may have them is decided above. Operations here block for the disk; async callers use
//! `spawn_blocking` for all but the cheap look-ups.
//!
//! ```text
//! version  lock  clean            format; owner; "closed cleanly in this boot"
//! blobs/sha256/HEX                complete, verified, synced
//! partial/HEX                     sparse, growing
//! maps/HEX                        statements about the pieces, of both
//! info/HEX.json                   provenance, pin, media type; its mtime is the last use
//! ```

mod blob;
mod error;
mod evict;
mod hash;
mod info;
mod map;
mod open;
mod partial;
pub mod piece;
#[cfg(test)]
mod tests;

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::{runtime::Handle, sync::broadcast};

pub use self::{
    blob::Blob,
    error::StoreError,
    hash::VerifiedDigest,
    info::{Info, MAX_NAME, MAX_PROVENANCE, Provenance},
    partial::{Partial, PieceWriter},
};
use self::{
    evict::{Index, Kind},
    hash::PrefixHasher,
    map::PieceMap,
    open::Paths,
    piece::{Layout, Statement},
};
use crate::oci::digest::Digest;

/// How often at most the last use of a blob is written to disk.
const NOTE_USE: Duration = Duration::from_secs(60);

/// Where the store is and how much it may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Its directory, made when missing. Nothing else should live there.
    pub dir: PathBuf,
    /// The most bytes that blobs may take, begun ones counted whole.
    pub quota: u64,
    /// Bytes of the file system that stay free for others.
    pub low_disk: u64,
}

/// A change that others may want to announce or withdraw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The blob is complete and verified.
    Stored(Digest),
    /// The blob, or what there was of it, is gone.
    Dropped(Digest),
}

/// One thing that pieces can be read from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Complete.
    Blob(Arc<Blob>),
    /// Still growing.
    Partial(Arc<Partial>),
}

/// The store; clones share it. Only one process may have it open. Dropped without [`close`](Self::close), the next start
/// hashes the pieces of unfinished blobs again before they count.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    quota: u64,
    low_disk: u64,
    paths: Paths,
    boot: String,
    // std: never held across an await. File operations on names happen under it, so that a name is one thing at a time.
    index: Mutex<Index>,
    events: broadcast::Sender<Event>,
    runtime: Handle,
    /// Its lock goes with it.
    _lock: File,
}

impl Store {
    /// Opens the store, or makes it. Must be called inside a tokio runtime; hashing runs on its blocking threads.
    pub fn open(config: Config) -> Result<Self, StoreError> {
        let (paths, lock, boot, index) = open::open(&config.dir)?;
        let store = Self {
            inner: Arc::new(Inner {
                quota: config.quota,
                low_disk: config.low_disk,
                paths,
                boot,
                index: Mutex::new(index),
                events: broadcast::Sender::new(256),
                runtime: Handle::current(),
                _lock: lock,
            }),
        };
        // The quota may be smaller than last time.
        let mut index = store.inner.index();
        let excess = index.bytes().saturating_sub(config.quota);
        if let Some(victims) = index.victims(excess) {
            store.inner.evict(&mut index, &victims)?;
        }
        drop(index);
        Ok(store)
    }

    /// The complete blob, if held; counts as a use.
    pub fn get(&self, digest: &Digest) -> Option<Arc<Blob>> {
        let mut index = self.inner.index();
        let entry = index.get(digest)?;
        let Kind::Blob(open) = &entry.kind else { return None };
        let blob = match open.upgrade() {
            Some(blob) => blob,
            None => match self.inner.open_blob(digest, entry.size) {
                Some(blob) => blob,
                None => {
                    tracing::warn!(%digest, "a held blob is missing or has another length, forgetting it");
                    index.remove(digest);
                    return None;
                }
            },
        };
        self.inner.used(&mut index, digest);
        if let Some(entry) = index.get_mut(digest) {
            entry.kind = Kind::Blob(Arc::downgrade(&blob));
        }
        Some(blob)
    }

    /// The unfinished blob, if there is one: being gathered now, or left by an earlier attempt. After an unclean stop the
    /// first call hashes what is there.
    pub fn partial(&self, digest: &Digest) -> Option<Arc<Partial>> {
        let (partial, suspect) = {
            let mut index = self.inner.index();
            let size = index.get(digest).filter(|entry| matches!(entry.kind, Kind::Partial { .. }))?.size;
            self.inner.open_partial(&mut index, digest, Layout::new(size).ok()?, false).ok()??
        };
        partial.settle(suspect).ok()?;
        self.inner.settled(digest);
        Some(partial)
    }

    /// Begins the blob, or takes up what an earlier attempt left. Fails with [`StoreError::is_full`] when there is no room:
    /// then serve it without storing.
    pub fn begin(&self, digest: &Digest, size: u64) -> Result<Arc<Partial>, StoreError> {
        let layout = Layout::new(size).map_err(|error| StoreError::TooLarge(error.0))?;
        let (partial, suspect) = {
            let mut index = self.inner.index();
            if let Some(entry) = index.get(digest) {
                if matches!(entry.kind, Kind::Blob(_)) {
                    return Err(StoreError::AlreadyHeld(*digest));
                }
                if entry.size != size {
                    if entry.open_partial().is_some() {
                        return Err(StoreError::SizeConflict { digest: *digest, known: entry.size, asked: size });
                    }
                    self.inner.evict(&mut index, &[*digest])?;
                }
            }
            match self.inner.open_partial(&mut index, digest, layout, true)? {
                Some(found) => found,
                None => return Err(StoreError::Discarded(*digest)),
            }
        };
        partial.settle(suspect)?;
        self.inner.settled(digest);
        Ok(partial)
    }

    /// What pieces of this blob can be read from, complete or not.
    pub fn source(&self, digest: &Digest) -> Option<Source> {
        self.get(digest).map(Source::Blob).or_else(|| self.partial(digest).map(Source::Partial))
    }

    /// All complete blobs, in no order.
    pub fn held(&self) -> Vec<Digest> {
        let index = self.inner.index();
        index.iter().filter(|(_, entry)| matches!(entry.kind, Kind::Blob(_))).map(|(digest, _)| *digest).collect()
    }

    /// Bytes that held and begun blobs take of the quota.
    pub fn bytes(&self) -> u64 {
        self.inner.index().bytes()
    }

    /// What is remembered about a blob; `None` when it is not held, not even in part.
    pub fn info(&self, digest: &Digest) -> Option<Info> {
        let index = self.inner.index();
        let entry = index.get(digest)?;
        Some(self.inner.read_info(digest, entry.size, entry.pinned))
    }

    /// Remembers that a registry has itself served the blob under a repository. Without effect when it is not held.
    pub fn add_provenance(&self, digest: &Digest, provenance: Provenance) -> Result<(), StoreError> {
        self.change(digest, false, |info| info.add(provenance))
    }

    /// Remembers a manifest's media type. Without effect when it is not held.
    pub fn set_media_type(&self, digest: &Digest, media_type: &str) -> Result<(), StoreError> {
        self.change(digest, false, |info| info.media_type.replace(media_type.to_owned()).as_deref() != Some(media_type))
    }

    /// Protects a blob from eviction, or no longer. Without effect when it is not held.
    pub fn pin(&self, digest: &Digest, pinned: bool) -> Result<(), StoreError> {
        self.change(digest, true, |info| std::mem::replace(&mut info.pinned, pinned) != pinned)?;
        if let Some(entry) = self.inner.index().get_mut(digest) {
            entry.pinned = pinned;
        }
        Ok(())
    }

    /// Throws a blob away, complete or not. Readers that have it open keep reading a complete one; an unfinished one fails
    /// for all who wait.
    pub fn discard(&self, digest: &Digest) -> Result<(), StoreError> {
        let mut index = self.inner.index();
        self.inner.evict(&mut index, &[*digest])
    }

    /// Hashes a complete blob again; whether it still is what its name says. `None` when it is not held.
    pub fn verify(&self, digest: &Digest) -> Result<Option<bool>, StoreError> {
        let Some(blob) = self.get(digest) else { return Ok(None) };
        let mut hasher = PrefixHasher::default();
        hasher.feed(blob.file(), blob.size()).map_err(StoreError::io("read", blob.path()))?;
        Ok(Some(hasher.finish(digest).is_some()))
    }

    /// What comes and goes from now on. A slow receiver misses some: [`held`](Self::held) is the truth.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }

    /// Notes that the store was closed cleanly, so that pieces of unfinished blobs count without being hashed again if the
    /// next start is in the same boot. Call it last.
    pub fn close(&self) -> Result<(), StoreError> {
        let path = self.inner.paths.clean();
        fs::write(&path, &self.inner.boot).map_err(StoreError::io("write", &path))
    }

    fn change(&self, digest: &Digest, durable: bool, change: impl FnOnce(&mut Info) -> bool) -> Result<(), StoreError> {
        let index = self.inner.index();
        let Some(entry) = index.get(digest) else { return Ok(()) };
        let mut info = self.inner.read_info(digest, entry.size, entry.pinned);
        if change(&mut info) {
            let path = self.inner.paths.info(digest);
            info.write(&path, durable).map_err(StoreError::io("write", &path))?;
        }
        Ok(())
    }
}

impl Source {
    /// How the blob is cut into pieces.
    pub fn layout(&self) -> Layout {
        match self {
            Self::Blob(blob) => blob.layout(),
            Self::Partial(partial) => partial.layout(),
        }
    }

    /// Whether piece `index` can be read.
    pub fn has(&self, index: u32) -> bool {
        match self {
            Self::Blob(blob) => index < blob.layout().count(),
            Self::Partial(partial) => partial.has(index),
        }
    }

    /// See [`Blob::statement`] and [`Partial::statement`].
    pub fn statement(&self, index: u32) -> Result<Option<Statement>, StoreError> {
        match self {
            Self::Blob(blob) => blob.statement(index),
            Self::Partial(partial) => partial.statement(index),
        }
    }

    /// See [`Blob::read_at`] and [`Partial::read_at`].
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, StoreError> {
        match self {
            Self::Blob(blob) => blob.read_at(offset, buffer),
            Self::Partial(partial) => partial.read_at(offset, buffer),
        }
    }
}

impl Inner {
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_blob(&self, digest: &Digest, size: u64) -> Option<Arc<Blob>> {
        let path = self.paths.blob(digest);
        let file = File::open(&path).ok()?;
        if file.metadata().ok()?.len() != size {
            return None;
        }
        let map = PieceMap::open(&self.paths.map(digest), *digest).ok().flatten();
        Some(Arc::new(Blob::new(*digest, Layout::new(size).ok()?, file, path, map)))
    }

    /// Opens the files of an unfinished blob, with `create` anew when there are none of that size.
    fn open_partial(
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
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(fresh)
            .open(&path)
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
    fn settled(&self, digest: &Digest) {
        if let Some(Kind::Partial { suspect, .. }) = self.index().get_mut(digest).map(|entry| &mut entry.kind) {
            *suspect = false;
        }
    }

    /// Evicts until `reserve` bytes fit the quota and `size` bytes the disk.
    fn make_room(&self, index: &mut Index, digest: &Digest, size: u64, reserve: u64) -> Result<(), StoreError> {
        let free = self.paths.free()?;
        let coming: u64 = index
            .iter()
            .filter_map(|(_, entry)| entry.open_partial())
            .map(|open| open.layout().size() - open.bytes())
            .sum();
        let over_quota = (index.bytes() + reserve).saturating_sub(self.quota);
        let over_disk = (self.low_disk + coming + size).saturating_sub(free);
        let full = StoreError::Full { needed: size, used: index.bytes(), quota: self.quota, free };
        if size > self.quota {
            return Err(full);
        }
        let needed = over_quota.max(over_disk);
        let mut victims = index.victims(needed).ok_or(full)?;
        victims.retain(|victim| victim != digest);
        self.evict(index, &victims)
    }

    /// Removes blobs and everything about them, under the lock of the index.
    fn evict(&self, index: &mut Index, victims: &[Digest]) -> Result<(), StoreError> {
        for digest in victims {
            let Some(entry) = index.remove(digest) else { continue };
            if let Some(open) = entry.open_partial() {
                open.fail(StoreError::Discarded(*digest));
            }
            let _ = self.events.send(Event::Dropped(*digest));
            for path in self.paths.all(digest) {
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(StoreError::io("remove", &path)(error));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Ends an unfinished blob whose bytes were wrong, and drops it unless another took its place. One step under the
    /// lock: whoever hears of the error finds it gone.
    fn forget(&self, partial: &Arc<Partial>, error: StoreError) {
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
    fn admit(&self, proof: VerifiedDigest, partial: &Arc<Partial>) -> Result<Arc<Blob>, StoreError> {
        let digest = proof.digest();
        let mut index = self.index();
        if !self.is_current(&index, partial) {
            return Err(StoreError::Discarded(digest));
        }
        let (from, to) = (self.paths.partial(&digest), self.paths.blob(&digest));
        fs::rename(&from, &to).map_err(StoreError::io("rename to", &to))?;
        self.paths.sync_names()?;
        let size = partial.layout().size();
        let pinned = known_pin(&index, &digest);
        let blob = self.open_blob(&digest, size).ok_or(StoreError::Discarded(digest))?;
        index.insert(digest, size, pinned, Kind::Blob(Arc::downgrade(&blob)));
        let _ = self.events.send(Event::Stored(digest));
        Ok(blob)
    }

    fn read_info(&self, digest: &Digest, size: u64, pinned: bool) -> Info {
        let mut info = Info::read(&self.paths.info(digest)).unwrap_or_else(|| Info::new(size));
        (info.size, info.pinned) = (size, pinned);
        info
    }

    fn used(&self, index: &mut Index, digest: &Digest) {
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
