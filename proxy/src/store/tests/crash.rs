//! The end at every single change on disk: the process killed, or the power gone.
//!
//! A life of the store is written down change by change. For each number of changes, the disk is made as it may look when
//! nothing more came after them, and a store is opened on it. What a kill leaves is all of them. What a power failure leaves
//! is what was synced; the rest may be there, be zero or be missing, each name and each page for itself.

mod disk;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;

use self::disk::{Disk, ENDS, End};
use super::{
    super::disk::journal::{Journal, Op},
    *,
};

/// What the store had said when the end came.
#[derive(Debug, Clone)]
enum Promise {
    Stored(Digest),
    /// And so it stays, whatever else is written about it.
    Pinned(Digest),
    /// May be gone from here on, or not.
    Released(Digest),
}

/// What was in a life: the changes, what was promised after how many of them, and the blobs.
struct Life {
    dir: TempDir,
    journal: Journal,
    promises: Vec<(usize, Promise)>,
    blobs: BTreeMap<Digest, Vec<u8>>,
}

impl Life {
    fn begin() -> Self {
        let dir = TempDir::new().unwrap();
        let journal = Journal::of(&dir.path().join("store"));
        Self { dir, journal, promises: Vec::new(), blobs: BTreeMap::new() }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn said(&mut self, promise: Promise) {
        self.promises.push((self.journal.len(), promise));
    }

    fn blob(&mut self, seed: u64, size: u64) -> (Digest, Vec<u8>) {
        let bytes = content(seed, size);
        self.blobs.insert(Digest::of(&bytes), bytes.clone());
        (Digest::of(&bytes), bytes)
    }

    async fn put(&mut self, store: &Store, seed: u64, size: u64) -> Digest {
        let (digest, bytes) = self.blob(seed, size);
        super::put(store, &bytes).await;
        self.said(Promise::Stored(digest));
        digest
    }

    /// What is promised when `done` changes are made: stored, and pinned.
    fn promised(&self, done: usize) -> (BTreeSet<Digest>, BTreeSet<Digest>) {
        let (mut stored, mut pinned) = (BTreeSet::new(), BTreeSet::new());
        for (at, promise) in &self.promises {
            match promise {
                Promise::Stored(digest) if *at <= done => drop(stored.insert(*digest)),
                Promise::Pinned(digest) if *at <= done => drop(pinned.insert(*digest)),
                // What ends a promise begins before it is over.
                Promise::Released(digest) if *at < done => {
                    stored.remove(digest);
                    pinned.remove(digest);
                }
                _ => {}
            }
        }
        (stored, pinned)
    }
}

fn provenance(repository: &str) -> Provenance {
    Provenance { registry: "registry.example".into(), repository: repository.into() }
}

/// All that a store does: blobs in and out of order, notes, pins, an eviction, a discard, a blob that does not add up, two
/// clean stops, and a start after which something is left untouched.
async fn live() -> Life {
    let mut life = Life::begin();
    let config = Config { dir: life.root(), quota: 5 * MIB / 2, low_disk: 0 };
    let store = Store::open(config.clone()).unwrap();
    let pinned = life.put(&store, 1, 600 << 10).await;
    store.add_provenance(&pinned, provenance("a")).unwrap();
    store.pin(&pinned, true).unwrap();
    life.said(Promise::Pinned(pinned));
    store.add_provenance(&pinned, provenance("b")).unwrap();
    let old = life.put(&store, 2, 300 << 10).await;
    // Left unfinished, with a gap.
    let (begun, bytes) = life.blob(3, 700 << 10);
    let partial = store.begin(&begun, bytes.len() as u64).unwrap();
    put_piece(&partial, 0, &bytes);
    put_piece(&partial, 2, &bytes);
    drop(partial);
    store.close().unwrap();
    drop(store);

    let store = Store::open(config.clone()).unwrap();
    let imported = life.put(&store, 4, 5000).await;
    store.import(&imported, &provenance("c")).unwrap();
    life.said(Promise::Pinned(imported));
    let partial = store.begin(&begun, bytes.len() as u64).unwrap();
    put_piece(&partial, 1, &bytes);
    partial.stored().await.unwrap();
    drop(partial);
    life.said(Promise::Stored(begun));
    // Does not add up.
    let wrong = Digest::of(b"not these bytes");
    let partial = store.begin(&wrong, 200 << 10).unwrap();
    put_piece(&partial, 0, &content(5, 200 << 10));
    assert!(partial.verified().await.is_err());
    drop(partial);
    // Needs room: the oldest goes.
    life.said(Promise::Released(old));
    life.said(Promise::Released(begun));
    let new = life.put(&store, 6, 1000 << 10).await;
    assert!(store.get(&old).is_none());
    // Left unfinished by a process that was killed, and not looked at by the next one.
    let (lost, bytes) = life.blob(7, 600 << 10);
    let partial = store.begin(&lost, bytes.len() as u64).unwrap();
    put_piece(&partial, 1, &bytes);
    drop((partial, store));

    let store = Store::open(config.clone()).unwrap();
    life.said(Promise::Released(new));
    store.discard(&new).unwrap();
    // Two that somebody else has, too; one is wanted back.
    let (lent, kept) = (life.put(&store, 8, 400 << 10).await, life.put(&store, 9, 300 << 10).await);
    let outside = life.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    for digest in [lent, kept] {
        fs::write(outside.join(digest.hex()), &life.blobs[&digest]).unwrap();
    }
    assert_eq!(Lender::new(store.clone(), Some(outside)).sweep(Duration::ZERO).lent, 2);
    store.pin(&kept, true).unwrap();
    life.said(Promise::Pinned(kept));
    store.close().unwrap();
    drop(store);
    let store = Store::open(config).unwrap();
    assert!(store.partial(&lost).unwrap().has(1));
    assert_eq!((store.lent_to(&lent).is_some(), store.lent_to(&kept)), (true, None));
    drop(store);
    life
}

/// What is wrong with the store that is left in `root`; what is there is there with the right bytes, what was promised is there,
/// and the index is the disk.
async fn examine(
    life: &Life,
    done: usize,
    synced: &BTreeMap<Digest, BTreeSet<u32>>,
    root: &Path,
) -> Result<(), String> {
    let config = Config { dir: root.to_owned(), quota: 64 * MIB, low_disk: 0 };
    let opened = |config: &Config| Store::open(config.clone()).map_err(|error| format!("does not open: {error}"));
    // A start that looks at nothing, and a clean stop, must not make doubtful pieces good.
    let store = opened(&config)?;
    store.close().map_err(|error| error.to_string())?;
    drop(store);
    let store = opened(&config)?;
    index_is_the_disk(&store, root)?;
    for digest in store.held() {
        let bytes = life.blobs.get(&digest).ok_or(format!("{digest} was never whole"))?;
        let blob = store.get(&digest).ok_or(format!("{digest} is listed and cannot be had"))?;
        if read_all(&blob) != *bytes {
            return Err(format!("{digest} has wrong bytes"));
        }
    }
    let (stored, pinned) = life.promised(done);
    for digest in &stored {
        let blob = store.get(digest).ok_or(format!("{digest} was stored and is gone"))?;
        // Without them no peer is given anything of it.
        if blob.statements().unwrap().iter().any(Option::is_none) {
            return Err(format!("{digest} is held without the hashes of its pieces"));
        }
    }
    for digest in &pinned {
        let info = store.info(digest).ok_or(format!("{digest} was pinned and is gone"))?;
        if !info.pinned {
            return Err(format!("{digest} was pinned and is not"));
        }
    }
    for (digest, bytes) in &life.blobs {
        if store.get(digest).is_some() {
            continue;
        }
        let partial = store.partial(digest);
        let held: BTreeSet<u32> =
            partial.iter().flat_map(|it| it.pieces().ones().collect::<Vec<_>>()).map(|it| it as u32).collect();
        if let Some(missing) = synced.get(digest).and_then(|synced| synced.difference(&held).next()) {
            return Err(format!("piece {missing} of {digest} was synced and is lost"));
        }
        for index in held {
            let range = partial.as_ref().unwrap().layout().range(index);
            let mut read = vec![0; (range.end - range.start) as usize];
            // The last piece may just have made it whole.
            let Ok(_) = partial.as_ref().unwrap().read_at(range.start, &mut read) else { continue };
            if read != bytes[range.start as usize..range.end as usize] {
                return Err(format!("piece {index} of {digest} counts and has wrong bytes"));
            }
        }
        if let Some(partial) = partial.filter(|it| it.bytes() == it.layout().size()) {
            // It is being taken up; it must end before the directory goes.
            partial.stored().await.map_err(|error| error.to_string())?;
        }
    }
    // And it goes on.
    let (digest, bytes) = life.blobs.iter().next().unwrap();
    if store.get(digest).is_none() {
        let partial = store.begin(digest, bytes.len() as u64).map_err(|error| error.to_string())?;
        for index in partial.missing(0..u32::MAX) {
            put_piece(&partial, index, bytes);
        }
        partial.stored().await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Nothing lies there that nobody knows of, and nothing is known that is not there.
fn index_is_the_disk(store: &Store, root: &Path) -> Result<(), String> {
    let names = |dir: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(root.join(dir)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap().replace(".json", "")).collect()
    };
    let index = store.directory.index();
    let known = |blobs: bool| -> BTreeSet<String> {
        index.iter().filter(|(_, entry)| entry.is_complete() == blobs).map(|(digest, _)| digest.hex()).collect()
    };
    let (blobs, partials) = (known(true), known(false));
    if blobs != names("blobs/sha256") || partials != names("partial") {
        return Err(format!("the index knows {blobs:?} and {partials:?}"));
    }
    let stray = |dir: &str| names(dir).into_iter().find(|name| !blobs.contains(name) && !partials.contains(name));
    for dir in ["maps", "info"] {
        if let Some(name) = stray(dir) {
            return Err(format!("{dir}/{name} is of nothing that is held"));
        }
    }
    Ok(())
}

/// The pieces that are on the disk for good: from the moment on when all was synced and the blob is about to get its name.
fn synced_at(ops: &[Op], life: &Life) -> BTreeMap<Digest, BTreeSet<u32>> {
    let mut synced = BTreeMap::new();
    for op in ops {
        match op {
            Op::Rename { from, .. } if from.parent().is_some_and(|dir| dir.ends_with("partial")) => {
                let digest = digest_of(from);
                let count = Layout::new(life.blobs[&digest].len() as u64).unwrap().count();
                synced.insert(digest, (0..count).collect());
            }
            Op::Remove { path } if path.parent().is_some_and(|dir| dir.ends_with("blobs/sha256")) => {
                synced.remove(&digest_of(path));
            }
            _ => {}
        }
    }
    synced
}

fn digest_of(path: &Path) -> Digest {
    format!("sha256:{}", path.file_name().unwrap().to_str().unwrap()).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_may_come_at_any_write() {
    let life = live().await;
    let ops = life.journal.ops();
    let mut disk = Disk::default();
    let mut broken = BTreeMap::<String, Vec<String>>::new();
    let mut tried = 0;
    for done in 0..=ops.len() {
        if done > 0 {
            disk.apply(&ops[done - 1]);
        }
        for end in ENDS {
            let left = TempDir::new().unwrap();
            let root = left.path().join("store");
            fs::create_dir(&root).unwrap();
            disk.write(end, &life.root(), &root);
            tried += 1;
            if let Err(wrong) = examine(&life, done, &synced_at(&ops[..done], &life), &root).await {
                let last = done.checked_sub(1).map(|last| shown(&ops[last], &life.root()));
                broken.entry(wrong).or_default().push(format!("{end:?} after {done}: {last:?}"));
            }
        }
    }
    assert!(broken.is_empty(), "of {tried} ends:\n{broken:#?}");
    assert!(tried > 600, "only {tried}");
}

/// An operation in a word.
fn shown(op: &Op, root: &Path) -> String {
    let name = |path: &Path| path.strip_prefix(root).unwrap_or(path).display().to_string();
    match op {
        Op::Open { path, anew, .. } => format!("open {} anew: {anew}", name(path)),
        Op::Write { handle, offset, bytes } => format!("write {} bytes at {offset} to {handle}", bytes.len()),
        Op::SetLen { handle, length } => format!("length {length} of {handle}"),
        Op::Sync { handle } => format!("sync {handle}"),
        Op::Link { target, path } => format!("link {} to {}", name(path), target.display()),
        Op::Rename { from, to } => format!("rename {} {}", name(from), name(to)),
        Op::Remove { path } => format!("remove {}", name(path)),
        Op::MakeDir { path } => format!("mkdir {}", name(path)),
        Op::SyncDir { path } => format!("sync names in {}", name(path)),
    }
}

/// The journal is the whole truth: what it says was done gives the directory that there is.
#[tokio::test]
async fn no_change_escapes_the_journal() {
    let life = live().await;
    let mut disk = Disk::default();
    for op in life.journal.ops() {
        disk.apply(&op);
    }
    let left = TempDir::new().unwrap();
    disk.write(End::Killed, &life.root(), left.path());
    let real = files(&life.root());
    assert_eq!(files(left.path()), real);
    assert!(real.len() > 8, "{:?}", real.keys());
}

/// Everything below a directory but the lock, which says nothing.
fn files(dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(dir).unwrap().to_owned();
            if path.is_dir() {
                left.push(path);
                found.insert(name, None);
            } else if name != Path::new("lock") {
                found.insert(name, Some(fs::read(&path).unwrap()));
            }
        }
    }
    found
}
