//! Who may have what: a node that holds a blob gives it to nobody to whom the registry itself would not.

use http::{Method, StatusCode, header};
use serde_json::json;
use waylay_tests::{
    fleet::AccessLine,
    scripted::{Client, Fault, KIB, MIB, Node, Piece, Registry, Running, any, blob, blobs, layers},
};

use super::status;

/// A registry with token authentication and two users whose rights meet nowhere but in `shared`.
pub(super) async fn guarded() -> (Running, Node) {
    let registry = Registry::new()
        .token_auth()
        .user("alice", "a", ["app", "shared"])
        .user("bob", "b", ["other", "shared"])
        .image("app:1", layers([2 * MIB]))
        .image("other:1", layers([KIB]))
        .image("shared:1", layers([MIB]))
        .start()
        .await;
    let node = Node::beside(&registry).start().await;
    (registry, node)
}

/// What one client gets for a path by way of the node, which must be what it gets from the registry itself.
pub(super) async fn as_direct(node: Client, registry: Client, repository: &str, path: &str) -> StatusCode {
    let ours = node.ask(Method::GET, repository, path, None).await.unwrap();
    let theirs = registry.ask(Method::GET, repository, path, None).await.unwrap();
    assert_eq!(ours.status, theirs.status, "{path}");
    for header in [header::WWW_AUTHENTICATE, header::CONTENT_TYPE, header::CONTENT_LENGTH] {
        assert_eq!(ours.headers.get(&header), theirs.headers.get(&header), "{path} {header}");
    }
    let status = ours.status;
    assert_eq!(ours.bytes().await.unwrap(), theirs.bytes().await.unwrap());
    status
}

/// The lines after the first `count`, once there are `more`.
async fn later(node: &Node, count: usize, more: usize) -> Vec<AccessLine> {
    node.pulls(count + more).await.split_off(count)
}

#[tokio::test]
async fn a_blob_in_the_store_is_not_for_everyone() {
    let (registry, node) = guarded().await;
    node.client().user("alice", "a").pull("app:1").await.unwrap();
    let image = registry.image("app:1");
    let path = image.blob_path(&image.layers[0]);
    let lines = node.pulls(3).await.len();
    type Who = fn(Client, &Running) -> Client;
    let strangers: [Who; 4] = [
        |client, _| client,
        |client, _| client.user("bob", "b"),
        |client, _| client.user("alice", "wrong"),
        |client, registry| client.token(&registry.token(["other"])),
    ];
    for (number, stranger) in strangers.into_iter().enumerate() {
        let (ours, theirs) = (stranger(node.client(), &registry), stranger(registry.client(), &registry));
        let status = as_direct(ours, theirs, "app", &path).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "stranger {number}");
    }
    let refused = later(&node, lines, 4 + 2).await;
    assert!(refused.iter().all(|line| line.status == 401 && line.store_bytes == 0), "{refused:#?}");
    assert_eq!(registry.gets_of(image.layers[0].digest), 1 + 2 * (4 + 2));
}

#[tokio::test]
async fn a_right_in_one_repository_is_none_in_another() {
    let (registry, node) = guarded().await;
    node.client().user("alice", "a").pull("app:1").await.unwrap();
    let digest = registry.image("app:1").layers[0].digest;
    let path = format!("/v2/other/blobs/{digest}");
    let bob = |client: Client| client.user("bob", "b");
    let status = as_direct(bob(node.client()), bob(registry.client()), "other", &path).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    // Nor is the right of a credential that of another, where both may read.
    node.client().user("alice", "a").pull("shared:1").await.unwrap();
    let shared = registry.image("shared:1");
    let refusal = registry.client().get(&shared.blob_path(&shared.layers[0])).await.unwrap();
    let heads = registry.blob_heads();
    let sent = registry.blob_bytes_sent() + refusal.bytes().await.unwrap().len() as u64;
    let got = bob(node.client()).blob("shared", &shared.layers[0].digest).await.unwrap();
    assert_eq!(got, shared.layers[0].bytes);
    // Once without a token and once with, as from the registry; the bytes came but once.
    assert_eq!((registry.blob_heads(), registry.gets_of(shared.layers[0].digest)), (heads + 2, 1 + 1 + 1));
    assert_eq!(registry.blob_bytes_sent(), sent);
}

#[tokio::test]
async fn a_manifest_that_lists_what_its_author_may_not_have_gives_nothing() {
    let (registry, node) = guarded().await;
    node.client().user("alice", "a").pull("app:1").await.unwrap();
    let secret = registry.image("app:1").layers[0].clone();
    let own = registry.image("other:1");
    // Bob pushes a manifest that lists Alice's layer, as a registry without validation lets him.
    for (tag, urls) in [("thief", json!([])), ("foreign", json!(["https://elsewhere.test/"]))] {
        let mut listed = secret.descriptor();
        listed["urls"] = urls;
        let forged = json!({
            "schemaVersion": 2,
            "mediaType": own.top.media_type,
            "config": own.configs[0].descriptor(),
            "layers": [listed],
        });
        registry.retag("other", tag, Piece::new(&own.top.media_type, forged.to_string()));
        let bob = node.client().user("bob", "b");
        let manifest = bob.ask(Method::GET, "other", &format!("/v2/other/manifests/{tag}"), None).await.unwrap();
        manifest.success().await.unwrap();
        assert_eq!(status(bob.blob("other", &secret.digest).await), StatusCode::NOT_FOUND, "{tag}");
        let part =
            bob.ask(Method::GET, "other", &format!("/v2/other/blobs/{}", secret.digest), Some("bytes=0-9")).await;
        assert_eq!(part.unwrap().status, StatusCode::NOT_FOUND, "{tag}");
    }
    let lines = node.access();
    let stolen = lines.iter().filter(|line| line.repository == "other" && line.digest == secret.digest.to_string());
    assert!(stolen.into_iter().all(|line| line.store_bytes == 0), "{lines:#?}");
}

#[tokio::test]
async fn the_second_client_with_the_manifest_costs_no_question_for_a_blob() {
    let (registry, node) = guarded().await;
    node.client().user("alice", "a").pull("app:1").await.unwrap();
    let heads = registry.blob_heads();
    // A new token, so a new credential: its manifest is asked for, its blobs are listed there.
    node.client().user("alice", "a").pull("app:1").await.unwrap();
    assert_eq!((registry.blob_heads(), registry.blob_gets()), (heads, 2));
}

#[tokio::test]
async fn a_head_with_the_clients_own_headers_is_the_permission() {
    let (registry, node) = guarded().await;
    let digest = registry.image("app:1").layers[0].digest;
    node.client().user("alice", "a").pull("app:1").await.unwrap();
    let token = registry.token(["app"]);
    for _ in 0..3 {
        node.client().token(&token).blob("app", &digest).await.unwrap();
    }
    let heads: Vec<_> = registry
        .requests()
        .into_iter()
        .filter(|seen| seen.method == Method::HEAD && seen.digest() == Some(digest))
        .collect();
    // Remembered after the first.
    assert_eq!(heads.len(), 1);
    assert_eq!(heads[0].header("authorization"), Some(&*format!("Bearer {token}")));
    assert_eq!(registry.gets_of(digest), 1);
    registry.fault(blob(digest).heads(), Fault::Status(StatusCode::FORBIDDEN));
    registry.fault(blob(digest).gets(), Fault::Status(StatusCode::FORBIDDEN));
    let refused = node.client().token(&registry.token(["app"])).blob("app", &digest).await;
    assert_eq!(status(refused), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_mirrors_namespace_is_part_of_the_repository() {
    let (registry, node) = guarded().await;
    let image = registry.image("app:1");
    let alice = node.client().user("alice", "a");
    let manifest = format!("{}?ns=docker.io", image.manifest_path(&image.top));
    alice.ask(Method::GET, "app", &manifest, None).await.unwrap().success().await.unwrap();
    let layer = image.blob_path(&image.layers[0]);
    alice.ask(Method::GET, "app", &format!("{layer}?ns=docker.io"), None).await.unwrap().success().await.unwrap();
    // The same path for another registry behind the mirror is another question.
    let heads = registry.blob_heads();
    alice.ask(Method::GET, "app", &format!("{layer}?ns=ghcr.io"), None).await.unwrap().success().await.unwrap();
    assert_eq!(registry.blob_heads(), heads + 1);
    assert!(registry.requests().iter().any(|seen| seen.target == format!("{layer}?ns=ghcr.io")));
}

#[tokio::test]
async fn a_manifest_by_digest_is_guarded_like_a_blob() {
    let (registry, node) = guarded().await;
    node.client().user("alice", "a").pull("app:1").await.unwrap();
    let image = registry.image("app:1");
    let path = image.manifest_path(&image.top);
    for user in [None, Some(("bob", "b"))] {
        let with = |client: Client| match user {
            Some((name, password)) => client.user(name, password),
            None => client,
        };
        let status = as_direct(with(node.client()), with(registry.client()), "app", &path).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn passwords_are_guarded_the_same() {
    let registry = Registry::new()
        .basic_auth()
        .user("alice", "a", ["app"])
        .user("bob", "b", ["other"])
        .image("app:1", layers([MIB]))
        .start()
        .await;
    let node = Node::beside(&registry).start().await;
    for _ in 0..2 {
        node.client().user("alice", "a").pull("app:1").await.unwrap();
    }
    assert_eq!(registry.blob_gets(), 2);
    let digest = registry.image("app:1").layers[0].digest;
    assert_eq!(status(node.client().user("bob", "b").blob("app", &digest).await), StatusCode::FORBIDDEN);
    assert_eq!(status(node.client().blob("app", &digest).await), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn private_content_stays_private_while_the_registry_is_away() {
    let (registry, node) = guarded().await;
    let image = registry.image("app:1");
    let layer = &image.layers[0];
    let token = registry.token(["app"]);
    node.client().token(&token).pull("app:1").await.unwrap();
    registry.fault(blobs(), Fault::Status(StatusCode::SERVICE_UNAVAILABLE));
    // Within the grace the credential that was granted it still has it; nobody else has.
    node.client().token(&token).blob("app", &layer.digest).await.unwrap();
    for client in [node.client(), node.client().user("bob", "b"), node.client().token("made-up")] {
        assert_eq!(status(client.blob("app", &layer.digest).await), StatusCode::SERVICE_UNAVAILABLE);
    }
    let lines = node.access();
    assert_eq!(lines.iter().filter(|line| line.status == 503).map(|line| line.store_bytes).sum::<u64>(), 0);
}

#[tokio::test]
async fn what_everyone_may_have_everyone_has_while_the_registry_is_away() {
    let registry = Registry::new().basic_auth().open("public").image("public:1", layers([MIB])).start().await;
    let node = Node::beside(&registry).start().await;
    let pulled = node.client().pull("public:1").await.unwrap();
    registry.fault(any(), Fault::Status(StatusCode::SERVICE_UNAVAILABLE));
    let client = node.client().header(header::AUTHORIZATION, "Basic bmV2ZXI6c2Vlbg==");
    assert_eq!(client.pull("public:1").await.unwrap().layers, pulled.layers);
}
