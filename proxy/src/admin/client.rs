//! The command line's side of the control socket.

use std::{
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use http::{Method, Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::status::Status;
use crate::upstream::{Body, BoxError};

/// Why the daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no waylay daemon answers on {}; is it running? `systemctl status waylay` tells", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The daemon broke off.
    #[error("the daemon broke off")]
    Broken(#[from] hyper::Error),
    /// The daemon does not know the question.
    #[error("the daemon answered {0}; are the daemon and this command of the same version?")]
    Status(http::StatusCode),
    /// The record cannot be written.
    #[error("cannot write the record")]
    Record(#[source] io::Error),
    /// The daemon says why not.
    #[error("{0}")]
    Refused(String),
    /// The answer is none that we know.
    #[error("the daemon's answer is not understood; are the daemon and this command of the same version?")]
    Answer(#[from] serde_json::Error),
}

/// Whether a daemon answers on the socket at `path`.
pub async fn answers(path: &Path) -> bool {
    UnixStream::connect(path).await.is_ok()
}

/// Runs one question to the daemon behind `path`, from where there is no runtime; no threads are needed for that.
///
/// # Errors
/// As the question.
pub fn ask<T>(path: &Path, question: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| ClientError::NotRunning { path: path.to_owned(), source })?;
    runtime.block_on(question)
}

/// A GET of `target` over the control socket at `path`. The body comes as the daemon sends it.
///
/// # Errors
/// When no daemon answers there, or not with 200.
pub async fn get(path: &Path, target: &str) -> Result<Response<Incoming>, ClientError> {
    request(path, Method::GET, target).await
}

/// Asks or orders something over the control socket at `path`. The body comes as the daemon sends it.
///
/// # Errors
/// When no daemon answers there, or not with 200.
pub async fn request(path: &Path, method: Method, target: &str) -> Result<Response<Incoming>, ClientError> {
    send(path, method, target, None, empty()).await
}

/// As [`request`], with an order's words in JSON.
///
/// # Errors
/// As [`request`].
pub async fn order<T: serde::Serialize>(
    path: &Path,
    method: Method,
    target: &str,
    words: &T,
) -> Result<Response<Incoming>, ClientError> {
    let words = Full::from(serde_json::to_vec(words)?).map_err(|never| match never {}).boxed_unsync();
    send(path, method, target, None, words).await
}

/// As [`request`], sending `size` bytes along.
///
/// # Errors
/// As [`request`].
pub async fn upload(
    path: &Path,
    target: &str,
    size: u64,
    bytes: BoxStream<'static, io::Result<Bytes>>,
) -> Result<Response<Incoming>, ClientError> {
    let frames = futures_util::TryStreamExt::map_ok(bytes, Frame::data);
    let body = StreamBody::new(futures_util::TryStreamExt::map_err(frames, BoxError::from)).boxed_unsync();
    send(path, Method::PUT, target, Some(size), body).await
}

fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

async fn send(
    path: &Path,
    method: Method,
    target: &str,
    size: Option<u64>,
    body: Body,
) -> Result<Response<Incoming>, ClientError> {
    let stream =
        UnixStream::connect(path).await.map_err(|source| ClientError::NotRunning { path: path.to_owned(), source })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the response's body, which the caller holds.
    tokio::spawn(connection);
    let mut request = Request::new(body);
    if let Some(size) = size {
        request.headers_mut().insert(header::CONTENT_LENGTH, size.into());
    }
    *request.method_mut() = method;
    *request.uri_mut() = target.parse().map_err(|_| ClientError::Refused(format!("{target:?} cannot be asked for")))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    if status == http::StatusCode::OK {
        return Ok(response);
    }
    let said = response.into_body().collect().await?.to_bytes();
    match std::str::from_utf8(&said).map(str::trim) {
        // What an older daemon says to everything that it does not know.
        Ok("not found" | "only GET" | "") | Err(_) => Err(ClientError::Status(status)),
        Ok(said) => Err(ClientError::Refused(said.to_owned())),
    }
}

/// The whole body of [`request`].
///
/// # Errors
/// As [`request`].
pub async fn fetch(path: &Path, method: Method, target: &str) -> Result<Bytes, ClientError> {
    Ok(request(path, method, target).await?.into_body().collect().await?.to_bytes())
}

/// The daemon's state.
///
/// # Errors
/// When no daemon answers, or in words that we do not know.
pub async fn status(path: &Path) -> Result<Status, ClientError> {
    Ok(serde_json::from_slice(&fetch(path, Method::GET, "/status").await?)?)
}
