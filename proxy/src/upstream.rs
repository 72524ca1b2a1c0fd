//! Requests to the registry: dialled at the address that the client chose, under its name, with its headers.
//!
//! Redirects of blobs are followed here, so that the hosts behind a registry need no interception; everything else
//! is relayed as it came. What the answers mean is the caller's business.

pub mod connect;
mod harmless;
mod origin;
mod redirect;

use std::{net::SocketAddr, ops::Range, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Empty, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use rustls::RootCertStore;

use crate::{
    dial::OrigDst,
    fault::{Fault, Side, What},
    throttle::Throttle,
};

pub use connect::{Connected, Verified, connect};
pub use harmless::is_harmless;
pub use origin::Origin;

/// Any error of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// A body in either direction.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// How long a registry may take to begin its answer to a blob or manifest request: less than the 30 s after which
/// containerd gives up (`ResponseHeaderTimeout`), so that there is still time to answer it.
const HEAD_DEADLINE: Duration = Duration::from_secs(25);

/// An origin nobody asked for so long is forgotten, and its idle connections with it.
const ORIGIN_IDLE: Duration = Duration::from_secs(120);

/// Where a request goes: an address, the name that is verified there, and how.
#[derive(Clone)]
pub struct Target {
    /// The address to dial.
    pub dst: OrigDst,
    /// The name in the certificate and, without a port, in the handshake.
    pub host: Arc<str>,
    /// The port in URLs.
    pub port: u16,
    /// What its certificate is verified against; `None` speaks plain HTTP.
    pub roots: Option<Arc<RootCertStore>>,
}

/// A request's method, target and headers, without its body, so that it can be sent more than once.
#[derive(Debug, Clone)]
pub struct Head {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub uri: Uri,
    /// The client's headers.
    pub headers: HeaderMap,
}

impl Head {
    /// The same request for all of the bytes as they are stored, whatever the client has of them already.
    pub fn plainly(&self) -> Self {
        let mut head = self.clone();
        // The digest is over the bytes as stored, so no encoding may be put on top of them.
        head.headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        for part in [
            header::RANGE,
            header::IF_RANGE,
            header::IF_MATCH,
            header::IF_NONE_MATCH,
            header::IF_MODIFIED_SINCE,
            header::IF_UNMODIFIED_SINCE,
        ] {
            head.headers.remove(part);
        }
        head
    }
}

/// Finds the address of a host that a registry redirected to, or none if we may not go there.
pub type Resolver = Arc<dyn Fn(&str, u16) -> Pin<Box<dyn Future<Output = Option<SocketAddr>> + Send>> + Send + Sync>;

/// All origins in use.
#[derive(Clone)]
pub struct Upstream {
    origins: moka::sync::Cache<origin::Key, Arc<Origin>>,
    resolver: Resolver,
    rate: Throttle,
}

impl Upstream {
    /// Nothing in use yet; hosts of redirects are looked up by `resolver`, and blobs that the store takes in come at `rate`.
    pub fn new(resolver: Resolver, rate: Throttle) -> Self {
        let origins = moka::sync::Cache::builder().max_capacity(1024).time_to_idle(ORIGIN_IDLE).build();
        Self { origins, resolver, rate }
    }

    /// What limits how fast blobs come into the store.
    pub fn rate(&self) -> &Throttle {
        &self.rate
    }

    async fn resolve(&self, host: &str, port: u16) -> Option<SocketAddr> {
        (self.resolver)(host, port).await
    }

    /// The origin at `target`, with the connections that are open to it.
    pub fn origin(&self, target: Target) -> Arc<Origin> {
        self.origins.get_with(origin::Key::of(&target), || Arc::new(Origin::new(target)))
    }

    /// Sends a request as it is and returns the answer as it is.
    ///
    /// # Errors
    /// When no connection can be made or the registry breaks it off.
    pub async fn relay(&self, origin: &Origin, head: &Head, body: Body) -> Result<Response<Incoming>, Fault> {
        origin.send(request(origin, head, body)).await
    }

    /// Sends a bodiless request that must be answered soon, following no redirect.
    ///
    /// # Errors
    /// As [`Upstream::relay`], and when the answer does not begin in time.
    pub async fn ask(&self, origin: &Origin, head: &Head) -> Result<Response<Incoming>, Fault> {
        soon(self.relay(origin, head, empty())).await
    }

    /// Asks for a blob, or `range` of it, following redirects. A redirect that may not or cannot be followed is
    /// returned unchanged.
    ///
    /// # Errors
    /// As [`Upstream::ask`].
    pub async fn blob(
        &self,
        origin: &Origin,
        head: &Head,
        range: Option<Range<u64>>,
    ) -> Result<Response<Incoming>, Fault> {
        let mut head = Head { method: Method::GET, ..head.plainly() };
        if let Some(range) = range {
            let value = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
            head.headers.insert(header::RANGE, HeaderValue::from_str(&value).map_err(protocol)?);
        }
        soon(redirect::follow(self, origin, head)).await
    }
}

async fn soon<T>(answer: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    match tokio::time::timeout(HEAD_DEADLINE, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(Fault::new(Side::Registry, What::Stalled)),
    }
}

fn protocol(error: impl Into<BoxError>) -> Fault {
    Fault::with(Side::Registry, What::Protocol, error)
}

fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn request(origin: &Origin, head: &Head, body: Body) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = origin.uri(&head.uri);
    *request.headers_mut() = end_to_end(&head.headers);
    if request.body().is_end_stream() {
        // A length without its bytes: the next request on this connection, another client's, would be taken for them.
        let headers = request.headers_mut();
        if headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0") {
            headers.remove(header::CONTENT_LENGTH);
        }
        headers.remove(header::EXPECT);
    }
    if !request.headers().contains_key(header::HOST) {
        request.headers_mut().insert(header::HOST, origin.authority());
    }
    request
}

/// `headers` without those that belong to one connection only (RFC 9110, section 7.6.1).
pub fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    const HOP: [HeaderName; 7] = [
        header::CONNECTION,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ];
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let mut kept = headers.clone();
    for name in HOP.iter().chain(&named).chain([&HeaderName::from_static("keep-alive")]) {
        kept.remove(name);
    }
    kept
}
