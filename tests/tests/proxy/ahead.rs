//! A client asks for one layer, and its node begins later ones: with the client's own right, from its neighbours, and never
//! more than was configured.

use std::time::Duration;

use http::StatusCode;
use waylay::pull::ahead::AT_ONCE;
use waylay_tests::{
    scripted::{Cluster, Fault, KIB, MIB, Node, Registry, Running, blob, layers, noise},
    wait::eventually,
};

use super::{line, sum};

/// Two nodes of one cluster beside a registry, the second with this configuration. The first has pulled the image, and the second
/// knows.
async fn neighbours(registry: &Running, configured: &str) -> (Node, Node, Cluster) {
    let cluster = Cluster::of(2);
    let one = Node::beside(registry).member(&cluster, 0).start().await;
    let two = Node::beside(registry).member(&cluster, 1).configured(configured).start().await;
    one.client().pull("app:1").await.unwrap();
    let image = registry.image("app:1");
    for blob in image.layers.iter().chain(&image.configs[..1]).chain([&image.top]) {
        one.keeps(&blob.digest).await;
        two.finds(&blob.digest).await;
    }
    (one, two, cluster)
}

const ON: &str = "[pull]\nread_ahead = \"64MiB\"";

fn ahead(node: &Node) -> u64 {
    node.counters().sum("waylay_read_ahead_bytes_total", &[])
}

/// Waits until so many bytes were read ahead.
async fn reads_ahead(node: &Node, bytes: u64) {
    let what = format!("{bytes} bytes read ahead");
    eventually(&what, Duration::from_secs(20), async || Ok((ahead(node) == bytes).then_some(()))).await.unwrap();
}

#[tokio::test]
async fn later_layers_are_here_before_they_are_asked_for_and_what_came_from_a_neighbour_is_told_as_that() {
    let registry = Registry::new().image("app:1", layers([3 * MIB, 5 * MIB, 700, 2 * MIB])).start().await;
    let (_one, two, _cluster) = neighbours(&registry, ON).await;
    let (image, gets, client) = (registry.image("app:1"), registry.blob_gets(), two.client());
    client.get(&image.manifest_path(&image.top)).await.unwrap().success().await.unwrap();
    // The first one is gone already, so only those after the second are brought.
    let second = client.get(&image.blob_path(&image.layers[1])).await.unwrap().success().await.unwrap();
    assert_eq!(second, image.layers[1].bytes);
    let after: u64 = image.layers[2..].iter().map(|layer| layer.size()).sum();
    reads_ahead(&two, after).await;
    for layer in &image.layers[2..] {
        two.keeps(&layer.digest).await;
    }
    assert!(!two.holds(&image.layers[0].digest) && !two.holds(&image.configs[0].digest));
    // Nobody was told of it as of a pull.
    assert_eq!(sum(&two.pulls(2).await).total(), image.top.size() + image.layers[1].size());
    for layer in &image.layers[2..] {
        let reply = client.get(&image.blob_path(layer)).await.unwrap().success().await.unwrap();
        assert_eq!(reply, layer.bytes);
    }
    // Once more, and it is this node's store that gives it.
    let reply = client.get(&image.blob_path(&image.layers[2])).await.unwrap().success().await.unwrap();
    assert_eq!(reply, image.layers[2].bytes);
    let lines = two.pulls(5).await;
    assert_eq!(line(&lines, &image.layers[3].digest).peer_bytes, image.layers[3].size(), "{lines:#?}");
    let again: Vec<_> = lines.iter().filter(|line| line.digest == image.layers[2].digest.to_string()).collect();
    let told: Vec<_> = again.iter().map(|line| (line.peer_bytes, line.store_bytes)).collect();
    assert_eq!(told, [(700, 0), (0, 700)]);
    assert_eq!(two.counters().by_source(), sum(&lines));
    assert_eq!(two.counters().sum("waylay_read_ahead_unasked_bytes_total", &[]), 0);
    assert_eq!(registry.blob_gets(), gets, "the registry was asked for what the neighbour has");
}

#[tokio::test]
async fn no_more_is_read_ahead_than_is_configured() {
    let registry = Registry::new().image("app:1", layers([100, 2 * MIB, 3 * MIB, 100])).start().await;
    let (_one, two, _cluster) = neighbours(&registry, "[pull]\nread_ahead = \"4MiB\"").await;
    let (image, client) = (registry.image("app:1"), two.client());
    client.get(&image.manifest_path(&image.top)).await.unwrap().success().await.unwrap();
    client.get(&image.blob_path(&image.layers[0])).await.unwrap().success().await.unwrap();
    reads_ahead(&two, 2 * MIB + 100).await;
    // The third has no room.
    assert!(!two.holds(&image.layers[2].digest));
    client.get(&image.blob_path(&image.layers[1])).await.unwrap().success().await.unwrap();
    reads_ahead(&two, 5 * MIB + 100).await;
}

#[tokio::test]
async fn so_many_layers_are_begun_at_once_and_no_more() {
    let sizes = std::array::from_fn::<_, { AT_ONCE + 4 }, _>(|n| 1000 + n as u64);
    let registry = Registry::new().image("app:1", layers(sizes)).start().await;
    let (_one, two, _cluster) = neighbours(&registry, ON).await;
    let (image, client) = (registry.image("app:1"), two.client());
    client.get(&image.manifest_path(&image.top)).await.unwrap().success().await.unwrap();
    let held = || image.layers.iter().filter(|layer| two.holds(&layer.digest)).count();
    client.get(&image.blob_path(&image.layers[0])).await.unwrap().success().await.unwrap();
    let begun = async || Ok((held() == 1 + AT_ONCE).then_some(()));
    eventually("as many as may be", Duration::from_secs(20), begun).await.unwrap();
    // One of them is asked for, and another one has its place; all that have one are here.
    let waiting = image.layers[1..].iter().find(|layer| two.holds(&layer.digest)).unwrap();
    client.get(&image.blob_path(waiting)).await.unwrap().success().await.unwrap();
    client.get(&image.blob_path(&image.layers[0])).await.unwrap().success().await.unwrap();
    let more = async || Ok((held() == 2 + AT_ONCE).then_some(()));
    eventually("one more", Duration::from_secs(20), more).await.unwrap();
}

#[tokio::test]
async fn nothing_is_read_ahead_where_that_is_off_or_nobody_is_near() {
    let registry = Registry::new().image("app:1", layers([100, 200 * KIB, 300 * KIB])).start().await;
    let (_one, off, _cluster) = neighbours(&registry, "").await;
    let alone = Node::beside(&registry).configured(ON).start().await;
    for node in [&off, &alone] {
        let (image, client) = (registry.image("app:1"), node.client());
        client.get(&image.manifest_path(&image.top)).await.unwrap().success().await.unwrap();
        for layer in &image.layers {
            let reply = client.get(&image.blob_path(layer)).await.unwrap().success().await.unwrap();
            assert_eq!(reply, layer.bytes);
        }
        assert_eq!((ahead(node), sum(&node.pulls(4).await).store), (0, 0));
    }
}

#[tokio::test]
async fn a_layer_that_the_registry_refuses_is_not_brought_and_its_client_hears_the_registry() {
    let image = [100, 200 * KIB, 300 * KIB].iter().fold(layers([]), |image, size| image.layer(noise("layer", *size)));
    let registry = Registry::new().image("app:1", image.clone()).image("other:1", image).start().await;
    let (_one, two, _cluster) = neighbours(&registry, ON).await;
    // That the registry once gave it in `app` is no right in another repository.
    let (image, client) = (registry.image("other:1"), two.client());
    let refused = &image.layers[1];
    registry.fault(blob(refused.digest), Fault::Status(StatusCode::FORBIDDEN));
    client.get(&image.manifest_path(&image.top)).await.unwrap().success().await.unwrap();
    client.get(&image.blob_path(&image.layers[0])).await.unwrap().success().await.unwrap();
    reads_ahead(&two, image.layers[2].size()).await;
    assert!(!two.holds(&refused.digest));
    assert_eq!(client.get(&image.blob_path(refused)).await.unwrap().status, StatusCode::FORBIDDEN);
    let lines = two.pulls(3).await;
    assert_eq!(line(&lines, &refused.digest).status, 403);
}
