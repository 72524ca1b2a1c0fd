//! Tables and properties of routes.

use proptest::prelude::*;

use super::*;

const HEX: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

fn digest() -> Digest {
    format!("sha256:{HEX}").parse().unwrap()
}

fn blob(repository: &str) -> Route {
    Route::Blob { repository: repository.parse().unwrap(), digest: digest(), namespace: None }
}

fn get(path: &str) -> Route {
    route(&Method::GET, path)
}

#[test]
fn blobs_in_nested_repositories() {
    for name in
        ["app", "library/debian", "a/b/c/d/e", "a/blobs/b", "a/b/blobs/c", "v2", "v2/blobs", "blobs/blobs", "tags/list"]
    {
        assert_eq!(get(&format!("/v2/{name}/blobs/sha256:{HEX}")), blob(name));
        assert_eq!(route(&Method::HEAD, &format!("/v2/{name}/blobs/sha256:{HEX}")), blob(name));
    }
}

#[test]
fn manifests_by_digest_and_by_tag() {
    let repository: Repository = "a/manifests/b".parse().unwrap();
    assert_eq!(
        get(&format!("/v2/a/manifests/b/manifests/sha256:{HEX}")),
        Route::ManifestByDigest { repository: repository.clone(), digest: digest(), namespace: None }
    );
    for tag in ["latest", "1.2-slim", "_", "list", "A"] {
        assert_eq!(
            route(&Method::HEAD, &format!("/v2/a/manifests/b/manifests/{tag}")),
            Route::ManifestByTag { repository: repository.clone(), tag: tag.parse().unwrap(), namespace: None }
        );
    }
}

#[test]
fn the_namespace_of_a_mirror() {
    for (query, namespace) in [
        ("ns=docker.io", "docker.io"),
        ("ns=registry.test%3A5000", "registry.test:5000"),
        ("ns=registry.test%3a5000", "registry.test:5000"),
        ("ns=registry.test:5000", "registry.test:5000"),
    ] {
        let Route::Blob { namespace: found, .. } = get(&format!("/v2/a/blobs/sha256:{HEX}?{query}")) else {
            panic!("{query} is not a blob");
        };
        assert_eq!(found.as_deref(), Some(namespace));
    }
    for query in [
        "",
        "ns=",
        "ns",
        "ns=a&ns=b",
        "ns=a&x=1",
        "x=1",
        "ns=a%20b",
        "NS=a",
        "ns=a:",
        "ns=a:b",
        "ns=a:080",
        "ns=a:70000",
        "ns=A",
        "ns=a/b",
    ] {
        assert_eq!(get(&format!("/v2/a/blobs/sha256:{HEX}?{query}")), Route::Pass(Pass::Query), "{query}");
    }
}

#[test]
fn what_is_passed() {
    let upper = HEX.to_uppercase();
    for (method, path, pass) in [
        ("GET", "/v2/".to_owned(), Pass::Base),
        ("GET", "/v2".to_owned(), Pass::Base),
        ("HEAD", "/v2/?x".to_owned(), Pass::Base),
        ("GET", "/token?service=r&scope=repository:a:pull".to_owned(), Pass::Token),
        ("POST", "/oauth2/token".to_owned(), Pass::Token),
        ("GET", "/service/token".to_owned(), Pass::Token),
        ("GET", "/somewhere?service=registry".to_owned(), Pass::Token),
        ("GET", "/v2/token?scope=x".to_owned(), Pass::Token),
        ("POST", "/v2/a/blobs/uploads/".to_owned(), Pass::Upload),
        ("POST", "/v2/a/blobs/uploads".to_owned(), Pass::Upload),
        ("PATCH", "/v2/a/blobs/uploads/0b-1?_state=x".to_owned(), Pass::Upload),
        ("PUT", format!("/v2/a/blobs/uploads/0b-1?digest=sha256:{HEX}"), Pass::Upload),
        ("GET", format!("/v2/a/blobs/uploads/0b-1/blobs/sha256:{HEX}"), Pass::Upload),
        ("POST", format!("/v2/a/blobs/uploads/?mount=sha256:{HEX}&from=b"), Pass::Mount),
        ("GET", format!("/v2/a/referrers/sha256:{HEX}?artifactType=x"), Pass::Referrers),
        ("GET", "/v2/_catalog?n=10".to_owned(), Pass::Catalog),
        ("GET", "/v2/a/tags/list?n=10&last=x".to_owned(), Pass::Tags),
        ("PUT", "/v2/a/manifests/latest".to_owned(), Pass::Method),
        ("DELETE", format!("/v2/a/blobs/sha256:{HEX}"), Pass::Method),
        ("POST", "/".to_owned(), Pass::Method),
        ("OPTIONS", "*".to_owned(), Pass::Method),
        ("get", format!("/v2/a/blobs/sha256:{HEX}"), Pass::Method),
        ("GET", format!("/v2/a/blobs/sha512:{HEX}{HEX}"), Pass::OtherDigest),
        ("GET", format!("/v2/a/manifests/sha512:{HEX}{HEX}"), Pass::OtherDigest),
        ("GET", "/v2/a/blobs/tarsum.v1+sha256:abc".to_owned(), Pass::OtherDigest),
        ("GET", format!("/v2/a/blobs/sha256:{upper}"), Pass::Unknown),
        ("GET", format!("/v2/a/blobs/sha256:{}", &HEX[1..]), Pass::Unknown),
        ("GET", format!("/v2/a/blobs/SHA256:{HEX}"), Pass::Unknown),
        ("GET", "/v2/a/blobs/latest".to_owned(), Pass::Unknown),
        ("GET", "/v2/a/manifests/.x".to_owned(), Pass::Unknown),
        ("GET", "/v2/a/manifests/".to_owned(), Pass::Unknown),
        ("GET", "/".to_owned(), Pass::Unknown),
        ("GET", String::new(), Pass::Unknown),
        ("GET", "/v1/_ping".to_owned(), Pass::Unknown),
    ] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        assert_eq!(route(&method, &path), Route::Pass(pass), "{method} {path}");
    }
}

#[test]
fn a_path_not_written_in_the_canonical_way_is_never_ours() {
    for path in [
        format!("/v2/a/blobs/sha256%3A{HEX}"),
        format!("/v2/%61/blobs/sha256:{HEX}"),
        format!("/v2/a%2Fb/blobs/sha256:{HEX}"),
        format!("/v2//blobs/sha256:{HEX}"),
        format!("/v2/blobs/sha256:{HEX}"),
        format!("/v2/a//blobs/sha256:{HEX}"),
        format!("/v2/a/blobs//sha256:{HEX}"),
        format!("//v2/a/blobs/sha256:{HEX}"),
        format!("/v2//a/blobs/sha256:{HEX}"),
        format!("/v2/a/../b/blobs/sha256:{HEX}"),
        format!("/v2/../v2/a/blobs/sha256:{HEX}"),
        format!("/v2/./a/blobs/sha256:{HEX}"),
        format!("/v2/a/blobs/sha256:{HEX}/"),
        format!("/v2/a/blobs/sha256:{HEX}#x"),
        format!("/v2/a/blobs/sha256:{HEX};x"),
        format!("/V2/a/blobs/sha256:{HEX}"),
        format!("/v2/A/blobs/sha256:{HEX}"),
        format!("/v2/a/Blobs/sha256:{HEX}"),
        format!("/v2/a\\b/blobs/sha256:{HEX}"),
        format!("/prefix/v2/a/blobs/sha256:{HEX}"),
        format!("v2/a/blobs/sha256:{HEX}"),
        format!("https://registry.test/v2/a/blobs/sha256:{HEX}"),
        format!("/v2/{}/blobs/sha256:{HEX}", "a".repeat(256)),
    ] {
        assert_eq!(get(&path), Route::Pass(Pass::Unknown), "{path}");
    }
}

#[test]
fn labels_are_distinct() {
    use Pass::*;
    let all = [Base, Token, Upload, Mount, Referrers, Catalog, Tags, Method, OtherDigest, Query, Unknown];
    let labels: std::collections::BTreeSet<_> = all.iter().map(|pass| pass.label()).collect();
    assert_eq!(labels.len(), all.len());
}

/// A path put together from the words of the protocol and its usual disguises.
fn pathlike() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "[a-z0-9._-]{0,6}",
        Just("blobs".to_owned()),
        Just("manifests".to_owned()),
        Just("uploads".to_owned()),
        Just("v2".to_owned()),
        Just("..".to_owned()),
        Just(String::new()),
        Just("%2e%2e".to_owned()),
        Just(format!("sha256:{HEX}")),
        Just(format!("sha256:{HEX}?ns=docker.io")),
        Just(format!("sha256:{}", HEX.to_uppercase())),
    ];
    prop::collection::vec(part, 0..7).prop_map(|parts| format!("/v2/{}", parts.join("/")))
}

proptest! {
    #[test]
    fn nothing_is_recognised_that_would_be_written_otherwise(path in prop_oneof![pathlike(), any::<String>()]) {
        let rendered = match get(&path) {
            Route::Blob { repository, digest, .. } => blob_path(&repository, &digest),
            Route::ManifestByDigest { repository, digest, .. } => manifest_path(&repository, &digest),
            Route::ManifestByTag { repository, tag, .. } => manifest_path(&repository, &tag),
            Route::Pass(_) => return Ok(()),
        };
        prop_assert_eq!(path.split('?').next().unwrap(), rendered);
    }

    #[test]
    fn what_is_written_is_read_back(
        name in "[a-z0-9]{1,8}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}(/[a-z0-9]{1,8}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}){0,4}",
        tag in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}",
        bytes in any::<[u8; 32]>(),
    ) {
        let repository: Repository = name.parse().unwrap();
        let tag: Tag = tag.parse().unwrap();
        let digest = Digest::from_bytes(bytes);
        prop_assert_eq!(
            get(&blob_path(&repository, &digest)),
            Route::Blob { repository: repository.clone(), digest, namespace: None }
        );
        prop_assert_eq!(
            get(&manifest_path(&repository, &digest)),
            Route::ManifestByDigest { repository: repository.clone(), digest, namespace: None }
        );
        prop_assert_eq!(
            get(&manifest_path(&repository, &tag)),
            Route::ManifestByTag { repository, tag, namespace: None }
        );
    }

    #[test]
    fn only_get_and_head_are_ours(path in pathlike(), method in "[A-Z]{1,8}") {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let ours = !matches!(route(&method, &path), Route::Pass(_));
        prop_assert!(!ours || matches!(method, Method::GET | Method::HEAD));
    }
}
