//! Parts of blobs: the same answers as from the registry, and no more bytes from it than were asked for.

use waylay_tests::scripted::{Fault, KIB, MIB, Node, Registry, Running, blobs, layers};

use super::{line, sum};

const RANGES: [&str; 16] = [
    "bytes=0-",
    "bytes=0-0",
    "bytes=5-9",
    "bytes=1000000-",
    "bytes=262144-524287",
    "bytes=262143-262144",
    "bytes=-1",
    "bytes=-5",
    "bytes=-99999999",
    "bytes=1048570-9999999",
    "bytes=1048576-",
    "bytes=99999999999999999999-",
    "bytes=-0",
    "bytes=9-5",
    "items=0-5",
    "bytes=0-1,5-6",
];

/// Every range of the table gives what the registry itself gives.
async fn same_as_direct(registry: &Running, node: &Node, what: &str) {
    let image = registry.image("app:1");
    let path = image.blob_path(&image.layers[0]);
    for range in RANGES {
        let ours = node.client().get_range(&path, range).await.unwrap();
        let theirs = registry.client().get_range(&path, range).await.unwrap();
        assert_eq!(ours.status, theirs.status, "{what} {range}");
        assert_eq!(ours.header("content-range"), theirs.header("content-range"), "{what} {range}");
        if ours.status.is_success() {
            assert_eq!(ours.header("content-length"), theirs.header("content-length"), "{what} {range}");
            assert_eq!(ours.bytes().await.unwrap(), theirs.bytes().await.unwrap(), "{what} {range}");
        }
    }
}

#[tokio::test]
async fn the_same_as_from_the_registry() {
    let registry = Registry::new().image("app:1", layers([MIB])).start().await;
    let image = registry.image("app:1");
    let unknown = Node::beside(&registry).start().await;
    same_as_direct(&registry, &unknown, "of unknown size").await;
    let cold = Node::beside(&registry).start().await;
    cold.client().get(&image.manifest_path(&image.top)).await.unwrap().success().await.unwrap();
    same_as_direct(&registry, &cold, "cold").await;
    let warm = Node::beside(&registry).start().await;
    warm.client().pull("app:1").await.unwrap();
    let before = registry.blob_gets();
    same_as_direct(&registry, &warm, "warm").await;
    // Each direct one, and the one with several ranges, which passes.
    assert_eq!(registry.blob_gets(), before + RANGES.len() + 1);
    assert_eq!(warm.counters().sum("waylay_faults_total", &[]), 0);
}

#[tokio::test]
async fn parallel_open_ended_ranges_cost_one_download() {
    let registry = Registry::new().image("app:1", layers([20 * MIB])).start().await;
    let node = Node::beside(&registry).start().await;
    let (image, client) = (registry.image("app:1"), node.client());
    let layer = &image.layers[0];
    client.get(&image.manifest_path(&image.top)).await.unwrap().success().await.unwrap();
    let got = client.blob_in_chunks("app", &layer.digest, layer.size(), 3 * MIB).await.unwrap();
    assert!(got == layer.bytes);
    // Bytes that were in the buffers of a connection that a client closed may have been fetched, but not twice.
    assert!(registry.blob_bytes_sent() <= 20 * MIB + MIB, "{:#?}", registry.requests());
    let lines = node.pulls(1 + 7).await;
    assert!(lines.iter().skip(1).all(|line| line.status == 206 && line.fault == "-"), "{lines:#?}");
}

#[tokio::test]
async fn a_resumed_pull_gets_the_rest() {
    let registry = Registry::new().image("app:1", layers([8 * MIB])).start().await;
    let node = Node::beside(&registry).start().await;
    let (image, client) = (registry.image("app:1"), node.client());
    let layer = &image.layers[0];
    client.get(&image.manifest_path(&image.top)).await.unwrap().success().await.unwrap();
    let path = image.blob_path(layer);
    let rest = client.get_range(&path, "bytes=5000000-").await.unwrap();
    assert_eq!(rest.header("content-range"), Some("bytes 5000000-8388607/8388608"));
    assert_eq!(rest.bytes().await.unwrap(), layer.bytes.slice(5_000_000..));
    assert_eq!(client.blob("app", &layer.digest).await.unwrap(), layer.bytes);
    assert!(registry.blob_bytes_sent() <= 8 * MIB + MIB);
}

#[tokio::test]
async fn a_part_costs_only_the_pieces_that_it_touches() {
    let registry = Registry::new().image("app:1", layers([16 * MIB])).start().await;
    let node = Node::beside(&registry).start().await;
    let (image, client) = (registry.image("app:1"), node.client());
    let layer = &image.layers[0];
    client.get(&image.manifest_path(&image.top)).await.unwrap().success().await.unwrap();
    let path = image.blob_path(layer);
    for start in [3 * MIB, 3 * MIB + 100, 3 * MIB + 200_000] {
        let part = client.get_range(&path, &format!("bytes={start}-{}", start + 999)).await.unwrap();
        assert_eq!(part.bytes().await.unwrap(), layer.bytes.slice(start as usize..start as usize + 1000));
    }
    // One piece of 256 KiB, once.
    assert_eq!(registry.blob_bytes_sent(), 256 * KIB, "{:#?}", registry.requests());
    assert!(!node.holds(&layer.digest));
    let lines = node.pulls(4).await;
    assert_eq!(sum(lines.iter().filter(|line| line.status == 206)).total(), 3000);
    assert_eq!(client.blob("app", &layer.digest).await.unwrap(), layer.bytes);
    assert_eq!(registry.blob_bytes_sent(), 16 * MIB);
}

#[tokio::test]
async fn if_range_with_another_tag_gets_the_whole() {
    let registry = Registry::new().image("app:1", layers([MIB])).start().await;
    let node = Node::beside(&registry).start().await;
    let image = registry.image("app:1");
    node.client().pull("app:1").await.unwrap();
    let path = image.blob_path(&image.layers[0]);
    let same = format!("\"{}\"", image.layers[0].digest);
    for (tag, status) in [(&*same, 206), ("\"another\"", 200), ("W/\"x\"", 200)] {
        let client = node.client().header(http::header::IF_RANGE, tag);
        assert_eq!(client.get_range(&path, "bytes=5-").await.unwrap().status.as_u16(), status, "{tag}");
    }
}

#[tokio::test]
async fn a_registry_without_ranges_serves_them_through_us() {
    let registry = Registry::new().image("app:1", layers([4 * MIB])).with(blobs(), Fault::NoRange).start().await;
    let node = Node::beside(&registry).start().await;
    let (image, client) = (registry.image("app:1"), node.client());
    let layer = &image.layers[0];
    client.get(&image.manifest_path(&image.top)).await.unwrap().success().await.unwrap();
    let part = client.get_range(&image.blob_path(layer), "bytes=3000000-3000009").await.unwrap();
    // Either the part or, as from the registry, the whole is right.
    match part.status.as_u16() {
        206 => assert_eq!(part.bytes().await.unwrap(), layer.bytes.slice(3_000_000..3_000_010)),
        200 => assert_eq!(part.bytes().await.unwrap(), layer.bytes),
        other => panic!("{other}"),
    }
    let lines = node.pulls(2).await;
    assert_eq!(line(&lines, &layer.digest).fault, "-");
    assert_eq!(node.client().blob("app", &layer.digest).await.unwrap(), layer.bytes);
}
