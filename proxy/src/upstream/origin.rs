//! One origin: an address under a name, and the pool of HTTP/1.1 connections to it.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Request, Response, Uri};
use hyper::body::{Body as _, Incoming};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connected as Wired, Connection},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tokio::net::TcpStream;

use super::{Body, Connected, Target, Verified, connect};
use crate::{
    dial,
    fault::{Fault, Side, What},
};

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// A connection that nobody needs is closed after this.
const IDLE: Duration = Duration::from_secs(30);

/// What makes two targets the same origin. Connections verified against one set of roots serve no client with
/// another; sets are interned by whoever makes them, so their address stands for them.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct Key {
    dst: SocketAddr,
    host: Arc<str>,
    port: u16,
    roots: Option<usize>,
}

impl Key {
    pub(super) fn of(target: &Target) -> Self {
        Self {
            dst: target.dst.0,
            host: target.host.clone(),
            port: target.port,
            roots: target.roots.as_ref().map(|roots| Arc::as_ptr(roots) as usize),
        }
    }
}

/// A place to send requests to.
pub struct Origin {
    target: Target,
    client: Client<Connector, Body>,
    spare: Arc<Mutex<Option<Verified>>>,
}

impl Origin {
    pub(super) fn new(target: Target) -> Self {
        let spare = Arc::new(Mutex::new(None));
        let connector = Connector { target: target.clone(), spare: spare.clone() };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(16)
            .build(connector);
        Self { target, client, spare }
    }

    /// Where it is.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Takes over a connection that was made to verify this origin, so that it is not made twice. It is kept as long as those
    /// of the pool.
    pub fn adopt(&self, verified: Verified) {
        *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = Some(verified);
        let spare = Arc::downgrade(&self.spare);
        tokio::spawn(async move {
            tokio::time::sleep(IDLE).await;
            if let Some(spare) = spare.upgrade() {
                spare.lock().unwrap_or_else(PoisonError::into_inner).take();
            }
        });
    }

    /// A connection that waited for this request may have gone in the meantime: what is safe to ask twice (RFC 9110, section
    /// 9.2.2) is asked once more.
    pub(super) async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, Fault> {
        let is_safe = request.method().is_safe() && request.body().is_end_stream();
        let (parts, body) = request.into_parts();
        let again = is_safe.then(|| Request::from_parts(parts.clone(), super::empty()));
        match (self.once(Request::from_parts(parts, body)).await, again) {
            (Err(Fault { what: What::Cut, .. }), Some(again)) => self.once(again).await,
            (answer, _) => answer,
        }
    }

    async fn once(&self, request: Request<Body>) -> Result<Response<Incoming>, Fault> {
        self.client.request(request).await.map_err(|error| {
            let what = if error.is_connect() { What::Unreachable } else { What::Cut };
            Fault::with(Side::Registry, what, error)
        })
    }

    pub(super) fn uri(&self, path: &Uri) -> Uri {
        let mut parts = path.clone().into_parts();
        parts.scheme =
            Some(if self.target.roots.is_some() { http::uri::Scheme::HTTPS } else { http::uri::Scheme::HTTP });
        parts.authority = self.authority().to_str().ok().and_then(|text| text.parse().ok());
        if parts.path_and_query.is_none() {
            parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
        }
        Uri::from_parts(parts).unwrap_or_else(|_| path.clone())
    }

    /// The name as in a `Host` header: without the port where that is the scheme's own.
    pub(super) fn authority(&self) -> HeaderValue {
        let usual = if self.target.roots.is_some() { 443 } else { 80 };
        let text = match &self.target {
            Target { host, port, .. } if *port == usual => host.to_string(),
            Target { host, port, .. } => format!("{host}:{port}"),
        };
        HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("invalid"))
    }
}

#[derive(Clone)]
struct Connector {
    target: Target,
    spare: Arc<Mutex<Option<Verified>>>,
}

impl tower_service::Service<Uri> for Connector {
    type Response = Wire;
    type Error = Fault;
    type Future = Pin<Box<dyn Future<Output = Result<Wire, Fault>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).take();
        let target = self.target.clone();
        Box::pin(async move {
            if let Some(verified) = spare {
                return Ok(Wire::Tls(TokioIo::new(verified)));
            }
            let Some(roots) = target.roots else {
                let plain = dial::tcp(target.dst.0, CONNECT_DEADLINE).await.map_err(unreachable)?;
                return Ok(Wire::Plain(TokioIo::new(plain)));
            };
            match connect(target.dst, &target.host, roots, CONNECT_DEADLINE).await {
                Connected::Verified(verified) => Ok(Wire::Tls(TokioIo::new(verified))),
                Connected::Unreachable(error) => Err(unreachable(error)),
                Connected::Unverified(error) => Err(Fault::with(Side::Registry, What::Protocol, error)),
                Connected::WantsClientCert => Err(refused("it wants a client certificate")),
                Connected::NotTls => Err(refused("it does not speak TLS")),
            }
        })
    }
}

fn unreachable(error: std::io::Error) -> Fault {
    Fault::with(Side::Registry, What::Unreachable, error)
}

fn refused(why: &'static str) -> Fault {
    Fault::with(Side::Registry, What::Protocol, why)
}

enum Wire {
    Plain(TokioIo<TcpStream>),
    Tls(TokioIo<Verified>),
}

impl Connection for Wire {
    fn connected(&self) -> Wired {
        Wired::new()
    }
}

impl hyper::rt::Read for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buffer),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buffer),
        }
    }
}

impl hyper::rt::Write for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, bytes),
            Self::Tls(io) => Pin::new(io).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
