//! One verified TLS connection to a registry, at the address the client chose. It says precisely why there is
//! none; what follows from that is decided by `tls`.
//!
//! There is no session resumption here: a resumed handshake asks for no client certificate and shows no new
//! server certificate, so it would tell nothing about what the client is going to see.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use rustls::{
    ClientConfig, RootCertStore, SignatureScheme,
    client::{ResolvesClientCert, Resumption},
    crypto::aws_lc_rs,
    pki_types::ServerName,
    sign::CertifiedKey,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::dial::{self, OrigDst};

/// How an attempt to reach a registry over TLS ended.
#[derive(Debug)]
pub enum Connected {
    /// It is the registry it should be, and here is the connection.
    Verified(Verified),
    /// It asks for a client certificate, whether or not it insists. Only the client has one.
    WantsClientCert,
    /// Its certificate does not verify, or it cannot agree with us on TLS 1.2 or 1.3.
    Unverified(rustls::Error),
    /// What answers does not speak TLS.
    NotTls,
    /// Refused, reset, no route, or silent until the deadline.
    Unreachable(io::Error),
}

/// A TLS connection to a registry whose certificate was verified for its name. Nothing was sent on it yet.
/// Speaks HTTP/1.1; wrap it in `hyper_util::rt::TokioIo` for hyper.
pub struct Verified {
    /// Boxed: the state of TLS is a kilobyte, and this goes from hand to hand.
    stream: Box<TlsStream<TcpStream>>,
    remote: SocketAddr,
}

/// Connects to `dst` and does a TLS handshake for `name` (DNS, as in the client's SNI), verified against `roots`
/// alone. Both together take at most `deadline`.
pub async fn connect(dst: OrigDst, name: &str, roots: Arc<RootCertStore>, deadline: Duration) -> Connected {
    let end = Instant::now() + deadline;
    let server = match ServerName::try_from(name.to_owned()) {
        Ok(server) => server,
        Err(error) => return Connected::Unreachable(io::Error::new(io::ErrorKind::InvalidInput, error)),
    };
    let asked = Arc::new(AskedForCertificate::default());
    let config = match client_config(roots, asked.clone()) {
        Ok(config) => config,
        Err(error) => return Connected::Unverified(error),
    };
    let stream = match dial::tcp(dst.0, deadline).await {
        Ok(stream) => stream,
        Err(error) => return Connected::Unreachable(error),
    };
    let handshake = TlsConnector::from(Arc::new(config)).connect(server, stream);
    let shaken = timeout_at(end, handshake).await;
    // Before the result is looked at: a registry that insists on a certificate fails the handshake, one that only
    // asks does not (RFC 8446 4.3.2), and in TLS 1.3 ours is over before it could complain.
    if asked.yes() {
        return Connected::WantsClientCert;
    }
    match shaken {
        Ok(Ok(stream)) => Connected::Verified(Verified { stream: Box::new(stream), remote: dst.0 }),
        Ok(Err(error)) => classify(error),
        Err(_) => {
            let what = format!("{dst} accepted a connection but was silent for {deadline:?}");
            Connected::Unreachable(io::Error::new(io::ErrorKind::TimedOut, what))
        }
    }
}

/// Which of the answers a failed handshake is.
fn classify(error: io::Error) -> Connected {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match (tls, error.kind()) {
        (Some(rustls::Error::InvalidMessage(_)), _) => Connected::NotTls,
        (Some(tls), _) => Connected::Unverified(tls.clone()),
        (None, io::ErrorKind::UnexpectedEof) => Connected::NotTls,
        (None, _) => Connected::Unreachable(error),
    }
}

fn client_config(roots: Arc<RootCertStore>, asked: Arc<AskedForCertificate>) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_cert_resolver(asked);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Has no certificate to give, and remembers that it was asked for one.
#[derive(Debug, Default)]
struct AskedForCertificate(AtomicBool);

impl AskedForCertificate {
    fn yes(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl ResolvesClientCert for AskedForCertificate {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.store(true, Ordering::Release);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

impl Verified {
    /// The registry's address.
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }
}

impl fmt::Debug for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verified").field("remote", &self.remote).finish_non_exhaustive()
    }
}

impl AsyncRead for Verified {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Verified {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
