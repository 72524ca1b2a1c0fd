//! The control socket's questions and orders about whole images, and all that send or get more than a few words: a method
//! and a path, with an image's name or a digest as it is written.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Method, Request, Response, header, request::Parts};
use http_body::Frame;
use http_body_util::{BodyExt as _, Limited, StreamBody};
use hyper::body::Incoming;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Reply, View,
    control::{failed, json},
    status::{Imported, Pinned},
};
use crate::{
    oci::{digest::Digest, image::ImageName},
    preheat::Login,
    upstream::BoxError,
};

/// Bytes of an order's words at most.
const LONGEST: usize = 64 << 10;

/// The answer; the question comes back when it is none of these.
pub(super) async fn answer<V: View>(
    view: &Arc<V>,
    request: Request<Incoming>,
) -> Result<Reply, Box<Request<Incoming>>> {
    let path = request.uri().path().to_owned();
    let Some((kind, rest)) = path.strip_prefix('/').and_then(|path| path.split_once('/')) else {
        return Err(Box::new(request));
    };
    let known = match (request.method(), kind) {
        (&Method::GET | &Method::PUT, "images") | (&Method::PUT | &Method::DELETE, "pins") => true,
        (&Method::GET, "registries") => true,
        (&Method::POST, "pulls") | (&Method::PUT, "blobs") => true,
        (&Method::GET, "blobs") => rest.ends_with("/bytes"),
        _ => false,
    };
    if !known {
        return Err(Box::new(request));
    }
    let (parts, body) = request.into_parts();
    let done = match kind {
        "blobs" if parts.method == Method::PUT => take_in(view, rest, &parts, body).await,
        "blobs" => bytes(view, rest),
        "pins" => pin(view, rest, parts.method == Method::PUT).await,
        "registries" => probe(view, rest, parts.uri.query() == Some("plain")).await,
        "pulls" => pull(view, rest, parts.uri.query() == Some("everywhere"), body).await,
        _ if parts.method == Method::PUT => import(view, rest, body).await,
        _ => look(view, rest).await,
    };
    Ok(done.unwrap_or_else(|error| failed(&error)))
}

async fn look<V: View>(view: &Arc<V>, name: &str) -> io::Result<Reply> {
    let name: ImageName = name.parse().map_err(wrong)?;
    Ok(json(&on_disk(view, move |view| view.image(&name)).await?))
}

async fn import<V: View>(view: &Arc<V>, name: &str, body: Incoming) -> io::Result<Reply> {
    let name: ImageName = name.parse().map_err(wrong)?;
    let Imported { digest } = words(body).await?;
    Ok(json(&on_disk(view, move |view| view.import(&name, digest)).await?))
}

/// A digest alone, or all that is held of an image.
async fn pin<V: View>(view: &Arc<V>, what: &str, pinned: bool) -> io::Result<Reply> {
    let pinning = if let Ok(digest) = what.parse::<Digest>() {
        on_disk(view, move |view| match view.blob(&digest) {
            Some(blob) => view.pin(&[digest], pinned).map(|()| (1, blob.size)),
            None => Err(absent(&digest)),
        })
        .await?
    } else {
        let name: ImageName = what.parse().map_err(wrong)?;
        on_disk(view, move |view| {
            let held = view.image(&name)?;
            let digests: Vec<Digest> = held.parts.iter().map(|part| part.digest).collect();
            view.pin(&digests, pinned)?;
            Ok((digests.len(), held.parts.iter().map(|part| part.size).sum()))
        })
        .await?
    };
    let (blobs, bytes) = pinning;
    Ok(json(&Pinned { pinned, blobs, bytes }))
}

fn bytes<V: View>(view: &Arc<V>, path: &str) -> io::Result<Reply> {
    let digest: Digest = path.strip_suffix("/bytes").unwrap_or(path).parse().map_err(wrong)?;
    view.bytes(&digest).map(Response::new).ok_or_else(|| absent(&digest))
}

async fn take_in<V: View>(view: &Arc<V>, digest: &str, parts: &Parts, body: Incoming) -> io::Result<Reply> {
    let digest: Digest = digest.parse().map_err(wrong)?;
    let length = parts.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let size: u64 = length.ok_or_else(|| wrong("a blob comes with its length"))?;
    let body = body.map_err(BoxError::from).boxed_unsync();
    view.import_blob(digest, size, body).await?;
    Ok(json(&Imported { digest }))
}

/// Tells of a pull while it goes on, one JSON object a line; the pull ends with its reader.
async fn pull<V: View>(view: &Arc<V>, name: &str, everywhere: bool, body: Incoming) -> io::Result<Reply> {
    let name: ImageName = name.parse().map_err(wrong)?;
    let login: Option<Login> = words(body).await?;
    let lines = view.pull(name, login, everywhere).map(|progress| Ok(Frame::data(line(&progress))));
    Ok(Response::new(StreamBody::new(lines).boxed_unsync()))
}

async fn probe<V: View>(view: &Arc<V>, name: &str, plain: bool) -> io::Result<Reply> {
    Ok(json(&view.probe(name.parse().map_err(wrong)?, plain).await))
}

fn line<T: Serialize>(value: &T) -> Bytes {
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

/// What an order says in JSON.
async fn words<T: DeserializeOwned>(body: Incoming) -> io::Result<T> {
    let words = Limited::new(body, LONGEST).collect().await.map_err(wrong)?.to_bytes();
    serde_json::from_slice(&words).map_err(wrong)
}

async fn on_disk<V: View, T: Send + 'static>(
    view: &Arc<V>,
    work: impl FnOnce(&V) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let view = view.clone();
    tokio::task::spawn_blocking(move || work(&view)).await.map_err(io::Error::other)?
}

fn absent(digest: &Digest) -> io::Error {
    let text = format!("{digest} is not in the store; `waylay blobs ls` shows what is");
    io::Error::new(io::ErrorKind::NotFound, text)
}

fn wrong(error: impl Into<BoxError>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}
