//! What the scripted registry says when nothing goes wrong: the pull and push of the OCI distribution spec 1.1.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Method, StatusCode, header};
use serde_json::json;
use waylay::oci::Digest;

use super::{access::Access, content::Content, image::Piece, log::Seen, place::Place, reply::Answer, server::Site};

const DIGEST: http::HeaderName = http::HeaderName::from_static("docker-content-digest");

/// The registry behind the server.
pub(super) struct Registry {
    pub(super) content: Arc<Mutex<Content>>,
    pub(super) access: Arc<Access>,
}

impl Site for Registry {
    fn answer(&self, seen: &Seen, body: Bytes) -> Answer {
        if seen.place == Place::Token {
            // Clients that would rather POST fall back to GET when there is nothing.
            return if seen.method == Method::GET { self.access.token(seen) } else { missing("UNSUPPORTED") };
        }
        if let Err(denied) = self.access.check(seen) {
            return *denied;
        }
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = match (&seen.place, seen.method.as_str()) {
            (Place::Base, _) => Answer::json(&json!({})),
            (Place::Catalog, _) => Answer::json(&json!({ "repositories": content.names() })),
            (Place::Tags(name), _) => match content.tags(name) {
                Some(tags) => Answer::json(&json!({ "name": name, "tags": tags })),
                None => missing("NAME_UNKNOWN"),
            },
            (Place::Referrers(_), _) => Answer::json(&json!({ "schemaVersion": 2, "manifests": [] })),
            (Place::Blob(name, digest), "GET" | "HEAD") => blob(content.blob(name, digest), digest),
            (Place::Blob(name, digest), "DELETE") => {
                content.remove(name, digest);
                Answer::new(StatusCode::ACCEPTED)
            }
            (Place::Manifest(name, reference), "GET" | "HEAD") => match content.manifest(name, reference) {
                Some(manifest) => Answer { body: manifest.bytes, ..Answer::new(StatusCode::OK) }
                    .with(header::CONTENT_TYPE, manifest.media_type)
                    .with(header::ETAG, format!("\"{}\"", manifest.digest))
                    .with(DIGEST, manifest.digest.to_string()),
                None => missing("MANIFEST_UNKNOWN"),
            },
            (Place::Manifest(name, reference), "PUT") => {
                let manifest = Piece::new(seen.header("content-type").unwrap_or_default(), body);
                let created = Answer::new(StatusCode::CREATED).with(DIGEST, manifest.digest.to_string());
                content.put_manifest(name, reference, manifest);
                created
            }
            (Place::Upload(name, session), method) => {
                upload(&mut content, seen, name, session.as_deref(), method, &body)
            }
            _ => missing("UNSUPPORTED"),
        };
        answer.with(http::HeaderName::from_static("docker-distribution-api-version"), "registry/2.0")
    }

    fn challenge(&self, seen: &Seen) -> Answer {
        self.access.challenge(seen)
    }
}

/// A blob as a registry or its CDN serves it.
pub(super) fn blob(bytes: Option<Bytes>, digest: &Digest) -> Answer {
    let Some(body) = bytes else { return missing("BLOB_UNKNOWN") };
    Answer { body, ranged: true, ..Answer::new(StatusCode::OK) }
        .with(header::CONTENT_TYPE, "application/octet-stream")
        .with(header::ETAG, format!("\"{digest}\""))
        .with(DIGEST, digest.to_string())
}

fn upload(content: &mut Content, seen: &Seen, name: &str, session: Option<&str>, method: &str, body: &[u8]) -> Answer {
    let parameter = |wanted: &str| {
        let (_, query) = seen.target.split_once('?')?;
        let value = query.split('&').find_map(|pair| pair.strip_prefix(wanted)?.strip_prefix('='))?;
        Some(value.replace("%3A", ":").replace("%2F", "/"))
    };
    let promised: Option<Digest> = parameter("digest").and_then(|digest| digest.parse().ok());
    let under_way = |session: &str, length: usize| {
        Answer::new(StatusCode::ACCEPTED)
            .with(header::LOCATION, format!("https://{}/v2/{name}/blobs/uploads/{session}?_state=opaque", seen.host))
            .with(header::RANGE, format!("0-{}", length.saturating_sub(1)))
    };
    let created = |digest: &Digest| {
        let location = format!("https://{}/v2/{name}/blobs/{digest}", seen.host);
        Answer::new(StatusCode::CREATED).with(header::LOCATION, location).with(DIGEST, digest.to_string())
    };
    let finish =
        |content: &mut Content, session: &str, digest: &Digest| match content.finish_upload(name, session, digest) {
            Some(true) => created(digest),
            Some(false) => Answer::error(StatusCode::BAD_REQUEST, "DIGEST_INVALID"),
            None => missing("BLOB_UPLOAD_UNKNOWN"),
        };
    match (method, session) {
        ("POST", None) => {
            let mounted: Option<Digest> = parameter("mount").and_then(|digest| digest.parse().ok());
            if let (Some(digest), Some(from)) = (mounted, parameter("from"))
                && let Some(bytes) = content.blob(&from, &digest)
            {
                content.put_blob(name, bytes);
                return created(&digest);
            }
            let session = content.begin_upload();
            content.append(&session, body);
            match promised {
                Some(digest) => finish(content, &session, &digest),
                None => under_way(&session, 0),
            }
        }
        ("PATCH" | "GET", Some(session)) => match content.append(session, body) {
            Some(length) => under_way(session, length),
            None => missing("BLOB_UPLOAD_UNKNOWN"),
        },
        ("PUT", Some(session)) => match (content.append(session, body), promised) {
            (Some(_), Some(digest)) => finish(content, session, &digest),
            _ => missing("BLOB_UPLOAD_UNKNOWN"),
        },
        _ => Answer::error(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED"),
    }
}

fn missing(code: &str) -> Answer {
    Answer::error(StatusCode::NOT_FOUND, code)
}
