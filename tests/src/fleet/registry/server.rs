//! A small HTTPS server on the registry's machine, for what docker-registry does not do itself. HTTP/1.1 only, one function
//! for all answers.

use std::convert::Infallible;
use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::super::authority::Leaf;

/// A running server. Dropping it closes its listener and its connections.
#[derive(Debug)]
pub(super) struct Server(JoinHandle<()>);

impl Server {
    /// Serves on `listener` with the certificate `leaf` what `answer` says.
    pub(super) fn start<A>(listener: TcpListener, leaf: &Leaf, answer: A) -> Result<Self>
    where
        A: Fn(&Request<Incoming>) -> Response<Full<Bytes>> + Send + Sync + 'static,
    {
        Ok(Self(tokio::spawn(serve(listener, acceptor(leaf)?, Arc::new(answer)))))
    }

    /// Ends it, and returns when its port is free.
    pub(super) async fn end(mut self) {
        self.0.abort();
        // It was cut short, which is what was asked for.
        drop((&mut self.0).await);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn acceptor(leaf: &Leaf) -> Result<TlsAcceptor> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let certificate = CertificateDer::from_pem_slice(leaf.certificate.as_bytes())?;
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes())?;
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn serve<A>(listener: TcpListener, acceptor: TlsAcceptor, answer: Arc<A>)
where
    A: Fn(&Request<Incoming>) -> Response<Full<Bytes>> + Send + Sync + 'static,
{
    let mut connections = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        let (acceptor, answer) = (acceptor.clone(), Arc::clone(&answer));
        connections.spawn(async move {
            // A client that goes away in the middle is its own affair.
            let Ok(tls) = acceptor.accept(tcp).await else { return };
            let answer = service_fn(move |request| {
                let reply = answer(&request);
                async move { Ok::<_, Infallible>(reply) }
            });
            drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tls), answer).await);
        });
    }
}
