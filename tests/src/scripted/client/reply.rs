//! What a client got: an answer whose body is still to be read, or precisely why not.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, Version};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use rustls::pki_types::CertificateDer;
use waylay::oci::Digest;

use super::connect::Connection;

/// An answer whose body is still to be read.
#[derive(Debug)]
pub struct Reply {
    /// What was asked for.
    pub path: String,
    /// The status.
    pub status: StatusCode,
    /// HTTP/1.1 or HTTP/2.
    pub version: Version,
    /// The headers.
    pub headers: HeaderMap,
    /// The certificate that the other end showed, `None` without TLS: it tells who answered.
    pub certificate: Option<CertificateDer<'static>>,
    pub(super) body: Incoming,
    pub(super) connection: Connection,
    pub(super) idle: Arc<Mutex<Vec<Connection>>>,
}

/// Why a client did not get what it wanted.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No TCP connection.
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    /// The TLS handshake failed.
    #[error("TLS: {0}")]
    Tls(#[source] io::Error),
    /// The connection broke, or what came was no HTTP, before an answer.
    #[error("no answer to {path}: {source}")]
    NoAnswer {
        /// What was asked for.
        path: String,
        /// What hyper says.
        source: hyper::Error,
    },
    /// An answer with another status than success.
    #[error("{path}: {status}")]
    Status {
        /// What was asked for.
        path: String,
        /// The status.
        status: StatusCode,
        /// The headers.
        headers: Box<HeaderMap>,
        /// The body.
        body: Bytes,
    },
    /// The body broke off.
    #[error("{path}: cut after {} bytes: {source}", got.len())]
    Cut {
        /// What was asked for.
        path: String,
        /// What came.
        got: Bytes,
        /// What hyper says.
        source: hyper::Error,
    },
    /// The body came to its end, but is not what its digest says.
    #[error("{path}: {} bytes with digest {found}, not {expected}", got.len())]
    Digest {
        /// What was asked for.
        path: String,
        /// What should have come.
        expected: Digest,
        /// The digest of what came.
        found: Digest,
        /// What came.
        got: Bytes,
    },
    /// An answer that makes no sense.
    #[error("{path}: {what}")]
    Nonsense {
        /// What was asked for.
        path: String,
        /// What is wrong with it.
        what: String,
    },
}

impl Reply {
    /// A header as text.
    pub fn header(&self, name: impl AsRef<str>) -> Option<&str> {
        self.headers.get(name.as_ref())?.to_str().ok()
    }

    /// Some more of the body; `None` at its end.
    ///
    /// # Errors
    /// When it breaks off.
    pub async fn chunk(&mut self) -> Option<Result<Bytes, hyper::Error>> {
        loop {
            match self.body.frame().await? {
                Ok(frame) => match frame.into_data() {
                    Ok(data) => return Some(Ok(data)),
                    Err(_) => continue,
                },
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// The whole body; the connection is free for another request afterwards.
    ///
    /// # Errors
    /// When it breaks off, with what came.
    pub async fn bytes(mut self) -> Result<Bytes, ClientError> {
        let got = self.read(usize::MAX).await?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(self.connection);
        Ok(got)
    }

    /// The first `length` bytes of the body; the rest is not read, and the connection is closed.
    ///
    /// # Errors
    /// When it breaks off or ends before that.
    pub async fn prefix(mut self, length: usize) -> Result<Bytes, ClientError> {
        let mut got = self.read(length).await?;
        if got.len() < length {
            let what = format!("only {} of {length} bytes", got.len());
            return Err(ClientError::Nonsense { path: self.path, what });
        }
        got.truncate(length);
        Ok(got)
    }

    /// At least `length` bytes, or all there are.
    async fn read(&mut self, length: usize) -> Result<Bytes, ClientError> {
        let mut got = BytesMut::new();
        while got.len() < length {
            match self.chunk().await {
                Some(Ok(bytes)) => got.extend_from_slice(&bytes),
                Some(Err(source)) => {
                    return Err(ClientError::Cut { path: self.path.clone(), got: got.freeze(), source });
                }
                None => break,
            }
        }
        Ok(got.freeze())
    }

    /// The body if the status is a success, else [`ClientError::Status`].
    ///
    /// # Errors
    /// As said, and when the body breaks off.
    pub async fn success(self) -> Result<Bytes, ClientError> {
        if self.status.is_success() {
            return self.bytes().await;
        }
        let (path, status, headers) = (self.path.clone(), self.status, Box::new(self.headers.clone()));
        let body = self.bytes().await?;
        Err(ClientError::Status { path, status, headers, body })
    }
}
