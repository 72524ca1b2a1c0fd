//! A registry opens only what it has served itself. One that says yes to everything, or a list that says so, opens nothing
//! of another registry, and breaks nobody's pull.

use std::{net::SocketAddr, sync::Arc};

use http::{Method, StatusCode};
use serde_json::json;
use waylay_tests::scripted::{
    Authority, Built, Client, Cluster, Fault, Gate, KIB, MIB, Node, Piece, Registry, Running, blob, layers, noise,
};

use super::has_part_of;

/// A private registry, and one of the attacker's that has the right answer's shape for everything: a blob of the same
/// digest whose bytes are its own.
async fn two(size: u64) -> (Running, Running) {
    let authority = Arc::new(Authority::new());
    let registry = Registry::new().certified_by(authority.clone()).token_auth().user("alice", "a", ["app"]);
    let registry = registry.image("app:1", layers([size])).start().await;
    let liar = Registry::new().certified_by(authority).named("liar.test").image("own:1", layers([KIB])).start().await;
    (registry, liar)
}

/// The liar's manifest, which lists the private layer and says that it is `size` bytes.
fn forged(liar: &Running, image: &Built, size: u64) -> Piece {
    let own = liar.image("own:1");
    let mut listed = image.layers[0].descriptor();
    listed["size"] = json!(size);
    let forged = json!({
        "schemaVersion": 2,
        "mediaType": own.top.media_type,
        "config": own.configs[0].descriptor(),
        "layers": [listed],
    });
    Piece::new(&own.top.media_type, forged.to_string())
}

/// Lets the liar answer for the layer: HEAD with the right size, GET with bytes of its own.
fn lies(liar: &Running, image: &Built) {
    liar.put_blob_as("own", image.layers[0].digest, noise("lies", image.layers[0].size()));
    liar.retag("own", "thief", forged(liar, image, image.layers[0].size()));
}

/// Whatever the liar's client gets of the layer is not the layer's.
async fn gets_nothing(client: &Client, image: &Built) {
    let (layer, path) = (&image.layers[0], format!("/v2/own/blobs/{}", image.layers[0].digest));
    let thief = client.ask(Method::GET, "own", "/v2/own/manifests/thief", None).await.unwrap();
    thief.success().await.unwrap();
    for range in [None, Some("bytes=0-99"), Some("bytes=100-")] {
        for method in [Method::HEAD, Method::GET] {
            let Ok(reply) = client.ask(method, "own", &path, range).await else { continue };
            let mut reply = reply;
            let mut got = Vec::new();
            while let Some(Ok(chunk)) = reply.chunk().await {
                got.extend_from_slice(&chunk);
            }
            assert!(!has_part_of(&got, &layer.bytes), "{range:?} gave {} bytes", got.len());
        }
    }
}

#[tokio::test]
async fn a_registry_that_says_yes_opens_nothing_in_the_store() {
    let (registry, liar) = two(MIB).await;
    let node = Node::beside(&registry).and(&liar).start().await;
    let image = registry.image("app:1");
    node.client().user("alice", "a").pull("app:1").await.unwrap();
    node.keeps(&image.layers[0].digest).await;
    lies(&liar, &image);
    gets_nothing(&node.client_of(&liar), &image).await;
    let stolen = node.access().into_iter().filter(|line| line.registry == liar.name());
    assert_eq!(stolen.map(|line| line.store_bytes).sum::<u64>(), 0);
    // And Alice still has hers.
    node.client().user("alice", "a").pull("app:1").await.unwrap();
}

#[tokio::test]
async fn nor_a_manifest() {
    let (registry, liar) = two(MIB).await;
    let node = Node::beside(&registry).and(&liar).start().await;
    let image = registry.image("app:1");
    node.client().user("alice", "a").pull("app:1").await.unwrap();
    let lie = Piece { bytes: noise("lies", image.top.size()), ..image.top.clone() };
    liar.retag("own", "thief", lie);
    for path in ["/v2/own/manifests/thief".to_owned(), format!("/v2/own/manifests/{}", image.top.digest)] {
        let client = node.client_of(&liar);
        client.head(&path).await.unwrap();
        if let Ok(reply) = client.get(&path).await
            && let Ok(bytes) = reply.bytes().await
        {
            assert_ne!(bytes, image.top.bytes, "{path}");
        }
    }
}

#[tokio::test]
async fn nor_at_a_neighbour() {
    let (registry, liar) = two(MIB).await;
    let cluster = Cluster::of(2);
    let one = Node::beside(&registry).and(&liar).member(&cluster, 0).start().await;
    let two = Node::beside(&registry).and(&liar).member(&cluster, 1).start().await;
    let image = registry.image("app:1");
    one.client().user("alice", "a").pull("app:1").await.unwrap();
    two.finds(&image.layers[0].digest).await;
    lies(&liar, &image);
    gets_nothing(&two.client_of(&liar), &image).await;
    assert_eq!(two.access().iter().map(|line| line.peer_bytes).sum::<u64>(), 0);
}

#[tokio::test]
async fn nor_while_the_other_registry_is_just_giving_it() {
    let (registry, liar) = two(4 * MIB).await;
    let node = Node::beside(&registry).and(&liar).start().await;
    let image = registry.image("app:1");
    let digest = image.layers[0].digest;
    let gate = Gate::new();
    registry.fault(blob(digest).gets().and(|seen| seen.authorised()).first(1), Fault::Stall(3 * MIB, gate.clone()));
    let (alice, token) = (node.client(), registry.token(["app"]));
    let pulling = tokio::spawn(async move { alice.token(&token).blob("app", &digest).await });
    gate.reached(1).await;
    lies(&liar, &image);
    gets_nothing(&node.client_of(&liar), &image).await;
    gate.open();
    assert_eq!(pulling.await.unwrap().unwrap(), image.layers[0].bytes, "Alice's pull is none of the liar's");
}

#[tokio::test]
async fn nor_in_a_crowd_that_is_bringing_it() {
    let (registry, liar) = two(4 * MIB).await;
    let cluster = Cluster::of(2);
    let one = Node::beside(&registry).and(&liar).member(&cluster, 0).start().await;
    let two = Node::beside(&registry).and(&liar).member(&cluster, 1).start().await;
    let image = registry.image("app:1");
    one.client().user("alice", "a").pull("app:1").await.unwrap();
    two.finds(&image.layers[0].digest).await;
    let layer = registry.push("app:2", layers([4 * MIB])).layers[0].clone();
    let image = Built { layers: vec![layer.clone()], ..registry.image("app:2") };
    lies(&liar, &image);
    // All but the end: the crowd goes on while the liar's client asks.
    let gate = Gate::new();
    let end = 3 * MIB;
    registry.fault(
        blob(layer.digest).gets().and(move |seen| {
            let first = seen
                .header("range")
                .and_then(|range| range.strip_prefix("bytes=")?.split('-').next()?.parse::<u64>().ok());
            seen.authorised() && first.unwrap_or_default() >= end
        }),
        Fault::Hold(gate.clone()),
    );
    let alice = one.client().user("alice", "a");
    let pulling = tokio::spawn(async move { alice.pull("app:2").await });
    gate.reached(1).await;
    let client = two.client_of(&liar);
    let asking = async { gets_nothing(&client, &image).await };
    let _ = tokio::time::timeout(std::time::Duration::from_secs(8), asking).await;
    assert_eq!(two.access().iter().map(|line| line.peer_bytes).sum::<u64>(), 0);
    gate.open();
    assert_eq!(pulling.await.unwrap().unwrap().layers, [layer.bytes]);
}

#[tokio::test]
async fn what_both_registries_have_is_shared_once_both_have_served_it() {
    let authority = Arc::new(Authority::new());
    let first = Registry::new().certified_by(authority.clone()).image("app:1", layers([2 * MIB])).start().await;
    let second =
        Registry::new().certified_by(authority).named("second.test").image("app:1", layers([2 * MIB])).start().await;
    let node = Node::beside(&first).and(&second).start().await;
    let image = first.image("app:1");
    assert_eq!(image.layers[0].digest, second.image("app:1").layers[0].digest);
    node.client().pull("app:1").await.unwrap();
    node.keeps(&image.layers[0].digest).await;
    let other = node.client_of(&second);
    for _ in 0..3 {
        assert_eq!(other.pull("app:1").await.unwrap().layers, [image.layers[0].bytes.clone()]);
    }
    assert_eq!(second.gets_of(image.layers[0].digest), 1, "from the store once it was proven");
}

#[tokio::test]
async fn a_list_that_lies_about_the_size_breaks_no_other_pull() {
    for lie in [KIB, 8 * MIB] {
        let registry = Registry::new().image("app:1", layers([4 * MIB])).image("other:1", layers([KIB])).start().await;
        let cluster = Cluster::of(2);
        let one = Node::beside(&registry).member(&cluster, 0).start().await;
        let two = Node::beside(&registry).member(&cluster, 1).start().await;
        one.client().pull("other:1").await.unwrap();
        two.finds(&registry.image("other:1").layers[0].digest).await;
        let layer = registry.image("app:1").layers[0].clone();
        registry.put_blob("other", layer.bytes.clone());
        let own = registry.image("other:1");
        let mut listed = layer.descriptor();
        listed["size"] = json!(lie);
        let forged = json!({
            "schemaVersion": 2, "mediaType": own.top.media_type,
            "config": own.configs[0].descriptor(), "layers": [listed],
        });
        registry.retag("other", "lies", Piece::new(&own.top.media_type, forged.to_string()));
        let attacker = one.client();
        attacker.get("/v2/other/manifests/lies").await.unwrap().success().await.unwrap();
        let gate = Gate::new();
        registry.fault(blob(layer.digest).gets().first(1), Fault::Stall(KIB, gate.clone()));
        let path = format!("/v2/other/blobs/{}", layer.digest);
        let attack = tokio::spawn(async move {
            let reply = attacker.get(&path).await.unwrap();
            (reply.status, reply.bytes().await.map(|bytes| bytes.len()))
        });
        gate.reached(1).await;
        let alice = one.client();
        let victim = tokio::spawn(async move { alice.pull("app:1").await });
        gate.open();
        let pulled = victim.await.unwrap().unwrap();
        assert_eq!(pulled.layers, std::slice::from_ref(&layer.bytes), "a lie of {lie} bytes");
        // The liar itself gets what the registry says.
        let (status, length) = attack.await.unwrap();
        assert_eq!((status, length.unwrap() as u64), (StatusCode::OK, layer.size()));
    }
}

#[tokio::test]
async fn a_plain_registry_is_its_address_not_its_name() {
    let registry = Registry::new().plain_http().image("app:1", layers([MIB])).start().await;
    let node = Node::beside(&registry).start().await;
    let image = registry.image("app:1");
    node.client().pull("app:1").await.unwrap();
    node.keeps(&image.layers[0].digest).await;
    // Nothing proves a name without TLS: a client that connects elsewhere and says the same `Host` talks to a stranger.
    let elsewhere = SocketAddr::from(([127, 0, 0, 2], registry.addr().port()));
    let liar = Registry::new().plain_http().at(elsewhere).image("app:1", layers([KIB])).start().await;
    liar.put_blob_as("app", image.layers[0].digest, noise("lies", MIB));
    node.leads_to(liar.addr());
    let client = Client::new(node.addr(), registry.host(), registry.addr().port(), None);
    let reply = client.get(&image.blob_path(&image.layers[0])).await.unwrap();
    assert_ne!(reply.bytes().await.unwrap_or_default(), image.layers[0].bytes);
}
