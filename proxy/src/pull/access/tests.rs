//! What counts as whose word, for what, and until when.

use http::HeaderValue;

use super::*;
use crate::oci::manifest::Kind;

fn headers(authorization: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, HeaderValue::from_str(authorization).unwrap());
    headers
}

fn child(digest: Digest, foreign: bool) -> Child {
    Child { digest, size: 5, kind: Kind::Layer, foreign, media_type: "layer".into() }
}

fn bearer(exp: u64) -> String {
    format!("Bearer e30.{}.sig", URL_SAFE_NO_PAD.encode(format!("{{\"exp\":{exp}}}")))
}

#[test]
fn what_is_shown_to_one_credential_is_shown_to_no_other() {
    let (access, digest) = (Access::new(Duration::ZERO), Digest::of(b"x"));
    let (mine, _) = access.scope("r", "a", &headers("Basic me"));
    access.show(&mine, None, digest, 5);
    assert_eq!(access.standing(&mine, digest, 5), Standing::Shown);
    for (repository, headers) in [("a", headers("Basic you")), ("a", HeaderMap::new()), ("b", headers("Basic me"))] {
        let (other, _) = access.scope("r", repository, &headers);
        assert_eq!(access.standing(&other, digest, 5), Standing::Unknown);
        assert!(!access.while_away(&other, digest, 5, || true));
    }
}

#[test]
fn every_header_is_a_credential_unless_it_is_known_to_be_none() {
    let access = Access::new(Duration::ZERO);
    let scope = |pairs: &[(&'static str, &'static str)]| {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        access.scope("r", "a", &headers).0
    };
    assert!(scope(&[("user-agent", "x"), ("range", "bytes=0-"), ("traceparent", "1")]).is_anonymous());
    assert_eq!(scope(&[("x-key", "1"), ("accept", "y")]), scope(&[("range", "z"), ("x-key", "1")]));
    assert_eq!(scope(&[("x-key", "1"), ("y-key", "2")]), scope(&[("y-key", "2"), ("x-key", "1")]));
    let all = [
        scope(&[]),
        scope(&[("x-key", "")]),
        scope(&[("x-key", "1")]),
        scope(&[("x-key", "12")]),
        scope(&[("x-key", "1"), ("x-key", "2")]),
        scope(&[("x-key", "2"), ("x-key", "1")]),
        scope(&[("x-key1", "")]),
        scope(&[("cookie", "1")]),
        scope(&[("authorization", "1")]),
    ];
    for (number, one) in all.iter().enumerate() {
        assert!(all[number + 1..].iter().all(|other| other != one), "{number}");
    }
}

#[test]
fn a_foreign_layer_grants_nothing() {
    let access = Access::new(Duration::ZERO);
    let (scope, _) = access.scope("r", "a", &HeaderMap::new());
    let (own, foreign, parent) = (Digest::of(b"own"), Digest::of(b"foreign"), Digest::of(b"parent"));
    access.show(&scope, None, parent, 9);
    access.pass_on(&scope, parent, &[child(own, false), child(foreign, true)]);
    assert_eq!(access.standing(&scope, own, 5), Standing::Listed);
    assert_eq!(access.standing(&scope, foreign, 5), Standing::Unknown);
    assert_eq!(access.listed(&scope, foreign), None);
}

#[test]
fn what_was_said_of_another_size_says_nothing() {
    let (access, digest, parent) = (Access::new(Duration::ZERO), Digest::of(b"x"), Digest::of(b"parent"));
    let (scope, _) = access.scope("r", "a", &HeaderMap::new());
    access.show(&scope, None, digest, 5);
    assert_eq!(access.standing(&scope, digest, 6), Standing::Unknown);
    access.show(&scope, None, parent, 9);
    access.pass_on(&scope, parent, &[Child { size: 6, ..child(digest, false) }]);
    assert_eq!(access.standing(&scope, digest, 6), Standing::Listed);
    assert_eq!(access.standing(&scope, digest, 5), Standing::Shown);
}

#[test]
fn what_is_passed_on_ends_with_what_passed_it_on() {
    let access = Access::new(Duration::from_secs(3600));
    let (scope, _) = access.scope("r", "a", &headers("Basic me"));
    let digests: Vec<Digest> = (0..5_u8).map(|number| Digest::of(&[number])).collect();
    // A chain of indexes, each read a moment after the one before.
    access.show(&scope, None, digests[0], 5);
    let first = access.grants.get(&(scope.clone(), digests[0])).unwrap().until().unwrap();
    for pair in digests.windows(2) {
        access.pass_on(&scope, pair[0], &[child(pair[1], false)]);
        let until = access.grants.get(&(scope.clone(), pair[1])).unwrap().until().unwrap();
        assert_eq!((until.fresh, until.kept), (first.fresh, first.kept));
    }
    // What counts no longer passes nothing on that does.
    let (other, _) = access.scope("r", "b", &HeaderMap::new());
    access.was_open(&other, digests[0]);
    access.pass_on(&other, digests[0], &[child(digests[1], false)]);
    assert_eq!(access.standing(&other, digests[0], 5), Standing::Unknown);
    assert_eq!(access.standing(&other, digests[1], 5), Standing::Unknown);
    assert!(access.while_away(&other, digests[1], 5, || true));
    access.pass_on(&other, digests[4], &[child(digests[2], false)]);
    assert_eq!(access.listed(&other, digests[2]), None, "nobody was shown its parent");
}

#[test]
fn a_list_prolongs_no_other_word() {
    let access = Access::new(Duration::ZERO);
    let (scope, _) = access.scope("r", "a", &HeaderMap::new());
    let (digest, parent) = (Digest::of(b"x"), Digest::of(b"parent"));
    access.show(&scope, Some(SystemTime::now()), digest, 5);
    access.show(&scope, None, parent, 9);
    access.pass_on(&scope, parent, &[child(digest, false)]);
    assert_eq!(access.standing(&scope, digest, 5), Standing::Listed, "it was shown until now");
}

#[test]
fn a_layer_leads_to_the_next_one_that_is_not_foreign() {
    let access = Access::new(Duration::ZERO);
    let (scope, _) = access.scope("r", "a", &HeaderMap::new());
    let [parent, config, first, foreign, last] = [0u8, 1, 2, 3, 4].map(|n| Digest::of(&[n]));
    access.show(&scope, None, parent, 5);
    let config = Child { kind: Kind::Config, ..child(config, false) };
    access.pass_on(&scope, parent, &[config.clone(), child(first, false), child(foreign, true), child(last, false)]);
    let next = |digest| access.listed(&scope, digest).map(|listed| listed.next);
    assert_eq!((next(config.digest), next(first)), (Some(None), Some(Some(last))));
    assert_eq!((next(last), next(foreign)), (Some(None), None));
}

#[test]
fn a_listed_digest_needs_provenance_while_the_registry_is_away() {
    let access = Access::new(Duration::from_secs(60));
    let (scope, _) = access.scope("r", "a", &HeaderMap::new());
    let (digest, parent) = (Digest::of(b"x"), Digest::of(b"parent"));
    access.show(&scope, None, parent, 9);
    access.pass_on(&scope, parent, &[child(digest, false)]);
    assert!(access.while_away(&scope, digest, 5, || true));
    assert!(!access.while_away(&scope, digest, 5, || false));
}

#[test]
fn an_expired_token_grants_nothing() {
    let access = Access::new(Duration::ZERO);
    let digest = Digest::of(b"x");
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let (scope, expires) = access.scope("r", "a", &headers(&bearer(1).replace("Bearer", scheme)));
        assert_eq!(expires, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1)));
        access.show(&scope, expires, digest, 5);
        assert_eq!(access.standing(&scope, digest, 5), Standing::Unknown);
    }
}

#[test]
fn a_token_that_is_no_jwt_says_nothing_of_its_end() {
    for text in ["Bearer x", "Bearer a.b.c", "Basic abc", "Bearer a.e30.c", "Bearer", ""] {
        assert_eq!(expiry(text.as_bytes()), None, "{text}");
    }
    assert!(expiry(bearer(u64::MAX).as_bytes()).is_none());
}
