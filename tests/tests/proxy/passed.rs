//! What is none of our business passes as it is: pushes, tokens, catalogues, other digests, odd paths.

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use waylay::oci::Digest;
use waylay_tests::{
    saw::saw,
    scripted::{
        Client, Fault, KIB, Kind, MIB, Node, Registry, Reply, Running, layers, noise, request, request_with, tags,
    },
};

async fn beside() -> (Running, Node) {
    let registry = Registry::new().image("app:1", layers([KIB])).start().await;
    let node = Node::beside(&registry).start().await;
    (registry, node)
}

/// The path of an absolute `Location`.
fn location(reply: &Reply) -> String {
    format!("/{}", reply.header("location").unwrap().splitn(4, '/').nth(3).unwrap())
}

#[tokio::test]
async fn a_push_in_chunks() {
    let (registry, node) = beside().await;
    for client in [node.client(), node.client().http2()] {
        let blob = noise(&format!("pushed {}", registry.count(Kind::Upload)), 5 * MIB);
        let digest = Digest::of(&blob);
        let begun = client.send(request(Method::POST, "/v2/new/repo/blobs/uploads/")).await.unwrap();
        assert_eq!(begun.status, StatusCode::ACCEPTED);
        let host = format!("https://{}/v2/new/repo/blobs/uploads/", registry.name());
        assert!(begun.header("location").unwrap().starts_with(&host), "{:?}", begun.header("location"));
        let mut session = location(&begun);
        for part in [blob.slice(..1_000_000), blob.slice(1_000_000..)] {
            let patched = client.send(request_with(Method::PATCH, &session, part)).await.unwrap();
            assert_eq!(patched.status, StatusCode::ACCEPTED);
            session = location(&patched);
        }
        let put = client.send(request(Method::PUT, &format!("{session}&digest={digest}"))).await.unwrap();
        assert_eq!(put.status, StatusCode::CREATED);
        assert_eq!(registry.held("new/repo", &digest), Some(blob));
        assert!(!node.holds(&digest));
    }
    assert_eq!(node.request("the end of an upload", |it| it.method == "PUT").await.route, "upload");
    assert!(node.access().is_empty(), "a push is no pull");
}

#[tokio::test]
async fn an_upload_is_streamed_while_it_comes() {
    let (registry, node) = beside().await;
    let client = node.client();
    let session = location(&client.send(request(Method::POST, "/v2/new/blobs/uploads/")).await.unwrap());
    let (send, receive) = mpsc::channel::<Bytes>(1);
    let body = StreamBody::new(ReceiverStream::new(receive).map(|bytes| Ok(Frame::data(bytes)))).boxed_unsync();
    let mut patch = Request::new(body);
    *patch.method_mut() = Method::PATCH;
    *patch.uri_mut() = session.parse().unwrap();
    let patching = tokio::spawn(async move { client.send(patch).await });
    for round in 1..=3 {
        send.send(noise("a part", 100 * KIB)).await.unwrap();
        registry
            .until("a part has arrived before the next", |seen| {
                seen.iter().any(|seen| seen.method == Method::PATCH && seen.received == round * 100 * KIB)
            })
            .await;
    }
    drop(send);
    assert_eq!(patching.await.unwrap().unwrap().status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn a_mount_a_manifest_and_a_deletion() {
    let (registry, node) = beside().await;
    let (image, client) = (registry.image("app:1"), node.client());
    let digest = image.layers[0].digest;
    let mount = format!("/v2/new/blobs/uploads/?mount={digest}&from=app");
    assert_eq!(client.send(request(Method::POST, &mount)).await.unwrap().status, StatusCode::CREATED);
    assert_eq!(node.request("the mount", |_| true).await.route, "mount");
    let mut put = request_with(Method::PUT, "/v2/new/manifests/2", image.top.bytes.clone());
    put.headers_mut().insert(header::CONTENT_TYPE, image.top.media_type.parse().unwrap());
    let put = client.send(put).await.unwrap();
    assert_eq!(put.header("docker-content-digest"), Some(&*image.top.digest.to_string()));
    assert_eq!(node.request("the manifest", |_| true).await.route, "method");
    let delete = request(Method::DELETE, &image.blob_path(&image.layers[0]));
    assert_eq!(client.send(delete).await.unwrap().status, StatusCode::ACCEPTED);
    assert_eq!(registry.held("app", &digest), None);
    assert!(node.access().is_empty());
}

/// What a path gives by way of the node is what the registry gives.
async fn same(ours: &Client, theirs: &Client, path: &str) {
    let (ours, theirs) = (ours.get(path).await.unwrap(), theirs.get(path).await.unwrap());
    assert_eq!((ours.status, &ours.path), (theirs.status, &theirs.path));
    for (name, value) in &theirs.headers {
        if name != header::DATE {
            assert_eq!(ours.headers.get(name), Some(value), "{path} {name}");
        }
    }
    let (ours, theirs) = (ours.bytes().await.unwrap(), theirs.bytes().await.unwrap());
    // No two tokens are the same.
    assert!(ours == theirs || path.starts_with("/token"), "{path}");
}

#[tokio::test]
async fn questions_that_only_the_registry_can_answer() {
    let (registry, node) = beside().await;
    let digest = registry.image("app:1").layers[0].digest;
    let paths = [
        ("/v2/".to_owned(), "base"),
        ("/token?service=x&scope=repository:app:pull".to_owned(), "token"),
        ("/v2/_catalog?n=5".to_owned(), "catalog"),
        ("/v2/app/tags/list".to_owned(), "tags"),
        (format!("/v2/app/referrers/{digest}"), "referrers"),
        (format!("/v2/app/blobs/sha512:{}", "0".repeat(128)), "other_digest"),
        (format!("/v2/app/blobs/{digest}?x=1"), "query"),
        (format!("/v2/app/../app/blobs/{digest}"), "unknown"),
        (format!("/v2//app/blobs/{digest}"), "unknown"),
        (format!("/v2/app/blobs/{digest}/"), "unknown"),
        ("/v1/search?q=x".to_owned(), "unknown"),
        ("/".to_owned(), "unknown"),
    ];
    for (path, label) in paths {
        same(&node.client(), &registry.client(), &path).await;
        assert_eq!(node.request(&path, |_| true).await.route, label);
        let seen = registry.requests();
        assert!(seen[seen.len() - 2..].iter().all(|seen| seen.target == path), "{path}: {seen:#?}");
    }
    assert!(node.access().is_empty());
}

#[tokio::test]
async fn the_clients_headers_arrive_and_nothing_is_added() {
    let (registry, node) = beside().await;
    let name = header::HeaderName::from_static("x-of-the-client");
    let client = node.client().header(name.clone(), "as it was").token("opaque");
    client.get("/v2/app/manifests/1").await.unwrap().bytes().await.unwrap();
    registry.client().header(name, "as it was").token("opaque").get("/v2/app/manifests/1").await.unwrap();
    let seen = registry.requests();
    assert_eq!(seen[0].headers, seen[1].headers);
}

/// Docker Hub tells in headers how many pulls are left.
#[tokio::test]
async fn what_a_registry_counts_is_told_to_the_client() {
    let (registry, node) = beside().await;
    registry.fault(tags(), Fault::Header("ratelimit-remaining", "76;w=21600".to_owned()));
    let path = registry.image("app:1").tag_path();
    // The second GET costs the registry a HEAD only.
    for method in [Method::HEAD, Method::GET, Method::GET] {
        let reply = node.client().send(request(method.clone(), &path)).await.unwrap();
        saw("a client", format_args!("{method} {}, {:?}", reply.status, reply.header("ratelimit-remaining")));
        assert_eq!((reply.status, reply.header("ratelimit-remaining")), (StatusCode::OK, Some("76;w=21600")));
        reply.bytes().await.unwrap();
    }
}

#[tokio::test]
async fn a_client_that_waits_to_be_told_to_go_on_is_told() {
    let (registry, node) = beside().await;
    let client = node.client();
    let session = location(&client.send(request(Method::POST, "/v2/new/blobs/uploads/")).await.unwrap());
    let host = registry.name();
    let patch = format!(
        "PATCH {session} HTTP/1.1\r\nHost: {host}\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\
         Connection: close\r\n\r\nhello"
    );
    let said = String::from_utf8(client.raw(patch.as_bytes()).await.unwrap()).unwrap();
    let states: Vec<&str> = said.lines().filter(|line| line.starts_with("HTTP/1.1 ")).collect();
    saw("a client", states.join(", "));
    assert_eq!(states, ["HTTP/1.1 100 Continue", "HTTP/1.1 202 Accepted"]);
    assert_eq!(registry.requests().last().unwrap().received, 5);
}

#[tokio::test]
async fn many_requests_at_once_on_one_connection() {
    let (registry, node) = beside().await;
    let client = node.client().http2();
    client.handshake().await.unwrap();
    let all = stream::iter(0..50).map(|_| async { client.get("/v2/").await.unwrap().bytes().await.unwrap() });
    let answers: Vec<Bytes> = all.buffer_unordered(50).collect().await;
    assert!(answers.iter().all(|answer| answer == "{}"));
    assert_eq!(registry.requests().len(), 50);
}
