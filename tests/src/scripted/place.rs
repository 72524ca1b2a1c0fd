//! Where a request to the scripted registry goes. Read independently of the product's own routes, so that the two can
//! disagree in a test.

use http::Method;
use waylay::oci::Digest;

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// `/v2/`
    Base,
    /// `/token`
    Token,
    /// `/v2/_catalog`
    Catalog,
    /// `/v2/<repository>/tags/list`
    Tags(String),
    /// `/v2/<repository>/referrers/<digest>`
    Referrers(String),
    /// `/v2/<repository>/blobs/<digest>`
    Blob(String, Digest),
    /// `/v2/<repository>/manifests/<reference>`
    Manifest(String, String),
    /// `/v2/<repository>/blobs/uploads/<session>`, without a session at the start.
    Upload(String, Option<String>),
    /// `/blob/<digest>` of a CDN.
    Object(Digest),
    /// Anything else.
    Nowhere,
}

/// What a request was, to be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// GET of a blob, at the registry or at its CDN.
    BlobGet,
    /// HEAD of a blob.
    BlobHead,
    /// GET of a manifest by tag or digest.
    ManifestGet,
    /// HEAD of a manifest by tag or digest.
    ManifestHead,
    /// Any step of an upload of a blob.
    Upload,
    /// A manifest pushed.
    ManifestPut,
    /// A token asked for.
    Token,
    /// Anything else.
    Other,
}

impl Place {
    pub(super) fn of(path: &str) -> Self {
        if path == "/token" {
            return Self::Token;
        }
        if let Some(digest) = path.strip_prefix("/blob/").and_then(|digest| digest.parse().ok()) {
            return Self::Object(digest);
        }
        let Some(rest) = path.strip_prefix("/v2/") else { return Self::Nowhere };
        let parts: Vec<&str> = rest.split('/').collect();
        let name = |end: usize| parts[..end].join("/");
        match *parts {
            [""] => Self::Base,
            ["_catalog"] => Self::Catalog,
            [.., _, "blobs", "uploads"] => Self::Upload(name(parts.len() - 2), None),
            [.., _, "blobs", "uploads", ""] => Self::Upload(name(parts.len() - 3), None),
            [.., _, "blobs", "uploads", session] => Self::Upload(name(parts.len() - 3), Some(session.to_owned())),
            [.., _, "tags", "list"] => Self::Tags(name(parts.len() - 2)),
            [.., _, "referrers", _] => Self::Referrers(name(parts.len() - 2)),
            [.., _, "manifests", reference] => Self::Manifest(name(parts.len() - 2), reference.to_owned()),
            [.., _, "blobs", digest] => match digest.parse() {
                Ok(digest) => Self::Blob(name(parts.len() - 2), digest),
                Err(_) => Self::Nowhere,
            },
            _ => Self::Nowhere,
        }
    }

    /// The repository, where there is one.
    pub fn repository(&self) -> Option<&str> {
        match self {
            Self::Tags(name)
            | Self::Referrers(name)
            | Self::Blob(name, _)
            | Self::Manifest(name, _)
            | Self::Upload(name, _) => Some(name),
            _ => None,
        }
    }

    /// The digest that is asked for, where there is one.
    pub fn digest(&self) -> Option<Digest> {
        match self {
            Self::Blob(_, digest) | Self::Object(digest) => Some(*digest),
            Self::Manifest(_, reference) => reference.parse().ok(),
            _ => None,
        }
    }

    pub(super) fn kind(&self, method: &Method) -> Kind {
        match (self, method.as_str()) {
            (Self::Blob(..) | Self::Object(_), "GET") => Kind::BlobGet,
            (Self::Blob(..) | Self::Object(_), "HEAD") => Kind::BlobHead,
            (Self::Manifest(..), "GET") => Kind::ManifestGet,
            (Self::Manifest(..), "HEAD") => Kind::ManifestHead,
            (Self::Manifest(..), "PUT") => Kind::ManifestPut,
            (Self::Upload(..), _) => Kind::Upload,
            (Self::Token, _) => Kind::Token,
            _ => Kind::Other,
        }
    }
}
