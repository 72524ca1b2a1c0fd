//! What is lent to somebody else's file, and what happens when that changes.

use std::{os::unix::fs::MetadataExt as _, path::PathBuf, time::Duration};

use super::*;

/// A store and somebody else's directory.
struct Two {
    dir: TempDir,
    store: Store,
    lender: Lender,
}

impl Two {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        let store = Store::open(config(&dir)).unwrap();
        let lender = Lender::new(store.clone(), Some(dir.path().join("outside")));
        Self { dir, store, lender }
    }

    fn theirs(&self, digest: &Digest) -> PathBuf {
        self.dir.path().join("outside").join(digest.hex())
    }

    fn ours(&self, digest: &Digest) -> PathBuf {
        self.store.directory.paths.blob(digest)
    }

    /// A blob that both have, and that is lent.
    async fn lent(&mut self, seed: u64, size: u64) -> (Digest, Vec<u8>) {
        let bytes = content(seed, size);
        let digest = put(&self.store, &bytes).await;
        fs::write(self.theirs(&digest), &bytes).unwrap();
        assert_eq!(self.sweep(), Swept { lent: 1, ..Swept::default() });
        (digest, bytes)
    }

    fn sweep(&mut self) -> Swept {
        self.lender.sweep(Duration::ZERO)
    }
}

#[tokio::test]
async fn one_copy_is_enough_and_all_that_is_known_stays() {
    let mut two = Two::new();
    let bytes = content(1, 3 * MIB + 17);
    let digest = put(&two.store, &bytes).await;
    let provenance = Provenance { registry: "docker.io".into(), repository: "library/debian".into() };
    two.store.add_provenance(&digest, provenance.clone()).unwrap();
    let reader = two.store.get(&digest).unwrap();
    fs::write(two.theirs(&digest), &bytes).unwrap();

    assert_eq!(two.lender.sweep(Duration::from_secs(600)), Swept::default(), "it came a moment ago");
    assert_eq!(two.sweep(), Swept { lent: 1, ..Swept::default() });
    assert!(fs::symlink_metadata(two.ours(&digest)).unwrap().is_symlink());
    assert_eq!((two.store.bytes(), two.store.lent()), (0, (1, bytes.len() as u64)));
    assert_eq!(two.store.lent_to(&digest), Some(two.theirs(&digest)));
    assert_eq!(read_all(&reader), bytes, "who had it open reads on");
    assert_eq!(two.sweep(), Swept::default());

    // A restart finds it so.
    let Two { dir, store, lender } = two;
    drop((store, lender, reader));
    let store = Store::open(config(&dir)).unwrap();
    let blob = store.get(&digest).unwrap();
    assert_eq!(read_all(&blob), bytes);
    assert!((0..blob.layout().count()).all(|index| blob.is_intact(index).unwrap()));
    assert_eq!(store.info(&digest).unwrap().provenance, [provenance]);
    assert_eq!((store.held(), store.bytes()), (vec![digest], 0));
    assert_eq!(store.verify(&digest).unwrap(), Some(true));
}

#[tokio::test]
async fn what_is_not_the_blob_is_never_lent_to() {
    let mut two = Two::new();
    let bytes = content(2, MIB);
    let digest = put(&two.store, &bytes).await;
    let mut wrong = bytes.clone();
    wrong[700_000] ^= 1;
    for other in [&wrong[..], &bytes[..1000], b""] {
        fs::write(two.theirs(&digest), other).unwrap();
        assert_eq!(two.sweep(), Swept::default());
    }
    // A link might lead anywhere.
    fs::remove_file(two.theirs(&digest)).unwrap();
    fs::write(two.dir.path().join("elsewhere"), &bytes).unwrap();
    std::os::unix::fs::symlink(two.dir.path().join("elsewhere"), two.theirs(&digest)).unwrap();
    assert_eq!(two.sweep(), Swept::default());
    assert_eq!(two.store.bytes(), MIB);
    // Mended, it is another file.
    fs::remove_file(two.theirs(&digest)).unwrap();
    fs::write(two.theirs(&digest), &bytes).unwrap();
    assert_eq!(two.sweep().lent, 1);
    // What only they have is not ours to give.
    let foreign = content(3, MIB);
    fs::write(two.theirs(&Digest::of(&foreign)), &foreign).unwrap();
    assert_eq!(two.sweep(), Swept::default());
    assert!(two.store.get(&Digest::of(&foreign)).is_none());
}

#[tokio::test]
async fn without_the_hash_of_each_piece_nothing_is_lent_and_nothing_lent_is_believed() {
    let mut two = Two::new();
    let bytes = content(4, MIB);
    let digest = put(&two.store, &bytes).await;
    fs::write(two.theirs(&digest), &bytes).unwrap();
    let map = two.store.directory.paths.map(&digest);
    let good = fs::read(&map).unwrap();
    let mut torn = good.clone();
    torn[72 + 136 + 5] ^= 1;
    fs::write(&map, torn).unwrap();
    assert_eq!(two.sweep(), Swept::default());
    fs::write(&map, &good).unwrap();
    // Refused once, until the file is another one.
    fs::File::options().write(true).open(two.theirs(&digest)).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(two.sweep().lent, 1);
    fs::write(&map, &good[..72 + 136]).unwrap();
    let blob = two.store.get(&digest).unwrap();
    assert!(blob.is_intact(0).unwrap() && !blob.is_intact(1).unwrap());
    drop(blob);
    fs::remove_file(&map).unwrap();
    assert!(two.store.get(&digest).is_none());
}

#[tokio::test]
async fn a_file_that_is_removed_is_a_blob_that_is_not_held() {
    let mut two = Two::new();
    let (first, bytes) = two.lent(5, MIB).await;
    let (second, _) = two.lent(6, MIB).await;
    let (third, _) = two.lent(7, MIB).await;
    let mut events = two.store.events();
    let reader = two.store.get(&first).unwrap();
    for digest in [&first, &second, &third] {
        fs::remove_file(two.theirs(digest)).unwrap();
    }
    assert_eq!(read_all(&reader), bytes, "who had it open reads on");
    drop(reader);
    assert!(two.store.get(&first).is_none(), "asked for");
    assert_eq!(events.try_recv().unwrap(), Event::Dropped(first));
    assert_eq!(two.sweep(), Swept { gone: 2, ..Swept::default() });
    assert!(matches!(events.try_recv().unwrap(), Event::Dropped(_)));
    assert!(two.store.info(&second).is_none() && two.store.held().is_empty());
    assert!(!two.ours(&second).is_symlink());
    // And it can come again.
    assert_eq!(put(&two.store, &bytes).await, first);
    assert_eq!(two.store.bytes(), MIB);

    // While nobody looked.
    let (fourth, _) = two.lent(8, MIB).await;
    let Two { dir, store, lender } = two;
    fs::remove_file(dir.path().join("outside").join(fourth.hex())).unwrap();
    drop((store, lender));
    let store = Store::open(config(&dir)).unwrap();
    assert!(store.get(&fourth).is_none() && store.info(&fourth).is_none());
    assert!(!store.directory.paths.blob(&fourth).is_symlink());
}

#[tokio::test]
async fn a_damaged_file_is_found_piece_by_piece_and_only_ours_is_thrown_away() {
    let mut two = Two::new();
    let (digest, bytes) = two.lent(9, MIB).await;
    let blob = two.store.get(&digest).unwrap();
    fs::File::options().write(true).open(two.theirs(&digest)).unwrap().write_all_at(b"!", 300_000).unwrap();
    assert!(blob.is_intact(0).unwrap() && !blob.is_intact(1).unwrap());
    two.store.discard(&digest).unwrap();
    assert_eq!(fs::metadata(two.theirs(&digest)).unwrap().size(), MIB, "theirs is theirs");
    // What comes instead stays here.
    assert_eq!(put(&two.store, &bytes).await, digest);
    assert_eq!(two.sweep(), Swept::default());
    assert_eq!(read_all(&two.store.get(&digest).unwrap()), bytes);
}

#[tokio::test]
async fn what_is_pinned_or_imported_is_here() {
    let mut two = Two::new();
    let (pinned, bytes) = two.lent(10, MIB).await;
    let (imported, _) = two.lent(11, MIB).await;
    two.store.pin(&pinned, true).unwrap();
    two.store.import(&imported, &Provenance { registry: "r.test".into(), repository: "a".into() }).unwrap();
    assert_eq!((two.store.bytes(), two.store.lent()), (2 * MIB, (0, 0)));
    assert_eq!(two.sweep(), Swept::default(), "what is pinned is not lent");
    for digest in [pinned, imported] {
        fs::remove_file(two.theirs(&digest)).unwrap();
        assert_eq!(two.store.verify(&digest).unwrap(), Some(true));
    }
    assert_eq!(read_all(&two.store.get(&pinned).unwrap()), bytes);

    // What is damaged cannot be pinned.
    let (damaged, _) = two.lent(12, MIB).await;
    fs::write(two.theirs(&damaged), content(13, MIB)).unwrap();
    assert!(two.store.pin(&damaged, true).is_err());
    assert!(two.store.get(&damaged).is_none());
}

#[tokio::test]
async fn without_a_directory_all_comes_back() {
    let mut two = Two::new();
    let (digest, bytes) = two.lent(14, MIB).await;
    let elsewhere = two.dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let swept = Lender::new(two.store.clone(), Some(elsewhere)).sweep(Duration::ZERO);
    assert_eq!(swept, Swept { taken_back: 1, ..Swept::default() });
    assert_eq!(two.sweep().lent, 1);
    let swept = Lender::new(two.store.clone(), None).sweep(Duration::ZERO);
    assert_eq!(swept, Swept { taken_back: 1, ..Swept::default() });
    fs::remove_file(two.theirs(&digest)).unwrap();
    assert_eq!(read_all(&two.store.get(&digest).unwrap()), bytes);
    assert_eq!(two.store.bytes(), MIB);
}

#[tokio::test]
async fn what_is_lent_makes_room_and_is_never_written() {
    let mut two = Two::new();
    let (digest, bytes) = two.lent(15, 40 * MIB).await;
    let more = content(16, 40 * MIB);
    put(&two.store, &more).await;
    assert_eq!((two.store.held().len(), two.store.bytes()), (2, 40 * MIB), "the quota is 64 MiB");
    // Taking it back needs room.
    two.store.pin(&digest, true).unwrap();
    assert_eq!(two.store.held(), [digest]);
    assert_eq!(fs::read(two.theirs(&digest)).unwrap(), bytes);
    // No file of the store is opened for writing through a link.
    let link = two.dir.path().join("store/partial").join(Digest::of(b"x").hex());
    std::os::unix::fs::symlink(two.theirs(&digest), &link).unwrap();
    assert!(two.store.begin(&Digest::of(b"x"), MIB).is_err());
    assert_eq!(fs::read(two.theirs(&digest)).unwrap(), bytes);
}
