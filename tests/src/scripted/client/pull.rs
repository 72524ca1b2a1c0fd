//! A pull as runtimes do it: the tag, the manifests, the configuration, the layers, each checked by its digest; and the
//! way from a challenge to a token.

use std::{io::Read as _, ops::Range};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use flate2::read::GzDecoder;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::{HeaderValue, Method, StatusCode, header};
use serde_json::Value;
use waylay::oci::Digest;

use super::{Client, ClientError, PoisonError, Reply, request};
use crate::saw::saw_pull;

/// What containerd accepts as a manifest.
const ACCEPT: &str = "application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, */*";
/// What containerd accepts as an encoding of a layer.
const ENCODINGS: &str = "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5";
/// Layers that are fetched at the same time, containerd's default.
const AT_ONCE: usize = 3;

/// An image that was pulled, everything in it checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// What the tag names.
    pub top: Digest,
    /// The manifest of the first platform.
    pub manifest: Digest,
    /// The configuration.
    pub config: Bytes,
    /// The layers, without foreign ones.
    pub layers: Vec<Bytes>,
    /// `Warning` headers on the way.
    pub warnings: Vec<String>,
}

impl Client {
    /// Pulls `repository:tag` as containerd does: HEAD of the tag, all else by digest, three layers at once.
    ///
    /// # Errors
    /// At the first thing that is not as it should be.
    pub async fn pull(&self, reference: &str) -> Result<Pulled, ClientError> {
        let pulled = self.pull_by_head(reference).await;
        saw_pull("a client", reference, &pulled);
        pulled
    }

    async fn pull_by_head(&self, reference: &str) -> Result<Pulled, ClientError> {
        let (repository, tag) = split(reference);
        let path = format!("/v2/{repository}/manifests/{tag}");
        let reply = self.ask(Method::HEAD, repository, &path, None).await?;
        let digest = reply.header("docker-content-digest").and_then(|digest| digest.parse().ok());
        let warnings = warnings(&reply);
        reply.success().await?;
        let nonsense = || ClientError::Nonsense { path, what: "a manifest without Docker-Content-Digest".to_owned() };
        let top: Digest = digest.ok_or_else(nonsense)?;
        let document = self.manifest(repository, &top).await?;
        self.rest(repository, top, document, warnings).await
    }

    /// Pulls `repository:tag` as podman does: GET of the tag, without HEAD.
    ///
    /// # Errors
    /// At the first thing that is not as it should be.
    pub async fn pull_by_get(&self, reference: &str) -> Result<Pulled, ClientError> {
        let (repository, tag) = split(reference);
        let path = format!("/v2/{repository}/manifests/{tag}");
        let reply = self.ask(Method::GET, repository, &path, None).await?;
        let warnings = warnings(&reply);
        let told: Option<Digest> = reply.header("docker-content-digest").and_then(|digest| digest.parse().ok());
        let body = reply.success().await?;
        let top = told.unwrap_or_else(|| Digest::of(&body));
        let document = json(&path, &checked(&path, &top, body)?)?;
        self.rest(repository, top, document, warnings).await
    }

    /// Fetches a blob whole and checks it.
    ///
    /// # Errors
    /// At the first thing that is not as it should be.
    pub async fn blob(&self, repository: &str, digest: &Digest) -> Result<Bytes, ClientError> {
        let path = format!("/v2/{repository}/blobs/{digest}");
        let reply = self.ask(Method::GET, repository, &path, None).await?;
        let compressed = reply.header("content-encoding") == Some("gzip");
        let body = reply.success().await?;
        let body = if compressed { gunzip(&path, &body)? } else { body };
        checked(&path, digest, body)
    }

    /// Fetches a blob as containerd does with many connections: open-ended ranges that begin `chunk` bytes apart, each
    /// closed once its chunk is there.
    ///
    /// # Errors
    /// At the first thing that is not as it should be.
    pub async fn blob_in_chunks(
        &self,
        repository: &str,
        digest: &Digest,
        size: u64,
        chunk: u64,
    ) -> Result<Bytes, ClientError> {
        let path = format!("/v2/{repository}/blobs/{digest}");
        let starts = (0..size).step_by(usize::try_from(chunk).expect("a chunk fits in memory"));
        let ranges = starts.map(|start| start..size.min(start + chunk));
        let parts = stream::iter(ranges.map(|range| self.part(repository, &path, range)));
        let parts: Vec<Bytes> = parts.buffered(AT_ONCE).try_collect().await?;
        checked(&path, digest, parts.concat().into())
    }

    /// The bytes in `range`, from an open-ended request that is closed early.
    async fn part(&self, repository: &str, path: &str, range: Range<u64>) -> Result<Bytes, ClientError> {
        let asked = format!("bytes={}-", range.start);
        let reply = self.ask(Method::GET, repository, path, Some(&asked)).await?;
        if reply.status != StatusCode::PARTIAL_CONTENT {
            reply.success().await?;
            return Err(ClientError::Nonsense { path: path.to_owned(), what: format!("{asked} was ignored") });
        }
        reply.prefix(usize::try_from(range.end - range.start).expect("a chunk fits in memory")).await
    }

    async fn manifest(&self, repository: &str, digest: &Digest) -> Result<Value, ClientError> {
        let path = format!("/v2/{repository}/manifests/{digest}");
        let body = self.ask(Method::GET, repository, &path, None).await?.success().await?;
        json(&path, &checked(&path, digest, body)?)
    }

    /// Everything below the document that the tag names.
    async fn rest(
        &self,
        repository: &str,
        top: Digest,
        document: Value,
        warnings: Vec<String>,
    ) -> Result<Pulled, ClientError> {
        let (manifest, document) = match document["manifests"].get(0) {
            Some(first) => {
                let digest = listed(first)?;
                (digest, self.manifest(repository, &digest).await?)
            }
            None => (top, document),
        };
        let config = self.blob(repository, &listed(&document["config"])?).await?;
        let layers = document["layers"].as_array().cloned().unwrap_or_default();
        let layers: Result<Vec<Digest>, _> =
            layers.iter().filter(|layer| layer["urls"].is_null()).map(listed).collect();
        let layers = stream::iter(layers?.into_iter().map(|layer| async move { self.blob(repository, &layer).await }));
        let layers = layers.buffered(AT_ONCE).try_collect().await?;
        Ok(Pulled { top, manifest, config, layers, warnings })
    }

    /// Asks with the headers of a runtime, and once more if a challenge can be met.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn ask(
        &self,
        method: Method,
        repository: &str,
        path: &str,
        range: Option<&str>,
    ) -> Result<Reply, ClientError> {
        let build = || {
            let mut request = request(method.clone(), path);
            let headers = request.headers_mut();
            headers.insert(header::USER_AGENT, HeaderValue::from_static("containerd/2.1.0"));
            if path.contains("/blobs/") {
                headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(ENCODINGS));
            } else {
                headers.insert(header::ACCEPT, HeaderValue::from_static(ACCEPT));
            }
            if let Some(range) = range {
                headers.insert(header::RANGE, HeaderValue::from_str(range).expect("a test's header is valid"));
                headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            }
            let known = self.authorizations.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(authorization) = known.get(repository) {
                headers.insert(header::AUTHORIZATION, authorization.clone());
            }
            request
        };
        let reply = self.send(build()).await?;
        if reply.status != StatusCode::UNAUTHORIZED || !self.meet(repository, &reply).await? {
            return Ok(reply);
        }
        reply.bytes().await?;
        self.send(build()).await
    }

    /// Whether the challenge in a 401 led to something new to send.
    async fn meet(&self, repository: &str, reply: &Reply) -> Result<bool, ClientError> {
        let basic = self.credentials.as_ref().map(|(name, password)| {
            HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(format!("{name}:{password}"))))
                .expect("base64 is a valid header")
        });
        let challenge = reply.header("www-authenticate").unwrap_or_default().to_owned();
        let found = if let Some(parameters) = challenge.strip_prefix("Bearer ") {
            let parameter = |name: &str| {
                let rest = parameters.split_once(&format!("{name}=\""))?.1;
                Some(rest.split_once('"')?.0.to_owned())
            };
            let realm = parameter("realm").unwrap_or_default();
            // The registry's own: a token service elsewhere would be another client's business.
            let path = realm.splitn(4, '/').nth(3).unwrap_or_default();
            let service = parameter("service").unwrap_or_default();
            let mut asking =
                request(Method::GET, &format!("/{path}?service={service}&scope=repository:{repository}:pull"));
            if let Some(basic) = basic {
                asking.headers_mut().insert(header::AUTHORIZATION, basic);
            }
            let reply = self.send(asking).await?;
            if !reply.status.is_success() {
                return Ok(false);
            }
            let path = reply.path.clone();
            let token = json(&path, &reply.bytes().await?)?;
            HeaderValue::from_str(&format!("Bearer {}", token["token"].as_str().unwrap_or_default())).ok()
        } else {
            basic.filter(|_| challenge.starts_with("Basic"))
        };
        let Some(found) = found else { return Ok(false) };
        let mut known = self.authorizations.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(known.insert(repository.to_owned(), found.clone()) != Some(found))
    }
}

fn split(reference: &str) -> (&str, &str) {
    reference.rsplit_once(':').expect("an image is named repository:tag")
}

fn warnings(reply: &Reply) -> Vec<String> {
    let all = reply.headers.get_all(header::WARNING).iter();
    all.filter_map(|warning| Some(warning.to_str().ok()?.to_owned())).collect()
}

fn checked(path: &str, expected: &Digest, got: Bytes) -> Result<Bytes, ClientError> {
    let found = Digest::of(&got);
    if found == *expected {
        return Ok(got);
    }
    Err(ClientError::Digest { path: path.to_owned(), expected: *expected, found, got })
}

fn json(path: &str, body: &[u8]) -> Result<Value, ClientError> {
    serde_json::from_slice(body)
        .map_err(|error| ClientError::Nonsense { path: path.to_owned(), what: error.to_string() })
}

fn listed(descriptor: &Value) -> Result<Digest, ClientError> {
    let digest = descriptor["digest"].as_str().and_then(|digest| digest.parse().ok());
    digest.ok_or_else(|| ClientError::Nonsense { path: descriptor.to_string(), what: "not a descriptor".to_owned() })
}

fn gunzip(path: &str, body: &[u8]) -> Result<Bytes, ClientError> {
    let mut bytes = Vec::new();
    match GzDecoder::new(body).read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes.into()),
        Err(error) => Err(ClientError::Nonsense { path: path.to_owned(), what: error.to_string() }),
    }
}
