//! The script without a proxy between: each fault is seen by a client as it was written.

use std::time::Duration;

use http::{Method, StatusCode, Version, header};

use super::*;

fn status(error: ClientError) -> (StatusCode, Box<http::HeaderMap>) {
    match error {
        ClientError::Status { status, headers, .. } => (status, headers),
        other => panic!("not a status: {other}"),
    }
}

#[tokio::test]
async fn a_pull_by_each_way() {
    let app = layers([300 * KIB, 5]).platforms(2).foreign(10);
    let registry = Registry::new().image("library/app:1", app).image("app:d", layers([KIB]).docker()).start().await;
    let image = registry.image("library/app:1");
    for client in [registry.client(), registry.client().http2()] {
        for pulled in [client.pull("library/app:1").await.unwrap(), client.pull_by_get("library/app:1").await.unwrap()]
        {
            assert_eq!(pulled.top, image.top.digest);
            assert_eq!(pulled.manifest, image.manifests[0].digest);
            assert_eq!(pulled.config, image.configs[0].bytes);
            assert_eq!(pulled.layers, [image.layers[0].bytes.clone(), image.layers[1].bytes.clone()]);
        }
    }
    registry.client().pull("app:d").await.unwrap();
    assert_eq!(registry.blob_gets(), 4 * 3 + 2);
    assert_eq!((registry.manifest_heads(), registry.manifest_gets()), (2 + 1, 2 * (2 + 2) + 1));
    assert_eq!(registry.gets_of(image.layers[0].digest), 4);
    assert!(registry.requests().iter().any(|seen| seen.version == Version::HTTP_2));
    assert!(registry.requests().iter().all(|seen| seen.host == registry.name() && !seen.authorised()));
    let sent = registry.until("all sent", |requests| requests.iter().all(|seen| seen.finished)).await;
    let blobs: u64 = sent.iter().filter(|seen| seen.kind == Kind::BlobGet).map(|seen| seen.sent).sum();
    assert_eq!(blobs, registry.blob_bytes_sent());
    assert_eq!(blobs, 4 * image.blob_bytes() + registry.image("app:d").blob_bytes());
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let registry = Registry::new().plain_http().image("app:1", layers([KIB])).start().await;
    let client = registry.client();
    for _ in 0..3 {
        client.pull("app:1").await.unwrap();
    }
    assert_eq!(registry.connections(), 1);
}

#[tokio::test]
async fn ranges() {
    let registry = Registry::new().image("app:1", layers([100 * KIB])).start().await;
    let image = registry.image("app:1");
    let (path, whole) = (image.blob_path(&image.layers[0]), image.layers[0].bytes.clone());
    let client = registry.client();
    for (range, status, content_range, bytes) in [
        ("bytes=0-9", 206, Some("bytes 0-9/102400"), whole.slice(..10)),
        ("bytes=102390-", 206, Some("bytes 102390-102399/102400"), whole.slice(102_390..)),
        ("bytes=-5", 206, Some("bytes 102395-102399/102400"), whole.slice(102_395..)),
        ("bytes=5-2", 200, None, whole.clone()),
    ] {
        let reply = client.get_range(&path, range).await.unwrap();
        assert_eq!((reply.status.as_u16(), reply.header("content-range")), (status, content_range), "{range}");
        assert_eq!(reply.bytes().await.unwrap(), bytes, "{range}");
    }
    let beyond = client.get_range(&path, "bytes=102400-").await.unwrap();
    assert_eq!((beyond.status.as_u16(), beyond.header("content-range")), (416, Some("bytes */102400")));
    let several = client.get_range(&path, "bytes=0-1,5-6").await.unwrap();
    assert_eq!(several.header("content-type"), Some("multipart/byteranges; boundary=part"));
    let size = image.layers[0].size();
    assert_eq!(client.blob_in_chunks("app", &image.layers[0].digest, size, 30 * KIB).await.unwrap(), whole);
    registry.fault(blobs().ranged(), Fault::NoRange);
    assert_eq!(client.get_range(&path, "bytes=0-9").await.unwrap().status, StatusCode::OK);
}

#[tokio::test]
async fn broken_bodies() {
    let registry = Registry::new().image("app:1", layers([MIB])).start().await;
    let layer = registry.image("app:1").layers[0].clone();
    let fetch = async || registry.client().blob("app", &layer.digest).await;
    registry.fault(blobs().first(1), Fault::CutAfter(200 * KIB));
    let Err(ClientError::Cut { got, .. }) = fetch().await else { panic!("not cut") };
    assert!(got.len() as u64 <= 200 * KIB && layer.bytes.starts_with(&got), "{}", got.len());
    registry.fault(blobs().first(1), Fault::CorruptAt(70_000));
    let Err(ClientError::Digest { got, .. }) = fetch().await else { panic!("not corrupt") };
    let wrong: Vec<usize> = (0..got.len()).filter(|&at| got[at] != layer.bytes[at]).collect();
    assert_eq!(wrong, [70_000]);
    registry.fault(blobs().first(1), Fault::Length(2 * MIB));
    assert!(matches!(fetch().await, Err(ClientError::Cut { .. })));
    registry.fault(blobs().first(1), Fault::Length(MIB / 2));
    assert!(matches!(fetch().await, Err(ClientError::Digest { got, .. }) if got.len() as u64 == MIB / 2));
    registry.fault(blobs().first(1), Fault::Gzip);
    assert_eq!(fetch().await.unwrap(), layer.bytes);
    registry.fault(blobs().first(1), Fault::HangUp);
    assert!(matches!(fetch().await, Err(ClientError::NoAnswer { .. })));
    assert_eq!(fetch().await.unwrap(), layer.bytes);
}

#[tokio::test]
async fn refusals() {
    let registry = Registry::new().image("app:1", layers([KIB])).start().await;
    registry.fault(tags().first(1), Fault::Status(StatusCode::INTERNAL_SERVER_ERROR));
    registry.fault(tags().first(1), Fault::TooMany(30));
    registry.fault(tags().first(1), Fault::Unauthorized);
    assert_eq!(status(registry.client().pull("app:1").await.unwrap_err()).0, 500);
    registry.heal();
    registry.fault(tags().first(1), Fault::TooMany(30));
    let (code, headers) = status(registry.client().pull("app:1").await.unwrap_err());
    assert_eq!((code.as_u16(), headers[header::RETRY_AFTER].as_bytes()), (429, &b"30"[..]));
    assert_eq!(status(registry.client().pull("app:nowhere").await.unwrap_err()).0, 404);
    registry.client().pull("app:1").await.unwrap();
    registry.down().await;
    assert!(matches!(registry.client().pull("app:1").await, Err(ClientError::Connect(_))));
    registry.up().await;
    registry.client().pull("app:1").await.unwrap();
}

#[tokio::test]
async fn stalls_and_holds_end_when_their_gate_opens() {
    let registry = Registry::new().image("app:1", layers([MIB])).start().await;
    let layer = registry.image("app:1").layers[0].clone();
    let client = registry.client();
    let (stall, hold) = (registry.stall(blobs(), 100 * KIB), registry.hold(tags()));
    let pull = tokio::spawn(async move { client.pull("app:1").await });
    hold.reached(1).await;
    assert_eq!(registry.requests()[0].status, 0);
    hold.open();
    stall.reached(1).await;
    let seen =
        registry.until("the layer began", |seen| seen.iter().any(|seen| seen.digest() == Some(layer.digest))).await;
    assert!(seen.iter().all(|seen| !seen.finished || seen.sent <= 100 * KIB));
    stall.open();
    assert_eq!(pull.await.unwrap().unwrap().layers, [layer.bytes]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_takes_its_time() {
    let registry = Registry::new().plain_http().image("app:1", layers([MIB])).start().await;
    registry.fault(blobs().gets(), Fault::Slow(100 * KIB));
    registry.fault(tags(), Fault::Late(Duration::from_secs(5)));
    let started = tokio::time::Instant::now();
    registry.client().pull("app:1").await.unwrap();
    assert!(started.elapsed() >= Duration::from_secs(15), "{:?}", started.elapsed());
}

#[tokio::test]
async fn tokens_and_passwords() {
    let registry = Registry::new()
        .token_auth()
        .user("alice", "secret", ["app"])
        .open("public")
        .image("app:1", layers([KIB]))
        .image("other:1", layers([KIB]))
        .image("public:1", layers([KIB]))
        .start()
        .await;
    let alice = || registry.client().user("alice", "secret");
    alice().pull("app:1").await.unwrap();
    alice().pull("public:1").await.unwrap();
    registry.client().pull("public:1").await.unwrap();
    for (client, image) in [
        (alice(), "other:1"),
        (registry.client(), "app:1"),
        (registry.client().user("alice", "wrong"), "app:1"),
        (registry.client().token("made-up"), "app:1"),
        (registry.client().token(&registry.token(["other"])), "app:1"),
    ] {
        assert_eq!(status(client.pull(image).await.unwrap_err()).0, 401, "{image}");
    }
    let token = registry.token(["app"]);
    registry.client().token(&token).pull("app:1").await.unwrap();
    registry.revoke_tokens();
    assert_eq!(status(registry.client().token(&token).pull("app:1").await.unwrap_err()).0, 401);

    let registry = Registry::new()
        .basic_auth()
        .user("alice", "secret", ["app"])
        .image("app:1", layers([KIB]))
        .image("other:1", layers([KIB]))
        .start()
        .await;
    registry.client().user("alice", "secret").pull("app:1").await.unwrap();
    assert_eq!(status(registry.client().user("alice", "secret").pull("other:1").await.unwrap_err()).0, 403);
    assert_eq!(status(registry.client().pull("app:1").await.unwrap_err()).0, 401);
}

#[tokio::test]
async fn a_cdn_takes_only_what_was_signed_for_it() {
    let registry = Registry::new().image("app:1", layers([100 * KIB])).start().await;
    let cdn = Cdn::new("cdn.test").start(&registry).await;
    registry.fault(blobs().gets(), cdn.redirect());
    let image = registry.image("app:1");
    let layer = &image.layers[0];
    let reply = registry.client().get(&image.blob_path(layer)).await.unwrap();
    assert_eq!(reply.status, StatusCode::TEMPORARY_REDIRECT);
    let location = reply.header("location").unwrap().to_owned();
    let origin = format!("https://cdn.test:{}", cdn.addr().port());
    let path = location.strip_prefix(&origin).unwrap();
    let to = |host: &str, port| Client::new(cdn.addr(), host, port, Some(registry.roots()));
    let client = to("cdn.test", cdn.addr().port());
    let part = client.get_range(path, "bytes=5-14").await.unwrap();
    assert_eq!(part.status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.bytes().await.unwrap(), layer.bytes.slice(5..15));
    let code = async |client: &Client, path: &str| client.get(path).await.unwrap().status.as_u16();
    assert_eq!(code(&client, &path.replace("Signature=", "Signature=0")).await, 403);
    assert_eq!(code(&to("cdn.test", 443), path).await, 403);
    assert_eq!(code(&to("cdn.test", cdn.addr().port()).token("t"), path).await, 400);
    cdn.expire();
    assert_eq!(code(&client, path).await, 403);
    assert_eq!(cdn.blob_gets(), 5);
}

#[tokio::test]
async fn certificates() {
    let handshake = async |registry: &Running| registry.client().handshake().await;
    let good = Registry::new().start().await;
    assert!(handshake(&good).await.unwrap().is_some());
    for bad in [Registry::new().expired(), Registry::new().self_signed()] {
        let bad = bad.start().await;
        assert!(matches!(handshake(&bad).await, Err(ClientError::Tls(_))));
    }
    let mutual = Registry::new().wants_client_certificate().start().await;
    // In TLS 1.3 the client is done before its certificate is judged.
    assert!(mutual.client().get("/v2/").await.is_err());
    let known = mutual.client().certificate(&mutual.authority().client("node"));
    assert_eq!(known.get("/v2/").await.unwrap().status, StatusCode::OK);
    good.becomes(Registry::expired);
    assert!(matches!(handshake(&good).await, Err(ClientError::Tls(_))));
    good.becomes(|it| it);
    handshake(&good).await.unwrap();
}

#[tokio::test]
async fn long_and_dribbling_hellos() {
    let registry = Registry::new().image("app:1", layers([KIB])).start().await;
    registry.client().dribbling(1).pull("app:1").await.unwrap();
    let mut protocols = vec![vec![b'x'; 255]; 60];
    protocols.push(b"http/1.1".to_vec());
    registry.client().alpn(protocols).pull("app:1").await.unwrap();
    registry.client().without_sni().pull("app:1").await.unwrap();
}

#[tokio::test]
async fn uploads() {
    let registry = Registry::new().image("app:1", layers([KIB])).start().await;
    let client = registry.client();
    let blob = noise("pushed", 300 * KIB);
    let digest = Digest::of(&blob);
    let begun = client.send(request(Method::POST, "/v2/new/blobs/uploads/")).await.unwrap();
    let path =
        |reply: &Reply| reply.header("location").unwrap().splitn(4, '/').nth(3).map(|path| format!("/{path}")).unwrap();
    let session = path(&begun);
    let patched = client.send(request_with(Method::PATCH, &session, blob.clone())).await.unwrap();
    assert_eq!((patched.status.as_u16(), patched.header("range")), (202, Some("0-307199")));
    let put = format!("{}&digest={digest}", path(&patched));
    assert_eq!(client.send(request(Method::PUT, &put)).await.unwrap().status, StatusCode::CREATED);
    assert_eq!(registry.held("new", &digest), Some(blob));
    let mount = format!("/v2/mounted/blobs/uploads/?mount={digest}&from=new");
    assert_eq!(client.send(request(Method::POST, &mount)).await.unwrap().status, StatusCode::CREATED);
    assert_eq!(registry.count(Kind::Upload), 4);
    let received: u64 = registry.requests().iter().map(|seen| seen.received).sum();
    assert_eq!(received, 300 * KIB);
}

#[tokio::test]
async fn a_wire_gives_back_every_byte() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let wire = Wire::greeting("220 ").await;
    let mut stream = tokio::net::TcpStream::connect(wire.addr()).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "220 hello");
    wire.arrived(5).await;
    assert_eq!(wire.received(), b"hello");
}

#[tokio::test]
#[should_panic(expected = "the scripted registry panicked: as the script says")]
async fn a_panic_inside_fails_the_test() {
    let registry = Registry::new().with(any(), Fault::Panic).start().await;
    assert!(registry.client().get("/v2/").await.is_err());
}
