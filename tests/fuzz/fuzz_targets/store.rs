//! The store's files as a crash, a bad disk or a stranger left them: opening and reading them never fails in other ways
//! than by an error, and nothing is held that is not there.
#![no_main]

use std::{fs, path::Path};

use libfuzzer_sys::fuzz_target;
use waylay::{
    oci::Digest,
    store::{Config, Store},
};

type Files<'a> = (u8, &'a [u8], &'a [u8], &'a [u8]);

fuzz_target!(|files: Files| {
    let (version, content, map, info) = files;
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let digest = Digest::of(b"fuzzed");
    let write = |path: &str, bytes: &[u8]| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("ours");
        fs::write(path, bytes).expect("ours");
    };
    if version & 1 == 1 {
        write("version", &[b'0' + (version >> 4 & 3), b'\n']);
    }
    let place = if version & 2 == 2 { "blobs/sha256" } else { "partial" };
    write(&format!("{place}/{}", digest.hex()), content);
    // The fuzzer would not find the digest in a map's header by itself.
    let mut map = map.to_vec();
    if version & 4 == 4 && map.len() >= 48 {
        map[16..48].copy_from_slice(digest.as_bytes());
    }
    write(&format!("maps/{}", digest.hex()), &map);
    write(&format!("info/{}.json", digest.hex()), info);
    write("index", info);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let config = Config { dir: dir.path().to_owned(), quota: 64 << 20, low_disk: 0 };
        let Ok(store) = Store::open(config) else { return };
        if let Some(blob) = store.get(&digest) {
            assert_eq!(blob.size(), content.len() as u64);
        }
        let _ = store.info(&digest);
        if let Some(partial) = store.partial(&digest) {
            assert!(partial.bytes() <= partial.layout().size());
        }
        if let Some(source) = store.source(&digest) {
            for index in 0..3 {
                let _ = (source.has(index), source.statement(index));
            }
        }
        let right = store.verify(&digest).ok().flatten() == Some(true);
        assert_eq!(right, content == b"fuzzed" && version & 2 == 2 && store.get(&digest).is_some());
        let _ = store.begin(&digest, content.len() as u64 + 1);
        let _ = store.discard(&digest);
        let _ = store.close();
    });
});
