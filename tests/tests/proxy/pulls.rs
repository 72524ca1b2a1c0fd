//! Pulls that go well: who answers, where the bytes come from, how often the registry is asked.

use std::sync::Arc;

use futures_util::future::join_all;
use http::Method;
use waylay_tests::scripted::{KIB, MIB, Node, Registry, blob, blobs, layers};

use super::{line, sum};

#[tokio::test]
async fn the_second_pull_takes_no_blob_from_the_registry() {
    let registry = Registry::new().image("library/app:1", layers([3 * MIB, 100 * KIB])).start().await;
    let node = Node::beside(&registry).start().await;
    let image = registry.image("library/app:1");
    let first = node.client().pull("library/app:1").await.unwrap();
    assert_eq!(first, registry.client().pull("library/app:1").await.unwrap());
    let (gets, bytes) = (registry.blob_gets(), registry.blob_bytes_sent());
    assert_eq!((gets, bytes), (2 * 3, 2 * image.blob_bytes()));

    assert_eq!(node.client().pull("library/app:1").await.unwrap(), first);
    assert_eq!((registry.blob_gets(), registry.blob_bytes_sent()), (gets, bytes));

    // Manifest by digest, configuration and two layers, twice; a HEAD of a tag is no pull.
    let lines = node.pulls(2 * 4).await;
    assert!(lines.iter().all(|line| line.status == 200 && line.fault == "-" && line.repository == "library/app"));
    assert!(lines.iter().all(|line| line.registry == registry.name()));
    let blobs = |from: &[_]| sum(from).total() - image.top.size();
    assert_eq!((blobs(&lines[..4]), sum(&lines[..4]).store), (image.blob_bytes(), 0));
    assert_eq!((blobs(&lines[4..]), sum(&lines[4..]).registry), (image.blob_bytes(), 0));
    assert_eq!(node.counters().by_source(), sum(&lines));
    assert_eq!(node.counters().sum("waylay_pulls_total", &[("outcome", "ok")]), 8);
    assert_eq!(node.counters().sum("waylay_faults_total", &[]), 0);
}

#[tokio::test]
async fn each_kind_of_client_and_image() {
    let registry = Registry::new()
        .image("oci:1", layers([KIB, 0, 5]).platforms(2).foreign(100))
        .image("docker:1", layers([MIB]).docker().platforms(2))
        .image("deep/blobs/uploads-not/manifests/x:1", layers([300 * KIB]))
        .start()
        .await;
    let node = Node::beside(&registry).start().await;
    for image in ["oci:1", "docker:1", "deep/blobs/uploads-not/manifests/x:1"] {
        let direct = registry.client().pull(image).await.unwrap();
        for round in 0..2 {
            assert_eq!(node.client().pull(image).await.unwrap(), direct, "{image} {round}");
            assert_eq!(node.client().pull_by_get(image).await.unwrap(), direct, "{image} {round}");
            assert_eq!(node.client().http2().pull(image).await.unwrap(), direct, "{image} {round}");
        }
    }
    // The direct pulls and the first ones through the node; an empty layer may be asked for more than once.
    let empty = waylay::oci::Digest::of(b"");
    let counted = registry.blob_gets() - registry.gets_of(empty);
    assert_eq!(counted, 2 * (3 + 2 + 2));
    assert_eq!(node.counters().sum("waylay_faults_total", &[]), 0);
}

#[tokio::test]
async fn plain_http_registries_too() {
    let registry = Registry::new().plain_http().image("app:1", layers([MIB])).start().await;
    let node = Node::beside(&registry).start().await;
    for _ in 0..2 {
        node.client().pull("app:1").await.unwrap();
    }
    assert_eq!(registry.blob_gets(), 2);
    node.connection("terminated", |it| it.reason == "plain_http" && it.decision == "terminate").await;
    assert_eq!(sum(&node.pulls(6).await).total(), node.counters().by_source().total());
}

#[tokio::test]
async fn headers_are_the_same_from_the_store_as_from_the_registry() {
    let registry = Registry::new().image("app:1", layers([MIB]).docker()).start().await;
    let node = Node::beside(&registry).start().await;
    let image = registry.image("app:1");
    node.client().pull("app:1").await.unwrap();
    for path in [image.manifest_path(&image.top), image.blob_path(&image.layers[0])] {
        for method in [Method::GET, Method::HEAD] {
            let ours = node.client().ask(method.clone(), "app", &path, None).await.unwrap();
            let theirs = registry.client().ask(method.clone(), "app", &path, None).await.unwrap();
            assert_eq!(ours.status, theirs.status, "{method} {path}");
            for header in ["content-type", "content-length", "docker-content-digest", "etag", "accept-ranges"] {
                assert_eq!(ours.header(header), theirs.header(header), "{method} {path} {header}");
            }
        }
    }
}

#[tokio::test]
async fn one_flight_for_many_clients() {
    let registry = Registry::new().image("app:1", layers([5 * MIB])).start().await;
    let node = Node::beside(&registry).start().await;
    let layer = registry.image("app:1").layers[0].clone();
    let gate = registry.stall(blob(layer.digest).gets(), MIB);
    let clients: Vec<_> = (0..8).map(|_| node.client()).collect();
    let pulls = tokio::spawn(async move { join_all(clients.iter().map(|client| client.pull("app:1"))).await });
    gate.reached(1).await;
    registry
        .until("all have asked for the tag", |seen| seen.iter().filter(|seen| seen.digest().is_none()).count() >= 8)
        .await;
    gate.open();
    for pulled in pulls.await.unwrap() {
        assert_eq!(pulled.unwrap().layers, std::slice::from_ref(&layer.bytes));
    }
    assert_eq!(registry.gets_of(layer.digest), 1);
    let lines = node.pulls(8 * 3).await;
    assert_eq!(sum(lines.iter().filter(|line| line.digest == layer.digest.to_string())).total(), 8 * layer.size());
    assert_eq!(
        node.counters().sum("waylay_fetched_bytes_total", &[("source", "registry")]),
        registry.blob_bytes_sent()
    );
}

#[tokio::test]
async fn a_large_blob_streams_but_its_end_waits_for_the_digest() {
    let registry = Registry::new().image("app:1", layers([40 * MIB])).start().await;
    let node = Node::beside(&registry).start().await;
    let (image, client) = (registry.image("app:1"), node.client());
    let layer = &image.layers[0];
    client.get(&image.manifest_path(&image.top)).await.unwrap().success().await.unwrap();
    let gate = registry.stall(blob(layer.digest), 39 * MIB);
    let mut reply = client.get(&image.blob_path(layer)).await.unwrap();
    let mut got = Vec::new();
    while (got.len() as u64) < 38 * MIB {
        got.extend_from_slice(&reply.chunk().await.unwrap().unwrap());
    }
    gate.reached(1).await;
    gate.open();
    while let Some(bytes) = reply.chunk().await {
        got.extend_from_slice(&bytes.unwrap());
    }
    assert!(got == layer.bytes);
    assert_eq!(line(&node.pulls(2).await, &layer.digest).registry_bytes, 40 * MIB);
}

#[tokio::test]
async fn a_client_that_leaves_is_normal_and_what_came_is_kept() {
    let registry = Registry::new().image("app:1", layers([40 * MIB])).start().await;
    let node = Node::beside(&registry).start().await;
    let (image, client) = (registry.image("app:1"), node.client());
    let layer = &image.layers[0];
    client.get(&image.manifest_path(&image.top)).await.unwrap().success().await.unwrap();
    let gate = registry.stall(blob(layer.digest), 20 * MIB);
    client.get(&image.blob_path(layer)).await.unwrap().prefix(10 << 20).await.unwrap();
    let lines = node.pulls(2).await;
    assert_eq!(line(&lines, &layer.digest).fault, "-");
    assert_eq!(node.counters().sum("waylay_pulls_total", &[("outcome", "cut")]), 1);
    gate.open();
    registry.heal();
    assert_eq!(node.client().blob("app", &layer.digest).await.unwrap(), layer.bytes);
    // An aborted GET costs what was on its way; what the store had got is not fetched again.
    let fetched = node.counters().sum("waylay_fetched_bytes_total", &[("source", "registry")]);
    assert!(fetched < 40 * MIB + 11 * MIB, "{fetched}");
}

#[tokio::test]
async fn a_restarted_node_still_holds_what_it_held() {
    let registry = Registry::new().image("app:1", layers([2 * MIB])).start().await;
    let mut node = Node::beside(&registry).start().await;
    let before = node.client().pull("app:1").await.unwrap();
    node.restart().await;
    assert_eq!(node.client().pull("app:1").await.unwrap(), before);
    assert_eq!(registry.blob_gets(), 2);
}

#[tokio::test]
async fn what_the_registry_does_not_have_is_its_own_answer() {
    let registry = Registry::new().image("app:1", layers([KIB])).start().await;
    let node = Node::beside(&registry).start().await;
    let nowhere = waylay::oci::Digest::of(b"nowhere");
    for path in
        [format!("/v2/app/blobs/{nowhere}"), format!("/v2/app/manifests/{nowhere}"), "/v2/app/manifests/no".into()]
    {
        let (ours, theirs) = (node.client().get(&path).await.unwrap(), registry.client().get(&path).await.unwrap());
        assert_eq!((ours.status, ours.header("content-type")), (theirs.status, theirs.header("content-type")));
        assert_eq!(ours.bytes().await.unwrap(), theirs.bytes().await.unwrap());
    }
    assert!(node.pulls(3).await.iter().all(|line| line.status == 404 && line.fault == "-"));
    assert_eq!(node.counters().sum("waylay_pulls_total", &[("outcome", "refused")]), 3);
}

#[tokio::test]
async fn a_blob_larger_than_the_store_passes_through() {
    let registry = Registry::new().image("app:1", layers([70 * MIB])).start().await;
    let node = Node::beside(&registry).configured("[store]\nquota = \"64MiB\"").start().await;
    let layer = registry.image("app:1").layers[0].clone();
    for _ in 0..2 {
        assert!(node.client().pull("app:1").await.unwrap().layers[0] == layer.bytes);
    }
    assert_eq!(registry.gets_of(layer.digest), 2);
    assert!(!node.holds(&layer.digest));
    let lines = node.pulls(6).await;
    let passed: Vec<_> = lines.iter().filter(|line| line.digest == layer.digest.to_string()).collect();
    assert!(passed.iter().all(|line| line.fault == "ours:full" && line.registry_bytes == 70 * MIB), "{passed:#?}");
}

#[tokio::test]
async fn an_answer_under_way_ends_before_the_node_stops() {
    let registry = Registry::new().image("app:1", layers([2 * MIB])).start().await;
    let mut node = Node::beside(&registry).start().await;
    let layer = registry.image("app:1").layers[0].clone();
    let gate = registry.stall(blobs().gets(), MIB);
    let client = Arc::new(node.client());
    let pull = tokio::spawn({
        let client = client.clone();
        async move { client.pull("app:1").await }
    });
    gate.reached(1).await;
    let (_, pulled) = tokio::join!(node.stop(), async {
        gate.open();
        pull.await.unwrap()
    });
    assert_eq!(pulled.unwrap().layers, [layer.bytes]);
}
