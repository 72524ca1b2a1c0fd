//! The node's own store: one plain file per blob, so that `sha256sum` can check it, and unfinished ones beside a map of
//! their pieces.
//!
//! No byte is admitted under its digest before its sha256 agrees: only a [`VerifiedDigest`] opens that door. Where bytes
//! come from and who may have them is decided above. Operations here block for the disk; async callers use
//! `spawn_blocking` for all but the cheap look-ups.
//!
//! ```text
//! version  lock  clean            format; owner; "closed cleanly in this boot"
//! blobs/sha256/HEX                complete, verified, synced; or a link to somebody else's file, lent
//! partial/HEX                     sparse, growing
//! maps/HEX                        statements about the pieces, of both
//! info/HEX.json                   provenance, pin, media type; its mtime is the last use
//! ```

mod blob;
mod cached;
mod collect;
mod directory;
mod disk;
mod error;
mod evict;
mod hash;
mod info;
mod lend;
mod map;
mod open;
mod partial;
pub mod piece;
#[cfg(test)]
mod tests;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use tokio::{runtime::Handle, sync::broadcast};

pub use self::{
    blob::Blob,
    collect::Collected,
    error::StoreError,
    hash::VerifiedDigest,
    info::{Info, MAX_NAME, MAX_PROVENANCE, Provenance},
    lend::{Lender, Swept},
    partial::{Partial, PieceWriter},
};
use self::{
    directory::Directory,
    evict::Kind,
    hash::PrefixHasher,
    piece::{Layout, Statement},
};
use crate::oci::digest::Digest;

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
    /// All of the blob is here and right, and can be given away. Until it is on the disk under its name, which takes as long as
    /// the disk is slow, [`held`](Store::held) does not list it.
    Verified(Digest),
    /// The blob is kept, or more became known about where it comes from.
    Stored(Digest),
    /// The blob, or what there was of it, is gone, or cannot be kept.
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
    directory: Arc<Directory>,
}

impl Store {
    /// Opens the store, or makes it. Must be called inside a tokio runtime; hashing runs on its blocking threads.
    pub fn open(config: Config) -> Result<Self, StoreError> {
        let (paths, lock, boot, index) = open::open(&config.dir)?;
        let store = Self {
            directory: Arc::new(Directory {
                quota: config.quota,
                low_disk: config.low_disk,
                paths,
                boot,
                index: Mutex::new(index),
                events: broadcast::Sender::new(256),
                moving: Mutex::new(()),
                runtime: Handle::current(),
                _lock: lock,
            }),
        };
        // The quota may be smaller than last time.
        let mut index = store.directory.index();
        let excess = index.bytes().saturating_sub(config.quota);
        if let Some(victims) = index.victims(excess) {
            store.directory.evict(&mut index, &victims)?;
        }
        drop(index);
        Ok(store)
    }

    /// The complete blob, if held; counts as a use.
    pub fn get(&self, digest: &Digest) -> Option<Arc<Blob>> {
        let mut index = self.directory.index();
        let entry = index.get(digest)?;
        let (Kind::Blob(open) | Kind::Lent(open)) = &entry.kind else { return None };
        let blob = match open.upgrade() {
            Some(blob) => blob,
            None => match self.directory.open_blob(digest, entry.size, entry.is_lent()) {
                Some(blob) => blob,
                None => {
                    tracing::warn!(%digest, "a held blob is missing or has another length, forgetting it");
                    if let Err(error) = self.directory.evict(&mut index, &[*digest]) {
                        tracing::warn!(%digest, %error, "cannot remove what is left of it");
                    }
                    return None;
                }
            },
        };
        self.directory.used(&mut index, digest);
        if let Some(Kind::Blob(open) | Kind::Lent(open)) = index.get_mut(digest).map(|entry| &mut entry.kind) {
            *open = Arc::downgrade(&blob);
        }
        Some(blob)
    }

    /// The unfinished blob, if there is one: being gathered now, or left by an earlier attempt. After an unclean stop the
    /// first call hashes what is there.
    pub fn partial(&self, digest: &Digest) -> Option<Arc<Partial>> {
        let (partial, suspect) = {
            let mut index = self.directory.index();
            let size = index.get(digest).filter(|entry| matches!(entry.kind, Kind::Partial { .. }))?.size;
            self.directory.open_partial(&mut index, digest, Layout::new(size).ok()?, false).ok()??
        };
        partial.settle(suspect).ok()?;
        self.directory.settled(digest);
        Some(partial)
    }

    /// Begins the blob, or takes up what an earlier attempt left. Fails with [`StoreError::is_full`] when there is no room:
    /// then serve it without storing.
    pub fn begin(&self, digest: &Digest, size: u64) -> Result<Arc<Partial>, StoreError> {
        let layout = Layout::new(size).map_err(|error| StoreError::TooLarge(error.0))?;
        let (partial, suspect) = {
            let mut index = self.directory.index();
            if let Some(entry) = index.get(digest) {
                if entry.is_complete() {
                    return Err(StoreError::AlreadyHeld(*digest));
                }
                if entry.size != size {
                    if entry.open_partial().is_some() {
                        return Err(StoreError::SizeConflict { digest: *digest, known: entry.size, asked: size });
                    }
                    self.directory.evict(&mut index, &[*digest])?;
                }
            }
            match self.directory.open_partial(&mut index, digest, layout, true)? {
                Some(found) => found,
                None => return Err(StoreError::Discarded(*digest)),
            }
        };
        partial.settle(suspect)?;
        self.directory.settled(digest);
        Ok(partial)
    }

    /// What pieces of this blob can be read from, complete or not.
    pub fn source(&self, digest: &Digest) -> Option<Source> {
        self.get(digest).map(Source::Blob).or_else(|| self.partial(digest).map(Source::Partial))
    }

    /// All complete blobs, in no order.
    pub fn held(&self) -> Vec<Digest> {
        let index = self.directory.index();
        index.iter().filter(|(_, entry)| entry.is_complete()).map(|(digest, _)| *digest).collect()
    }

    /// Bytes that held and begun blobs take of the quota.
    pub fn bytes(&self) -> u64 {
        self.directory.index().bytes()
    }

    /// What is remembered about a blob; `None` when it is not held, not even in part.
    pub fn info(&self, digest: &Digest) -> Option<Info> {
        let index = self.directory.index();
        let entry = index.get(digest)?;
        Some(self.directory.read_info(digest, entry.size, entry.pinned))
    }

    /// Remembers that a registry has itself served the blob under a repository. Without effect when it is not held.
    pub fn add_provenance(&self, digest: &Digest, provenance: Provenance) -> Result<(), StoreError> {
        let mut news = false;
        self.change(digest, false, |info| {
            news = info.add(provenance);
            news
        })?;
        if news && self.directory.index().get(digest).is_some_and(|entry| entry.is_complete()) {
            // Nobody listening is no error.
            let _ = self.directory.events.send(Event::Stored(*digest));
        }
        Ok(())
    }

    /// Remembers a manifest's media type. Without effect when it is not held.
    pub fn set_media_type(&self, digest: &Digest, media_type: &str) -> Result<(), StoreError> {
        self.change(digest, false, |info| info.media_type.replace(media_type.to_owned()).as_deref() != Some(media_type))
    }

    /// Protects a blob from eviction, or no longer; one that was lent is copied back first. Without effect when it is not
    /// held. Blocks for the disk.
    pub fn pin(&self, digest: &Digest, pinned: bool) -> Result<(), StoreError> {
        let _still = self.directory.moving();
        if pinned {
            self.own(digest)?;
        }
        self.change(digest, true, |info| std::mem::replace(&mut info.pinned, pinned) != pinned)?;
        if let Some(entry) = self.directory.index().get_mut(digest) {
            entry.pinned = pinned;
        }
        Ok(())
    }

    /// Notes that an operator brought the blob here for a registry and repository, and pins it: it may be the only one that
    /// can be had. Without effect when it is not held.
    pub fn import(&self, digest: &Digest, imported: &Provenance) -> Result<(), StoreError> {
        let _still = self.directory.moving();
        self.own(digest)?;
        self.change(digest, true, |info| {
            let unpinned = !std::mem::replace(&mut info.pinned, true);
            info.add_import(imported.clone()) || unpinned
        })?;
        let mut index = self.directory.index();
        if let Some(entry) = index.get_mut(digest) {
            entry.pinned = true;
            index.imported(imported.registry.clone());
        }
        Ok(())
    }

    /// Whether anything was imported for the registry of this name.
    pub fn has_imports_of(&self, registry: &str) -> bool {
        self.directory.index().has_imports_of(registry)
    }

    /// Throws a blob away, complete or not. Readers that have it open keep reading a complete one; an unfinished one fails
    /// for all who wait.
    pub fn discard(&self, digest: &Digest) -> Result<(), StoreError> {
        let mut index = self.directory.index();
        self.directory.evict(&mut index, &[*digest])
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
        self.directory.events.subscribe()
    }

    /// Notes that the store was closed cleanly, so that pieces of unfinished blobs count without being hashed again if the
    /// next start is in the same boot. Call it last.
    pub fn close(&self) -> Result<(), StoreError> {
        let path = self.directory.paths.clean();
        disk::DiskFile::create(&path)
            .and_then(|file| file.write_all_at(self.directory.boot.as_bytes(), 0))
            .map_err(StoreError::io("write", &path))
    }

    fn change(&self, digest: &Digest, durable: bool, change: impl FnOnce(&mut Info) -> bool) -> Result<(), StoreError> {
        let index = self.directory.index();
        let Some(entry) = index.get(digest) else { return Ok(()) };
        let mut info = self.directory.read_info(digest, entry.size, entry.pinned);
        if change(&mut info) {
            let path = self.directory.paths.info(digest);
            // That it is pinned outlasts a power failure, whatever else is written beside it.
            info.write(&path, durable || info.pinned).map_err(StoreError::io("write", &path))?;
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

    /// See [`Blob::read_cached`] and [`Partial::read_cached`].
    pub fn read_cached(&self, offset: u64, buffer: &mut [u8]) -> Option<usize> {
        match self {
            Self::Blob(blob) => blob.read_cached(offset, buffer),
            Self::Partial(partial) => partial.read_cached(offset, buffer),
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
