//! HTTP/1.1 and HTTP/2 inside a terminated connection: each request to `pull`, each outcome to the client.

mod body;
mod reply;

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
    time::timeout,
};
use waylay_certs::RegistryName;

use crate::{
    lifecycle::Shutdown,
    metrics::Metrics,
    pull::{self, Outcome, Pull},
    telemetry::Trace,
    tls::{Serve, Session},
    upstream::{Body, Head, Target, Upstream},
};

/// A client that is silent for so long in the middle of a request's head is let go.
const HEAD_DEADLINE: Duration = Duration::from_secs(60);
/// So long the first request of a connection may take when a shutdown begins: a client whose new connection is closed before it
/// was answered gives its pull up, while one that was answered before asks again.
const FIRST: Duration = Duration::from_secs(5);
/// Bytes of a request's head at most.
const LARGEST_HEAD: usize = 64 << 10;
/// Requests at once on one HTTP/2 connection.
const STREAMS: u32 = 128;

/// Serves terminated connections.
#[derive(Clone)]
pub struct Http {
    pull: Arc<Pull>,
    upstream: Upstream,
    metrics: Arc<Metrics>,
    trace: Trace,
    shutdown: Shutdown,
}

impl Http {
    /// Answers by `pull`; on `shutdown` each connection ends after its current request.
    pub fn new(pull: Arc<Pull>, upstream: Upstream, metrics: Arc<Metrics>, trace: Trace, shutdown: Shutdown) -> Self {
        Self { pull, upstream, metrics, trace, shutdown }
    }

    async fn answer(self, client: Arc<pull::Client>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let (parts, body) = request.into_parts();
        let (metrics, trace) = (self.metrics.clone(), self.trace.clone());
        let registry = client.registry.to_string();
        let mut outcome = Outcome::new(&client.program, &registry, parts.method.as_str(), metrics, trace);
        let head = Head { method: parts.method, uri: parts.uri, headers: parts.headers };
        let request = pull::Request { client, head, body: body.map_err(Into::into).boxed_unsync() };
        let response = match Box::pin(self.pull.answer(request, &mut outcome)).await {
            Ok(response) => response,
            Err(fault) => {
                outcome.fault(&fault);
                reply::fault(&fault)
            }
        };
        outcome.answered(response.status().as_u16());
        Ok(response.map(|inner| body::Tracked::new(inner, outcome).boxed_unsync()))
    }
}

impl Serve for Http {
    fn stands_in_for(&self, name: &RegistryName) -> bool {
        self.pull.has_imports_of(&name.to_string())
    }

    async fn serve<IO>(&self, io: IO, session: Session)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let roots = if session.plain { None } else { session.roots };
        let (host, port) = (session.registry.host.as_str().into(), session.registry.port);
        let origin = self.upstream.origin(Target { dst: session.dst, host, port, roots });
        if let Some(verified) = session.first {
            origin.adopt(verified);
        }
        let client = Arc::new(pull::Client { program: session.program, registry: session.registry, origin });
        let mut server = auto::Builder::new(TokioExecutor::new());
        server.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE).max_buf_size(LARGEST_HEAD);
        server.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS);
        let asked = Notify::new();
        let service = service_fn(|request| {
            asked.notify_one();
            self.clone().answer(client.clone(), request)
        });
        let connection = server.serve_connection(TokioIo::new(io), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.shutdown.begun() => tokio::select! {
                ended = connection.as_mut() => ended,
                _ = timeout(FIRST, asked.notified()) => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            },
        };
        if let Err(error) = ended {
            // A client that goes away is normal: containerd closes each connection it no longer needs.
            tracing::debug!(%error, "connection ended early");
        }
    }
}
