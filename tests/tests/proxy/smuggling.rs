//! Requests made so that two readers disagree about where they end. Connections to a registry are shared by all clients of
//! a node, so one client's bytes must never be read as part of another's request.

use http::{Method, StatusCode};
use waylay_tests::scripted::{KIB, MIB, Node, Registry, Running, layers, request_with};

async fn open() -> (Running, Node) {
    let registry = Registry::new().http1_only().image("app:1", layers([MIB, KIB])).start().await;
    let node = Node::beside(&registry).start().await;
    (registry, node)
}

#[tokio::test]
async fn a_body_where_none_belongs_stays_with_its_request() {
    let (registry, node) = open().await;
    let image = registry.image("app:1");
    let paths = [image.blob_path(&image.layers[0]), image.manifest_path(&image.top), image.tag_path()];
    for path in &paths {
        for method in [Method::GET, Method::HEAD] {
            let body = "GET /v2/stolen/tags/list HTTP/1.1\r\nX: ";
            let reply = node.client().send(request_with(method.clone(), path, body)).await.unwrap();
            assert_eq!(reply.status, StatusCode::OK, "{method} {path}");
            reply.bytes().await.unwrap();
            // On the same connection to the registry, which reads it as what it is.
            let after = node.client().get("/v2/app/tags/list").await.unwrap();
            assert_eq!(after.status, StatusCode::OK, "after {method} {path}");
            assert!(after.bytes().await.unwrap().starts_with(b"{"));
        }
    }
    for seen in registry.requests() {
        assert!(!seen.target.contains("stolen"), "{seen:#?}");
        let content = seen.header("content-length").unwrap_or("0");
        assert_eq!(content.parse::<u64>().unwrap(), seen.received, "{seen:#?}");
    }
}

#[tokio::test]
async fn two_lengths_are_one_or_none() {
    let (registry, node) = open().await;
    let name = registry.name();
    let inner = "GET /v2/stolen/tags/list HTTP/1.1\r\nHost: x\r\n\r\n";
    for head in [
        format!(
            "POST /v2/app/blobs/uploads/ HTTP/1.1\r\nHost: {name}\r\nContent-Length: {}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n{inner}",
            inner.len() + 5
        ),
        format!(
            "POST /v2/app/blobs/uploads/ HTTP/1.1\r\nHost: {name}\r\nContent-Length: 0\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{inner}",
            inner.len()
        ),
        format!(
            "POST /v2/app/blobs/uploads/ HTTP/1.1\r\nHost: {name}\r\nTransfer-Encoding: xchunked\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{inner}",
            inner.len()
        ),
        format!(
            "POST /v2/app/blobs/uploads/ HTTP/1.1\r\nHost: {name}\r\nContent-Length: {}\r\nConnection: content-length, close\r\n\r\n{inner}",
            inner.len()
        ),
        format!(
            "GET /v2/app/tags/list HTTP/1.1\r\nHost: {name}\r\nContent-Length: {}\r\nConnection: close, content-length\r\n\r\n{inner}",
            inner.len()
        ),
    ] {
        node.client().raw(head.as_bytes()).await.unwrap();
        let after = node.client().get("/v2/app/tags/list").await.unwrap();
        assert_eq!(after.status, StatusCode::OK, "after {head}");
        assert!(after.bytes().await.unwrap().starts_with(b"{"), "after {head}");
    }
    assert!(registry.requests().iter().all(|seen| !seen.target.contains("stolen")));
}
