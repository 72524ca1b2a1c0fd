//! Registries that keep their blobs elsewhere: followed by us where that is safe, relayed unchanged where not.

use http::{StatusCode, header};
use waylay_tests::scripted::{Cdn, Fault, Kind, MIB, Node, Registry, Running, RunningCdn, blobs, layers, tags, when};

use super::{line, status};

/// A registry that redirects its blobs to a CDN, and a node that knows the way.
async fn redirecting(cdn: Cdn) -> (Running, RunningCdn, Node) {
    let registry = Registry::new().token_auth().user("alice", "secret", ["app"]).image("app:1", layers([4 * MIB]));
    let registry = registry.start().await;
    let cdn = cdn.start(&registry).await;
    registry.fault(blobs().gets(), cdn.redirect());
    let node = Node::beside(&registry).knowing("cdn.test", &cdn).start().await;
    (registry, cdn, node)
}

#[tokio::test]
async fn the_cdn_is_asked_by_us_and_without_credentials() {
    let (registry, cdn, node) = redirecting(Cdn::new("cdn.test")).await;
    let image = registry.image("app:1");
    for _ in 0..2 {
        let pulled = node.client().user("alice", "secret").pull("app:1").await.unwrap();
        assert_eq!(pulled.layers, [image.layers[0].bytes.clone()]);
    }
    assert_eq!((cdn.blob_gets(), cdn.blob_bytes_sent()), (2, image.blob_bytes()));
    assert_eq!(registry.blob_gets(), 2);
    let host = format!("cdn.test:{}", cdn.addr().port());
    for seen in cdn.requests() {
        assert!(!seen.authorised() && seen.host == host && seen.status == 200, "{seen:#?}");
    }
    let lines = node.pulls(6).await;
    assert!(lines.iter().all(|line| line.fault == "-"));
    assert_eq!(lines.iter().map(|line| line.registry_bytes).sum::<u64>(), image.blob_bytes() + image.top.size());
}

#[tokio::test]
async fn a_range_follows_too() {
    let (registry, cdn, node) = redirecting(Cdn::new("cdn.test")).await;
    let (image, client) = (registry.image("app:1"), node.client().user("alice", "secret"));
    let path = image.manifest_path(&image.top);
    client.ask(http::Method::GET, "app", &path, None).await.unwrap().success().await.unwrap();
    let path = image.blob_path(&image.layers[0]);
    let part = client.ask(http::Method::GET, "app", &path, Some("bytes=1000000-1000009")).await.unwrap();
    assert_eq!(part.status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.bytes().await.unwrap(), image.layers[0].bytes.slice(1_000_000..1_000_010));
    assert!(cdn.blob_bytes_sent() <= MIB);
}

/// The redirect comes to the client as the registry sent it.
async fn relayed(registry: &Running, node: &Node, location: impl Fn(&str) -> bool) {
    let image = registry.image("app:1");
    let client = node.client().user("alice", "secret");
    let reply = client.ask(http::Method::GET, "app", &image.blob_path(&image.layers[0]), None).await.unwrap();
    assert_eq!(reply.status, StatusCode::TEMPORARY_REDIRECT);
    let found = reply.header("location").unwrap();
    assert!(location(found), "{found}");
    let lines = node.pulls(1).await;
    assert_eq!(line(&lines, &image.layers[0].digest).status, 307);
}

#[tokio::test]
async fn what_may_not_be_followed_is_relayed() {
    let (registry, cdn, node) = redirecting(Cdn::new("cdn.test").plain_http()).await;
    relayed(&registry, &node, |location| location.starts_with("http://cdn.test:")).await;
    assert!(cdn.requests().is_empty());

    let (registry, cdn, node) = redirecting(Cdn::new("unknown.test")).await;
    relayed(&registry, &node, |location| location.starts_with("https://unknown.test:")).await;
    assert!(cdn.requests().is_empty());

    let (registry, _cdn, node) = redirecting(Cdn::new("cdn.test").self_signed()).await;
    relayed(&registry, &node, |location| location.starts_with("https://cdn.test:")).await;

    let (registry, cdn, node) = redirecting(Cdn::new("cdn.test")).await;
    cdn.down().await;
    relayed(&registry, &node, |location| location.starts_with("https://cdn.test:")).await;
}

#[tokio::test]
async fn an_endless_redirect_ends() {
    let registry = Registry::new().image("app:1", layers([MIB])).start().await;
    let image = registry.image("app:1");
    registry.fault(blobs(), Fault::Redirect(image.blob_path(&image.layers[0])));
    let node = Node::beside(&registry).start().await;
    let reply = node.client().get(&image.blob_path(&image.layers[0])).await.unwrap();
    assert_eq!(reply.status, StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(registry.blob_gets(), 1 + 5);
}

#[tokio::test]
async fn an_expired_redirect_is_fetched_anew() {
    let (registry, cdn, node) = redirecting(Cdn::new("cdn.test")).await;
    let image = registry.image("app:1");
    let large = |seen: &waylay_tests::scripted::Seen| seen.kind == Kind::BlobGet;
    cdn.fault(when(large).first(1), Fault::Status(StatusCode::FORBIDDEN));
    let client = node.client().user("alice", "secret");
    // The registry's redirect led to a refusal: that is for the client to see, and its retry must work.
    let first = client.pull("app:1").await;
    if first.is_err() {
        assert_eq!(status(first), StatusCode::FORBIDDEN);
        client.pull("app:1").await.unwrap();
    }
    cdn.expire();
    node.keeps(&image.layers[0].digest).await;
}

#[tokio::test]
async fn a_redirected_head_is_a_permission() {
    let (registry, cdn, node) = redirecting(Cdn::new("cdn.test")).await;
    let image = registry.image("app:1");
    node.client().user("alice", "secret").pull("app:1").await.unwrap();
    // Registries that redirect do so for HEAD as well.
    registry.fault(blobs().heads(), cdn.redirect());
    let sent = cdn.blob_bytes_sent();
    let blob = node.client().user("alice", "secret").blob("app", &image.layers[0].digest).await.unwrap();
    assert_eq!(blob, image.layers[0].bytes);
    assert_eq!(cdn.blob_bytes_sent(), sent + 1, "one byte shows that the storage has it");
    registry.heal();
    registry.fault(blobs(), Fault::Redirect("https://login.test/".to_owned()));
    let reply = node.client().token("unknown").get(&image.blob_path(&image.layers[0])).await.unwrap();
    assert_eq!(reply.status, StatusCode::TEMPORARY_REDIRECT);
}

#[tokio::test]
async fn a_manifest_that_is_redirected_is_relayed() {
    let registry = Registry::new().image("app:1", layers([MIB])).start().await;
    registry.fault(tags(), Fault::Redirect("https://elsewhere.test/manifest".to_owned()));
    let node = Node::beside(&registry).start().await;
    let reply = node.client().get(&registry.image("app:1").tag_path()).await.unwrap();
    assert_eq!(reply.headers[header::LOCATION], "https://elsewhere.test/manifest");
}
