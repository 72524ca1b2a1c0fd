//! Manifests: by digest from near where allowed, by tag always from the registry, and what they teach about access.

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};

use super::{Away, Outcome, Pull, Question, Right, blob::nothing, describe, length, relayed, tags};
use crate::{
    content::{Found, Tally},
    fault::{Fault, Side, What},
    metrics::Source,
    oci::{
        Digest,
        manifest::{Child, Kind, MAX_BYTES, Manifest},
    },
    upstream::{Body, BoxError, Head},
};

const DIGEST: &str = "docker-content-digest";
/// Docker's first manifests (image manifest version 2, schema 1), signed or not.
const SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+";
/// RFC 9111, section 5.5.1: the answer may be out of date.
const STALE: HeaderValue = HeaderValue::from_static("110 waylay \"Response is Stale\"");

impl Pull {
    pub(super) async fn manifest(
        &self,
        question: Question,
        digest: Digest,
        outcome: &mut Outcome,
    ) -> Result<Response<Body>, Fault> {
        if !question.is_head()
            && let Some(found) = self.manifest_found(&question, digest).await
            && found.size <= MAX_BYTES as u64
        {
            match self.right(&question, digest, &found).await {
                Right::Granted => {
                    if let Some(response) = self.manifest_from_near(&question, digest, found, outcome).await {
                        return Ok(response);
                    }
                }
                Right::Refused => {}
                Right::Away(away) => return self.manifest_while_away(&question, digest, away, outcome).await,
            }
        }
        match self.upstream.ask(&question.client.origin, &question.head).await {
            Ok(answer) if answer.status().is_server_error() => {
                self.manifest_while_away(&question, digest, Away::Answer(Box::new(answer)), outcome).await
            }
            Ok(answer) => self.learn(&question, answer, Some(digest), None, outcome).await,
            Err(fault) => self.manifest_while_away(&question, digest, Away::Fault(fault), outcome).await,
        }
    }

    pub(super) async fn tag(
        &self,
        question: Question,
        tag: &str,
        outcome: &mut Outcome,
    ) -> Result<Response<Body>, Fault> {
        let tag = tags::Tag {
            registry: question.scope.registry.to_string(),
            repository: question.scope.repository.to_string(),
            tag: tag.to_owned(),
        };
        if self.spares_gets
            && !question.is_head()
            && let Some(response) = self.tag_by_head(&question, &tag, outcome).await
        {
            return Ok(response);
        }
        let away = match self.upstream.ask(&question.client.origin, &question.head).await {
            Ok(answer) if answer.status().is_server_error() => Away::Answer(Box::new(answer)),
            Ok(answer) => return self.learn(&question, answer, None, Some(tag), outcome).await,
            Err(fault) => Away::Fault(fault),
        };
        let Some(meaning) = self.tags.get(&tag).or_else(|| self.imported_tag(&question.client, &tag)) else {
            return away.show(outcome);
        };
        outcome.meant(meaning.digest);
        if meaning.anonymous {
            // Upstream gave it to somebody without any credential, so it gives it to everybody.
            self.access.was_open(&question.scope, meaning.digest);
        }
        let mut response = self.manifest_while_away(&question, meaning.digest, away, outcome).await?;
        if response.status() == StatusCode::OK {
            response.headers_mut().insert(header::WARNING, STALE);
        }
        Ok(response)
    }

    /// What a tag means by the registry's answer to a HEAD with the client's own credential, and the manifest from near:
    /// registries count GETs, and a crowd then costs one. `None` when the registry must be asked as the client did, which
    /// then gets its own answer.
    async fn tag_by_head(&self, question: &Question, tag: &tags::Tag, outcome: &mut Outcome) -> Option<Response<Body>> {
        let head = Head { method: Method::HEAD, ..question.head.clone() };
        let answer = self.upstream.ask(&question.client.origin, &head).await.ok()?;
        let digest = self.shown_by_head(question, &answer)?;
        outcome.meant(digest);
        let found = self.manifest_found(question, digest).await.filter(|found| found.size <= MAX_BYTES as u64)?;
        let mut response = self.manifest_from_near(&question.of(digest)?, digest, found, outcome).await?;
        response.headers_mut().extend(counts(answer.headers()));
        let media_type = response.headers().get(header::CONTENT_TYPE)?.to_str().ok().map(str::to_owned);
        self.remember(question, Some(tag.clone()), digest, media_type, outcome);
        Some(response)
    }

    /// Which manifest a HEAD has shown to this client, if the answer says so and how large it is.
    fn shown_by_head<B>(&self, question: &Question, answer: &Response<B>) -> Option<Digest> {
        let text = |name: header::HeaderName| answer.headers().get(name).and_then(|value| value.to_str().ok());
        if answer.status() != StatusCode::OK {
            return None;
        }
        let digest: Digest = answer.headers().get(DIGEST)?.to_str().ok()?.parse().ok()?;
        let media_type = text(header::CONTENT_TYPE)?.to_owned();
        if media_type.starts_with(SCHEMA1) {
            // Its digest is not that of its bytes.
            return None;
        }
        let size = length(answer)?;
        self.access.show(&question.scope, question.expires, digest, size);
        let shown = Child { digest, size, kind: Kind::Manifest, foreign: false, media_type };
        self.access.list(&question.scope, question.expires, &shown);
        Some(digest)
    }

    /// The manifest near, or to be brought here with others once its size is known.
    async fn manifest_found(&self, question: &Question, digest: Digest) -> Option<Found> {
        if let Some(found) = self.content.find(digest, question.registry(), None).await {
            return Some(found);
        }
        let size = self.access.listed(&question.scope, digest)?.size;
        self.spares_gets.then(|| self.content.together(digest, question.registry(), size)).flatten()
    }

    /// The manifest from the store or a member; `None` when that fails after all.
    async fn manifest_from_near(
        &self,
        question: &Question,
        digest: Digest,
        found: Found,
        outcome: &mut Outcome,
    ) -> Option<Response<Body>> {
        let listed = self.access.listed(&question.scope, digest);
        let known = found.media_type.clone().or_else(|| listed.map(|listed| listed.media_type.to_string()));
        let tally = outcome.tally();
        let body = match self.content.bytes(digest, found, question.supply(), tally).await {
            Ok(body) => body,
            Err(fault) => {
                outcome.fault(&fault);
                return None;
            }
        };
        let manifest = Manifest::parse(known.as_deref(), &body).ok()?;
        self.access.pass_on(&question.scope, digest, &manifest.children);
        let length = body.len() as u64;
        let body = if question.is_head() { nothing() } else { whole(body) };
        let mut response = Response::new(body);
        describe(&mut response, digest, length, known.as_deref().unwrap_or(&manifest.media_type));
        Some(response)
    }

    async fn manifest_while_away(
        &self,
        question: &Question,
        digest: Digest,
        away: Away,
        outcome: &mut Outcome,
    ) -> Result<Response<Body>, Fault> {
        let Some(found) = self.content.find(digest, question.registry(), None).await else { return away.show(outcome) };
        if !self.right_while_away(question, digest, &found) {
            return away.show(outcome);
        }
        match self.manifest_from_near(question, digest, found, outcome).await {
            Some(response) => {
                outcome.fault(&away.fault());
                Ok(response)
            }
            None => away.show(outcome),
        }
    }

    /// Relays upstream's answer and remembers what it shows: who may have this manifest and, once its sha256 is
    /// verified, what it lists.
    async fn learn(
        &self,
        question: &Question,
        answer: Response<Incoming>,
        wanted: Option<Digest>,
        tag: Option<tags::Tag>,
        outcome: &mut Outcome,
    ) -> Result<Response<Body>, Fault> {
        if answer.status() != StatusCode::OK {
            return Ok(relayed(answer, outcome));
        }
        let said = wanted.or_else(|| answer.headers().get(DIGEST)?.to_str().ok()?.parse().ok());
        let media_type =
            answer.headers().get(header::CONTENT_TYPE).and_then(|text| text.to_str().ok()).map(str::to_owned);
        if question.is_head() {
            if let Some(digest) = self.shown_by_head(question, &answer).filter(|shown| Some(*shown) == said) {
                // containerd asks a tag by HEAD and its manifest by digest.
                self.remember(question, tag, digest, media_type, outcome);
            }
            return Ok(relayed(answer, outcome));
        }
        let (parts, body) = answer.into_parts();
        let body = match gather(body).await? {
            Gathered::Whole(body) => body,
            Gathered::TooLarge(body) => {
                let answer = Response::from_parts(parts, ());
                return Ok(super::plain(answer, Tally::counting(outcome.tally(), body).boxed_unsync()));
            }
        };
        let digest = Digest::of(&body);
        outcome.tally().add(Source::Registry, body.len() as u64);
        let answer = super::plain(Response::from_parts(parts, ()), whole(body.clone()));
        let Ok(manifest) = Manifest::parse(media_type.as_deref(), &body) else { return Ok(answer) };
        if manifest.is_schema1() {
            // Its digest is not that of its bytes.
            return Ok(answer);
        }
        if said.is_some_and(|said| said != digest) {
            return Err(Fault::new(Side::Registry, What::Corrupt));
        }
        self.access.show(&question.scope, question.expires, digest, body.len() as u64);
        self.access.pass_on(&question.scope, digest, &manifest.children);
        let media_type = media_type.unwrap_or(manifest.media_type);
        if let Err(fault) = self.content.keep(digest, body, &media_type, question.provenance()).await {
            outcome.fault(&fault);
        } else {
            self.remember(question, tag, digest, Some(media_type), outcome);
        }
        Ok(answer)
    }

    /// Remembers what `tag` means, if it is one and its media type is known.
    fn remember(
        &self,
        question: &Question,
        tag: Option<tags::Tag>,
        digest: Digest,
        media_type: Option<String>,
        outcome: &mut Outcome,
    ) {
        let (Some(tag), Some(media_type)) = (tag, media_type) else { return };
        outcome.meant(digest);
        let meaning = tags::Meaning { digest, media_type, anonymous: question.scope.is_anonymous() };
        if let Err(error) = self.tags.put(&tag, &meaning) {
            outcome.fault(&Fault::with(Side::Ours, What::Disk, error));
        }
    }
}

enum Gathered {
    Whole(Bytes),
    TooLarge(Body),
}

/// Reads a manifest's body. One larger than any manifest may be is handed on with what was read in front.
async fn gather(mut body: Incoming) -> Result<Gathered, Fault> {
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Fault::with(Side::Registry, What::Cut, error))?;
        if let Ok(data) = frame.into_data() {
            read.extend_from_slice(&data);
        }
        if read.len() > MAX_BYTES {
            let first = futures_util::stream::iter([Ok::<_, BoxError>(Frame::data(read.freeze()))]);
            let rest = body.into_data_stream().map(|data| data.map(Frame::data).map_err(BoxError::from));
            return Ok(Gathered::TooLarge(StreamBody::new(first.chain(rest)).boxed_unsync()));
        }
    }
    Ok(Gathered::Whole(read.freeze()))
}

pub(super) fn whole(body: Bytes) -> Body {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

/// What the registry tells this client of its limits, as `ratelimit-remaining` and `docker-ratelimit-source` of Docker Hub.
fn counts(headers: &HeaderMap) -> HeaderMap {
    let told = headers.iter().filter(|(name, _)| name.as_str().contains("ratelimit"));
    told.map(|(name, value)| (name.clone(), value.clone())).collect()
}
