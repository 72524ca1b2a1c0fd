//! The way in: what is terminated, what is spliced, and that a client sees of a spliced registry exactly what it would
//! have seen without us.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use waylay_tests::scripted::{Client, ClientError, KIB, MIB, Node, Registry, Running, Wire, layers, noise};

async fn connect(addr: SocketAddr) -> TcpStream {
    TcpStream::connect(addr).await.unwrap()
}

/// Pulls with `client` and tells the decision and its reason, once the connections have ended.
async fn pull_and_tell(node: &Node, client: Client, image: &str) -> (String, String) {
    client.pull(image).await.unwrap();
    drop(client);
    let ended = node.connection("the connection", |_| true).await;
    (ended.decision, ended.reason)
}

fn told(decision: &str, reason: &str) -> (String, String) {
    (decision.to_owned(), reason.to_owned())
}

async fn app() -> Running {
    Registry::new().image("app:1", layers([100 * KIB])).start().await
}

#[tokio::test]
async fn we_answer_where_we_are_trusted() {
    let registry = app().await;
    let node = Node::beside(&registry).start().await;
    let client = node.client();
    assert_eq!(client.handshake().await.unwrap(), Some(node.certificate()));
    assert_eq!(pull_and_tell(&node, client, "app:1").await, told("terminate", "verified"));
    // The connection that verified the registry carries the requests.
    assert_eq!(registry.connections(), 1);
    assert_eq!(pull_and_tell(&node, node.client(), "app:1").await, told("terminate", "verified_before"));
    assert_eq!((node.counters().connections("terminate"), registry.connections()), (2, 1));
}

#[tokio::test]
async fn hellos_in_pieces_and_long_ones() {
    let registry = app().await;
    let node = Node::beside(&registry).start().await;
    let long = |count: usize| {
        let mut protocols = vec![vec![b'x'; 255]; count];
        protocols.push(b"http/1.1".to_vec());
        protocols
    };
    for client in
        [node.client().dribbling(1), node.client().alpn(long(58)), node.client().alpn(long(58)).dribbling(100)]
    {
        assert_eq!(client.handshake().await.unwrap(), Some(node.certificate()));
        client.pull("app:1").await.unwrap();
    }
    // Longer than one record of TLS: not ours, and no harm done.
    let client = node.client().alpn(long(80));
    assert_ne!(client.handshake().await.unwrap(), Some(node.certificate()));
    client.pull("app:1").await.unwrap();
    drop(client);
    node.connection("the long one", |it| it.reason == "hello_too_long").await;
}

#[tokio::test]
async fn what_is_spliced_is_the_registry_itself() {
    let registry = app().await;
    let (plan, trusting) = (Node::beside, |node: &Node| node.client());
    for (node, client, reason) in [
        (plan(&registry).untrusted().start().await, trusting as fn(&Node) -> Client, "untrusted"),
        (plan(&registry).unlisted().start().await, trusting, "unlisted"),
        (plan(&registry).start().await, |node| node.client().without_sni(), "no_name"),
        (plan(&registry).start().await, |node| node.client().alpn(vec![b"acme-tls/1".to_vec()]), "other_protocol"),
    ] {
        let client = client(&node);
        let before = registry.blob_gets();
        match client.handshake().await {
            Ok(certificate) => {
                assert_ne!(certificate, Some(node.certificate()), "{reason}");
                client.pull("app:1").await.unwrap();
                assert_eq!(registry.blob_gets(), before + 2, "{reason}");
            }
            // The registry knows no such protocol.
            Err(error) => {
                assert!(reason == "other_protocol" && matches!(error, ClientError::Tls(_)), "{reason}: {error}")
            }
        }
        drop(client);
        let ended = node.connection(reason, |_| true).await;
        assert_eq!((&*ended.decision, &*ended.reason), ("splice", reason));
        assert!(node.access().is_empty());
        assert_eq!(node.counters().connections("splice"), node.counters().sum("waylay_connections_total", &[]));
    }
}

#[tokio::test]
async fn a_registry_that_would_fail_without_us_fails_the_same() {
    for (registry, reason) in [
        (Registry::new().expired(), "upstream_unverified"),
        (Registry::new().self_signed(), "upstream_unverified"),
        (Registry::new().wants_client_certificate(), "upstream_wants_certificate"),
    ] {
        let registry = registry.image("app:1", layers([KIB])).start().await;
        let node = Node::beside(&registry).start().await;
        let direct = registry.client().pull("app:1").await.unwrap_err();
        let through = node.client().pull("app:1").await.unwrap_err();
        // The text tells the time.
        let text = |error: ClientError| error.to_string().replace(|digit: char| digit.is_ascii_digit(), "");
        assert_eq!(text(through), text(direct));
        node.connection(reason, |it| it.reason == reason && it.decision == "splice").await;
        assert!(node.access().is_empty());
    }
}

#[tokio::test]
async fn a_client_with_a_certificate_gets_through() {
    let registry = Registry::new().wants_client_certificate().image("app:1", layers([MIB])).start().await;
    let node = Node::beside(&registry).start().await;
    let identity = registry.authority().client("node");
    node.client().certificate(&identity).pull("app:1").await.unwrap();
    node.connection("spliced", |it| it.reason == "upstream_wants_certificate").await;
}

#[tokio::test]
async fn a_client_that_refuses_us_is_left_alone_next_time() {
    let registry = app().await;
    let node = Node::beside(&registry).start().await;
    let client = || node.client().through(node.addr(), Some(registry.roots()));
    assert!(matches!(client().pull("app:1").await, Err(ClientError::Tls(_))));
    node.connection("refused", |it| it.reason == "client_refused").await;
    client().pull("app:1").await.unwrap();
    node.connection("left alone", |it| it.reason == "refused_before" && it.decision == "splice").await;
}

#[tokio::test]
async fn bytes_that_are_not_tls_pass_both_ways() {
    let registry = app().await;
    let node = Node::beside(&registry).start().await;
    let wire = Wire::echo().await;
    node.leads_to(wire.addr());
    let said = [b"SSH-2.0-".to_vec(), noise("said", 3 * MIB).to_vec()].concat();
    let (mut read, mut write) = connect(node.addr()).await.into_split();
    let writing = tokio::spawn({
        let said = said.clone();
        async move {
            write.write_all(&said).await.unwrap();
            write.shutdown().await.unwrap();
        }
    });
    let mut heard = Vec::new();
    read.read_to_end(&mut heard).await.unwrap();
    writing.await.unwrap();
    assert!(heard == said && wire.received() == said);
    node.connection("spliced", |it| it.reason == "not_tls").await;
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard() {
    let registry = app().await;
    let node = Node::beside(&registry).start().await;
    let wire = Wire::greeting("220 ready\r\n").await;
    node.leads_to(wire.addr());
    let mut stream = connect(node.addr()).await;
    let mut greeting = [0; 11];
    stream.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"220 ready\r\n");
    stream.write_all(b"QUIT\r\n").await.unwrap();
    wire.arrived(6).await;
    assert_eq!(wire.received(), b"QUIT\r\n");
    drop(stream);
    node.connection("spliced", |it| it.reason == "silent").await;
}

#[tokio::test]
async fn half_a_hello_reaches_the_server_as_well() {
    let registry = app().await;
    let node = Node::beside(&registry).start().await;
    let wire = Wire::echo().await;
    node.leads_to(wire.addr());
    let mut stream = connect(node.addr()).await;
    stream.write_all(&[0x16, 3, 1, 1, 0, 1]).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, [0x16, 3, 1, 1, 0, 1]);
    node.connection("spliced", |it| it.decision == "splice").await;
}

#[tokio::test]
async fn plain_http_to_another_host_on_the_same_port_passes() {
    let registry = Registry::new().plain_http().image("app:1", layers([KIB])).start().await;
    let node = Node::beside(&registry).start().await;
    let other = Client::new(node.addr(), "other.test", registry.addr().port(), None);
    other.pull("app:1").await.unwrap();
    drop(other);
    node.connection("spliced", |it| it.reason == "unlisted").await;
    assert!(node.access().is_empty());
    node.trusted(false);
    let client = node.client();
    client.pull("app:1").await.unwrap();
    drop(client);
    node.connection("spliced", |it| it.reason == "caller_unknown").await;
}

#[tokio::test]
async fn a_registry_never_seen_that_is_away_fails_as_without_us() {
    let registry = app().await;
    let node = Node::beside(&registry).start().await;
    registry.down().await;
    assert!(node.client().pull("app:1").await.is_err());
    node.connection("spliced", |it| it.reason == "upstream_unreachable").await;
    registry.up().await;
}

#[tokio::test]
async fn a_connection_to_our_own_listener_is_closed() {
    let registry = app().await;
    let node = Node::beside(&registry).start().await;
    node.leads_to(node.addr());
    assert!(node.client().handshake().await.is_err());
    node.connection("closed", |it| it.reason == "own_listener" && it.decision == "close").await;
}

#[tokio::test]
async fn who_has_just_connected_when_the_daemon_stops_is_answered() {
    let registry = app().await;
    let path = registry.image("app:1").manifest_path(&registry.image("app:1").top);
    for http2 in [false, true] {
        let mut node = Node::beside(&registry).start().await;
        let client = if http2 { node.client().http2() } else { node.client() };
        client.connected().await.unwrap();
        node.told_to_stop();
        client.get(&path).await.unwrap().success().await.unwrap();
        drop(client);
        node.stop().await;
    }
}
