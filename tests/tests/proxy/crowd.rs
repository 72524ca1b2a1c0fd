//! Several nodes want the same image in the same moment, and nobody has it: the registry gives each byte once, whatever
//! goes wrong with it, and every node gets everything.

use std::time::Duration;

use futures_util::future::join_all;
use http::StatusCode;
use waylay_tests::scripted::{Cluster, Fault, Kind, MIB, Node, Registry, Running, blob, blobs, layers, manifests};

use super::sum;

/// So many nodes of one cluster beside a registry.
async fn crowd(registry: &Running, count: usize) -> (Vec<Node>, Cluster) {
    let cluster = Cluster::of(count);
    let nodes = (0..count).map(|number| Node::beside(registry).member(&cluster, number).start());
    (join_all(nodes).await, cluster)
}

/// All of them pull at once, and get what the registry has.
async fn pull(registry: &Running, nodes: &[Node], image: &str) {
    let clients: Vec<_> = nodes.iter().map(Node::client).collect();
    let pulled = join_all(clients.iter().map(|client| client.pull(image))).await;
    for pulled in pulled {
        let layers: Vec<_> = registry.image(image).layers.iter().map(|layer| layer.bytes.clone()).collect();
        assert!(pulled.unwrap().layers == layers, "a client got other bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_blob_leaves_the_registry_once_and_each_manifest_costs_one_get() {
    let registry = Registry::new().image("app:1", layers([12 * MIB, 3 * MIB, 5])).start().await;
    let (nodes, _cluster) = crowd(&registry, 4).await;
    pull(&registry, &nodes, "app:1").await;
    let image = registry.image("app:1");
    assert_eq!(registry.blob_bytes_sent(), image.blob_bytes());
    assert_eq!(registry.manifest_gets(), 1, "{:#?}", registry.requests());
    assert_eq!(registry.manifest_heads(), nodes.len());
    // Each blob was asked about with each node's own credential, but for those that some node was already known to have
    // from this repository.
    assert!((4..=4 * nodes.len()).contains(&registry.blob_heads()), "{}", registry.blob_heads());
    let (mut from_registry, mut from_peers) = (0, 0);
    for node in &nodes {
        let lines = node.pulls(5).await;
        assert!(lines.iter().all(|line| line.status == 200 && line.fault == "-"), "{lines:#?}");
        assert_eq!(node.counters().by_source(), sum(&lines));
        assert_eq!(sum(&lines).total(), image.blob_bytes() + image.top.size());
        (from_registry, from_peers) = (from_registry + sum(&lines).registry, from_peers + sum(&lines).peer);
    }
    assert_eq!(from_registry, image.blob_bytes() + image.top.size());
    assert_eq!(from_peers, 3 * from_registry);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_limits_is_asked_by_fewer_and_no_pull_fails() {
    let registry = Registry::new().image("app:1", layers([6 * MIB])).start().await;
    let (nodes, _cluster) = crowd(&registry, 3).await;
    registry.fault(blobs().gets().first(4), Fault::TooMany(1));
    pull(&registry, &nodes, "app:1").await;
    // What it says with a 429 is no part of a blob.
    let given = registry.requests().into_iter().filter(|seen| seen.kind == Kind::BlobGet && seen.status < 300);
    assert_eq!(given.map(|seen| seen.sent).sum::<u64>(), registry.image("app:1").blob_bytes());
    let limited: u64 = nodes
        .iter()
        .map(|node| node.counters().sum("waylay_faults_total", &[("side", "registry"), ("what", "status")]))
        .sum();
    assert_eq!(limited, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_ranges_gives_each_layer_once() {
    // Larger than what is under way when a node finds out and hangs up.
    let registry = Registry::new().image("app:1", layers([40 * MIB])).start().await;
    let (nodes, _cluster) = crowd(&registry, 3).await;
    registry.fault(blobs().gets(), Fault::NoRange);
    pull(&registry, &nodes, "app:1").await;
    let layer = &registry.image("app:1").layers[0];
    let whole = registry.requests().into_iter().filter(|seen| seen.digest() == Some(layer.digest));
    assert_eq!(whole.filter(|seen| seen.sent == layer.size()).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_fails_some_of_the_requests_fails_no_pull() {
    let registry = Registry::new().image("app:1", layers([6 * MIB])).start().await;
    let (nodes, _cluster) = crowd(&registry, 3).await;
    registry.fault(blobs().gets().first(1), Fault::CutAfter(300_000));
    registry.fault(blobs().gets().first(3), Fault::Status(StatusCode::BAD_GATEWAY));
    pull(&registry, &nodes, "app:1").await;
    assert!(registry.blob_bytes_sent() < registry.image("app:1").blob_bytes() + 2 * MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_refuses_everybody_ends_every_pull() {
    let registry = Registry::new().image("app:1", layers([6 * MIB])).start().await;
    let (nodes, _cluster) = crowd(&registry, 2).await;
    // It still says by HEAD that the layer may be had.
    registry.fault(blob(registry.image("app:1").layers[0].digest).gets(), Fault::Status(StatusCode::FORBIDDEN));
    let clients: Vec<_> = nodes.iter().map(Node::client).collect();
    let all = join_all(clients.iter().map(|client| client.pull("app:1")));
    let pulled = tokio::time::timeout(Duration::from_secs(60), all).await.expect("no client is left waiting");
    assert!(pulled.iter().all(Result::is_err));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_stalls_is_given_up_and_had_from_elsewhere() {
    let registry = Registry::new().image("app:1", layers([6 * MIB])).start().await;
    let (nodes, _cluster) = crowd(&registry, 2).await;
    // It never opens, and is reached by the first lease: that is one piece.
    let gate = registry.stall(blobs().gets().ranged().first(1), 100_000);
    pull(&registry, &nodes, "app:1").await;
    gate.reached(1).await;
    assert!(registry.blob_bytes_sent() < registry.image("app:1").blob_bytes() + 2 * MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_vanishes_in_the_middle_costs_no_pull() {
    let registry = Registry::new().image("app:1", layers([12 * MIB])).start().await;
    let (mut nodes, _cluster) = crowd(&registry, 3).await;
    let gate = registry.stall(blobs().gets().ranged(), 600_000);
    let clients: Vec<_> = nodes.iter().map(Node::client).collect();
    let mut pulls: Vec<_> = clients
        .into_iter()
        .map(|client| tokio::spawn(async move { client.pull("app:1").await.map(|pulled| pulled.layers) }))
        .collect();
    // Every node has a lease and a part of it.
    gate.reached(3).await;
    let last = pulls.pop().unwrap();
    drop(nodes.pop());
    gate.open();
    assert!(last.await.unwrap().is_err());
    for pulled in pulls {
        assert!(pulled.await.unwrap().unwrap() == [registry.image("app:1").layers[0].bytes.clone()]);
    }
}

/// As dockerd asks: a GET of the tag.
async fn get_tag(node: &Node, registry: &Running, image: &str) {
    let image = registry.image(image);
    let manifest = node.client().get(&image.tag_path()).await.unwrap().success().await.unwrap();
    assert_eq!(manifest, image.top.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_gets_a_tag_costs_a_head_each_and_one_get() {
    let registry = Registry::new().image("app:1", layers([5])).start().await;
    let (nodes, _cluster) = crowd(&registry, 4).await;
    join_all(nodes.iter().map(|node| get_tag(node, &registry, "app:1"))).await;
    assert_eq!((registry.manifest_gets(), registry.manifest_heads()), (1, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_counting_a_tag_is_a_get_as_it_was() {
    let registry = Registry::new().image("app:1", layers([5])).start().await;
    let node = Node::beside(&registry).configured("[pull]\nspare_gets = false\n").start().await;
    get_tag(&node, &registry, "app:1").await;
    get_tag(&node, &registry, "app:1").await;
    assert_eq!((registry.manifest_gets(), registry.manifest_heads()), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_got_again_costs_a_head_and_another_one_a_get() {
    let registry = Registry::new().image("app:1", layers([5])).image("app:2", layers([6])).start().await;
    let node = Node::beside(&registry).start().await;
    for _ in 0..3 {
        get_tag(&node, &registry, "app:1").await;
    }
    assert_eq!((registry.manifest_gets(), registry.manifest_heads()), (1, 3));
    get_tag(&node, &registry, "app:2").await;
    assert_eq!((registry.manifest_gets(), registry.manifest_heads()), (2, 4));
    // A registry that does not answer HEAD is asked as the client asked.
    registry.fault(manifests().heads(), Fault::Status(StatusCode::METHOD_NOT_ALLOWED));
    get_tag(&node, &registry, "app:1").await;
    assert_eq!(registry.manifest_gets(), 3);
}
