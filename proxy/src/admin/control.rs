//! The control socket's questions and orders, one a line: a method and a path. Answers are JSON.

use std::{io, sync::Arc};

use http::{Method, StatusCode};
use serde::Serialize;

use super::{
    Reply, View,
    status::{Switched, Verified},
    text,
};
use crate::oci::digest::Digest;

/// The answer; `None` when there is no such question.
pub(super) async fn answer<V: View>(view: &Arc<V>, method: &Method, path: &str) -> Option<Reply> {
    if let Some(rest) = path.strip_prefix("/blobs/") {
        return blob(view, method, rest).await;
    }
    Some(match (method, path) {
        (&Method::GET, "/status") => json(&view.status()),
        (&Method::GET, "/peers") => json(&view.peers()),
        (&Method::GET, "/blobs") => json(&view.blobs()),
        (&Method::POST, "/off") => switch(view.as_ref(), true),
        (&Method::POST, "/on") => switch(view.as_ref(), false),
        _ => return None,
    })
}

/// `DIGEST` or `DIGEST/verify`.
async fn blob<V: View>(view: &Arc<V>, method: &Method, path: &str) -> Option<Reply> {
    let (digest, order) = path.split_once('/').unwrap_or((path, ""));
    let Ok(digest) = digest.parse::<Digest>() else {
        return Some(text(StatusCode::BAD_REQUEST, format!("{digest:?} is not sha256: and 64 hexadecimal digits")));
    };
    let view = view.clone();
    Some(match (method, order) {
        (&Method::GET, "") => view.blob(&digest).map_or_else(|| absent(&digest), |blob| json(&blob)),
        (&Method::DELETE, "") => match view.remove(&digest) {
            Ok(true) => json(&serde_json::json!({ "removed": digest.to_string() })),
            Ok(false) => absent(&digest),
            Err(error) => failed(&error),
        },
        (&Method::POST, "verify") => match tokio::task::spawn_blocking(move || view.verify(&digest)).await {
            Ok(Ok(Some(intact))) => json(&Verified { intact }),
            Ok(Ok(None)) => absent(&digest),
            Ok(Err(error)) => failed(&error),
            Err(error) => failed(&error.into()),
        },
        _ => return None,
    })
}

fn switch<V: View>(view: &V, off: bool) -> Reply {
    match view.switch(off) {
        Ok(()) => json(&Switched { off }),
        Err(error) => failed(&error),
    }
}

fn absent(digest: &Digest) -> Reply {
    text(StatusCode::NOT_FOUND, format!("{digest} is not in the store; `waylay blobs ls` shows what is"))
}

fn failed(error: &io::Error) -> Reply {
    text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

fn json<T: Serialize>(value: &T) -> Reply {
    match serde_json::to_string(value) {
        Ok(json) => text(StatusCode::OK, json),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}
