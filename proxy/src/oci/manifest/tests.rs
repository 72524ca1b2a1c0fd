//! Manifests of each kind, confused ones, and whatever bytes come.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

fn descriptor(text: &str, media_type: &str) -> Value {
    json!({ "mediaType": media_type, "digest": digest(text).to_string(), "size": text.len() })
}

fn child(text: &str, kind: Kind, media_type: &str) -> Child {
    let size = text.len().try_into().unwrap();
    Child { digest: digest(text), size, kind, foreign: false, media_type: media_type.to_owned() }
}

fn parse(content_type: Option<&str>, document: &Value) -> Result<Manifest, ManifestError> {
    Manifest::parse(content_type, document.to_string().as_bytes())
}

#[test]
fn images_of_oci_and_of_docker() {
    for media_type in [OCI_MANIFEST, DOCKER_MANIFEST] {
        let document = json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": descriptor("config", "c"),
            "layers": [descriptor("one", "l"), descriptor("two", "anything/at-all")],
            "annotations": { "layers": "x" },
        });
        let manifest = parse(Some(media_type), &document).unwrap();
        assert_eq!(manifest.media_type, media_type);
        assert_eq!(
            manifest.children,
            [
                child("config", Kind::Config, "c"),
                child("one", Kind::Layer, "l"),
                child("two", Kind::Layer, "anything/at-all"),
            ]
        );
    }
}

#[test]
fn indexes_of_oci_and_of_docker() {
    for media_type in [OCI_INDEX, DOCKER_LIST] {
        let document = json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "manifests": [
                { "mediaType": "m", "digest": digest("a").to_string(), "size": 1, "platform": { "os": "linux", "architecture": "amd64" } },
            ],
        });
        let manifest = parse(None, &document).unwrap();
        assert_eq!(
            manifest,
            Manifest { media_type: media_type.to_owned(), children: vec![child("a", Kind::Manifest, "m")] }
        );
    }
}

#[test]
fn an_artifact_lists_its_blobs_but_not_its_subject() {
    let document = json!({
        "mediaType": OCI_ARTIFACT,
        "artifactType": "application/sbom",
        "blobs": [descriptor("blob", "b")],
        "subject": descriptor("subject", OCI_MANIFEST),
    });
    assert_eq!(parse(None, &document).unwrap().children, [child("blob", Kind::Layer, "b")]);
    let document = json!({
        "mediaType": OCI_MANIFEST,
        "config": descriptor("{}", "application/vnd.oci.empty.v1+json"),
        "layers": [],
        "subject": descriptor("subject", OCI_MANIFEST),
    });
    assert_eq!(parse(None, &document).unwrap().children.len(), 1);
}

#[test]
fn a_layer_with_urls_is_foreign() {
    let layer = |text: &str, urls: Value| {
        let mut layer = descriptor(text, "l");
        layer["urls"] = urls;
        layer
    };
    let document = json!({
        "config": descriptor("c", "c"),
        "layers": [layer("a", json!(["https://x.test/"])), layer("b", json!([])), layer("c", Value::Null), descriptor("d", "l")],
    });
    let foreign: Vec<bool> = parse(None, &document).unwrap().children.iter().map(|child| child.foreign).collect();
    assert_eq!(foreign, [false, true, false, false, false]);
}

#[test]
fn what_says_no_type_is_known_by_its_shape() {
    let image = json!({ "config": descriptor("c", "c"), "layers": null });
    let index = json!({ "manifests": [descriptor("m", "m")] });
    assert_eq!(parse(None, &image).unwrap().media_type, OCI_MANIFEST);
    assert_eq!(parse(Some("application/json; charset=utf-8"), &image).unwrap().media_type, OCI_MANIFEST);
    assert_eq!(parse(Some(DOCKER_MANIFEST), &image).unwrap().media_type, DOCKER_MANIFEST);
    assert_eq!(parse(None, &index).unwrap().media_type, OCI_INDEX);
    assert_eq!(
        parse(Some("Application/vnd.docker.distribution.manifest.list.v2+json;x=y"), &index).unwrap().media_type,
        DOCKER_LIST
    );
}

#[test]
fn schema_1_and_unknown_types_list_nothing() {
    let schema1 = json!({ "schemaVersion": 1, "name": "a", "fsLayers": [{ "blobSum": digest("a").to_string() }] });
    for content_type in [None, Some(DOCKER_SCHEMA1_SIGNED), Some(DOCKER_SCHEMA1)] {
        let manifest = parse(content_type, &schema1).unwrap();
        assert!(manifest.children.is_empty());
        assert!(manifest.is_schema1());
    }
    let unknown = parse(Some("application/x"), &json!({ "layers": [descriptor("a", "l")] })).unwrap();
    assert_eq!(unknown, Manifest { media_type: "application/x".to_owned(), children: Vec::new() });
    assert!(parse(None, &json!({})).unwrap().children.is_empty());
}

#[test]
fn a_digest_that_we_cannot_check_is_left_out() {
    let layers = json!([{ "digest": format!("sha512:{}", "a".repeat(128)), "size": 1 }, descriptor("a", "l")]);
    let document = json!({ "config": descriptor("c", "c"), "layers": layers });
    assert_eq!(parse(None, &document).unwrap().children.len(), 2);
}

#[test]
fn what_may_be_read_in_two_ways_is_refused() {
    let layers = json!([descriptor("a", "l")]);
    let manifests = json!([descriptor("m", "m")]);
    for document in [
        json!({ "manifests": manifests, "layers": layers }),
        json!({ "manifests": manifests, "config": descriptor("c", "c") }),
        json!({ "mediaType": OCI_INDEX, "layers": layers }),
        json!({ "mediaType": OCI_MANIFEST, "manifests": manifests }),
        json!({ "schemaVersion": 1, "layers": layers }),
        json!({ "fsLayers": [], "manifests": manifests }),
    ] {
        assert!(matches!(parse(None, &document), Err(ManifestError::Ambiguous)), "{document}");
    }
    let served_otherwise = parse(Some(OCI_INDEX), &json!({ "mediaType": OCI_MANIFEST, "layers": layers }));
    assert!(matches!(served_otherwise, Err(ManifestError::MediaTypes { .. })));
}

#[test]
fn errors_say_where() {
    for (body, part) in [
        ("", "EOF"),
        ("[]", "not a manifest"),
        (r#"{"layers":[{"size":1}]}"#, "missing field `digest`"),
        (r#"{"layers":[{"digest":"sha256:x"}]}"#, "missing field `size`"),
        (r#"{"layers":[{"digest":"sha256:x","size":-1}]}"#, "line 1"),
        (r#"{"layers":[],"layers":[]}"#, "duplicate field"),
        (r#"{"layers":{}}"#, "at most 8192 descriptors"),
    ] {
        let error = Manifest::parse(None, body.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(part), "{body}: {error}");
    }
}

#[test]
fn sizes_are_bounded() {
    let body = |children: usize| {
        let layer = descriptor("a", "l").to_string();
        format!("{{\"layers\":[{}]}}", vec![layer; children].join(","))
    };
    assert_eq!(Manifest::parse(None, body(MAX_CHILDREN).as_bytes()).unwrap().children.len(), MAX_CHILDREN);
    let many = Manifest::parse(None, body(MAX_CHILDREN + 1).as_bytes()).unwrap_err().to_string();
    assert!(many.contains("at most 8192 descriptors"), "{many}");
    assert!(matches!(Manifest::parse(None, &vec![b' '; MAX_BYTES + 1]), Err(ManifestError::TooLarge(_))));
    // What is not ours is skipped, however deep, and does not exhaust the stack.
    let deep = format!("{{\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(Manifest::parse(None, deep.as_bytes()).unwrap().children.is_empty());
}

proptest! {
    #[test]
    fn nothing_panics(body in any::<Vec<u8>>(), content_type in proptest::option::of(any::<String>())) {
        let _ = Manifest::parse(content_type.as_deref(), &body);
    }

    #[test]
    fn what_is_listed_is_read(layers in prop::collection::vec((any::<[u8; 32]>(), any::<u64>(), any::<bool>()), 1..20)) {
        let listed: Vec<Value> = layers.iter().map(|(bytes, size, foreign)| json!({
            "digest": Digest::from_bytes(*bytes).to_string(),
            "size": size,
            "urls": if *foreign { vec!["https://x.test/"] } else { vec![] },
        })).collect();
        let read = parse(None, &json!({ "layers": listed })).unwrap().children;
        let read: Vec<_> = read.iter().map(|child| (*child.digest.as_bytes(), child.size, child.foreign)).collect();
        prop_assert_eq!(read, layers);
    }
}
