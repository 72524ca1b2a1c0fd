//! The control socket's questions and orders, one a line: a method and a path. Answers are JSON. Most wait for the disk,
//! so all are answered where that is allowed.

use std::{io, sync::Arc};

use http::{Method, StatusCode};
use serde::Serialize;

use super::{
    Reply, View,
    bypass::{self, Destination},
    status::{Freed, Removed, Switched, Verified},
    text,
};
use crate::{oci::digest::Digest, store::Collected};

/// The answer; `None` when there is no such question.
pub(super) async fn answer<V: View>(view: &Arc<V>, method: &Method, path: &str) -> Option<Reply> {
    let (view, method, path) = (view.clone(), method.clone(), path.to_owned());
    match tokio::task::spawn_blocking(move || answer_blocking(view.as_ref(), &method, &path)).await {
        Ok(reply) => reply,
        Err(error) => Some(failed(&error.into())),
    }
}

fn answer_blocking<V: View>(view: &V, method: &Method, path: &str) -> Option<Reply> {
    if let Some(rest) = path.strip_prefix("/blobs/") {
        return blob(view, method, rest);
    }
    if let (&Method::POST | &Method::DELETE, Some(host)) = (method, path.strip_prefix("/certificates/")) {
        return Some(or_failed(view.rotate(Some(host), method == Method::DELETE)));
    }
    if let (&Method::POST, Some(seconds)) = (method, path.strip_prefix("/off/")) {
        return Some(or_failed(until(seconds).and_then(|until| switch(view, true, Some(until)))));
    }
    if let Some(rest) = path.strip_prefix("/bypass/") {
        return Some(bypass(view, method, rest)?.unwrap_or_else(|error| failed(&error)));
    }
    Some(match (method, path) {
        (&Method::GET, "/status") => json(&view.status()),
        (&Method::GET, "/peers") => json(&view.peers()),
        (&Method::GET, "/blobs") => json(&view.blobs()),
        (&Method::GET, "/journal") => match view.journal() {
            Ok(lines) => text(StatusCode::OK, lines),
            Err(error) => failed(&error),
        },
        (&Method::POST, "/reload") => or_failed(view.reload()),
        (&Method::GET, "/certificates") => or_failed(view.certificates()),
        (&Method::POST | &Method::DELETE, "/certificates") => or_failed(view.rotate(None, method == Method::DELETE)),
        (&Method::GET, "/gc") => collect(view, true),
        (&Method::POST, "/gc") => collect(view, false),
        (&Method::POST, "/off") => or_failed(switch(view, true, None)),
        (&Method::POST, "/on") => or_failed(switch(view, false, None)),
        (&Method::GET, "/bypass") => json(&view.bypass()),
        (&Method::POST, "/prove") => or_failed(view.prove()),
        _ => return None,
    })
}

/// `DIGEST` or `DIGEST/verify`.
fn blob<V: View>(view: &V, method: &Method, path: &str) -> Option<Reply> {
    let (digest, order) = path.split_once('/').unwrap_or((path, ""));
    let Ok(digest) = digest.parse::<Digest>() else {
        return Some(text(StatusCode::BAD_REQUEST, format!("{digest:?} is not sha256: and 64 hexadecimal digits")));
    };
    Some(match (method, order) {
        (&Method::GET, "") => view.blob(&digest).map_or_else(|| absent(&digest), |blob| json(&blob)),
        (&Method::DELETE, "") => match view.remove(&digest) {
            Ok(true) => json(&serde_json::json!({ "removed": digest.to_string() })),
            Ok(false) => absent(&digest),
            Err(error) => failed(&error),
        },
        (&Method::POST, "verify") => match view.verify(&digest) {
            Ok(Some(intact)) => json(&Verified { intact }),
            Ok(None) => absent(&digest),
            Err(error) => failed(&error),
        },
        _ => return None,
    })
}

fn collect<V: View>(view: &V, dry_run: bool) -> Reply {
    match view.collect(dry_run) {
        Ok(Collected { removed, above }) => {
            let removed = removed.into_iter().map(|(digest, size)| Removed { digest, size }).collect();
            json(&Freed { dry_run, removed, above })
        }
        Err(error) => failed(&error),
    }
}

fn switch<V: View>(view: &V, off: bool, until: Option<u64>) -> io::Result<Switched> {
    let wanted = Switched { off, until };
    view.switch(wanted).map(|()| wanted)
}

/// `DESTINATION` or `DESTINATION/SECONDS`; `None` when there is no such question.
fn bypass<V: View>(view: &V, method: &Method, path: &str) -> Option<io::Result<Reply>> {
    let (destination, seconds) = match path.split_once('/') {
        Some((destination, seconds)) => (destination, Some(seconds)),
        None => (path, None),
    };
    let order = |destination: Destination| match *method {
        Method::POST => {
            let until = seconds.map(until).transpose()?;
            Ok(json(&view.add_bypass(destination, until)?))
        }
        _ => {
            view.remove_bypass(&destination)?;
            Ok(json(&serde_json::json!({ "removed": destination.to_string() })))
        }
    };
    let known = *method == Method::POST || (*method == Method::DELETE && seconds.is_none());
    known.then(|| {
        let read = destination.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error));
        read.and_then(order)
    })
}

/// So many seconds from now.
fn until(seconds: &str) -> io::Result<u64> {
    let seconds: u64 = seconds.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    Ok(bypass::now().saturating_add(seconds))
}

fn or_failed<T: Serialize>(done: io::Result<T>) -> Reply {
    done.map_or_else(|error| failed(&error), |done| json(&done))
}

fn absent(digest: &Digest) -> Reply {
    text(StatusCode::NOT_FOUND, format!("{digest} is not in the store; `waylay blobs ls` shows what is"))
}

pub(super) fn failed(error: &io::Error) -> Reply {
    let status = match error.kind() {
        io::ErrorKind::NotFound => StatusCode::NOT_FOUND,
        io::ErrorKind::InvalidInput => StatusCode::BAD_REQUEST,
        io::ErrorKind::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    text(status, error.to_string())
}

pub(super) fn json<T: Serialize>(value: &T) -> Reply {
    match serde_json::to_string(value) {
        Ok(json) => text(StatusCode::OK, json),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}
