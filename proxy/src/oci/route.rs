//! What a request asks of a registry, told from its method and path alone.
//!
//! Only what is written in the one canonical way is recognised. Everything else (percent-encoding, empty or dotted
//! parts, an unknown query) is passed to the registry untouched, so that we can never see another blob in a
//! request than the registry does. What is done about a route is for `pull`.

use std::fmt;

use http::Method;

use super::{
    Digest,
    repository::{Repository, Tag},
};

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// GET or HEAD of a blob (OCI distribution spec 1.1, "Pulling blobs").
    Blob {
        /// The repository that the blob is asked in.
        repository: Repository,
        /// The blob.
        digest: Digest,
        /// The registry that a mirror is asked about, from `?ns=`. `None`: the registry itself.
        namespace: Option<String>,
    },
    /// GET or HEAD of a manifest by its digest (OCI distribution spec 1.1, "Pulling manifests").
    ManifestByDigest {
        /// The repository that the manifest is asked in.
        repository: Repository,
        /// The manifest.
        digest: Digest,
        /// The registry that a mirror is asked about, from `?ns=`. `None`: the registry itself.
        namespace: Option<String>,
    },
    /// GET or HEAD of the manifest that a tag names today (OCI distribution spec 1.1, "Pulling manifests").
    ManifestByTag {
        /// The repository that the tag is in.
        repository: Repository,
        /// The tag.
        tag: Tag,
        /// The registry that a mirror is asked about, from `?ns=`. `None`: the registry itself.
        namespace: Option<String>,
    },
    /// Not ours to answer: the request goes to the registry as it is.
    Pass(Pass),
}

/// What a passed request was, for metrics and traces. Nothing is decided by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pass {
    /// `/v2/`: is this a registry, and do I need a token?
    Base,
    /// A request for a token, beside the registry's own paths.
    Token,
    /// Any step of an upload.
    Upload,
    /// A blob mounted from another repository, `POST …/blobs/uploads/?mount=`.
    Mount,
    /// `…/referrers/<digest>`.
    Referrers,
    /// `/v2/_catalog`.
    Catalog,
    /// `…/tags/list`.
    Tags,
    /// Another method than GET or HEAD: manifests pushed, things deleted.
    Method,
    /// A blob or manifest by a digest that is not sha256.
    OtherDigest,
    /// A blob or manifest with a query that we do not understand, and which may change what is meant.
    Query,
    /// Anything else, or not written in the canonical way.
    Unknown,
}

impl Pass {
    /// The stable name, a label in metrics and traces.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Token => "token",
            Self::Upload => "upload",
            Self::Mount => "mount",
            Self::Referrers => "referrers",
            Self::Catalog => "catalog",
            Self::Tags => "tags",
            Self::Method => "method",
            Self::OtherDigest => "other_digest",
            Self::Query => "query",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// The path of a blob, without a query.
pub fn blob_path(repository: &Repository, digest: &Digest) -> String {
    format!("/v2/{repository}/blobs/{digest}")
}

/// The path of a manifest, without a query. `reference` is a [`Digest`] or a [`Tag`].
pub fn manifest_path(repository: &Repository, reference: &impl fmt::Display) -> String {
    format!("/v2/{repository}/manifests/{reference}")
}

/// Tells what a request asks for. `path_and_query` is the request's target in origin form (RFC 9112 section 3.2.1).
///
/// A [`Route`] other than [`Route::Pass`] is only returned for GET and HEAD, and only if [`blob_path`] or
/// [`manifest_path`] of what it says is the path that was asked.
pub fn route(method: &Method, path_and_query: &str) -> Route {
    let (path, query) = path_and_query.split_once('?').map_or((path_and_query, None), |(p, q)| (p, Some(q)));
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let Some(rest) = path.strip_prefix("/v2/") else {
        return Route::Pass(match path {
            "/v2" if reads => Pass::Base,
            _ if is_token(path, query) => Pass::Token,
            _ if reads => Pass::Unknown,
            _ => Pass::Method,
        });
    };
    // An upload's session is the registry's own word and may look like anything, so these come before all else: a
    // repository whose name has `blobs/uploads` in it is passed, never misread.
    if format!("/{rest}/").contains("/blobs/uploads/") {
        let mounts = *method == Method::POST && parameters(query).any(|(key, _)| key == "mount");
        return Route::Pass(if mounts { Pass::Mount } else { Pass::Upload });
    }
    if is_token(path, query) {
        return Route::Pass(Pass::Token);
    }
    if !reads {
        return Route::Pass(Pass::Method);
    }
    // From the right, because the words of the protocol may stand in a repository's name.
    let mut parts = rest.rsplitn(3, '/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(""), None, _) => Route::Pass(Pass::Base),
        (Some("_catalog"), None, _) => Route::Pass(Pass::Catalog),
        (Some("list"), Some("tags"), Some(_)) => Route::Pass(Pass::Tags),
        (Some(_), Some("referrers"), Some(_)) => Route::Pass(Pass::Referrers),
        (Some(reference), Some(kind @ ("blobs" | "manifests")), Some(name)) => content(name, kind, reference, query),
        _ => Route::Pass(Pass::Unknown),
    }
}

/// The route of `/v2/<name>/<kind>/<reference>`.
fn content(name: &str, kind: &str, reference: &str, query: Option<&str>) -> Route {
    let Ok(repository) = name.parse::<Repository>() else { return Route::Pass(Pass::Unknown) };
    let digest = reference.parse::<Digest>();
    if digest.is_err() && is_other_digest(reference) {
        return Route::Pass(Pass::OtherDigest);
    }
    let Ok(namespace) = namespace(query) else { return Route::Pass(Pass::Query) };
    match (kind, digest, reference.parse::<Tag>()) {
        ("blobs", Ok(digest), _) => Route::Blob { repository, digest, namespace },
        ("manifests", Ok(digest), _) => Route::ManifestByDigest { repository, digest, namespace },
        ("manifests", Err(_), Ok(tag)) => Route::ManifestByTag { repository, tag, namespace },
        _ => Route::Pass(Pass::Unknown),
    }
}

/// A query that is not `ns=` and a host once, and nothing else.
struct NotOurs;

/// The host in `?ns=`, which containerd adds for its mirrors, with its `:` encoded.
fn namespace(query: Option<&str>) -> Result<Option<String>, NotOurs> {
    let Some(query) = query else { return Ok(None) };
    let value = query.strip_prefix("ns=").ok_or(NotOurs)?.replace("%3A", ":").replace("%3a", ":");
    let (host, port) = value.split_once(':').map_or((&*value, None), |(host, port)| (host, Some(port)));
    let plain = |text: &str, also: &[u8]| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase() || also.contains(&b))
    };
    let good_port = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|number| number.to_string() == port));
    if plain(host, b".-") && good_port { Ok(Some(value)) } else { Err(NotOurs) }
}

/// Whether a reference is a digest of another algorithm than sha256 (OCI image spec, "Digests").
fn is_other_digest(reference: &str) -> bool {
    let Some((algorithm, encoded)) = reference.split_once(':') else { return false };
    let words = algorithm.split(['+', '.', '_', '-']);
    algorithm != "sha256"
        && words
            .into_iter()
            .all(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()))
        && !encoded.is_empty()
        && encoded.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'=' | b'_' | b'-'))
}

/// Whether this looks like a request for a token. There is no fixed path, the registry names it in its challenge, but
/// the question has a `service` or a `scope` when it is a GET, and the usual places are few.
fn is_token(path: &str, query: Option<&str>) -> bool {
    let usual = matches!(path, "/token" | "/v2/token" | "/v2/auth" | "/auth" | "/jwt/auth");
    usual || path.ends_with("/oauth2/token") || path.ends_with("/service/token") || {
        !path.starts_with("/v2/") && parameters(query).any(|(key, _)| matches!(key, "service" | "scope"))
    }
}

/// The parameters of a query as they are written.
fn parameters(query: Option<&str>) -> impl Iterator<Item = (&str, &str)> {
    query.into_iter().flat_map(|query| query.split('&')).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

#[cfg(test)]
mod tests;
