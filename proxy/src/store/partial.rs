//! An unfinished blob: a sparse file that grows in any order, its piece map, and readers that follow it.
//!
//! The contiguous beginning is hashed with sha256 on a blocking thread while pieces arrive, so that the verdict is there
//! soon after the last one. Nothing here knows where bytes come from.

mod writer;

use std::{
    ops::Range,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use fixedbitset::FixedBitSet;
use tokio::{runtime::Handle, sync::watch};

pub use writer::PieceWriter;

use super::{
    Event,
    blob::Blob,
    cached,
    directory::Directory,
    disk::DiskFile,
    error::StoreError,
    hash::{PrefixHasher, VerifiedDigest, blake3_of},
    map::PieceMap,
    piece::{Layout, Statement},
};
use crate::oci::digest::Digest;

/// A blob that is being gathered. Shared by its writers and readers; when nobody holds it, it stays on disk for a later
/// [`begin`](super::Store::begin).
#[derive(Debug)]
pub struct Partial {
    digest: Digest,
    layout: Layout,
    file: DiskFile,
    path: PathBuf,
    map: PieceMap,
    // Both locks are std: they are held for a few instructions and never across an await.
    state: Mutex<State>,
    hashing: Mutex<Hashing>,
    /// Held while the pieces of an unclean stop are hashed again; `true` until that is done.
    unsettled: Mutex<bool>,
    changed: watch::Sender<()>,
    runtime: Handle,
    /// Weak, so that readers of what is unfinished do not keep the directory locked.
    store: Weak<Directory>,
}

#[derive(Debug)]
struct State {
    held: FixedBitSet,
    taken: FixedBitSet,
    /// How many pieces from the first on are held without a gap.
    prefix: u32,
    verified: Option<VerifiedDigest>,
    stored: Option<Result<Arc<Blob>, StoreError>>,
    failed: Option<StoreError>,
}

/// At most one thread hashes; it takes the hasher with it.
#[derive(Debug)]
struct Hashing {
    idle: Option<PrefixHasher>,
}

impl Partial {
    pub(super) fn new(
        digest: Digest,
        layout: Layout,
        (file, path): (DiskFile, PathBuf),
        map: PieceMap,
        store: &Arc<Directory>,
    ) -> Self {
        let count = layout.count() as usize;
        let state = State {
            held: FixedBitSet::with_capacity(count),
            taken: FixedBitSet::with_capacity(count),
            prefix: 0,
            verified: None,
            stored: None,
            failed: None,
        };
        Self {
            digest,
            layout,
            file,
            path,
            map,
            state: Mutex::new(state),
            hashing: Mutex::new(Hashing { idle: Some(PrefixHasher::default()) }),
            unsettled: Mutex::new(true),
            changed: watch::Sender::new(()),
            runtime: store.runtime.clone(),
            store: Arc::downgrade(store),
        }
    }

    /// Takes up what earlier runs left; with `suspect`, only pieces whose bytes still hash to what was stated count.
    pub(super) fn settle(self: &Arc<Self>, suspect: bool) -> Result<(), StoreError> {
        let mut unsettled = self.unsettled.lock().unwrap_or_else(PoisonError::into_inner);
        if !*unsettled {
            return Ok(());
        }
        for index in 0..self.layout.count() {
            let Some(statement) = self.map.read(index).map_err(self.io("read the piece map of"))? else { continue };
            let range = self.layout.range(index);
            if suspect {
                let found =
                    blake3_of(self.file.file(), range.start, range.end - range.start).map_err(self.io("read"))?;
                if found != statement.blake3 {
                    self.map.clear(index).map_err(self.io("write the piece map of"))?;
                    continue;
                }
            }
            self.state().insert(index);
        }
        *unsettled = false;
        self.hash_on();
        Ok(())
    }

    /// Its name.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// How it is cut into pieces.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Whether piece `index` is here. Its BLAKE3 agreed with its statement; the whole is not verified yet.
    pub fn has(&self, index: u32) -> bool {
        self.state().held.contains(index as usize)
    }

    /// Which pieces are here.
    pub fn pieces(&self) -> FixedBitSet {
        self.state().held.clone()
    }

    /// Which pieces of `wanted` are neither here nor being written.
    pub fn missing(&self, wanted: Range<u32>) -> Vec<u32> {
        let state = self.state();
        let end = wanted.end.min(self.layout.count());
        let free = |index: &u32| !state.held.contains(*index as usize) && !state.taken.contains(*index as usize);
        (wanted.start..end).filter(free).collect()
    }

    /// How many bytes are here.
    pub fn bytes(&self) -> u64 {
        self.state().held.ones().map(|index| self.layout.len(index as u32)).sum()
    }

    /// How many bytes from the start are here without a gap.
    pub fn prefix(&self) -> u64 {
        self.layout.range(self.state().prefix).start
    }

    /// Waits until piece `index` is here. Has no deadline of its own; fails when the blob turns out wrong or is discarded.
    pub async fn wait(&self, index: u32) -> Result<(), StoreError> {
        if index >= self.layout.count() {
            return Err(StoreError::NoSuchPiece(index));
        }
        self.until(|state| state.held.contains(index as usize).then_some(())).await
    }

    /// Waits until the piece that holds the byte at `offset` is here; at once when that is beyond the end.
    pub async fn wait_for(&self, offset: u64) -> Result<(), StoreError> {
        if offset >= self.layout.size() {
            return Ok(());
        }
        self.wait(self.layout.index_of(offset)).await
    }

    /// Waits until pieces were added, or the end came, since the last call with the same receiver: for maps pushed to peers.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Waits for the verdict: all pieces are here and their sha256 agrees. The client may have the last byte now.
    pub async fn verified(&self) -> Result<VerifiedDigest, StoreError> {
        self.until(|state| state.verified).await
    }

    /// Waits until the blob is synced to disk under its final name.
    pub async fn stored(&self) -> Result<Arc<Blob>, StoreError> {
        self.until(|state| state.stored.clone()).await?
    }

    /// Why nothing more will come of this, if so.
    pub fn failure(&self) -> Option<StoreError> {
        self.state().failed.clone()
    }

    /// Reads at `offset` until `buffer` is full, a missing piece or the end; how many bytes there were. Fails with
    /// [`StoreError::Missing`] when there is none. Blocks for the disk.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, StoreError> {
        let length = self.readable(offset, buffer.len())?;
        self.file.file().read_exact_at(&mut buffer[..length], offset).map_err(self.io("read"))?;
        Ok(length)
    }

    /// As [`read_at`](Self::read_at), but only what is in memory, and never blocks. `None`: nothing is, or it cannot be told.
    pub fn read_cached(&self, offset: u64, buffer: &mut [u8]) -> Option<usize> {
        let length = self.readable(offset, buffer.len()).ok()?;
        cached::read(self.file.file(), offset, &mut buffer[..length])
    }

    /// How many of `length` bytes at `offset` are here without a gap; 0 only at the end.
    fn readable(&self, offset: u64, length: usize) -> Result<usize, StoreError> {
        let wanted = self.layout.size().min(offset.saturating_add(length as u64));
        if offset >= wanted {
            return Ok(0);
        }
        let end = {
            let state = self.state();
            if let Some(failed) = &state.failed {
                return Err(failed.clone());
            }
            let pieces = self.layout.pieces(offset..wanted);
            let gap = pieces.clone().find(|index| !state.held.contains(*index as usize));
            self.layout.range(gap.unwrap_or(pieces.end)).start.min(wanted)
        };
        if end <= offset { Err(StoreError::Missing { offset }) } else { Ok((end - offset) as usize) }
    }

    /// What was stated about piece `index`; `None` when it is not here.
    pub fn statement(&self, index: u32) -> Result<Option<Statement>, StoreError> {
        if !self.has(index) {
            return Ok(None);
        }
        self.map.read(index).map_err(self.io("read the piece map of"))
    }

    /// The right to write piece `index`, for one at a time: dropping it unfinished gives it back.
    pub fn writer(self: &Arc<Self>, index: u32) -> Result<PieceWriter, StoreError> {
        if index >= self.layout.count() {
            return Err(StoreError::NoSuchPiece(index));
        }
        let mut state = self.state();
        if let Some(failed) = &state.failed {
            return Err(failed.clone());
        }
        if state.held.contains(index as usize) || state.taken.put(index as usize) {
            return Err(StoreError::Taken(index));
        }
        drop(state);
        Ok(PieceWriter::new(self.clone(), index))
    }

    /// Ends it for everybody who writes, reads or waits.
    pub(super) fn fail(&self, error: StoreError) {
        let mut state = self.state();
        if state.stored.is_none() && state.failed.is_none() {
            if state.verified.is_none() {
                state.held.clear();
                state.prefix = 0;
            }
            state.failed = Some(error);
        }
        drop(state);
        self.changed.send_replace(());
    }

    async fn until<T>(&self, ready: impl Fn(&State) -> Option<T>) -> Result<T, StoreError> {
        let mut changed = self.changed.subscribe();
        loop {
            {
                let state = self.state();
                if let Some(value) = ready(&state) {
                    return Ok(value);
                }
                if let Some(failed) = &state.failed {
                    return Err(failed.clone());
                }
            }
            // The sender lives in `self`, so this cannot fail while we wait.
            let _ = changed.changed().await;
        }
    }

    /// Lets a thread hash what has become contiguous, unless one is at it.
    fn hash_on(self: &Arc<Self>) {
        let mut hashing = self.hashing.lock().unwrap_or_else(PoisonError::into_inner);
        let end = self.prefix();
        let due = |hasher: &PrefixHasher| hasher.done() < end || end == self.layout.size();
        if let Some(hasher) = hashing.idle.take_if(|hasher| due(hasher)) {
            let this = self.clone();
            self.runtime.spawn_blocking(move || this.hash_prefix(hasher));
        }
    }

    fn hash_prefix(self: &Arc<Self>, mut hasher: PrefixHasher) {
        while hasher.done() < self.layout.size() {
            if let Err(error) = hasher.feed(self.file.file(), self.prefix()).map_err(self.io("read")) {
                return self.fail(error);
            }
            let mut hashing = self.hashing.lock().unwrap_or_else(PoisonError::into_inner);
            if hasher.done() >= self.prefix() && hasher.done() < self.layout.size() {
                hashing.idle = Some(hasher);
                return;
            }
        }
        match hasher.finish(&self.digest) {
            Some(proof) => {
                self.state().verified = Some(proof);
                self.changed.send_replace(());
                self.tell(Event::Verified(self.digest));
                let stored = self.keep(proof);
                if let Err(error) = &stored {
                    self.tell(Event::Dropped(self.digest));
                    tracing::warn!(digest = %self.digest, %error, "cannot keep a verified blob");
                }
                self.state().stored = Some(stored);
                self.changed.send_replace(());
            }
            None => {
                let stated = (0..self.layout.count()).filter_map(|index| self.map.read(index).ok().flatten()).collect();
                let error = StoreError::Mismatch { digest: self.digest, stated };
                match self.store.upgrade() {
                    Some(store) => store.forget(self, error),
                    None => self.fail(error),
                }
            }
        }
    }

    /// Syncs bytes and map, then lets the store take the file under its final name.
    fn keep(self: &Arc<Self>, proof: VerifiedDigest) -> Result<Arc<Blob>, StoreError> {
        self.file.sync().map_err(self.io("sync"))?;
        self.map.sync().map_err(self.io("sync the piece map of"))?;
        self.store.upgrade().ok_or(StoreError::Discarded(self.digest))?.admit(proof, self)
    }

    /// Nobody listening is no error.
    fn tell(&self, event: Event) {
        let _ = self.store.upgrade().map(|store| store.events.send(event));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn io(&self, what: &'static str) -> impl FnOnce(std::io::Error) -> StoreError {
        StoreError::io(what, &self.path)
    }
}

impl State {
    fn insert(&mut self, index: u32) {
        self.held.insert(index as usize);
        while (self.prefix as usize) < self.held.len() && self.held.contains(self.prefix as usize) {
            self.prefix += 1;
        }
    }
}
