//! What a node tells of a pull, explained: every byte that the client got has a source, and the members are named.

use std::time::Duration;

use waylay::{
    explain::{Explained, Subject, explain},
    telemetry::Event,
};
use waylay_tests::scripted::{Cluster, MIB, Node, Registry, layers};
use waylay_tests::wait::eventually;

/// The explanation of the node's last pull, once it accounts for this many bytes: a flight is told of a moment after the
/// client has its last byte.
async fn explained(node: &Node, subject: &Subject, bytes: u64) -> Explained {
    let (mut events, mut last): (Vec<Event>, _) = (Vec::new(), None);
    let settled = eventually("all bytes are explained", Duration::from_secs(20), async || {
        while let Some(event) = node.told() {
            events.push(Event::clone(&event));
        }
        last = explain(&events, subject);
        let explained = last.as_ref().map(|pull| pull.sources.iter().map(|source| source.bytes).sum::<u64>());
        Ok((explained == Some(bytes)).then_some(()))
    });
    let settled = settled.await;
    assert!(settled.is_ok(), "{bytes} bytes: {last:#?} of {events:#?}");
    last.unwrap()
}

#[tokio::test]
async fn each_byte_of_a_pull_has_a_source() {
    let registry = Registry::new().image("team/app:1", layers([40 * MIB, 3 * MIB])).start().await;
    let cluster = Cluster::of(2);
    let one = Node::beside(&registry).member(&cluster, 0).start().await;
    let two = Node::beside(&registry).member(&cluster, 1).start().await;
    let image = registry.image("team/app:1");
    let subject: Subject = format!("{}:{}/team/app:1", registry.host(), registry.addr().port()).parse().unwrap();
    let all = image.blob_bytes() + image.top.size();

    one.client().pull("team/app:1").await.unwrap();
    for blob in image.layers.iter().chain(&image.configs[..1]).chain([&image.top]) {
        one.keeps(&blob.digest).await;
        two.finds(&blob.digest).await;
    }
    let first = explained(&one, &subject, all).await;
    let sources: Vec<_> = first.sources.iter().map(|source| source.from.as_str()).collect();
    assert_eq!(sources, ["registry"]);
    assert_eq!(first.meant, Some(image.top.digest.to_string()));
    assert!(first.findings.iter().any(|finding| finding.contains("no member had any of it")), "{:#?}", first.findings);

    two.client().pull("team/app:1").await.unwrap();
    let second = explained(&two, &subject, all).await;
    let from_one = second.sources.iter().find(|source| source.from == cluster.addresses()[0].to_string()).unwrap();
    assert!(from_one.bytes >= image.blob_bytes(), "{second:#?}");
    let (lines, counted) = (two.pulls(4).await, two.counters().by_source());
    assert_eq!(from_one.bytes, counted.peer, "{lines:#?}");
    let asked: u64 = second.pieces.iter().map(|asked| asked.bytes).sum();
    assert_eq!(asked, all);
    assert!(second.pieces.iter().all(|asked| asked.status == 200 && asked.faults.is_empty()), "{second:#?}");

    // Again, from its own store.
    two.client().pull("team/app:1").await.unwrap();
    let layer = Subject::Digest(image.layers[0].digest);
    let third = explained(&two, &layer, image.layers[0].size()).await;
    assert_eq!(third.sources[0].from, "store");
}
