//! What the store promises: crashes, quota, pins, wrong bytes, readers that follow a writer.

mod crash;
mod lend;

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
};

use iroh_base::SecretKey;
use tempfile::TempDir;

use super::*;

const MIB: u64 = 1 << 20;

fn config(dir: &TempDir) -> Config {
    Config { dir: dir.path().join("store"), quota: 64 * MIB, low_disk: 0 }
}

fn key() -> SecretKey {
    SecretKey::from_bytes(&[3; 32])
}

/// Bytes that differ from piece to piece.
fn content(seed: u64, size: u64) -> Vec<u8> {
    let mut bytes = vec![0; size as usize];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn put_piece(partial: &Arc<Partial>, index: u32, bytes: &[u8]) {
    let range = partial.layout().range(index);
    let mut writer = partial.writer(index).unwrap();
    writer.write(&bytes[range.start as usize..range.end as usize]).unwrap();
    let statement = Statement::sign(&key(), partial.digest(), bytes.len() as u64, index, writer.blake3());
    writer.finish(&statement).unwrap();
}

async fn put(store: &Store, bytes: &[u8]) -> Digest {
    let digest = Digest::of(bytes);
    let partial = store.begin(&digest, bytes.len() as u64).unwrap();
    for index in 0..partial.layout().count() {
        put_piece(&partial, index, bytes);
    }
    partial.stored().await.unwrap();
    digest
}

fn read_all(blob: &Blob) -> Vec<u8> {
    let mut bytes = vec![0; blob.size() as usize];
    assert_eq!(blob.read_at(0, &mut bytes).unwrap(), bytes.len());
    bytes
}

#[tokio::test]
async fn a_blob_comes_back_after_a_restart_with_its_statements_and_provenance() {
    let dir = TempDir::new().unwrap();
    let bytes = content(1, 3 * MIB + 17);
    let store = Store::open(config(&dir)).unwrap();
    let digest = put(&store, &bytes).await;
    let provenance = Provenance { registry: "docker.io".into(), repository: "library/debian".into() };
    store.add_provenance(&digest, provenance.clone()).unwrap();
    store.set_media_type(&digest, "application/vnd.oci.image.manifest.v1+json").unwrap();
    drop(store);

    let store = Store::open(config(&dir)).unwrap();
    let blob = store.get(&digest).unwrap();
    assert_eq!(read_all(&blob), bytes);
    assert!(blob.statements().unwrap().iter().flatten().all(|statement| statement.verify().is_ok()));
    assert_eq!(blob.statements().unwrap().iter().flatten().count(), 13);
    let info = store.info(&digest).unwrap();
    assert_eq!(info.provenance, [provenance]);
    assert_eq!(info.media_type.as_deref(), Some("application/vnd.oci.image.manifest.v1+json"));
    assert_eq!(store.held(), [digest]);
    assert_eq!(fs::read(dir.path().join("store/blobs/sha256").join(digest.hex())).unwrap(), bytes);
    assert!(matches!(store.begin(&digest, bytes.len() as u64), Err(StoreError::AlreadyHeld(_))));
    assert_eq!(blob.read_at(3 * MIB + 10, &mut [0; 64]).unwrap(), 7);
    assert_eq!(blob.read_at(u64::MAX, &mut [0; 64]).unwrap(), 0);
}

#[tokio::test]
async fn the_empty_blob_is_a_blob() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(config(&dir)).unwrap();
    let partial = store.begin(&Digest::of(b""), 0).unwrap();
    assert_eq!(partial.verified().await.unwrap().digest(), Digest::of(b""));
    assert_eq!(partial.stored().await.unwrap().size(), 0);
}

#[tokio::test]
async fn pieces_in_any_order_and_readers_that_follow() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(config(&dir)).unwrap();
    let bytes = content(2, 2 * MIB + 1);
    let digest = Digest::of(&bytes);
    let partial = store.begin(&digest, bytes.len() as u64).unwrap();
    assert!(matches!(partial.read_at(0, &mut [0; 4]), Err(StoreError::Missing { offset: 0 })));
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let partial = partial.clone();
            tokio::spawn(async move {
                let mut read = Vec::new();
                while (read.len() as u64) < partial.layout().size() {
                    partial.wait_for(read.len() as u64).await.unwrap();
                    let mut chunk = vec![0; 100_000];
                    let length = partial.read_at(read.len() as u64, &mut chunk).unwrap();
                    assert!(length > 0);
                    read.extend_from_slice(&chunk[..length]);
                }
                read
            })
        })
        .collect();
    for index in [8, 3, 0, 1, 7, 2, 6, 4, 5] {
        assert_eq!(partial.missing(index..index + 1), [index]);
        put_piece(&partial, index, &bytes);
        tokio::task::yield_now().await;
    }
    for reader in readers {
        assert_eq!(reader.await.unwrap(), bytes);
    }
    assert_eq!(partial.verified().await.unwrap().digest(), digest);
    partial.stored().await.unwrap();
    assert!(store.partial(&digest).is_none());
    assert_eq!(store.verify(&digest).unwrap(), Some(true));
}

#[tokio::test]
async fn a_piece_has_one_writer_and_its_statement_must_fit() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(config(&dir)).unwrap();
    let bytes = content(3, 600 << 10);
    let digest = Digest::of(&bytes);
    let partial = store.begin(&digest, bytes.len() as u64).unwrap();
    let mut writer = partial.writer(0).unwrap();
    assert!(matches!(partial.writer(0), Err(StoreError::Taken(0))));
    assert!(matches!(partial.writer(3), Err(StoreError::NoSuchPiece(3))));
    writer.write(&bytes[..1000]).unwrap();
    assert!(matches!(writer.write(&bytes[..256 << 10]), Err(StoreError::Length { .. })));
    let hash = writer.blake3();
    let early = Statement::sign(&key(), digest, bytes.len() as u64, 0, hash);
    assert!(matches!(writer.finish(&early), Err(StoreError::Length { .. })));

    let whole = &bytes[..256 << 10];
    let good = Statement::sign(&key(), digest, bytes.len() as u64, 0, blake3::hash(whole).into());
    let mut wrong = vec![good.clone(); 4];
    wrong[0].blob = Digest::of(b"other");
    wrong[1].size += 1;
    wrong[2].index = 1;
    wrong[3].blake3[0] ^= 1;
    for statement in &wrong {
        let mut writer = partial.writer(0).unwrap();
        writer.write(whole).unwrap();
        assert!(matches!(writer.finish(statement), Err(StoreError::WrongPiece { .. })));
        assert!(!partial.has(0));
    }
    let mut writer = partial.writer(0).unwrap();
    writer.write(whole).unwrap();
    writer.finish(&good).unwrap();
    assert!(matches!(partial.writer(0), Err(StoreError::Taken(0))));
    assert_eq!(partial.statement(0).unwrap(), Some(good));
}

#[tokio::test]
async fn bytes_that_do_not_add_up_are_dropped_and_their_sealers_named() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(config(&dir)).unwrap();
    let bytes = content(4, MIB);
    let digest = Digest::of(b"something else");
    let partial = store.begin(&digest, MIB).unwrap();
    for index in 0..4 {
        put_piece(&partial, index, &bytes);
    }
    match partial.verified().await {
        Err(StoreError::Mismatch { stated, .. }) => {
            assert!(stated.iter().all(|said| said.sealer == *key().public().as_bytes()) && !stated.is_empty());
        }
        other => panic!("{other:?}"),
    }
    assert!(partial.stored().await.is_err());
    assert!(partial.wait(0).await.is_err());
    assert!(partial.read_at(0, &mut [0; 8]).is_err());
    assert!(store.get(&digest).is_none() && store.partial(&digest).is_none());
    assert_eq!(store.bytes(), 0);
    let again = store.begin(&digest, MIB).unwrap();
    assert_eq!(again.bytes(), 0);
}

#[tokio::test]
async fn after_an_unclean_stop_only_pieces_that_still_hash_count() {
    let dir = TempDir::new().unwrap();
    let bytes = content(5, MIB);
    let digest = Digest::of(&bytes);
    let store = Store::open(config(&dir)).unwrap();
    let partial = store.begin(&digest, MIB).unwrap();
    for index in [0, 1, 3] {
        put_piece(&partial, index, &bytes);
    }
    drop((partial, store));
    let file = OpenOptions::new().write(true).open(dir.path().join("store/partial").join(digest.hex())).unwrap();
    file.write_all_at(b"lost", 300 << 10).unwrap();

    let store = Store::open(config(&dir)).unwrap();
    let partial = store.partial(&digest).unwrap();
    assert_eq!(partial.pieces().ones().collect::<Vec<_>>(), [0, 3]);
    assert_eq!(partial.missing(0..u32::MAX), [1, 2]);
    for index in [1, 2] {
        put_piece(&partial, index, &bytes);
    }
    assert_eq!(read_all(&partial.stored().await.unwrap()), bytes);
}

#[tokio::test]
async fn a_clean_stop_is_believed_in_the_same_boot_only() {
    let dir = TempDir::new().unwrap();
    let bytes = content(6, MIB);
    let digest = Digest::of(&bytes);
    let store = Store::open(config(&dir)).unwrap();
    put_piece(&store.begin(&digest, MIB).unwrap(), 0, &bytes);
    store.close().unwrap();
    drop(store);
    let store = Store::open(config(&dir)).unwrap();
    let clean = dir.path().join("store/clean");
    assert!(!clean.exists(), "a crash from now on must be noticed");
    let suspect = |store: &Store| {
        let index = store.directory.index();
        matches!(index.get(&digest).unwrap().kind, Kind::Partial { suspect: true, .. })
    };
    assert!(!suspect(&store));
    store.close().unwrap();
    drop(store);
    fs::write(&clean, "another boot").unwrap();
    let store = Store::open(config(&dir)).unwrap();
    assert!(suspect(&store));
    assert!(store.partial(&digest).unwrap().has(0));
    assert!(!suspect(&store));
}

#[tokio::test]
async fn a_crash_between_the_last_piece_and_the_rename_is_made_good() {
    let dir = TempDir::new().unwrap();
    let bytes = content(7, MIB);
    let store = Store::open(config(&dir)).unwrap();
    let digest = put(&store, &bytes).await;
    drop(store);
    let at = |name: &str| dir.path().join("store").join(name).join(digest.hex());
    fs::rename(at("blobs/sha256"), at("partial")).unwrap();
    let store = Store::open(config(&dir)).unwrap();
    assert!(store.get(&digest).is_none());
    let partial = store.begin(&digest, MIB).unwrap();
    assert_eq!(read_all(&partial.stored().await.unwrap()), bytes);
}

#[tokio::test]
async fn what_is_right_is_told_before_it_is_kept_and_withdrawn_when_it_cannot_be() {
    let dir = TempDir::new().unwrap();
    let (store, bytes) = (Store::open(config(&dir)).unwrap(), content(1, MIB));
    let (mut events, digest) = (store.events(), Digest::of(&bytes));
    let partial = store.begin(&digest, MIB).unwrap();
    std::fs::remove_dir(dir.path().join("store/blobs/sha256")).unwrap();
    (0..partial.layout().count()).for_each(|index| put_piece(&partial, index, &bytes));
    assert!(partial.verified().await.is_ok());
    assert!(partial.stored().await.is_err());
    let seen: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).collect();
    assert_eq!(seen, [Event::Verified(digest), Event::Dropped(digest)]);
}

#[tokio::test]
async fn the_oldest_goes_when_the_quota_is_full_and_readers_read_on() {
    let dir = TempDir::new().unwrap();
    let config = Config { quota: 3 * MIB, ..config(&dir) };
    let store = Store::open(config.clone()).unwrap();
    let mut events = store.events();
    let bytes: Vec<_> = (10..14).map(|seed| content(seed, MIB)).collect();
    let a = put(&store, &bytes[0]).await;
    let b = put(&store, &bytes[1]).await;
    let c = put(&store, &bytes[2]).await;
    let reader = store.get(&b).unwrap();
    store.get(&a).unwrap();
    store.pin(&c, true).unwrap();
    let d = put(&store, &bytes[3]).await;
    assert!(store.get(&b).is_none());
    assert_eq!(read_all(&reader), bytes[1]);
    assert!(store.get(&a).is_some() && store.get(&c).is_some() && store.get(&d).is_some());
    let seen: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).collect();
    let kept = |digest| [Event::Verified(digest), Event::Stored(digest)];
    let first = [a, b, c].into_iter().flat_map(kept);
    assert_eq!(seen, first.chain([Event::Dropped(b)]).chain(kept(d)).collect::<Vec<_>>());

    assert!(store.begin(&Digest::of(b"large"), 4 * MIB).unwrap_err().is_full());
    // Two may go, the pinned one may not: the third MiB is not to be had, and nothing goes for it.
    assert!(store.begin(&Digest::of(b"medium"), 3 * MIB).unwrap_err().is_full());
    assert_eq!(store.held().len(), 3);
    drop((reader, store));
    let store = Store::open(Config { quota: MIB, ..config }).unwrap();
    assert_eq!(store.held(), [c], "the pin survives a restart, the others a smaller quota not");
}

#[tokio::test]
async fn collecting_takes_the_least_used_and_leaves_what_is_pinned_or_being_written() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(config(&dir)).unwrap();
    let mut digests = Vec::new();
    for seed in 1..=5 {
        digests.push(put(&store, &content(seed, MIB)).await);
        store.pin(&digests[digests.len() - 1], true).unwrap();
    }
    let [a, b, c, d, e] = digests[..] else { panic!("five blobs") };
    let growing = content(6, MIB);
    let f = Digest::of(&growing);
    put_piece(&store.begin(&f, MIB).unwrap(), 0, &growing);
    store.close().unwrap();
    drop(store);

    // Two too many, all but the unfinished one pinned: nothing could go when it was opened.
    let store = Store::open(Config { quota: 4 * MIB, ..config(&dir) }).unwrap();
    assert_eq!(store.bytes(), 6 * MIB);
    let open = store.partial(&f).unwrap();
    assert_eq!(store.collect(false).unwrap(), Collected { removed: Vec::new(), above: 2 * MIB });
    for digest in [a, b, c] {
        store.pin(&digest, false).unwrap();
    }
    let reader = store.get(&b).unwrap();
    store.get(&a).unwrap();
    let wanted = Collected { removed: vec![(c, MIB), (b, MIB)], above: 0 };
    assert_eq!(store.collect(true).unwrap(), wanted);
    assert_eq!((store.held().len(), store.bytes()), (5, 6 * MIB), "a rehearsal removes nothing");
    assert_eq!(store.collect(false).unwrap(), wanted);
    assert_eq!(store.collect(false).unwrap(), Collected::default());
    let mut held = store.held();
    held.sort();
    let mut left = vec![a, d, e];
    left.sort();
    assert_eq!((held, store.bytes()), (left, 4 * MIB));
    assert!(!dir.path().join("store/blobs/sha256").join(c.hex()).exists());
    assert_eq!(read_all(&reader), content(2, MIB), "a reader reads on");
    for index in open.missing(0..open.layout().count()) {
        put_piece(&open, index, &growing);
    }
    open.stored().await.unwrap();
    drop((store, reader, open));

    let store = Store::open(Config { quota: MIB, ..config(&dir) }).unwrap();
    let freed = store.collect(false).unwrap();
    assert_eq!(freed.above, MIB, "two are pinned");
    assert_eq!(freed.removed.len(), 2);
    assert!([d, e].iter().all(|digest| store.get(digest).is_some()));
}

#[tokio::test]
async fn collecting_frees_the_disk_to_its_watermark() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(config(&dir)).unwrap();
    let digest = put(&store, &content(1, MIB)).await;
    drop(store);
    let wanted = 1 << 60;
    let store = Store::open(Config { low_disk: wanted, ..config(&dir) }).unwrap();
    let freed = store.collect(false).unwrap();
    assert_eq!(freed.removed, [(digest, MIB)]);
    assert!(freed.above > wanted / 2, "no disk is that large: {}", freed.above);
}

#[tokio::test]
async fn a_begun_blob_reserves_its_room_and_is_not_evicted_while_open() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(Config { quota: 3 * MIB, ..config(&dir) }).unwrap();
    let open = store.begin(&Digest::of(b"begun"), 2 * MIB).unwrap();
    assert!(store.begin(&Digest::of(b"another"), 2 * MIB).unwrap_err().is_full());
    drop(open);
    store.begin(&Digest::of(b"another"), 2 * MIB).unwrap();
    assert!(store.partial(&Digest::of(b"begun")).is_none());
}

#[tokio::test]
async fn a_disk_at_its_watermark_takes_nothing_more() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(Config { low_disk: u64::MAX / 4, ..config(&dir) }).unwrap();
    assert!(store.begin(&Digest::of(b"x"), 1).unwrap_err().is_full());
}

#[tokio::test]
async fn sizes_from_the_network_are_checked() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(config(&dir)).unwrap();
    let digest = Digest::of(b"x");
    assert!(matches!(store.begin(&digest, u64::MAX), Err(StoreError::TooLarge(u64::MAX))));
    let open = store.begin(&digest, MIB).unwrap();
    assert!(matches!(store.begin(&digest, 2 * MIB), Err(StoreError::SizeConflict { known: MIB, .. })));
    drop(open);
    assert_eq!(store.begin(&digest, 2 * MIB).unwrap().layout().size(), 2 * MIB);
    assert_eq!(store.bytes(), 2 * MIB);
}

#[tokio::test]
async fn discarding_ends_those_who_wait() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(config(&dir)).unwrap();
    let digest = Digest::of(b"x");
    let partial = store.begin(&digest, MIB).unwrap();
    let waiting = tokio::spawn({
        let partial = partial.clone();
        async move { partial.wait(2).await }
    });
    tokio::task::yield_now().await;
    store.discard(&digest).unwrap();
    assert!(matches!(waiting.await.unwrap(), Err(StoreError::Discarded(_))));
    assert!(matches!(partial.writer(0), Err(StoreError::Discarded(_))));
}

#[tokio::test]
async fn corruption_on_disk_is_found_and_can_be_thrown_away() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(config(&dir)).unwrap();
    let digest = put(&store, &content(8, MIB)).await;
    let path = dir.path().join("store/blobs/sha256").join(digest.hex());
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"rot", 12345).unwrap();
    assert_eq!(store.verify(&digest).unwrap(), Some(false));
    store.discard(&digest).unwrap();
    assert!(!path.exists() && store.get(&digest).is_none());
    assert_eq!(store.verify(&digest).unwrap(), None);
    // A file cut short behind our back is not served.
    let digest = put(&store, &content(9, MIB)).await;
    let path = dir.path().join("store/blobs/sha256").join(digest.hex());
    OpenOptions::new().write(true).open(&path).unwrap().set_len(5).unwrap();
    // Whoever made it complete may have it open for a moment more.
    let forgotten = async {
        while store.get(&digest).is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), forgotten).await.unwrap();
}

#[tokio::test]
async fn one_owner_at_a_time_and_never_a_newer_store() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(config(&dir)).unwrap();
    assert!(matches!(Store::open(config(&dir)), Err(StoreError::Locked { .. })));
    drop(store);
    let root = dir.path().join("store");
    fs::write(root.join("clean"), "x").unwrap();
    fs::write(root.join("version"), "2\n").unwrap();
    assert!(matches!(Store::open(config(&dir)), Err(StoreError::Newer { found: 2, known: 1, .. })));
    assert!(root.join("clean").exists());
    fs::write(root.join("version"), "cat pictures").unwrap();
    assert!(matches!(Store::open(config(&dir)), Err(StoreError::NotAStore { .. })));
}

#[tokio::test]
async fn strange_files_are_left_alone() {
    let dir = TempDir::new().unwrap();
    drop(Store::open(config(&dir)).unwrap());
    let root = dir.path().join("store");
    let strange = ["blobs/sha256/notes.txt", "partial/x", "maps/y", "info/z.json", "mine"];
    for name in strange {
        fs::write(root.join(name), "keep me").unwrap();
    }
    fs::write(root.join("info/abc.waylay-tmp"), "half").unwrap();
    let store = Store::open(config(&dir)).unwrap();
    assert!(store.held().is_empty());
    assert!(strange.iter().all(|name| root.join(name).exists()));
    assert!(!root.join("info/abc.waylay-tmp").exists());
}
