//! Everything that a registry can do wrong. What a client got, what the counters say and what the access line says must
//! agree; and no wrong byte is ever the end of a complete answer.

use std::time::Duration;

use http::StatusCode;
use waylay_tests::scripted::{
    Client, ClientError, Fault, KIB, MIB, Node, Piece, Registry, Running, When, blob, blobs, layers,
};

use super::{line, status};

/// A registry with one image, a node, and a client of it that has fetched the manifest.
async fn ready(size: u64) -> (Running, Node, Client, Piece) {
    let registry = Registry::new().image("app:1", layers([size])).start().await;
    let node = Box::pin(Node::beside(&registry).start()).await;
    let (image, client) = (registry.image("app:1"), node.client());
    client.get(&image.manifest_path(&image.top)).await.unwrap().success().await.unwrap();
    (registry, node, client, image.layers[0].clone())
}

/// The access line about the blob says this fault, and so do the counters.
async fn told(node: &Node, layer: &Piece, fault: &str) {
    let lines = node.pulls(2).await;
    assert_eq!(line(&lines, &layer.digest).fault, fault);
    let (side, what) = fault.split_once(':').unwrap();
    assert!(node.counters().sum("waylay_faults_total", &[("side", side), ("what", what)]) > 0);
}

#[tokio::test]
async fn a_body_cut_in_the_middle_is_continued() {
    for (size, after) in [(4 * MIB, 1_500_000), (4 * MIB, 0), (40 * MIB, 30 * MIB)] {
        let (registry, node, client, layer) = ready(size).await;
        registry.fault(blobs().gets().first(1), Fault::CutAfter(after));
        assert!(client.blob("app", &layer.digest).await.unwrap() == layer.bytes);
        assert_eq!(registry.gets_of(layer.digest), 2);
        assert!(registry.blob_bytes_sent() <= size + MIB, "what had come was fetched again");
        told(&node, &layer, "registry:cut").await;
        node.keeps(&layer.digest).await;
    }
}

#[tokio::test]
async fn a_body_that_is_always_cut_ends_the_pull_cut() {
    let (registry, node, client, layer) = ready(4 * MIB).await;
    registry.fault(blobs().gets(), Fault::CutAfter(0));
    let got = client.blob("app", &layer.digest).await;
    assert!(matches!(got, Err(ClientError::Cut { .. } | ClientError::Status { .. })), "{got:?}");
    told(&node, &layer, "registry:cut").await;
    assert!(registry.gets_of(layer.digest) < 10, "it was tried for ever");
    assert_eq!(node.counters().sum("waylay_pulls_total", &[("outcome", "ok")]), 1);
    registry.heal();
    assert_eq!(client.blob("app", &layer.digest).await.unwrap(), layer.bytes);
}

#[tokio::test]
async fn a_wrong_byte_in_a_small_blob_is_fetched_again() {
    let (registry, node, client, layer) = ready(4 * MIB).await;
    registry.fault(blobs().gets().first(1), Fault::CorruptAt(1_234_567));
    assert_eq!(client.blob("app", &layer.digest).await.unwrap(), layer.bytes);
    told(&node, &layer, "registry:corrupt").await;
    node.keeps(&layer.digest).await;
}

#[tokio::test]
async fn a_byte_that_is_always_wrong_never_completes() {
    for (size, offset) in [(4 * MIB, 5), (4 * MIB, 4 * MIB - 1), (40 * MIB, 5), (40 * MIB, 40 * MIB - 1)] {
        let (registry, node, client, layer) = ready(size).await;
        registry.fault(blobs(), Fault::CorruptAt(offset));
        let got = client.blob("app", &layer.digest).await;
        match got {
            Err(ClientError::Cut { got, .. }) => assert!((got.len() as u64) < size),
            Err(ClientError::Status { status, .. }) => assert!(status.is_server_error()),
            other => panic!("{size} {offset}: {other:?}"),
        }
        told(&node, &layer, "registry:corrupt").await;
        assert!(!node.holds(&layer.digest));
        registry.heal();
        assert!(node.client().blob("app", &layer.digest).await.unwrap() == layer.bytes);
    }
}

#[tokio::test]
async fn a_wrong_length_is_told() {
    for lie in [8 * MIB, MIB] {
        let (registry, node, client, layer) = ready(4 * MIB).await;
        registry.fault(blobs().gets(), Fault::Length(lie));
        let got = client.blob("app", &layer.digest).await;
        // What it would have been without us.
        assert!(matches!(got, Err(ClientError::Cut { .. } | ClientError::Digest { .. })), "{lie}: {got:?}");
        let lines = node.pulls(2).await;
        assert!(line(&lines, &layer.digest).fault.contains("registry:length"), "{lines:#?}");
        assert!(!node.holds(&layer.digest));
        registry.heal();
        assert_eq!(node.client().blob("app", &layer.digest).await.unwrap(), layer.bytes);
    }
}

#[tokio::test]
async fn refusals_and_failures_are_the_registrys_own() {
    for code in [400, 401, 403, 404, 429, 500, 502, 503] {
        let (registry, node, client, layer) = ready(MIB).await;
        let fault = match code {
            401 => Fault::Unauthorized,
            429 => Fault::TooMany(30),
            _ => Fault::Status(StatusCode::from_u16(code).unwrap()),
        };
        registry.fault(blobs(), fault);
        let path = registry.image("app:1").blob_path(&layer);
        let (ours, theirs) = (client.get(&path).await.unwrap(), registry.client().get(&path).await.unwrap());
        assert_eq!((ours.status, ours.status.as_u16()), (theirs.status, code));
        for header in ["www-authenticate", "retry-after", "content-type", "content-length"] {
            assert_eq!(ours.header(header), theirs.header(header), "{code} {header}");
        }
        assert_eq!(ours.bytes().await.unwrap(), theirs.bytes().await.unwrap());
        let lines = node.pulls(2).await;
        assert_eq!(line(&lines, &layer.digest).status, code);
        assert_eq!(registry.gets_of(layer.digest), 2, "asked once by each");
        assert!(!node.holds(&layer.digest));
    }
}

#[tokio::test]
async fn a_compressed_answer_passes_and_is_not_kept() {
    let (registry, node, client, layer) = ready(MIB).await;
    registry.fault(blobs().gets(), Fault::Gzip);
    assert_eq!(client.blob("app", &layer.digest).await.unwrap(), layer.bytes);
    assert!(!node.holds(&layer.digest));
    let lines = node.pulls(2).await;
    assert_eq!(line(&lines, &layer.digest).status, 200);
}

#[tokio::test]
async fn a_registry_that_hangs_up_is_named() {
    let (registry, node, client, layer) = ready(MIB).await;
    registry.fault(blobs().gets(), Fault::HangUp);
    let reply = client.get(&registry.image("app:1").blob_path(&layer)).await.unwrap();
    assert_eq!(reply.status, StatusCode::BAD_GATEWAY);
    assert_eq!(reply.header("x-waylay-fault"), Some("registry:cut"));
    told(&node, &layer, "registry:cut").await;
    assert_eq!(node.counters().sum("waylay_pulls_total", &[("outcome", "failed")]), 1);
}

#[tokio::test]
async fn a_connection_that_is_gone_when_it_is_needed_fails_no_request() {
    let (registry, node, client, layer) = ready(MIB).await;
    let before = registry.blob_gets();
    registry.fault(blobs().gets().first(1), Fault::HangUp);
    assert_eq!(client.blob("app", &layer.digest).await.unwrap(), layer.bytes);
    assert_eq!(registry.blob_gets() - before, 2, "the one that was cut, and the one that was answered");
    let lines = node.pulls(2).await;
    let about = line(&lines, &layer.digest);
    assert_eq!((about.status, about.fault.as_str(), about.registry_bytes), (200, "-", layer.size()));
}

#[tokio::test]
async fn a_registry_that_goes_in_the_middle_and_comes_back() {
    let (registry, node, client, layer) = ready(8 * MIB).await;
    let gate = registry.stall(blobs().gets().first(1), 3 * MIB);
    let fetching = tokio::spawn({
        let digest = layer.digest;
        async move { client.blob("app", &digest).await }
    });
    gate.reached(1).await;
    registry.down().await;
    registry.up().await;
    assert_eq!(fetching.await.unwrap().unwrap(), layer.bytes);
    told(&node, &layer, "registry:cut").await;
}

#[tokio::test]
async fn a_slow_registry_is_only_slow() {
    let (registry, node, client, layer) = ready(MIB).await;
    registry.fault(blobs(), Fault::Slow(2 * MIB));
    registry.fault(blobs(), Fault::Late(Duration::from_millis(100)));
    assert_eq!(client.blob("app", &layer.digest).await.unwrap(), layer.bytes);
    assert_eq!(line(&node.pulls(2).await, &layer.digest).fault, "-");
}

#[tokio::test]
async fn one_client_cut_does_not_cut_the_others() {
    let (registry, node, client, layer) = ready(8 * MIB).await;
    let gate = registry.stall(blobs().gets(), 4 * MIB);
    let path = registry.image("app:1").blob_path(&layer);
    let (other, digest) = (node.client(), layer.digest);
    let reading = tokio::spawn(async move { other.blob("app", &digest).await });
    gate.reached(1).await;
    let leaving = client.get_range(&path, "bytes=0-99").await.unwrap();
    drop(leaving);
    gate.open();
    assert_eq!(reading.await.unwrap().unwrap(), layer.bytes);
    assert!(registry.gets_of(layer.digest) <= 2);
}

#[tokio::test]
async fn a_token_that_expires_in_the_middle_ends_only_its_own_pull() {
    let registry = Registry::new().token_auth().image("app:1", layers([8 * MIB])).start().await;
    let node = Box::pin(Node::beside(&registry).start()).await;
    let layer = registry.image("app:1").layers[0].clone();
    let first = node.client().token(&registry.token(["app"]));
    let image = registry.image("app:1");
    first.get(&image.manifest_path(&image.top)).await.unwrap().success().await.unwrap();
    let gate = registry.stall(blobs().gets().first(1), 2 * MIB);
    registry.fault(blobs().gets().first(1), Fault::CutAfter(3 * MIB));
    let digest = layer.digest;
    let reading = tokio::spawn(async move { first.blob("app", &digest).await });
    gate.reached(1).await;
    registry.revoke_tokens();
    // A second client joins the flight with a credential that is good.
    let second = node.client().token(&registry.token(["app"]));
    second.get(&image.manifest_path(&image.top)).await.unwrap().success().await.unwrap();
    let joined = second.get(&image.blob_path(&layer)).await.unwrap();
    assert_eq!(joined.status, StatusCode::OK);
    gate.open();
    assert_eq!(joined.bytes().await.unwrap(), layer.bytes);
    assert_eq!(reading.await.unwrap().unwrap(), layer.bytes);
}

#[tokio::test]
async fn a_manifest_that_is_not_what_its_digest_says_is_not_passed_off() {
    let registry = Registry::new().image("app:1", layers([KIB])).start().await;
    let node = Box::pin(Node::beside(&registry).start()).await;
    registry.fault(waylay_tests::scripted::manifests().gets(), Fault::CorruptAt(3));
    let got = node.client().pull("app:1").await;
    assert!(got.is_err());
    assert_eq!(node.access().len(), 1);
    assert!(!node.holds(&registry.image("app:1").top.digest));
    registry.heal();
    node.client().pull("app:1").await.unwrap();
}

#[tokio::test]
async fn the_script_of_one_blob_leaves_the_others_alone() {
    let registry = Registry::new().image("app:1", layers([MIB, 2 * MIB])).start().await;
    let node = Box::pin(Node::beside(&registry).start()).await;
    let image = registry.image("app:1");
    let bad: When = blob(image.layers[0].digest);
    registry.fault(bad, Fault::Status(StatusCode::NOT_FOUND));
    assert_eq!(status(node.client().pull("app:1").await), StatusCode::NOT_FOUND);
    node.client().blob("app", &image.layers[1].digest).await.unwrap();
    node.keeps(&image.layers[1].digest).await;
    assert!(!node.holds(&image.layers[0].digest));
}
