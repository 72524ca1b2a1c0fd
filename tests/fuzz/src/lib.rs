//! What each fuzz target does with one input. The harness's unit tests include this file, so that the committed corpora run
//! without a fuzzer as well.

use std::{fs, net::SocketAddr, path::Path};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use http::{HeaderValue, Method};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use waylay::{
    config::Config,
    oci::{
        Digest,
        manifest::{Kind, MAX_CHILDREN, Manifest},
        range::{Asked, ContentRange, Wanted},
        route::{Route as Read, blob_path, manifest_path, route as read_route},
    },
    store::{Config as StoreConfig, Store},
    tls::hello::{MAX_HELLO, Opening, read},
};
use waylay_certs::JoinToken;

/// What an operator writes: an error that names what is wrong, or a configuration that reads the same when written down.
pub fn config(text: &str) {
    match Config::parse(text) {
        Ok(config) => {
            let written = toml::to_string(&config).expect("a configuration can be written");
            let again = Config::parse(&written).expect("what was written can be read");
            assert_eq!(toml::to_string(&again).ok(), Some(written));
            let loopback = |address: &SocketAddr| address.ip().is_loopback();
            assert!(config.proxy.listen.iter().all(loopback) && loopback(&config.admin.listen));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Frames of peers, and the four bytes of length before them. Without a fuzzer their own unit tests do it.
#[cfg(fuzzing)]
pub fn frame(bytes: &[u8]) {
    waylay::swarm::fuzz_frame(bytes);
}

/// The first bytes of a connection: whatever they are, none is lost, and no more are read than a ClientHello may have.
pub fn hello(input: (u8, &[u8])) {
    let (step, bytes) = input;
    runtime().block_on(async {
        // In pieces of this length, as a client may send them.
        let (mut client, mut ours) = tokio::io::duplex(usize::from(step) + 1);
        let send = async move {
            // The reader may have seen enough.
            let _ = client.write_all(bytes).await;
        };
        let ((), opening) = tokio::join!(send, async {
            let opening = read(&mut ours).await.expect("memory does not fail");
            // What was not read is still there.
            let mut rest = Vec::new();
            ours.read_to_end(&mut rest).await.expect("memory does not fail");
            (opening, rest)
        });
        let (opening, rest) = opening;
        let raw = match &opening {
            Opening::Hello { sni, raw, .. } => {
                assert!(sni.as_ref().is_none_or(|sni| *sni == sni.to_ascii_lowercase()));
                raw
            }
            Opening::NotTls(raw) | Opening::Odd(raw) | Opening::TooLong(raw) | Opening::Unfinished(raw) => raw,
            Opening::Silent | Opening::Closed => &Default::default(),
        };
        assert!(raw.len() <= MAX_HELLO);
        assert_eq!([raw, &rest[..]].concat(), bytes);
    });
}

const TYPES: [Option<&str>; 6] = [
    None,
    Some("application/json"),
    Some("application/vnd.oci.image.index.v1+json"),
    Some("application/vnd.oci.image.manifest.v1+json"),
    Some("application/vnd.docker.distribution.manifest.v2+json; charset=utf-8"),
    Some("application/vnd.docker.distribution.manifest.v1+prettyjws"),
];

/// Bodies of manifests: bounded children, and never two readings.
pub fn manifest(input: (u8, &[u8])) {
    let (media_type, body) = input;
    let Ok(manifest) = Manifest::parse(TYPES[usize::from(media_type) % TYPES.len()], body) else { return };
    assert!(manifest.children.len() <= 2 * MAX_CHILDREN + 1);
    let manifests = manifest.children.iter().filter(|child| child.kind == Kind::Manifest).count();
    assert!(manifests == 0 || manifests == manifest.children.len(), "an index and an image at once");
}

/// Range headers of clients, and Content-Range headers of registries.
pub fn range(input: (u64, &[u8])) {
    let (size, bytes) = input;
    let Ok(header) = HeaderValue::from_bytes(bytes) else { return };
    match Asked::parse(Some(&header)).of(size) {
        Wanted::Part { first, last } => assert!(first <= last && last < size),
        Wanted::Whole | Wanted::Unsatisfiable | Wanted::Several => {}
    }
    if let Some(range) = header.to_str().ok().and_then(|text| text.parse::<ContentRange>().ok()) {
        assert_eq!(range.to_string().parse::<ContentRange>().ok(), Some(range));
        if let ContentRange::Part { first, last, size } = range {
            assert!(first <= last && size.is_none_or(|size| last < size));
        }
    }
}

/// Methods and targets of requests: what is recognised is written in the one canonical way, all else passes.
pub fn route(input: (u8, &str)) {
    let (method, target) = input;
    let methods = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    let method = &methods[usize::from(method) % methods.len()];
    let (namespace, path) = match read_route(method, target) {
        Read::Blob { repository, digest, namespace } => (namespace, blob_path(&repository, &digest)),
        Read::ManifestByDigest { repository, digest, namespace } => (namespace, manifest_path(&repository, &digest)),
        Read::ManifestByTag { repository, tag, namespace } => (namespace, manifest_path(&repository, &tag)),
        Read::Pass(_) => return,
    };
    assert!(matches!(*method, Method::GET | Method::HEAD));
    let written = target.replace("%3A", ":").replace("%3a", ":");
    let said = namespace.map_or(path.clone(), |namespace| format!("{path}?ns={namespace}"));
    assert!(target.starts_with(&path) && written == said, "{target:?} was read as {said:?}");
}

type Files<'a> = (u8, &'a [u8], &'a [u8], &'a [u8]);

/// The store's files as a crash, a bad disk or a stranger left them: opening and reading them never fails in other ways
/// than by an error, and nothing is held that is not there.
pub fn store(files: Files) {
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
    runtime().block_on(async {
        let config = StoreConfig { dir: dir.path().to_owned(), quota: 64 << 20, low_disk: 0 };
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
}

/// Join tokens: as text, and as a payload whose checksum is right.
pub fn token(bytes: &[u8]) {
    let mut sealed = bytes.to_vec();
    sealed.extend_from_slice(&blake3::hash(bytes).as_bytes()[..4]);
    let sealed = format!("waylay1-{}", BASE64_URL_SAFE_NO_PAD.encode(sealed));
    for text in [std::str::from_utf8(bytes).unwrap_or_default(), &sealed] {
        if let Ok(token) = JoinToken::parse(text) {
            let again = JoinToken::parse(&token.encode()).expect("what was read can be written");
            assert!(again == token);
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
}
