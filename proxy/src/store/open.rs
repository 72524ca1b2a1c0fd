//! Opening the directory: its version, its owner, whether it was closed cleanly, and what lies in it. Files with unknown
//! names are left alone.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Weak,
    time::SystemTime,
};

use nix::sys::statvfs::statvfs;

use super::{
    disk::{self, DiskFile},
    error::StoreError,
    evict::{Index, Kind},
    info::{Info, TEMPORARY},
};
use crate::oci::digest::Digest;

/// The format this program writes.
const FORMAT: u32 = 1;

/// The names of everything in the store.
#[derive(Debug)]
pub(super) struct Paths {
    dir: PathBuf,
}

impl Paths {
    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    pub(super) fn partial(&self, digest: &Digest) -> PathBuf {
        self.dir.join("partial").join(digest.hex())
    }

    pub(super) fn map(&self, digest: &Digest) -> PathBuf {
        self.dir.join("maps").join(digest.hex())
    }

    pub(super) fn info(&self, digest: &Digest) -> PathBuf {
        self.dir.join("info").join(format!("{}.json", digest.hex()))
    }

    /// Where a link is made before it takes a blob's name.
    pub(super) fn link(&self) -> PathBuf {
        self.dir.join("blobs").join("link").with_extension(TEMPORARY)
    }

    pub(super) fn clean(&self) -> PathBuf {
        self.dir.join("clean")
    }

    /// Every file about one blob.
    pub(super) fn all(&self, digest: &Digest) -> [PathBuf; 4] {
        [self.blob(digest), self.partial(digest), self.map(digest), self.info(digest)]
    }

    /// Bytes that the file system has for us.
    pub(super) fn free(&self) -> Result<u64, StoreError> {
        let stat =
            statvfs(&self.dir).map_err(|error| StoreError::io("ask for free space in", &self.dir)(error.into()))?;
        Ok(stat.blocks_available() as u64 * stat.fragment_size() as u64)
    }

    /// Makes the names of partials and of their piece maps durable.
    pub(super) fn sync_partials(&self) -> Result<(), StoreError> {
        sync_names_in(&self.dir.join("maps"))?;
        sync_names_in(&self.dir.join("partial"))
    }

    /// Makes the names of blobs durable.
    pub(super) fn sync_links(&self) -> Result<(), StoreError> {
        sync_names_in(&self.blobs())
    }

    /// Makes durable that partials became blobs.
    pub(super) fn sync_blobs(&self) -> Result<(), StoreError> {
        sync_names_in(&self.blobs())?;
        sync_names_in(&self.dir.join("partial"))
    }

    fn blobs(&self) -> PathBuf {
        self.dir.join("blobs/sha256")
    }
}

/// Takes possession of the directory and lists it. Nothing is touched when it is somebody else's or newer.
pub(super) fn open(dir: &Path) -> Result<(Paths, File, String, Index), StoreError> {
    let paths = Paths { dir: dir.to_owned() };
    fs::create_dir_all(dir).map_err(StoreError::io("create", dir))?;
    let version = dir.join("version");
    let found = match fs::read_to_string(&version) {
        Ok(text) => Some(text.trim().parse().map_err(|_| StoreError::NotAStore { path: version.as_path().into() })?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(StoreError::io("read", &version)(error)),
    };
    if let Some(found) = found.filter(|found| *found > FORMAT) {
        return Err(StoreError::Newer { dir: dir.into(), found, known: FORMAT });
    }
    let lock = lock(dir)?;
    for name in ["blobs", "blobs/sha256", "partial", "maps", "info"] {
        let path = dir.join(name);
        disk::make_dir(&path).map_err(StoreError::io("create", &path))?;
    }
    if found.is_none() {
        sync_names_in(&dir.join("blobs"))?;
        sync_names_in(dir)?;
        // It says that the directories are there for good, too.
        write_version(&version).map_err(StoreError::io("write", &version))?;
        sync_names_in(dir)?;
    }
    let boot = boot_id()?;
    let clean = fs::read_to_string(paths.clean()).is_ok_and(|text| text == boot);
    disk::remove(&paths.clean()).map_err(StoreError::io("remove", &paths.clean()))?;
    disk::remove(&paths.link()).map_err(StoreError::io("remove", &paths.link()))?;
    let index = list(&paths, !clean)?;
    Ok((paths, lock, boot, index))
}

fn sync_names_in(dir: &Path) -> Result<(), StoreError> {
    disk::sync_dir(dir).map_err(StoreError::io("sync", dir))
}

/// There whole or not at all, also after a power failure: a store is not opened without it.
fn write_version(path: &Path) -> io::Result<()> {
    let temporary = path.with_extension(TEMPORARY);
    let file = DiskFile::create(&temporary)?;
    file.write_all_at(format!("{FORMAT}\n").as_bytes(), 0)?;
    file.sync()?;
    disk::rename(&temporary, path)
}

fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(StoreError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked { dir: dir.into() }),
        Err(TryLockError::Error(error)) => Err(StoreError::io("lock", &path)(error)),
    }
}

/// Changes with each boot: what the page cache held before is only on disk if somebody synced it.
pub(super) fn boot_id() -> Result<String, StoreError> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    Ok(fs::read_to_string(path).map_err(StoreError::io("read", path))?.trim().to_owned())
}

/// What is held, least recently used first in the order of the clock.
fn list(paths: &Paths, suspect: bool) -> Result<Index, StoreError> {
    let mut found = Vec::new();
    for (digest, size, modified, lent) in digests(&paths.blobs())? {
        let kind = if lent { Kind::Lent(Weak::new()) } else { Kind::Blob(Weak::new()) };
        found.push((digest, size, modified, kind));
    }
    let complete: HashSet<_> = found.iter().map(|(digest, ..)| *digest).collect();
    for (digest, size, modified, _) in digests(&paths.dir.join("partial"))? {
        if complete.contains(&digest) {
            let path = paths.partial(&digest);
            disk::remove(&path).map_err(StoreError::io("remove", &path))?;
        } else {
            found.push((digest, size, modified, Kind::Partial { open: Weak::new(), suspect }));
        }
    }
    let known: HashSet<Digest> = found.iter().map(|(digest, ..)| *digest).collect();
    for dir in ["maps", "info"] {
        remove_strays(&paths.dir.join(dir), &known)?;
    }
    for (digest, _, used, _) in &mut found {
        if let Ok(noted) = fs::metadata(paths.info(digest)).and_then(|meta| meta.modified()) {
            *used = noted;
        }
    }
    found.sort_unstable_by_key(|(digest, _, used, _)| (*used, *digest));
    let mut index = Index::default();
    for (digest, size, _, kind) in found {
        let info = Info::read(&paths.info(&digest));
        index.insert(digest, size, info.as_ref().is_some_and(|info| info.pinned), kind);
        for one in info.into_iter().flat_map(|info| info.imported) {
            index.imported(one.registry);
        }
    }
    Ok(index)
}

/// Name, length, last change, and whether it is a link to somebody else's file. A link that leads nowhere is removed.
fn digests(dir: &Path) -> Result<Vec<(Digest, u64, SystemTime, bool)>, StoreError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(StoreError::io("list", dir))? {
        let entry = entry.map_err(StoreError::io("list", dir))?;
        let name = entry.file_name();
        let digest = name.to_str().and_then(|name| format!("sha256:{name}").parse().ok());
        let Some(digest) = digest else { continue };
        let (path, link) = (entry.path(), entry.file_type().is_ok_and(|kind| kind.is_symlink()));
        match fs::metadata(&path) {
            Ok(meta) if meta.is_file() => {
                found.push((digest, meta.len(), meta.modified().unwrap_or(SystemTime::UNIX_EPOCH), link));
            }
            _ if link => disk::remove(&path).map_err(StoreError::io("remove", &path))?,
            _ => {}
        }
    }
    Ok(found)
}

/// Removes what an end between two changes left behind: notes of what is not held, and those half written.
fn remove_strays(dir: &Path, known: &HashSet<Digest>) -> Result<(), StoreError> {
    for entry in fs::read_dir(dir).map_err(StoreError::io("list", dir))?.flatten() {
        let path = entry.path();
        let of = path.file_stem().and_then(|hex| format!("sha256:{}", hex.to_str()?).parse().ok());
        let is_temporary = path.extension().is_some_and(|extension| extension == TEMPORARY);
        if is_temporary || of.is_some_and(|digest| !known.contains(&digest)) {
            disk::remove(&path).map_err(StoreError::io("remove", &path))?;
        }
    }
    Ok(())
}
