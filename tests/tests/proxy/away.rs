//! Tags, and registries that are away: a tag always asks the registry; when that fails, but not when it refuses, the last
//! known meaning serves and says that it is old.

use http::{Method, StatusCode};
use waylay_tests::scripted::{Client, Fault, KIB, MIB, Node, Registry, Running, any, layers, manifests, tags};

use super::{line, status};

/// The image pulled once through the node, in either way.
async fn pulled_once(node: &Node, registry: &Running, by_get: bool) -> waylay_tests::scripted::Pulled {
    let pulled = if by_get { node.client().pull_by_get("app:1").await } else { node.client().pull("app:1").await };
    assert_eq!(pulled.as_ref().unwrap().top, registry.image("app:1").top.digest);
    pulled.unwrap()
}

async fn again(client: &Client, by_get: bool) -> waylay_tests::scripted::Pulled {
    if by_get { client.pull_by_get("app:1").await.unwrap() } else { client.pull("app:1").await.unwrap() }
}

#[tokio::test]
async fn a_tag_means_what_the_registry_says_now() {
    let registry = Registry::new().image("app:1", layers([KIB])).start().await;
    let node = Node::beside(&registry).start().await;
    for round in 0..3 {
        registry.push("app:1", layers([KIB + round]));
        pulled_once(&node, &registry, false).await;
        pulled_once(&node, &registry, true).await;
    }
    let asked = registry.requests().iter().filter(|seen| seen.digest().is_none()).count();
    assert_eq!(asked, 3 * 2);
}

#[tokio::test]
async fn a_failing_registry_does_not_stop_a_pull() {
    for by_get in [false, true] {
        let registry = Registry::new().image("app:1", layers([2 * MIB]).platforms(2)).start().await;
        let node = Node::beside(&registry).start().await;
        let before = pulled_once(&node, &registry, by_get).await;
        assert!(before.warnings.is_empty());
        registry.fault(any(), Fault::Status(StatusCode::BAD_GATEWAY));
        let count = node.access().len();
        let stale = again(&node.client(), by_get).await;
        assert_eq!(stale.layers, before.layers);
        assert_eq!(stale.warnings.len(), 1, "by GET: {by_get}");
        assert!(stale.warnings[0].starts_with("110 "), "{:?}", stale.warnings);
        let lines = node.pulls(count * 2).await;
        let old = &lines[count..];
        assert!(old.iter().all(|line| line.status == 200 && line.registry_bytes == 0), "{old:#?}");
        // What the tag means was asked first; all else was allowed a moment ago, and is served without asking.
        let asked =
            node.request("the tag, answered from memory", |it| it.route == "tag" && !it.faults.is_empty()).await;
        assert_eq!((asked.status, asked.faults), (200, vec!["registry:status".to_owned()]));
        assert_eq!(node.counters().sum("waylay_faults_total", &[("side", "registry"), ("what", "status")]), 1);
        // And the moment it is back it is asked again.
        registry.heal();
        assert!(again(&node.client(), by_get).await.warnings.is_empty());
    }
}

#[tokio::test]
async fn a_registry_that_is_gone_does_not_stop_a_pull() {
    for by_get in [false, true] {
        let registry = Registry::new().image("app:1", layers([2 * MIB])).start().await;
        let node = Node::beside(&registry).start().await;
        let client = node.client();
        let before = again(&client, by_get).await;
        registry.down().await;
        // On the connection that is open, and on a new one: the last good verdict holds.
        for client in [client, node.client()] {
            let stale = again(&client, by_get).await;
            assert_eq!((stale.layers, stale.warnings.len()), (before.layers.clone(), 1));
        }
        for _ in 0..2 {
            let asked = node.request("the tag, answered from memory", |it| !it.faults.is_empty()).await;
            assert_eq!(
                (&*asked.route, asked.status, asked.faults),
                ("tag", 200, vec!["registry:unreachable".to_owned()])
            );
        }
    }
}

#[tokio::test]
async fn a_refusal_is_never_answered_from_memory() {
    let registry = Registry::new().image("app:1", layers([KIB])).start().await;
    let node = Node::beside(&registry).start().await;
    pulled_once(&node, &registry, true).await;
    for code in [401, 403, 404, 429] {
        registry.heal();
        let code = StatusCode::from_u16(code).unwrap();
        let fault = if code == 429 { Fault::TooMany(17) } else { Fault::Status(code) };
        registry.fault(tags(), fault);
        let reply = node.client().get("/v2/app/manifests/1").await.unwrap();
        assert_eq!(reply.status, code);
        assert_eq!(reply.header("retry-after"), (code == 429).then_some("17"));
        assert_eq!(reply.header("warning"), None);
    }
    assert_eq!(node.counters().sum("waylay_faults_total", &[]), 0);
}

#[tokio::test]
async fn a_tag_never_seen_has_no_old_meaning() {
    let registry = Registry::new().image("app:1", layers([KIB])).start().await;
    let node = Node::beside(&registry).start().await;
    registry.fault(manifests(), Fault::Status(StatusCode::INTERNAL_SERVER_ERROR));
    assert_eq!(status(node.client().pull("app:1").await), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(status(node.client().pull_by_get("app:1").await), StatusCode::INTERNAL_SERVER_ERROR);
    let lines = node.pulls(1).await;
    assert_eq!(line(&lines, &"1").status, 500);
}

#[tokio::test]
async fn meanings_outlive_a_restart() {
    for by_get in [false, true] {
        let registry = Registry::new().image("app:1", layers([MIB])).start().await;
        let mut node = Node::beside(&registry).start().await;
        let before = again(&node.client(), by_get).await;
        node.restart().await;
        registry.fault(any(), Fault::Status(StatusCode::SERVICE_UNAVAILABLE));
        let stale = again(&node.client(), by_get).await;
        assert_eq!((stale.layers, stale.warnings.len()), (before.layers, 1), "by GET: {by_get}");
    }
}

#[tokio::test]
async fn a_private_tag_is_remembered_for_its_readers_only() {
    let registry = Registry::new().token_auth().user("alice", "a", ["app"]).image("app:1", layers([KIB])).start().await;
    let node = Node::beside(&registry).start().await;
    let token = registry.token(["app"]);
    node.client().token(&token).pull_by_get("app:1").await.unwrap();
    registry.fault(any(), Fault::Status(StatusCode::SERVICE_UNAVAILABLE));
    node.client().token(&token).pull_by_get("app:1").await.unwrap();
    for client in [node.client(), node.client().token("made-up")] {
        assert_eq!(status(client.pull_by_get("app:1").await), StatusCode::SERVICE_UNAVAILABLE);
        let head = client.ask(Method::HEAD, "app", "/v2/app/manifests/1", None).await.unwrap();
        assert_eq!(head.status, StatusCode::SERVICE_UNAVAILABLE);
    }
}

#[tokio::test]
async fn no_grace_means_that_a_private_image_waits_for_its_registry() {
    let registry = Registry::new().token_auth().user("alice", "a", ["app"]).image("app:1", layers([KIB])).start().await;
    let node = Node::beside(&registry).configured("[pull]\noffline_grace = \"0s\"").start().await;
    let token = registry.token(["app"]);
    let image = registry.image("app:1");
    node.client().token(&token).pull_by_get("app:1").await.unwrap();
    registry.fault(any(), Fault::Status(StatusCode::SERVICE_UNAVAILABLE));
    // What was granted a moment ago is still fresh, which is another thing than the grace.
    node.client().token(&token).blob("app", &image.layers[0].digest).await.unwrap();
}
