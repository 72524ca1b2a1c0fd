//! The storage behind a registry: another host that takes only what was signed for it, as S3 and its like do.

use std::{
    fmt,
    net::Ipv4Addr,
    ops::Deref,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use http::{Method, StatusCode};
use waylay::oci::Digest;

use super::{
    Running,
    content::Content,
    door::Doorway,
    log::Seen,
    place::Place,
    reply::Answer,
    script::{Fault, Script},
    server::{Server, Site},
    site,
};

/// A CDN to be started beside a registry.
pub struct Cdn {
    doorway: Doorway,
}

/// A CDN that serves the blobs of a registry. It answers 403 to another `Host`, a wrong or expired signature, and 400
/// to a request that carries `Authorization`.
pub struct RunningCdn {
    server: Server,
    signer: Signer,
}

/// Signs URLs of a CDN.
#[derive(Clone)]
pub struct Signer {
    scheme: &'static str,
    authority: Arc<Mutex<String>>,
    age: Arc<AtomicU64>,
}

impl Cdn {
    /// A CDN under this name, DNS name or address.
    pub fn new(host: &str) -> Self {
        Self { doorway: Doorway::new(host) }
    }

    /// Speaks plain HTTP.
    pub fn plain_http(mut self) -> Self {
        self.doorway.plain = true;
        self
    }

    /// Has a certificate that signs itself.
    pub fn self_signed(mut self) -> Self {
        self.doorway.self_signed = true;
        self
    }

    /// Starts beside `registry`, certified by the same authority. Add [`RunningCdn::redirect`] to the registry's script
    /// to have it used.
    pub async fn start(self, registry: &Running) -> RunningCdn {
        let scheme = if self.doorway.plain { "http" } else { "https" };
        let signer = Signer { scheme, authority: Arc::default(), age: Arc::default() };
        let site = Storage { content: registry.content.clone(), signer: signer.clone() };
        let door = self.doorway.door(registry.authority());
        let server =
            Server::start("CDN", (Ipv4Addr::LOCALHOST, 0).into(), Box::new(site), Script::default(), door).await;
        let authority = format!("{}:{}", self.doorway.host, server.addr().port());
        *signer.authority.lock().unwrap_or_else(PoisonError::into_inner) = authority;
        RunningCdn { server, signer }
    }
}

impl RunningCdn {
    /// What redirects a request for a blob here.
    pub fn redirect(&self) -> Fault {
        Fault::ToCdn(self.signer.clone())
    }

    /// The signed URL of a blob.
    pub fn url(&self, digest: &Digest) -> String {
        self.signer.url(digest)
    }

    /// Lets all signatures so far expire.
    pub fn expire(&self) {
        self.signer.age.fetch_add(1, Relaxed);
    }
}

impl Deref for RunningCdn {
    type Target = Server;

    /// All that every scripted server counts and suffers.
    fn deref(&self) -> &Server {
        &self.server
    }
}

impl Signer {
    pub(super) fn url(&self, digest: &Digest) -> String {
        let authority = self.authority.lock().unwrap_or_else(PoisonError::into_inner);
        let path = format!("/blob/{digest}");
        format!("{}://{authority}{path}?{}", self.scheme, self.query(&authority, &path))
    }

    /// Over host and path, as in a presigned URL: whoever changes either has a worthless signature.
    fn query(&self, authority: &str, path: &str) -> String {
        let age = self.age.load(Relaxed);
        let signature = Digest::of(format!("not a secret {age} {authority} {path}").as_bytes()).hex();
        format!("X-Age={age}&X-Signature={signature}")
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.authority.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct Storage {
    content: Arc<Mutex<Content>>,
    signer: Signer,
}

impl Site for Storage {
    fn answer(&self, seen: &Seen, _: Bytes) -> Answer {
        let authority = self.signer.authority.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (path, query) = seen.target.split_once('?').unwrap_or((&seen.target, ""));
        let Place::Object(digest) = &seen.place else { return Answer::error(StatusCode::NOT_FOUND, "NoSuchKey") };
        if seen.authorised() {
            return Answer::error(StatusCode::BAD_REQUEST, "InvalidArgument: only one auth mechanism allowed");
        }
        if seen.host != authority || query != self.signer.query(&authority, path) || seen.method != Method::GET {
            return Answer::error(StatusCode::FORBIDDEN, "SignatureDoesNotMatch");
        }
        site::blob(self.content.lock().unwrap_or_else(PoisonError::into_inner).anywhere(digest), digest)
    }

    fn challenge(&self, _: &Seen) -> Answer {
        Answer::error(StatusCode::UNAUTHORIZED, "AccessDenied")
    }
}
