//! Ways to a layer of somebody else, each tried: the answer must be the registry's own, and not one byte the layer's.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::future::join_all;
use http::{HeaderName, Method, StatusCode, header};
use waylay_tests::scripted::{
    Built, Client, Fault, Gate, KIB, Kind, MIB, Node, Registry, Running, blobs, layers, request,
};

use super::{
    access::{as_direct, guarded},
    has_part_of, status,
};

/// The node holds Alice's image.
async fn cached() -> (Running, Node, Built) {
    let (registry, node) = Box::pin(guarded()).await;
    node.client().user("alice", "a").pull("app:1").await.unwrap();
    let image = registry.image("app:1");
    node.keeps(&image.layers[0].digest).await;
    (registry, node, image)
}

fn bob(client: Client) -> Client {
    client.user("bob", "b")
}

/// Whether a reply holds any part of the layer.
fn holds(reply: &[u8], image: &Built) -> bool {
    has_part_of(reply, &image.layers[0].bytes)
}

#[tokio::test]
async fn a_digest_is_no_key_in_any_repository() {
    let (registry, node, image) = cached().await;
    let digest = image.layers[0].digest;
    for repository in ["app", "other", "shared", "nowhere", "app/app", "library/app"] {
        let path = format!("/v2/{repository}/blobs/{digest}");
        for with in [|client: Client| client, bob] {
            let status = as_direct(with(node.client()), with(registry.client()), repository, &path).await;
            assert!(status.is_client_error(), "{repository}: {status}");
        }
    }
}

#[tokio::test]
async fn paths_that_two_readers_may_read_differently() {
    let (registry, node, image) = cached().await;
    let digest = image.layers[0].digest;
    let (hex, upper) = (digest.hex(), digest.hex().to_uppercase());
    let other = |rest: &str| format!("/v2/other/blobs/{rest}");
    let paths = [
        format!("/v2/other/../app/blobs/{digest}"),
        format!("/v2/app/../other/blobs/{digest}"),
        format!("/v2/other/%2e%2e/app/blobs/{digest}"),
        format!("/v2/other%2f..%2fapp/blobs/{digest}"),
        format!("/v2/other/./blobs/{digest}"),
        format!("/v2//app/blobs/{digest}"),
        format!("/v2/app//blobs/{digest}"),
        format!("//v2/app/blobs/{digest}"),
        format!("/v2/app/blobs//{digest}"),
        format!("/v2/app/blobs/{digest}/"),
        format!("/v2/app/blobs/{digest}/../{digest}"),
        format!("/V2/app/blobs/{digest}"),
        format!("/v2/APP/blobs/{digest}"),
        format!("/v2/app/BLOBS/{digest}"),
        format!("/v2/app;x/blobs/{digest}"),
        other(&format!("sha256:{upper}")),
        other(&format!("SHA256:{hex}")),
        other(&format!("sha256%3A{hex}")),
        other(&format!("sha256:{hex}%00")),
        other(&format!("{digest}?ns=app")),
        other(&format!("{digest}?ns=../app")),
        other(&format!("{digest}?repository=app")),
        other(&format!("{digest}?mount={digest}&from=app")),
        format!("/v2/other/manifests/{digest}"),
        format!("/v2/app/blobs/uploads/../{digest}"),
        format!("/v2/app/blobs/uploads/{digest}"),
        format!("/v2/app/blobs/uploads/?mount={digest}&from=app"),
    ];
    for path in &paths {
        for method in [Method::GET, Method::HEAD] {
            let (ours, theirs) = (bob(node.client()), bob(registry.client()));
            let ours = ours.ask(method.clone(), "other", path, None).await.unwrap();
            let theirs = theirs.ask(method.clone(), "other", path, None).await.unwrap();
            assert_eq!(ours.status, theirs.status, "{method} {path}");
            let (ours, theirs) = (ours.bytes().await.unwrap(), theirs.bytes().await.unwrap());
            assert!(!holds(&ours, &image), "{method} {path} gave bytes");
            assert_eq!(ours, theirs, "{method} {path}");
        }
    }
    assert_eq!(
        node.access().iter().filter(|line| line.repository != "app").map(|line| line.store_bytes).sum::<u64>(),
        0
    );
}

#[tokio::test]
async fn a_request_that_names_two_hosts() {
    let (registry, node, image) = cached().await;
    let (name, token) = (registry.name(), registry.token(["other"]));
    let path = image.blob_path(&image.layers[0]);
    let close = "Connection: close\r\n\r\n";
    for head in [
        format!("GET {path} HTTP/1.1\r\nHost: {name}\r\nAuthorization: Bearer {token}\r\n{close}"),
        format!("GET {path} HTTP/1.1\r\nHost: other.test\r\nAuthorization: Bearer {token}\r\n{close}"),
        format!("GET https://{name}{path} HTTP/1.1\r\nHost: other.test\r\nAuthorization: Bearer {token}\r\n{close}"),
        format!("GET https://other.test{path} HTTP/1.1\r\nHost: {name}\r\nAuthorization: Bearer {token}\r\n{close}"),
        format!("GET {path} HTTP/1.1\r\nHost: {name}\r\nHost: other.test\r\nAuthorization: Bearer {token}\r\n{close}"),
        format!("GET {path} HTTP/1.1\r\nHost: other.test\r\nHost: {name}\r\nAuthorization: Bearer {token}\r\n{close}"),
        format!("GET {path} HTTP/1.1\r\nHost: bob@{name}\r\nAuthorization: Bearer {token}\r\n{close}"),
        format!("GET {path} HTTP/1.1\r\nAuthorization: Bearer {token}\r\n{close}"),
        format!("GET {path} HTTP/1.0\r\nAuthorization: Bearer {token}\r\n\r\n"),
        format!("CONNECT {name} HTTP/1.1\r\nHost: {name}\r\n{close}"),
    ] {
        let reply = node.client().raw(head.as_bytes()).await.unwrap();
        assert!(!reply.starts_with(b"HTTP/1.1 2") && !reply.starts_with(b"HTTP/1.0 2"), "{head}");
        assert!(!holds(&reply, &image), "{head}");
    }
    // What is asked of another host is between the client and the registry: nothing is learnt from it or served for it.
    let alice = node.client().user("alice", "a").header(header::HOST, "other.test");
    let (heads, gets) = (registry.blob_heads(), registry.blob_gets());
    alice.ask(Method::GET, "app", &path, None).await.unwrap().success().await.unwrap();
    assert_eq!(registry.blob_heads(), heads);
    assert!(registry.blob_gets() > gets);
}

#[tokio::test]
async fn a_connection_that_changes_its_credential() {
    let (registry, node, image) = cached().await;
    let path = image.blob_path(&image.layers[0]);
    let (alice, bob) = (registry.token(["app"]), registry.token(["other"]));
    for client in [node.client(), node.client().http2()] {
        for _ in 0..3 {
            for (token, good) in [(Some(&alice), true), (Some(&bob), false), (None, false)] {
                let mut ask = request(Method::GET, &path);
                if let Some(token) = token {
                    ask.headers_mut().insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
                }
                let reply = client.send(ask).await.unwrap();
                assert_eq!(reply.status, if good { StatusCode::OK } else { StatusCode::UNAUTHORIZED });
                assert_eq!(holds(&reply.bytes().await.unwrap(), &image), good);
            }
        }
    }
    assert_eq!(registry.gets_of(image.layers[0].digest), 1 + 2 * 3 * 2, "Alice's came from the store");
}

#[tokio::test]
async fn streams_of_one_connection_with_different_credentials() {
    let (registry, node, image) = cached().await;
    let path = image.blob_path(&image.layers[0]);
    let (alice, bob) = (registry.token(["app"]), registry.token(["other"]));
    let client = node.client().http2();
    client.handshake().await.unwrap();
    let asks = (0..24).map(|number| {
        let (path, client) = (&path, &client);
        let token = [Some(&alice), Some(&bob), None][number % 3];
        async move {
            let mut ask = request(Method::GET, path);
            if let Some(token) = token {
                ask.headers_mut().insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
            }
            let reply = client.send(ask).await.unwrap();
            (number, reply.status, reply.bytes().await.unwrap())
        }
    });
    for (number, status, bytes) in join_all(asks).await {
        let good = number % 3 == 0;
        assert_eq!(status, if good { StatusCode::OK } else { StatusCode::UNAUTHORIZED }, "{number}");
        assert_eq!(holds(&bytes, &image), good, "{number}");
    }
}

#[tokio::test]
async fn heads_ranges_and_conditions() {
    let (registry, node, image) = cached().await;
    let layer = &image.layers[0];
    let tag = format!("\"{}\"", layer.digest);
    let combinations: [&[(HeaderName, &str)]; 9] = [
        &[(header::RANGE, "bytes=0-")],
        &[(header::RANGE, "bytes=0-0")],
        &[(header::RANGE, "bytes=-1")],
        &[(header::RANGE, "bytes=0-0,5-9")],
        &[(header::RANGE, "bytes=99999999-")],
        &[(header::IF_NONE_MATCH, &tag)],
        &[(header::IF_NONE_MATCH, "*")],
        &[(header::RANGE, "bytes=0-9"), (header::IF_RANGE, &tag)],
        &[(header::IF_MATCH, &tag), (header::IF_MODIFIED_SINCE, "Thu, 01 Jan 1970 00:00:00 GMT")],
    ];
    for headers in combinations {
        for method in [Method::GET, Method::HEAD] {
            let with = |client: Client| {
                headers.iter().fold(client, |client, (name, value)| client.header(name.clone(), value))
            };
            for (who, client) in [("nobody", with(node.client())), ("Bob", bob(with(node.client())))] {
                let reply = client.ask(method.clone(), "app", &image.blob_path(layer), None).await.unwrap();
                assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{who} {method} {headers:?}");
                assert!(!holds(&reply.bytes().await.unwrap(), &image));
            }
        }
    }
    assert!(node.access().iter().filter(|line| line.status == 401).all(|line| line.store_bytes == 0));
    let _ = registry;
}

#[tokio::test]
async fn a_download_under_way_is_not_joined_without_a_right() {
    let (registry, node) = guarded().await;
    let image = registry.image("app:1");
    let (digest, path) = (image.layers[0].digest, image.blob_path(&image.layers[0]));
    let gate = Gate::new();
    registry.fault(
        blobs().gets().and(move |seen| seen.digest() == Some(digest) && seen.authorised()).first(1),
        Fault::Stall(MIB, gate.clone()),
    );
    let (alice, token) = (node.client(), registry.token(["app"]));
    let pulling = tokio::spawn(async move { alice.token(&token).blob("app", &digest).await });
    gate.reached(1).await;
    for client in [node.client(), bob(node.client()), node.client().token("made-up")] {
        for range in [None, Some("bytes=0-9"), Some("bytes=1000-")] {
            let reply = client.ask(Method::GET, "app", &path, range).await.unwrap();
            assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
            assert!(!holds(&reply.bytes().await.unwrap(), &image));
        }
    }
    gate.open();
    assert_eq!(pulling.await.unwrap().unwrap(), image.layers[0].bytes);
}

#[tokio::test]
async fn what_a_revoked_token_was_not_shown_it_never_gets() {
    let (registry, node, image) = cached().await;
    let token = registry.token(["app"]);
    let client = node.client().token(&token);
    client.get(&image.manifest_path(&image.top)).await.unwrap().success().await.unwrap();
    registry.revoke_tokens();
    // Shown within the last five minutes; what was not shown is asked for.
    client.blob("app", &image.layers[0].digest).await.unwrap();
    let fresh = node.client().token(&token).header(header::COOKIE, "another=credential");
    assert_eq!(status(fresh.blob("app", &image.layers[0].digest).await), StatusCode::UNAUTHORIZED);
    assert_eq!(status(client.blob("shared", &image.layers[0].digest).await), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn what_a_token_was_shown_ends_with_it() {
    // In both spellings of the scheme, which is not case-sensitive (RFC 9110, section 11.1), and with a fraction.
    for (scheme, expiry) in [("Bearer", "1"), ("bearer", "1"), ("BEARER", "1.5")] {
        let registry = Registry::new().image("app:1", layers([MIB])).start().await;
        let node = Node::beside(&registry).start().await;
        let image = registry.image("app:1");
        let claims = URL_SAFE_NO_PAD.encode(format!("{{\"exp\":{expiry}}}"));
        let client = node.client().header(header::AUTHORIZATION, &format!("{scheme} e30.{claims}.x"));
        client.pull("app:1").await.unwrap();
        node.keeps(&image.layers[0].digest).await;
        registry.fault(blobs(), Fault::Unauthorized);
        assert_eq!(status(client.blob("app", &image.layers[0].digest).await), StatusCode::UNAUTHORIZED, "{scheme}");
    }
}

#[tokio::test]
async fn credentials_in_other_headers_are_credentials() {
    for name in ["x-jfrog-art-api", "private-token", "x-registry-token", "x-forwarded-user"] {
        let registry = Registry::new().image("app:1", layers([MIB, KIB])).start().await;
        let node = Node::beside(&registry).start().await;
        let image = registry.image("app:1");
        let header: HeaderName = name.parse().unwrap();
        node.client().header(header.clone(), "key-of-alice").pull("app:1").await.unwrap();
        node.keeps(&image.layers[0].digest).await;
        // The registry knows the key and nobody else.
        let stranger = move |seen: &waylay_tests::scripted::Seen| seen.header(name) != Some("key-of-alice");
        registry.fault(waylay_tests::scripted::when(stranger), Fault::Unauthorized);
        for client in [node.client(), node.client().header(header.clone(), "key-of-bob")] {
            for path in [image.blob_path(&image.layers[0]), image.manifest_path(&image.top)] {
                let reply = client.get(&path).await.unwrap();
                assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{name} {path}");
            }
        }
        let gets = registry.blob_gets();
        node.client().header(header, "key-of-alice").blob("app", &image.layers[0].digest).await.unwrap();
        assert_eq!(registry.blob_gets(), gets, "hers from the store");
    }
}

#[tokio::test]
async fn a_mirrors_repository_is_not_another_one_of_that_name() {
    let registry = Registry::new()
        .token_auth()
        .user("alice", "a", ["app"])
        .user("bob", "b", ["docker.io/app"])
        .image("app:1", layers([2 * MIB]))
        .image("docker.io/app:1", layers([KIB]))
        .start()
        .await;
    let node = Node::beside(&registry).start().await;
    let (image, own) = (registry.image("app:1"), registry.image("docker.io/app:1"));
    // Alice's runtime asks a mirror: the repository is `app`, whatever registry it stands for.
    let alice = node.client().user("alice", "a");
    for path in [image.manifest_path(&image.top), image.blob_path(&image.layers[0])] {
        alice.ask(Method::GET, "app", &format!("{path}?ns=docker.io"), None).await.unwrap().success().await.unwrap();
    }
    let layer = &image.layers[0];
    let forged = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": own.top.media_type,
        "config": own.configs[0].descriptor(),
        "layers": [layer.descriptor()],
    });
    let forged = waylay_tests::scripted::Piece::new(&own.top.media_type, forged.to_string());
    registry.retag("docker.io/app", "thief", forged);
    let bob = node.client().user("bob", "b");
    let tag = bob.ask(Method::GET, "docker.io/app", "/v2/docker.io/app/manifests/thief", None).await.unwrap();
    tag.success().await.unwrap();
    assert_eq!(status(bob.blob("docker.io/app", &layer.digest).await), StatusCode::NOT_FOUND);
    assert!(registry.count(Kind::BlobHead) > 0);
}
