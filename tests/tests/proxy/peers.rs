//! Two nodes: the second asks its neighbour, within the rights that the registry gives, and does without it when it must.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use tokio::net::UdpSocket;
use waylay_tests::{
    saw::saw,
    scripted::{Cluster, Fault, KIB, MIB, Node, Registry, Running, blobs, layers},
    wait::eventually,
};

use super::{line, status, sum};

/// Two nodes of one cluster beside a registry.
async fn neighbours(registry: &Running) -> (Node, Node, Cluster) {
    let cluster = Cluster::of(2);
    let one = Node::beside(registry).member(&cluster, 0).start().await;
    let two = Node::beside(registry).member(&cluster, 1).start().await;
    (one, two, cluster)
}

/// The first node has pulled the image, and the second knows.
async fn told(registry: &Running, one: &Node, two: &Node, client: &waylay_tests::scripted::Client, image: &str) {
    client.pull(image).await.unwrap();
    let image = registry.image(image);
    for blob in image.layers.iter().chain(&image.configs[..1]).chain([&image.top]) {
        one.keeps(&blob.digest).await;
        two.finds(&blob.digest).await;
    }
}

#[tokio::test]
async fn the_second_node_asks_its_neighbour() {
    let registry = Registry::new().image("app:1", layers([40 * MIB, 3 * MIB, 5])).start().await;
    let (one, two, _cluster) = neighbours(&registry).await;
    told(&registry, &one, &two, &one.client(), "app:1").await;
    let (gets, heads, image) = (registry.blob_gets(), registry.blob_heads(), registry.image("app:1"));
    let pulled = two.client().pull("app:1").await.unwrap();
    assert!(pulled.layers.iter().zip(&image.layers).all(|(got, layer)| *got == layer.bytes));
    // Listed by a manifest that the registry gave, and once served by it: no further question.
    assert_eq!((registry.blob_gets(), registry.blob_heads()), (gets, heads));
    let lines = two.pulls(5).await;
    assert!(lines.iter().all(|line| line.status == 200 && line.fault == "-"), "{lines:#?}");
    assert_eq!(sum(&lines[1..]).peer, image.blob_bytes());
    assert_eq!(two.counters().by_source(), sum(&lines));
    let fetched = two.counters().sum("waylay_fetched_bytes_total", &[]);
    assert!(fetched <= image.blob_bytes() + image.top.size(), "{fetched}: something was fetched twice");
    for layer in &image.layers {
        two.keeps(&layer.digest).await;
    }
}

#[tokio::test]
async fn a_part_is_taken_from_the_registry_and_what_reaches_the_end_from_the_neighbour() {
    let registry = Registry::new().image("app:1", layers([8 * MIB])).start().await;
    let (one, two, _cluster) = neighbours(&registry).await;
    told(&registry, &one, &two, &one.client(), "app:1").await;
    let (before, image) = (registry.blob_bytes_sent(), registry.image("app:1"));
    let layer = &image.layers[0];
    two.client().get(&image.manifest_path(&image.top)).await.unwrap().success().await.unwrap();
    let parts = [5_000_000..5_000_010, 100..600_000, 8_388_600..8_388_608];
    for range in parts.clone() {
        let asked = format!("bytes={}-{}", range.start, range.end - 1);
        let part = two.client().get_range(&image.blob_path(layer), &asked).await.unwrap();
        assert_eq!(part.status, StatusCode::PARTIAL_CONTENT);
        assert_eq!(part.bytes().await.unwrap(), layer.bytes.slice(range));
    }
    // Nothing but the sha256 of the whole shows that a neighbour's bytes are right; so these cost the pieces they touch,
    // and the last one, which is how a broken pull goes on, brings the rest from next door.
    assert_eq!(registry.blob_bytes_sent() - before, (1 + 3) * 256 * KIB);
    two.keeps(&layer.digest).await;
    let lines = two.pulls(4).await;
    assert_eq!(sum(&lines).total() - image.top.size(), parts.into_iter().map(|part| part.len() as u64).sum::<u64>());
}

#[tokio::test]
async fn damage_on_a_neighbours_disk_is_found_and_named() {
    let registry = Registry::new().image("app:1", layers([6 * MIB])).start().await;
    let (one, two, cluster) = neighbours(&registry).await;
    told(&registry, &one, &two, &one.client(), "app:1").await;
    let layer = registry.image("app:1").layers[0].clone();
    let file = one.blob_file(&layer.digest);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[3_000_000] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    assert_eq!(two.client().pull("app:1").await.unwrap().layers, std::slice::from_ref(&layer.bytes));
    let lines = two.pulls(3).await;
    let about = line(&lines, &layer.digest);
    assert_eq!(about.fault, format!("peer:corrupt@{}", cluster.addresses()[0]));
    assert!(about.registry_bytes > 0 && about.registry_bytes < layer.size(), "{about:#?}");
    assert_eq!(two.counters().sum("waylay_faults_total", &[("side", "peer"), ("what", "corrupt")]), 1);
    two.keeps(&layer.digest).await;
}

#[tokio::test]
async fn damage_on_the_nodes_own_disk_never_reaches_a_client() {
    let registry = Registry::new().image("app:1", layers([40 * MIB])).start().await;
    let (one, two, _cluster) = neighbours(&registry).await;
    told(&registry, &one, &two, &one.client(), "app:1").await;
    let layer = registry.image("app:1").layers[0].clone();
    two.client().pull("app:1").await.unwrap();
    two.keeps(&layer.digest).await;
    let before = two.pulls(3).await;
    let file = two.blob_file(&layer.digest);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[30_000_000] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    assert_eq!(two.client().pull("app:1").await.unwrap().layers, std::slice::from_ref(&layer.bytes));
    let lines = two.pulls(2 * before.len()).await;
    let about = line(&lines[before.len()..], &layer.digest);
    // What was sent before the damage came from the store, the rest from the neighbour.
    assert_eq!((about.status, about.fault.as_str()), (200, "ours:corrupt"));
    assert!((29_000_000..30_000_000).contains(&about.store_bytes), "{about:#?}");
    assert_eq!(about.store_bytes + about.peer_bytes, layer.size());
    assert_eq!(two.counters().sum("waylay_faults_total", &[("side", "ours"), ("what", "corrupt")]), 1);
    // And the store has it again as it should be.
    two.keeps(&layer.digest).await;
    assert_eq!(std::fs::read(&file).unwrap(), layer.bytes);
}

#[tokio::test]
async fn a_neighbour_that_is_gone_costs_a_moment_and_no_pull() {
    let registry = Registry::new().image("app:1", layers([4 * MIB])).start().await;
    let (one, two, _cluster) = neighbours(&registry).await;
    told(&registry, &one, &two, &one.client(), "app:1").await;
    let layer = registry.image("app:1").layers[0].clone();
    drop(one);
    assert_eq!(two.client().pull("app:1").await.unwrap().layers, std::slice::from_ref(&layer.bytes));
    let lines = two.pulls(3).await;
    assert_eq!(line(&lines, &layer.digest).registry_bytes, layer.size());
}

#[tokio::test]
async fn a_neighbour_that_never_answers_costs_less_than_five_seconds() {
    let registry = Registry::new().image("app:1", layers([4 * MIB, 40 * MIB])).start().await;
    let (one, two, cluster) = neighbours(&registry).await;
    told(&registry, &one, &two, &one.client(), "app:1").await;
    let image = registry.image("app:1");
    drop(one);
    // What comes to its address is taken, and nothing ever comes back.
    let hole = eventually("the address to be free", Duration::from_secs(10), async || {
        Ok(UdpSocket::bind(cluster.addresses()[0]).await.ok())
    });
    let _hole = hole.await.unwrap();
    let client = two.client();
    client.get(&image.manifest_path(&image.top)).await.unwrap().success().await.unwrap();
    for layer in &image.layers {
        let asked = Instant::now();
        let reply = client.get(&image.blob_path(layer)).await.unwrap();
        let waited = asked.elapsed();
        saw("a client", format_args!("headers after {:.1} s", waited.as_secs_f64()));
        assert!(waited < Duration::from_secs(5), "{waited:?}: containerd gives up at 30 s");
        assert_eq!(reply.success().await.unwrap(), layer.bytes);
    }
    let lines = two.pulls(3).await;
    for layer in &image.layers {
        assert_eq!(line(&lines, &layer.digest).registry_bytes, layer.size());
    }
}

#[tokio::test]
async fn an_operators_rates_are_kept_and_no_pull_fails_of_them() {
    // 9 MiB at 4 MiB a second, of which a quarter may come at once.
    let least = Duration::from_millis(1900);
    for (one_has, two_has) in [
        ("upload_rate = \"4MiB\"\n", ""),
        ("", "download_rate = \"4MiB\"\n"),
        ("[pull]\nregistry_rate = \"4MiB\"\n", ""),
    ] {
        let registry = Registry::new().image("app:1", layers([9 * MIB])).start().await;
        let cluster = Cluster::of(2);
        let one = Node::beside(&registry).member(&cluster, 0).configured(one_has).start().await;
        let two = Node::beside(&registry).member(&cluster, 1).configured(two_has).start().await;
        let begun = Instant::now();
        told(&registry, &one, &two, &one.client(), "app:1").await;
        let first = begun.elapsed();
        let begun = Instant::now();
        let layer = registry.image("app:1").layers[0].clone();
        assert_eq!(two.client().pull("app:1").await.unwrap().layers, std::slice::from_ref(&layer.bytes));
        let second = begun.elapsed();
        let held_up = if one_has.contains("registry_rate") { first } else { second };
        assert!(held_up >= least, "{one_has}{two_has}: {first:?}, {second:?}");
        assert_eq!(line(&two.pulls(3).await, &layer.digest).peer_bytes, layer.size());
    }
}

#[tokio::test]
async fn a_neighbours_blob_is_for_those_whom_the_registry_lets() {
    let registry = Registry::new()
        .token_auth()
        .user("alice", "a", ["app"])
        .user("bob", "b", ["other"])
        .image("app:1", layers([MIB]))
        .image("other:1", layers([KIB]))
        .start()
        .await;
    let (one, two, _cluster) = neighbours(&registry).await;
    told(&registry, &one, &two, &one.client().user("alice", "a"), "app:1").await;
    let secret = registry.image("app:1").layers[0].digest;
    for (client, code) in [(two.client(), 401), (two.client().user("bob", "b"), 401), (two.client().token("no"), 401)] {
        assert_eq!(status(client.blob("app", &secret).await).as_u16(), code);
    }
    assert_eq!(status(two.client().user("bob", "b").blob("other", &secret).await), StatusCode::NOT_FOUND);
    assert_eq!(two.counters().by_source().peer, 0);
    assert_eq!(two.counters().sum("waylay_fetched_bytes_total", &[("source", "peer")]), 0);
    two.client().user("alice", "a").pull("app:1").await.unwrap();
    assert!(two.counters().by_source().peer >= MIB);
}

#[tokio::test]
async fn what_a_neighbour_has_is_had_while_the_registry_fails() {
    let registry = Registry::new().image("app:1", layers([2 * MIB])).start().await;
    let (one, two, _cluster) = neighbours(&registry).await;
    told(&registry, &one, &two, &one.client(), "app:1").await;
    let image = registry.image("app:1");
    // The registry still gives manifests, so that the rights are known; its blobs are away.
    registry.fault(blobs(), Fault::Status(StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!(two.client().pull("app:1").await.unwrap().layers, [image.layers[0].bytes.clone()]);
    let never =
        two.client().ask(Method::GET, "other", &format!("/v2/other/blobs/{}", image.layers[0].digest), None).await;
    assert_eq!(never.unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
}
