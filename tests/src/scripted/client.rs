//! A client that speaks to a registry as the runtimes do, and says precisely what it got. It follows no redirect: what a
//! proxy relays must be seen.

mod connect;
mod pull;
mod reply;

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use rustls::{RootCertStore, pki_types::CertificateDer};

use super::authority::Identity;
use connect::{Connection, To};

pub use pull::Pulled;
pub use reply::{ClientError, Reply};

/// A body that a client sends.
pub type Sending = UnsyncBoxBody<Bytes, io::Error>;

/// A client of one registry, by whatever way. Its connections end when it is dropped.
pub struct Client {
    to: To,
    headers: HeaderMap,
    credentials: Option<(String, String)>,
    /// What a challenge led to, by repository.
    authorizations: Mutex<HashMap<String, HeaderValue>>,
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl Client {
    /// A client that connects to `addr`, whoever stands there, in the belief that it is the registry `host:port`. `None`
    /// for roots is plain HTTP.
    pub fn new(addr: SocketAddr, host: &str, port: u16, roots: Option<Arc<RootCertStore>>) -> Self {
        Self {
            to: To::new(addr, host, port, roots),
            headers: HeaderMap::new(),
            credentials: None,
            authorizations: Mutex::default(),
            idle: Arc::default(),
        }
    }

    /// The same client, but by way of `addr`, where it trusts `roots`.
    pub fn through(mut self, addr: SocketAddr, roots: Option<Arc<RootCertStore>>) -> Self {
        self.to.addr = addr;
        self.to.roots = roots;
        self
    }

    /// Uses HTTP/2 where the other end knows it.
    pub fn http2(mut self) -> Self {
        self.to.alpn = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        self
    }

    /// Offers these protocols. Many long ones make a long ClientHello.
    pub fn alpn(mut self, protocols: Vec<Vec<u8>>) -> Self {
        self.to.alpn = protocols;
        self
    }

    /// Sends no server name.
    pub fn without_sni(mut self) -> Self {
        self.to.sni = false;
        self
    }

    /// Writes at most this many bytes at a time, so that a ClientHello arrives in pieces.
    pub fn dribbling(mut self, bytes: usize) -> Self {
        self.to.dribble = Some(bytes);
        self
    }

    /// Has a certificate to show.
    pub fn certificate(mut self, identity: &Identity) -> Self {
        self.to.identity = Some(identity.certified_key());
        self
    }

    /// Answers challenges with this user and password. Without, it asks for tokens without a name.
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.credentials = Some((name.to_owned(), password.to_owned()));
        self
    }

    /// Sends this bearer token from the first request on.
    pub fn token(self, token: &str) -> Self {
        self.header(header::AUTHORIZATION, &format!("Bearer {token}"))
    }

    /// Sends this header with each request.
    pub fn header(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.insert(name, HeaderValue::from_str(value).expect("a test's header is valid"));
        self
    }

    /// Makes a new connection and only that; the certificate that was shown.
    ///
    /// # Errors
    /// When there is no connection or the handshake fails.
    pub async fn handshake(&self) -> Result<Option<CertificateDer<'static>>, ClientError> {
        let connection = connect::connect(&self.to).await?;
        let certificate = connection.certificate.clone();
        self.keep(connection);
        Ok(certificate)
    }

    /// Writes these bytes on a connection of its own, and nothing else; all that came back until the other end closed.
    /// What HTTP clients refuse to send can be sent so.
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn raw(&self, bytes: &[u8]) -> Result<Vec<u8>, ClientError> {
        connect::raw(&self.to, bytes).await
    }

    /// GET, whatever the status.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn get(&self, path: &str) -> Result<Reply, ClientError> {
        self.send(request(Method::GET, path)).await
    }

    /// HEAD, whatever the status.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn head(&self, path: &str) -> Result<Reply, ClientError> {
        self.send(request(Method::HEAD, path)).await
    }

    /// GET with a `Range`, whatever the status.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn get_range(&self, path: &str, range: &str) -> Result<Reply, ClientError> {
        let mut request = request(Method::GET, path);
        request.headers_mut().insert(header::RANGE, HeaderValue::from_str(range).expect("a test's header is valid"));
        self.send(request).await
    }

    /// Connects, TLS and all, and keeps the connection for the next request.
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn connected(&self) -> Result<(), ClientError> {
        self.keep(connect::connect(&self.to).await?);
        Ok(())
    }

    /// Sends a request with the client's own headers, on an idle connection or a new one.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn send(&self, mut request: Request<Sending>) -> Result<Reply, ClientError> {
        for (name, value) in &self.headers {
            if !request.headers().contains_key(name) {
                request.headers_mut().insert(name, value.clone());
            }
        }
        let path = request.uri().to_string();
        let mut connection = match self.idle_connection().await {
            Some(connection) => connection,
            None => connect::connect(&self.to).await?,
        };
        match connection.send(&self.to, request).await {
            Ok(response) => {
                let (head, body) = response.into_parts();
                let certificate = connection.certificate.clone();
                let idle = self.idle.clone();
                Ok(Reply {
                    path,
                    status: head.status,
                    version: head.version,
                    headers: head.headers,
                    certificate,
                    body,
                    connection,
                    idle,
                })
            }
            Err(source) => Err(ClientError::NoAnswer { path, source }),
        }
    }

    async fn idle_connection(&self) -> Option<Connection> {
        loop {
            let mut connection = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            if connection.usable().await {
                return Some(connection);
            }
        }
    }

    fn keep(&self, connection: Connection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
}

/// A request without a body.
pub fn request(method: Method, path: &str) -> Request<Sending> {
    request_with(method, path, Bytes::new())
}

/// A request with a body whose length is told.
pub fn request_with(method: Method, path: &str, body: impl Into<Bytes>) -> Request<Sending> {
    let body = Full::new(body.into()).map_err(|never| match never {}).boxed_unsync();
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().expect("a test's path is valid");
    request
}
