//! The command line's side of the control socket.

use std::{
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

/// Why the daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no waylay daemon answers on {}; is it running? `waylay run` starts it", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The daemon broke off.
    #[error("the daemon broke off")]
    Broken(#[from] hyper::Error),
    /// The daemon did not understand.
    #[error("the daemon answered {0}; are the daemon and this command of the same version?")]
    Status(http::StatusCode),
}

/// Whether a daemon answers on the socket at `path`.
pub async fn answers(path: &Path) -> bool {
    UnixStream::connect(path).await.is_ok()
}

/// A GET of `target` over the control socket at `path`. The body comes as the daemon sends it.
///
/// # Errors
/// When no daemon answers there, or not with 200.
pub async fn get(path: &Path, target: &'static str) -> Result<Response<Incoming>, ClientError> {
    let stream =
        UnixStream::connect(path).await.map_err(|source| ClientError::NotRunning { path: path.to_owned(), source })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the response's body, which the caller holds.
    tokio::spawn(connection);
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = http::Uri::from_static(target);
    let response = sender.send_request(request).await?;
    if response.status() != http::StatusCode::OK {
        return Err(ClientError::Status(response.status()));
    }
    Ok(response)
}

/// The whole body of [`get`].
///
/// # Errors
/// As [`get`].
pub async fn fetch(path: &Path, target: &'static str) -> Result<Bytes, ClientError> {
    Ok(get(path, target).await?.into_body().collect().await?.to_bytes())
}
