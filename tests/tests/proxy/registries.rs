//! Whose pulls are intercepted, changed while the node runs; and the certificates that stand for registries.

use http::StatusCode;
use waylay_tests::scripted::{Fault, KIB, Node, Registry, any, layers};

#[tokio::test]
async fn a_registry_comes_and_goes_without_a_failed_pull() {
    let registry = Registry::new().image("app:1", layers([KIB])).start().await;
    let mut node = Node::beside(&registry).unlisted().start().await;
    let config = node.config_file();
    std::fs::write(&config, format!("# ours\n{}", std::fs::read_to_string(&config).unwrap())).unwrap();
    let (name, file) = (registry.name(), config.display().to_string());
    // A connection that goes on while the list changes.
    let open = node.client();
    open.get("/v2/").await.unwrap();

    assert_eq!(node.waylay(["registry", "add", &name, "--config", &file]).await, 0);
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(text.starts_with("# ours\n") && text.contains(&name), "{text}");
    node.client().pull("app:1").await.unwrap();
    assert_eq!(open.get("/v2/").await.unwrap().status, StatusCode::OK);
    let count = node.pulls(3).await.len();
    assert!(node.access().iter().all(|line| line.status == 200));
    let taken = node.connection("it is intercepted", |it| it.decision == "terminate").await;
    assert_eq!(taken.reason, "verified");

    assert_eq!(node.waylay(["registry", "rm", &name, "--config", &file]).await, 0);
    assert!(!std::fs::read_to_string(&config).unwrap().contains(&name));
    node.client().pull("app:1").await.unwrap();
    let passed = node.connection("it is passed through again", |it| it.reason == "unlisted").await;
    assert_eq!(passed.decision, "splice");
    assert_eq!(node.access().len(), count);

    // What cannot work is not written.
    let before = std::fs::read_to_string(&config).unwrap();
    assert_eq!(node.waylay(["registry", "add", "no host", "--config", &file]).await, 64);
    assert_eq!(std::fs::read_to_string(&config).unwrap(), before);
}

#[tokio::test]
async fn a_registry_is_asked_whether_it_is_one() {
    let registry = Registry::new().token_auth().image("app:1", layers([KIB])).start().await;
    let mut node = Node::beside(&registry).start().await;
    let name = registry.name();
    assert_eq!(node.waylay(["registry", "test", &name]).await, 0, "401 is a registry's answer");
    assert_eq!(registry.requests().len(), 1);
    registry.fault(any(), Fault::Status(StatusCode::NOT_FOUND));
    assert_eq!(node.waylay(["registry", "test", &name]).await, 1);
    registry.heal();
    registry.becomes(Registry::expired);
    assert_eq!(node.waylay(["registry", "test", &name]).await, 1);
    registry.down().await;
    assert_eq!(node.waylay(["registry", "test", &name, "--json"]).await, 1);
    // Nobody pulled.
    assert_eq!(node.counters().by_source().registry, 0);
    assert!(node.access().is_empty());
}

#[tokio::test]
async fn a_new_certificate_stands_beside_the_old_one() {
    let registry = Registry::new().image("app:1", layers([KIB])).start().await;
    let mut node = Node::beside(&registry).start().await;
    let files = |node: &Node| {
        let found = std::fs::read_dir(node.dir().join("state/trust"));
        let mut files: Vec<String> =
            found.into_iter().flatten().map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect();
        files.sort();
        files
    };
    let client = node.client();
    client.pull("app:1").await.unwrap();
    assert_eq!(node.waylay(["cert", "rotate", registry.host()]).await, 0);
    let first = files(&node);
    assert_eq!(first.len(), 2, "the one that was there, and the new one");
    assert_eq!(node.waylay(["cert", "rotate"]).await, 0);
    let second = files(&node);
    assert!(second.len() == 3 && first.iter().all(|file| second.contains(file)));
    assert_eq!(node.waylay(["cert", "rotate", "unknown.test"]).await, 1);
    assert_eq!(node.waylay(["cert", "ls"]).await, 0);
    // Whoever knows the old one goes on, on old connections and new ones.
    client.pull("app:1").await.unwrap();
    node.client().pull("app:1").await.unwrap();
    let lines = node.pulls(9).await;
    assert!(lines.iter().all(|line| line.status == 200));
    assert_eq!(node.counters().sum("waylay_pulls_total", &[("outcome", "ok")]), 9);

    // Unless somebody else may know its key.
    assert_eq!(node.waylay(["cert", "rotate", "unknown.test", "--withdraw"]).await, 1);
    assert_eq!(files(&node), second);
    assert_eq!(node.waylay(["cert", "rotate", "--withdraw"]).await, 0);
    let last = files(&node);
    assert!(last.len() == 1 && !second.contains(&last[0]));
    let keys = std::fs::read_dir(node.dir().join("identities").join(registry.host())).unwrap();
    let keys = keys.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|end| end == "pem"));
    assert_eq!(keys.count(), 1);
}
