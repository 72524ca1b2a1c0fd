//! The client's way to the other end: TCP, TLS if wanted, HTTP/1.1 or HTTP/2.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderValue, Request, Response, header};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_rustls::TlsConnector;

use super::{super::authority::provider, ClientError, Sending};

/// Where a client goes, and as whom.
pub(super) struct To {
    pub(super) addr: SocketAddr,
    host: String,
    port: u16,
    pub(super) roots: Option<Arc<RootCertStore>>,
    pub(super) alpn: Vec<Vec<u8>>,
    pub(super) sni: bool,
    pub(super) dribble: Option<usize>,
    pub(super) identity: Option<Arc<CertifiedKey>>,
}

/// One connection, closed when dropped.
#[derive(Debug)]
pub(super) struct Connection {
    sender: Sender,
    /// What the other end showed, without its chain.
    pub(super) certificate: Option<CertificateDer<'static>>,
    driver: JoinHandle<()>,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Sending>),
    Http2(http2::SendRequest<Sending>),
}

impl To {
    pub(super) fn new(addr: SocketAddr, host: &str, port: u16, roots: Option<Arc<RootCertStore>>) -> Self {
        let alpn = vec![b"http/1.1".to_vec()];
        Self { addr, host: host.to_owned(), port, roots, alpn, sni: true, dribble: None, identity: None }
    }

    /// Host and port as in a URL.
    pub(super) fn authority(&self) -> String {
        match (self.port, &self.roots) {
            (443, Some(_)) | (80, None) => self.host.clone(),
            (port, _) => format!("{}:{port}", self.host),
        }
    }

    fn tls(&self, roots: &Arc<RootCertStore>) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider knows TLS 1.2 and 1.3")
            .with_root_certificates(roots.clone());
        let mut config = match &self.identity {
            Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key.clone()))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&self.alpn);
        config.enable_sni = self.sni;
        config
    }
}

impl Connection {
    pub(super) async fn send(&mut self, to: &To, mut request: Request<Sending>) -> hyper::Result<Response<Incoming>> {
        match &mut self.sender {
            Sender::Http1(sender) => {
                if !request.headers().contains_key(header::HOST) {
                    let host = HeaderValue::from_str(&to.authority()).expect("a host is a valid header");
                    request.headers_mut().insert(header::HOST, host);
                }
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                let scheme = if to.roots.is_some() { "https" } else { "http" };
                let whole = format!("{scheme}://{}{}", to.authority(), request.uri());
                *request.uri_mut() = whole.parse().expect("a test's path is valid");
                sender.send_request(request).await
            }
        }
    }

    /// Whether another request can be sent on it.
    pub(super) async fn usable(&mut self) -> bool {
        match &mut self.sender {
            Sender::Http1(sender) => sender.ready().await.is_ok(),
            Sender::Http2(sender) => sender.ready().await.is_ok(),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

pub(super) async fn connect(to: &To) -> Result<Connection, ClientError> {
    let stream = TcpStream::connect(to.addr).await.map_err(ClientError::Connect)?;
    stream.set_nodelay(true).map_err(ClientError::Connect)?;
    let stream = Dribble { stream, at_once: to.dribble.unwrap_or(usize::MAX) };
    let Some(roots) = &to.roots else {
        return http(stream, false, None).await.map_err(|error| ClientError::Connect(io::Error::other(error)));
    };
    let name = ServerName::try_from(to.host.clone()).map_err(|error| ClientError::Tls(io::Error::other(error)))?;
    let connector = TlsConnector::from(Arc::new(to.tls(roots)));
    let stream = connector.connect(name, stream).await.map_err(ClientError::Tls)?;
    let session = stream.get_ref().1;
    let certificate =
        session.peer_certificates().and_then(|chain| chain.first()).map(|first| first.clone().into_owned());
    let http2 = session.alpn_protocol() == Some(b"h2");
    http(stream, http2, certificate).await.map_err(|error| ClientError::Tls(io::Error::other(error)))
}

/// Writes `bytes` and reads until the other end closes, in order or not.
pub(super) async fn raw(to: &To, bytes: &[u8]) -> Result<Vec<u8>, ClientError> {
    async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> Vec<u8> {
        let mut got = Vec::new();
        if stream.write_all(bytes).await.is_ok() {
            // What came before the end counts, however that was.
            let _ = stream.read_to_end(&mut got).await;
        }
        got
    }
    let stream = TcpStream::connect(to.addr).await.map_err(ClientError::Connect)?;
    let Some(roots) = &to.roots else { return Ok(exchange(stream, bytes).await) };
    let name = ServerName::try_from(to.host.clone()).map_err(|error| ClientError::Tls(io::Error::other(error)))?;
    let stream = TlsConnector::from(Arc::new(to.tls(roots))).connect(name, stream).await.map_err(ClientError::Tls)?;
    Ok(exchange(stream, bytes).await)
}

async fn http(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    http2: bool,
    certificate: Option<CertificateDer<'static>>,
) -> hyper::Result<Connection> {
    let io = TokioIo::new(stream);
    // How a connection ends is told to whoever reads from it; the driver's own word adds nothing.
    let (sender, driver) = if http2 {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        (Sender::Http2(sender), tokio::spawn(async move { drop(connection.await) }))
    } else {
        let (sender, connection) = http1::handshake(io).await?;
        (Sender::Http1(sender), tokio::spawn(async move { drop(connection.await) }))
    };
    Ok(Connection { sender, certificate, driver })
}

/// A stream that writes only so much at once.
struct Dribble {
    stream: TcpStream,
    at_once: usize,
}

impl AsyncRead for Dribble {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Dribble {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let length = bytes.len().min(self.at_once);
        Pin::new(&mut self.stream).poll_write(cx, &bytes[..length])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
