//! What a client or a member keeps secret is in no log line, at no level, of us or of any library; nor in traces, counters,
//! errors or any file but the one that is for it. A process of its own, because it keeps every line that is logged in it.
#![allow(clippy::unwrap_used, reason = "helpers of tests, outside of test functions")]

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use http::{Method, header};
use tracing_subscriber::fmt::MakeWriter;
use waylay_tests::scripted::{
    Cdn, Cluster, Fault, KIB, MIB, Node, Registry, blobs, layers, noise, request, request_with,
};

/// Everything that was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// All files below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn contains(bytes: &[u8], secret: &[u8]) -> bool {
    bytes.windows(secret.len()).any(|window| window == secret)
}

#[tokio::test]
async fn no_secret_is_logged() {
    let log = Log::default();
    tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false).with_writer(log.clone()).init();
    let registry =
        Registry::new().token_auth().user("alice", "pass-of-alice", ["app"]).image("app:1", layers([MIB, KIB]));
    let registry = registry.start().await;
    let cdn = Cdn::new("cdn.test").start(&registry).await;
    registry.fault(blobs().gets(), cdn.redirect());
    let cluster = Cluster::of(2);
    let start = |number| Node::beside(&registry).member(&cluster, number).knowing("cdn.test", &cdn).start();
    let (mut one, mut two) = (start(0).await, start(1).await);

    let minted = registry.token(["app"]);
    let mut seen = String::new();
    for node in [&one, &two] {
        for client in [node.client(), node.client().http2()] {
            client.user("alice", "pass-of-alice").pull("app:1").await.unwrap();
        }
        let client = node.client().token(&minted).header(header::COOKIE, "session=cookie-of-alice");
        client.pull("app:1").await.unwrap();
        let key = http::HeaderName::from_static("x-jfrog-art-api");
        node.client().token(&minted).header(key, "key-of-alice").pull("app:1").await.unwrap();
        node.client().token("token-that-is-wrong").pull("app:1").await.unwrap_err();
        let mut upload = request_with(Method::POST, "/v2/app/blobs/uploads/", noise("pushed", KIB));
        upload.headers_mut().insert(header::AUTHORIZATION, format!("Bearer {minted}").parse().unwrap());
        client.send(upload).await.unwrap();
        seen.push_str(node.counters().text());
    }
    registry.fault(blobs(), Fault::CutAfter(10));
    let other = registry.token(["app"]);
    let layer = registry.image("app:1").layers[0].digest;
    if let Err(error) = one.client().token(&other).blob("app", &layer).await {
        seen.push_str(&format!("{error} {error:?}"));
    }
    let ask = request(Method::GET, "/v2/app/blobs/sha256:x?secret=of-the-query");
    one.client().send(ask).await.unwrap();
    for node in [&one, &two] {
        seen.push_str(&format!("{:?}", node.access()));
        while let Some(event) = node.told() {
            seen.push_str(&serde_json::to_string(&*event).unwrap());
        }
    }
    seen.push_str(&String::from_utf8_lossy(&log.0.lock().unwrap()));

    // The log is the one that was looked at: it knows of the requests.
    assert!(seen.contains(&layer.to_string()) && seen.contains("TRACE") && seen.contains("hyper_util::"));
    let signature = cdn.url(&layer).split_once("X-Signature=").unwrap().1.to_owned();
    // Every token that was given out begins so; `waylay1-` begins a cluster's.
    let told = [
        "pass-of-alice",
        "YWxpY2U6cGFzcy1vZi1hbGljZQ==",
        "token-",
        "cookie-of-alice",
        "key-of-alice",
        &signature,
        "waylay1-",
        "PRIVATE KEY",
    ];
    for secret in told {
        if let Some(at) = seen.find(secret) {
            let line = seen[..at].rfind('\n').map_or(0, |end| end + 1);
            panic!("{secret} is told: {}", &seen[line..(at + 200).min(seen.len())]);
        }
    }
    // Nor is any of it on disk, but keys in their own files, which are for nobody else.
    for node in [&mut one, &mut two] {
        node.stop().await;
    }
    let mut keys = Vec::new();
    let mut looked_at = 0;
    for file in [&one, &two].into_iter().flat_map(|node| files(node.dir())) {
        let (content, mode) = (fs::read(&file).unwrap(), fs::metadata(&file).unwrap().permissions().mode() & 0o777);
        looked_at += 1;
        if contains(&content, b"PRIVATE KEY") {
            assert_eq!(mode, 0o600, "{}", file.display());
            let body = String::from_utf8(content).unwrap();
            keys.extend(body.lines().filter(|line| line.len() > 40).map(|line| line.as_bytes().to_vec()));
            continue;
        }
        for secret in told.iter().map(|secret| secret.as_bytes().to_vec()).chain(cluster.secret()) {
            let shown = String::from_utf8_lossy(&secret).into_owned();
            assert!(!contains(&content, &secret), "{} holds {shown}", file.display());
        }
    }
    assert!(looked_at > 10 && keys.len() >= 2, "{looked_at} files, {} lines of keys", keys.len());
    let seen = [seen.as_bytes(), &log.0.lock().unwrap()].concat();
    for secret in keys.iter().chain(&cluster.secret()) {
        assert!(!contains(&seen, secret), "{} was logged", String::from_utf8_lossy(secret));
    }
}
