//! Images by the operator's word: out of one node and into another that is cut off, pulled before anybody asks, kept when
//! room is needed. Each time the real command line talks to the node's control socket.

use http::StatusCode;
use waylay::oci::Digest;
use waylay_tests::scripted::{Client, Cluster, KIB, MIB, Node, Registry, Running, layers};

use super::{line, sum};

/// An image's whole name in this registry.
fn named(registry: &Running, image: &str) -> String {
    format!("{}/{image}", registry.name())
}

async fn by_digest(client: &Client, repository: &str, digest: &Digest) -> StatusCode {
    client.get(&format!("/v2/{repository}/manifests/{digest}")).await.unwrap().status
}

/// An archive of `app:1`, written by a node that has pulled it.
async fn exported(registry: &Running, dir: &tempfile::TempDir) -> String {
    let mut node = Node::beside(registry).start().await;
    let image = registry.image("app:1");
    node.client().pull("app:1").await.unwrap();
    for blob in image.layers.iter().chain(&image.configs[..1]).chain([&image.top, &image.manifests[0]]) {
        node.keeps(&blob.digest).await;
    }
    let file = dir.path().join("app.tar").display().to_string();
    assert_eq!(node.waylay(["export", &named(registry, "app:1"), "-o", &file]).await, 0);
    file
}

#[tokio::test]
async fn a_node_that_is_cut_off_is_fed_by_hand() {
    let registry = Registry::new().image("app:1", layers([40 * MIB, 3 * KIB]).platforms(2)).start().await;
    let (dir, image) = (tempfile::tempdir().unwrap(), registry.image("app:1"));
    let file = exported(&registry, &dir).await;
    registry.down().await;

    // It has never seen this registry.
    let mut node = Node::beside(&registry).start().await;
    assert!(node.client().pull("app:1").await.is_err());
    assert_eq!(node.waylay(["import", &file]).await, 0);
    for restarted in [false, true] {
        if restarted {
            node.restart().await;
        }
        let before = node.access().len();
        // podman asks this first, and gives up when there is no answer.
        assert_eq!(node.client().get("/v2/").await.unwrap().status, StatusCode::OK);
        let pulled = node.client().pull("app:1").await.unwrap();
        assert_eq!(pulled.top, image.top.digest);
        assert_eq!(pulled.layers.len(), 2);
        assert!(pulled.warnings[0].starts_with("110 "), "{:?}", pulled.warnings);
        assert_eq!(by_digest(&node.client(), "app", &image.top.digest).await, StatusCode::OK);
        let lines = node.pulls(before + 6).await;
        let lines = &lines[before..];
        assert!(lines.iter().all(|line| line.status == 200), "{lines:#?}");
        let bytes = sum(lines);
        assert_eq!((bytes.registry, bytes.peer), (0, 0));
        assert_eq!(bytes.store, node.counters().by_source().store);
        let connection = node.connection("it stood in", |it| it.decision == "terminate").await;
        assert_eq!(connection.reason, "imported");
    }
    // Under this name, and under no other.
    let other = node.client().get(&format!("/v2/other/blobs/{}", image.layers[0].digest)).await.unwrap();
    assert!(other.status.is_server_error(), "{}", other.status);
    assert!(by_digest(&node.client(), "other", &image.top.digest).await.is_server_error());
}

#[tokio::test]
async fn an_import_opens_nothing_that_the_registry_refuses() {
    let registry = Registry::new().token_auth().user("alice", "a", ["app"]).image("app:1", layers([MIB])).start().await;
    let (dir, image) = (tempfile::tempdir().unwrap(), registry.image("app:1"));
    let token = registry.token(["app"]);
    let mut source = Node::beside(&registry).start().await;
    source.client().token(&token).pull("app:1").await.unwrap();
    source.keeps(&image.layers[0].digest).await;
    source.keeps(&image.top.digest).await;
    let file = dir.path().join("app.tar").display().to_string();
    assert_eq!(source.waylay(["export", &named(&registry, "app:1"), "-o", &file]).await, 0);

    let mut node = Node::beside(&registry).start().await;
    assert_eq!(node.waylay(["import", &file]).await, 0);
    let layer = &image.layers[0].digest;
    let refused = node.client().get(&format!("/v2/app/blobs/{layer}")).await.unwrap();
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    assert_eq!(by_digest(&node.client(), "app", &image.top.digest).await, StatusCode::UNAUTHORIZED);
    // Whoever may have it gets it from here: it costs the registry a question.
    let gets = registry.gets_of(*layer);
    node.client().token(&token).blob("app", layer).await.unwrap();
    assert_eq!(registry.gets_of(*layer), gets);
    let lines = node.pulls(3).await;
    assert_eq!(lines.iter().map(|line| line.store_bytes).sum::<u64>(), MIB, "{lines:#?}");
    assert_eq!(node.counters().by_source().store, MIB);
    // And while it is away, everybody on this node: that is what an import says.
    registry.down().await;
    node.client().blob("app", layer).await.unwrap();
}

#[tokio::test]
async fn a_bad_archive_changes_nothing() {
    let registry = Registry::new().image("app:1", layers([3 * MIB])).start().await;
    let (dir, image) = (tempfile::tempdir().unwrap(), registry.image("app:1"));
    let file = exported(&registry, &dir).await;
    let good = std::fs::read(&file).unwrap();
    let mut node = Node::beside(&registry).start().await;
    let bad = dir.path().join("bad.tar");
    for (what, bytes) in [
        (
            "damaged",
            good.iter().enumerate().map(|(at, byte)| byte ^ u8::from(at == good.len() - MIB as usize)).collect(),
        ),
        ("cut short", good[..good.len() - MIB as usize].to_vec()),
        ("no archive", b"hello".repeat(1000)),
    ] {
        std::fs::write(&bad, bytes).unwrap();
        assert_eq!(node.waylay(["import", bad.to_str().unwrap()]).await, 1, "{what}");
        let held = std::fs::read_dir(node.blob_file(&image.top.digest).parent().unwrap()).unwrap().count();
        assert_eq!(held, 0, "{what}");
    }
    registry.down().await;
    assert!(node.client().pull("app:1").await.is_err());
    assert_eq!(node.counters().by_source().store, 0);
    assert!(node.access().is_empty());
}

#[tokio::test]
async fn an_image_is_brought_here_with_the_nodes_login_before_anybody_asks() {
    let registry = Registry::new()
        .token_auth()
        .user("alice", "secret", ["app"])
        .image("app:1", layers([20 * MIB, KIB]).platforms(2))
        .start()
        .await;
    let (dir, image) = (tempfile::tempdir().unwrap(), registry.image("app:1"));
    let mut node = Node::beside(&registry).start().await;
    let auth = dir.path().join("auth.json");
    // "alice:secret"
    let auths = format!(r#"{{"auths":{{"{}":{{"auth":"YWxpY2U6c2VjcmV0"}}}}}}"#, registry.name());
    std::fs::write(&auth, "{\"auths\":{}}").unwrap();
    let (name, file) = (named(&registry, "app:1"), auth.display().to_string());
    assert_eq!(node.waylay(["pull", &name, "--auth-file", &file]).await, 1, "without a login");
    std::fs::write(&auth, auths).unwrap();
    assert_eq!(node.waylay(["pull", &name, "--auth-file", &file]).await, 0);
    for layer in &image.layers {
        node.keeps(&layer.digest).await;
    }
    let told = node.request("the pull is told of", |it| it.reference == Some(image.layers[0].digest.to_string())).await;
    assert_eq!((told.program.as_str(), told.registry_bytes), ("waylay pull", 20 * MIB));
    let counted = node.counters().by_source().registry;
    assert!(counted >= 20 * MIB + KIB, "{counted}");

    // The runtime's own pull takes all of it from here.
    let gets = registry.blob_gets();
    node.client().token(&registry.token(["app"])).pull("app:1").await.unwrap();
    assert_eq!(registry.blob_gets(), gets);
    let lines = node.pulls(5).await;
    assert_eq!(line(&lines, &image.layers[0].digest).store_bytes, 20 * MIB);
    let said = |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default();
    assert!(!said(&node.dir().join("state/journal")).contains("secret"));
}

#[tokio::test]
async fn all_members_pull_by_one_order_each_with_its_own_login() {
    let registry = Registry::new()
        .token_auth()
        .user("alice", "secret", ["app"])
        .image("app:1", layers([20 * MIB, KIB]))
        .start()
        .await;
    let (dir, image) = (tempfile::tempdir().unwrap(), registry.image("app:1"));
    let auth = dir.path().join("auth.json").display().to_string();
    // "alice:secret"
    let auths = format!(r#"{{"auths":{{"{}":{{"auth":"YWxpY2U6c2VjcmV0"}}}}}}"#, registry.name());
    std::fs::write(&auth, auths).unwrap();
    let cluster = Cluster::of(4);
    let node = |number, logins: &str| {
        Node::beside(&registry).configured(&format!("[pull]\nlogins = [{logins}]")).member(&cluster, number).start()
    };
    let mut one = node(0, "").await;
    let mut two = node(1, &format!("\"{auth}\"")).await;
    let mut three = node(2, "").await;
    two.control().await;
    three.control().await;
    let mut four = Node::beside(&registry).unlisted().member(&cluster, 3).start().await;
    four.control().await;

    let name = named(&registry, "app:1");
    assert_eq!(one.waylay(["pull", &name, "--auth-file", &auth, "--all-nodes"]).await, 1, "two do not pull it");
    for layer in &image.layers {
        one.keeps(&layer.digest).await;
        two.keeps(&layer.digest).await;
        assert!(!three.holds(&layer.digest), "a login went to another member");
        assert!(!four.holds(&layer.digest), "it does not list the registry");
    }
    for node in [&one, &two] {
        let told = node.request("it is told of", |it| it.reference == Some(image.layers[0].digest.to_string())).await;
        assert_eq!((told.program.as_str(), told.status), ("waylay pull", 200));
    }
    // Together, as a crowd does.
    let both = one.counters().by_source().registry + two.counters().by_source().registry;
    assert!(registry.blob_bytes_sent() < image.blob_bytes() * 11 / 10, "{} of {both}", registry.blob_bytes_sent());
    for node in [&three, &four] {
        assert_eq!((node.counters().by_source().peer, node.access().len()), (0, 0));
    }
}

#[tokio::test]
async fn what_cannot_be_pulled_says_so() {
    let registry = Registry::new().image("app:1", layers([KIB])).start().await;
    let mut node = Node::beside(&registry).start().await;
    for image in ["app:2", "none:1"] {
        assert_eq!(node.waylay(["pull", &named(&registry, image)]).await, 1, "{image}");
    }
    assert_eq!(node.waylay(["pull", "unlisted.test/app:1"]).await, 1);
    assert_eq!(node.waylay(["pull", "not an image"]).await, 64);
    assert_eq!(registry.blob_gets(), 0);
    assert_eq!(node.counters().by_source().registry, 0);
}

#[tokio::test]
async fn what_is_pinned_stays_when_room_is_needed() {
    let registry = Registry::new()
        .image("app:1", layers([20 * MIB]))
        .image("app:2", layers([20 * MIB]))
        .image("app:3", layers([40 * MIB]))
        .start()
        .await;
    let mut node = Node::beside(&registry).configured("[store]\nquota = \"64MiB\"\nlow_disk = \"1B\"").start().await;
    let layer = |image: &str| registry.image(image).layers[0].digest;
    for image in ["app:1", "app:2"] {
        node.client().pull(image).await.unwrap();
        node.keeps(&layer(image)).await;
    }
    assert_eq!(node.waylay(["blobs", "pin", &named(&registry, "app:1")]).await, 0);
    node.restart().await;
    node.client().pull("app:3").await.unwrap();
    node.keeps(&layer("app:3")).await;
    assert!(node.holds(&layer("app:1")) && !node.holds(&layer("app:2")));
    // The quota has grown too small for all three, and the pinned one is the least recently used.
    assert_eq!(node.waylay(["blobs", "gc"]).await, 0);
    assert!(node.holds(&layer("app:3")), "within the limits nothing goes");
    assert_eq!(node.waylay(["blobs", "unpin", &layer("app:1").to_string()]).await, 0);
    assert_eq!(node.waylay(["blobs", "pin", "unknown.test/app:1"]).await, 1);
    let gets = registry.gets_of(layer("app:1"));
    node.client().pull("app:1").await.unwrap();
    assert_eq!(registry.gets_of(layer("app:1")), gets, "it was never evicted");
    let lines = node.pulls(12).await;
    let last = lines.iter().rev().find(|line| line.digest == layer("app:1").to_string()).unwrap();
    assert_eq!(last.store_bytes, 20 * MIB);
    assert!(node.counters().by_source().store >= 20 * MIB);
}
