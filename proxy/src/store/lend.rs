//! Blobs that somebody else on this node keeps as well: containerd, in its content store. One copy is enough, so ours goes: a
//! link to the other's file takes its name, and what is known of the blob (where it comes from, the hashes of its pieces)
//! stays beside it.
//!
//! The other's file is never written, and nothing is believed of it: it is hashed as a whole before our copy goes, and each
//! piece again when it is given away. It may vanish at any moment, with containerd's image: who has it open reads on, for
//! all others the blob is then one that we do not have. A blob that came to containerd alone is none of our business:
//! nobody has shown which registry gave it, so it could be given to nobody.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use nix::fcntl::OFlag;

use super::{
    Store, StoreError,
    blob::Blob,
    directory::Directory,
    disk::{self, DiskFile},
    evict::Kind,
    hash::{PrefixHasher, VerifiedDigest},
    piece::{Layout, MIN_PIECE},
};
use crate::oci::digest::Digest;

/// The least that is lent: a link takes a file of the disk, too.
const LEAST: u64 = MIN_PIECE;
/// How much is copied at once, in bytes.
const CHUNK: usize = 256 << 10;

/// Goes through the store and gives away what somebody else has.
#[derive(Debug)]
pub struct Lender {
    store: Store,
    dir: Option<PathBuf>,
    /// Files that are not what their name says, so that each is hashed once.
    refused: HashMap<Digest, Stamp>,
}

/// One state of a file: its number and its last change.
type Stamp = (u64, i64, i64);

/// What was found to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Blobs whose copy here has gone.
    pub lent: usize,
    /// Blobs that are here again.
    pub taken_back: usize,
    /// Blobs that the other has removed, and that are gone here, too.
    pub gone: usize,
}

impl Lender {
    /// `dir` holds whole blobs under the hexadecimal digits of their sha256; without one, what was lent is taken back.
    pub fn new(store: Store, dir: Option<PathBuf>) -> Self {
        Self { store, dir, refused: HashMap::new() }
    }

    /// Looks at each blob once; those that the other has for `settled` are given away. Blocks for the disk.
    pub fn sweep(&mut self, settled: Duration) -> Swept {
        let mut swept = Swept::default();
        for (digest, size, lent) in self.store.directory.complete() {
            let done = match self.dir.clone() {
                Some(dir) if lent && self.store.directory.leads_to(&digest, &dir) => Ok(()),
                _ if lent => self.store.take_back(&digest).map(|back| swept.taken_back += usize::from(back)),
                Some(dir) => self.lend(&dir, &digest, size, settled).map(|lent| swept.lent += usize::from(lent)),
                None => Ok(()),
            };
            if let Err(error) = done {
                tracing::debug!(%digest, %error, "a blob cannot be moved between the store and the content store");
            }
            if lent && self.store.directory.forget_unless_there(&digest, size) {
                tracing::debug!(%digest, "removed from the content store, and so from here");
                swept.gone += 1;
            }
        }
        swept
    }

    fn lend(&mut self, dir: &Path, digest: &Digest, size: u64, settled: Duration) -> Result<bool, StoreError> {
        if size < LEAST {
            return Ok(false);
        }
        let path = dir.join(digest.hex());
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
        let Ok(file) = OpenOptions::new().read(true).custom_flags(flags).open(&path) else { return Ok(false) };
        let meta = file.metadata().map_err(StoreError::io("look at", &path))?;
        let age = meta.modified().ok().and_then(|came| SystemTime::now().duration_since(came).ok());
        if !meta.is_file() || meta.len() != size || age.is_none_or(|age| age < settled) {
            return Ok(false);
        }
        let stamp = (meta.ino(), meta.mtime(), meta.mtime_nsec());
        if self.refused.get(digest) == Some(&stamp) {
            return Ok(false);
        }
        let Some((proof, blob)) = self.store.directory.examine(digest, size, file, &path)? else {
            tracing::warn!(file = %path.display(), "not the bytes of this name, or not the ones that came here");
            self.refused.insert(*digest, stamp);
            return Ok(false);
        };
        self.store.directory.lend(proof, &blob, &path)
    }
}

impl Store {
    /// How many blobs are lent, and their bytes, of which none counts for the quota.
    pub fn lent(&self) -> (u64, u64) {
        let index = self.directory.index();
        let lent = index.iter().filter(|(_, entry)| entry.is_lent());
        lent.fold((0, 0), |(blobs, bytes), (_, entry)| (blobs + 1, bytes + entry.size))
    }

    /// Whose file holds the bytes of a blob; `None` when it is the store's own.
    pub fn lent_to(&self, digest: &Digest) -> Option<PathBuf> {
        self.directory.index().get(digest).filter(|entry| entry.is_lent())?;
        fs::read_link(self.directory.paths.blob(digest)).ok()
    }

    /// Copies the bytes of a lent blob back; whether it was one.
    fn take_back(&self, digest: &Digest) -> Result<bool, StoreError> {
        let _still = self.directory.moving();
        self.own(digest)
    }

    /// See [`Self::take_back`]; for who holds the lock of moving.
    pub(super) fn own(&self, digest: &Digest) -> Result<bool, StoreError> {
        let Some(blob) = self.get(digest).filter(|blob| blob.is_lent()) else { return Ok(false) };
        let (directory, path) = (&self.directory, self.directory.paths.partial(digest));
        directory.make_room(&mut directory.index(), digest, blob.size(), blob.size())?;
        let copied = copy(&blob, &path);
        let mut index = directory.index();
        match copied {
            Ok(Some(proof)) if index.get(digest).is_some_and(|entry| entry.is_lent()) => {
                directory.name(&mut index, proof, blob.size()).map(|_| true)
            }
            wrong => {
                disk::remove(&path).map_err(StoreError::io("remove", &path))?;
                if matches!(wrong, Ok(None)) {
                    directory.evict(&mut index, &[*digest])?;
                }
                wrong.and(Err(StoreError::Discarded(*digest)))
            }
        }
    }
}

/// Writes and syncs all of `blob` to `path`. `None`: its bytes are not what its name says.
fn copy(blob: &Blob, path: &Path) -> Result<Option<VerifiedDigest>, StoreError> {
    let copy = DiskFile::create(path).map_err(StoreError::io("create", path))?;
    let (mut at, mut chunk) = (0, vec![0; CHUNK]);
    while at < blob.size() {
        let read = blob.read_at(at, &mut chunk)?;
        copy.write_all_at(&chunk[..read], at).map_err(StoreError::io("write", path))?;
        at += read as u64;
    }
    copy.sync().map_err(StoreError::io("sync", path))?;
    let mut hasher = PrefixHasher::default();
    hasher.feed(copy.file(), blob.size()).map_err(StoreError::io("read", path))?;
    Ok(hasher.finish(&blob.digest()))
}

impl Directory {
    /// All complete blobs, with their lengths, and whether they are lent.
    fn complete(&self) -> Vec<(Digest, u64, bool)> {
        let index = self.index();
        let complete = index.iter().filter(|(_, entry)| entry.is_complete());
        complete.map(|(digest, entry)| (*digest, entry.size, entry.is_lent())).collect()
    }

    fn leads_to(&self, digest: &Digest, dir: &Path) -> bool {
        fs::read_link(self.paths.blob(digest)).is_ok_and(|target| target.parent() == Some(dir))
    }

    /// Drops a lent blob whose file is gone or has another length; whether it did.
    fn forget_unless_there(&self, digest: &Digest, size: u64) -> bool {
        let mut index = self.index();
        if !index.get(digest).is_some_and(|entry| entry.is_lent()) || self.open_blob(digest, size, true).is_some() {
            return false;
        }
        self.evict(&mut index, &[*digest]).is_ok()
    }

    /// Hashes somebody else's file: `None` unless it is the blob, in the pieces that are known of it.
    fn examine(
        &self,
        digest: &Digest,
        size: u64,
        file: File,
        path: &Path,
    ) -> Result<Option<(VerifiedDigest, Arc<Blob>)>, StoreError> {
        let (Some(map), Ok(layout)) = (self.map(digest), Layout::new(size)) else { return Ok(None) };
        let mut hasher = PrefixHasher::default();
        hasher.feed(&file, size).map_err(StoreError::io("read", path))?;
        let Some(proof) = hasher.finish(digest) else { return Ok(None) };
        let blob = Blob::lent(*digest, layout, file, self.paths.blob(digest), map);
        for index in 0..layout.count() {
            if !blob.is_intact(index)? {
                return Ok(None);
            }
        }
        Ok(Some((proof, Arc::new(blob))))
    }

    /// Lets a link to `target` take the name of our copy, at once. Who has that open reads on.
    fn lend(&self, proof: VerifiedDigest, blob: &Arc<Blob>, target: &Path) -> Result<bool, StoreError> {
        let (digest, link) = (proof.digest(), self.paths.link());
        let _still = self.moving();
        let mut index = self.index();
        if !index.get(&digest).is_some_and(|entry| matches!(entry.kind, Kind::Blob(_)) && !entry.pinned) {
            return Ok(false);
        }
        disk::remove(&link).map_err(StoreError::io("remove", &link))?;
        disk::link(target, &link).map_err(StoreError::io("create", &link))?;
        disk::rename(&link, &self.paths.blob(&digest)).map_err(StoreError::io("rename", &link))?;
        index.insert(digest, blob.size(), false, Kind::Lent(Arc::downgrade(blob)));
        self.paths.sync_links()?;
        Ok(true)
    }
}
