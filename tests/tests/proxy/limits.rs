//! Limits, each passed by: what is too large or too much is refused or left to the registry, and the next one is served.

use http::{HeaderName, StatusCode, header};
use serde_json::json;
use waylay_tests::scripted::{Cdn, Fault, KIB, MIB, Node, Piece, Registry, Running, blobs, layers, noise};

async fn beside() -> (Running, Node) {
    let registry = Registry::new().image("app:1", layers([MIB])).start().await;
    let node = Node::beside(&registry).start().await;
    (registry, node)
}

#[tokio::test]
async fn heads_that_are_too_long_or_have_too_many_headers() {
    let (registry, node) = beside().await;
    let (name, path) = (registry.name(), registry.image("app:1").tag_path());
    let many: String = (0..500).map(|number| format!("x-{number}: 1\r\n")).collect();
    let long = format!("x: {}\r\n", "y".repeat(200 << 10));
    for extra in [&many, &long] {
        let head = format!("GET {path} HTTP/1.1\r\nHost: {name}\r\n{extra}Connection: close\r\n\r\n");
        let reply = node.client().raw(head.as_bytes()).await.unwrap();
        assert!(reply.is_empty() || reply.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&reply));
    }
    let target = format!("GET /{} HTTP/1.1\r\nHost: {name}\r\n\r\n", "x".repeat(100 << 10));
    let reply = node.client().raw(target.as_bytes()).await.unwrap();
    assert!(reply.is_empty() || reply.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&reply));
    let long = node.client().http2().header(HeaderName::from_static("x"), &"y".repeat(100 << 10));
    if let Ok(reply) = long.get(&path).await {
        assert_eq!(reply.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
    assert!(registry.requests().is_empty(), "none of them went on");
    node.client().pull("app:1").await.unwrap();
}

#[tokio::test]
async fn a_manifest_larger_than_any_is_passed_and_not_read() {
    let (registry, node) = beside().await;
    let own = registry.image("app:1");
    let secret = noise("secret", KIB);
    let body = json!({
        "schemaVersion": 2,
        "mediaType": own.top.media_type,
        "config": own.configs[0].descriptor(),
        "layers": [Piece::new("layer", secret).descriptor()],
        "padding": "x".repeat(5 << 20),
    });
    let large = Piece::new(&own.top.media_type, body.to_string());
    registry.retag("app", "large", large.clone());
    for path in ["/v2/app/manifests/large".to_owned(), format!("/v2/app/manifests/{}", large.digest)] {
        for _ in 0..2 {
            let reply = node.client().get(&path).await.unwrap();
            assert_eq!(reply.success().await.unwrap(), large.bytes);
        }
    }
    assert!(!node.holds(&large.digest));
    assert_eq!(registry.manifest_gets(), 4);
}

#[tokio::test]
async fn more_connections_than_there_are_places_wait_for_one() {
    let registry = Registry::new().image("app:1", layers([MIB])).start().await;
    let node = Node::beside(&registry).configured("[proxy]\nmax_connections = 2").start().await;
    let (one, two, three) = (node.client(), node.client(), node.client());
    one.handshake().await.unwrap();
    two.handshake().await.unwrap();
    let waiting = tokio::spawn(async move { three.pull("app:1").await });
    // Those that have a place are served, however many wait.
    two.get(&registry.image("app:1").tag_path()).await.unwrap().success().await.unwrap();
    assert!(!waiting.is_finished());
    drop((one, two));
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn who_comes_without_the_kernel_gets_nothing_and_nowhere() {
    let registry = Registry::new().image("app:1", layers([MIB])).start().await;
    let node = Node::beside(&registry).uncaught().start().await;
    node.client().handshake().await.unwrap_err();
    node.client().without_sni().handshake().await.unwrap_err();
    let plain = waylay_tests::scripted::Client::new(node.addr(), registry.host(), registry.addr().port(), None);
    for head in ["GET / HTTP/1.1\r\nHost: registry.test\r\n\r\n", "CONNECT 127.0.0.1:1 HTTP/1.1\r\n\r\n", ""] {
        assert_eq!(plain.raw(head.as_bytes()).await.unwrap(), b"");
    }
    assert_eq!(registry.connections(), 0);
}

#[tokio::test]
async fn redirects_lead_neither_home_nor_to_a_machines_credentials() {
    let registry = Registry::new().image("app:1", layers([MIB])).start().await;
    // It would answer: certified for its address by an authority that the node trusts.
    let cdn = Cdn::new("127.0.0.1").start(&registry).await;
    let node = Node::beside(&registry).looking_up().start().await;
    let image = registry.image("app:1");
    let here = cdn.url(&image.layers[0].digest);
    let port = cdn.addr().port();
    for location in [
        here.clone(),
        here.replace("127.0.0.1", "localhost"),
        here.replace("127.0.0.1", "2130706433"),
        here.replace("127.0.0.1", "0x7f.1"),
        here.replace("127.0.0.1", "[::ffff:127.0.0.1]"),
        here.replace("127.0.0.1", "[2002:7f00:1::]"),
        here.replace("127.0.0.1", "user@127.0.0.1"),
        "https://169.254.169.254/latest/meta-data/".to_owned(),
        "https://[fe80::1]/".to_owned(),
        "https://[fd00:ec2::254]/".to_owned(),
        format!("//127.0.0.1:{port}/"),
        format!("http://127.0.0.1:{port}/"),
        format!("file:///etc/passwd?{port}"),
    ] {
        registry.heal();
        registry.fault(blobs(), Fault::Redirect(location.clone()));
        let reply = node.client().get(&image.blob_path(&image.layers[0])).await.unwrap();
        assert_eq!(reply.status, StatusCode::TEMPORARY_REDIRECT, "{location}");
        assert_eq!(reply.headers[header::LOCATION], location, "it is the client's own affair");
    }
    assert_eq!(cdn.connections(), 0);
}

#[tokio::test]
async fn a_key_in_a_header_of_its_own_stays_with_the_registry() {
    let registry = Registry::new().image("app:1", layers([MIB])).start().await;
    let cdn = Cdn::new("cdn.test").start(&registry).await;
    registry.fault(blobs().gets(), cdn.redirect());
    let node = Node::beside(&registry).knowing("cdn.test", &cdn).start().await;
    let client = node.client().header(HeaderName::from_static("x-jfrog-art-api"), "key-of-alice");
    client.header(header::USER_AGENT, "containerd/2").pull("app:1").await.unwrap();
    assert!(cdn.blob_gets() > 0);
    for seen in cdn.requests() {
        assert!(seen.header("x-jfrog-art-api").is_none() && seen.header("user-agent").is_some(), "{seen:#?}");
    }
}
