//! Blobs: found near and allowed, or asked of the registry, whose answer to this very client is then the permission.

use std::{ops::Range, sync::Arc};

use http::{Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};

use super::{Outcome, Pull, Question, Right, describe, length, relayed, value};
use crate::{
    content::{Found, Opened, Refusal, Turn},
    fault::{Fault, Side, What},
    oci::{
        Digest,
        range::{Asked, ContentRange, Wanted},
    },
    upstream::Body,
};

const OCTETS: &str = "application/octet-stream";

impl Pull {
    pub(super) async fn blob(
        self: &Arc<Self>,
        question: Question,
        digest: Digest,
        outcome: &mut Outcome,
    ) -> Result<Response<Body>, Fault> {
        let asked = Asked::from_headers(&question.head.headers, &digest);
        if asked == Asked::Several {
            return self.pass(&question, outcome).await;
        }
        if question.is_head() {
            return self.blob_head(question, digest, outcome).await;
        }
        if let Some(ahead) = &self.ahead {
            outcome.began_before(ahead.asked(&question.scope, digest));
        }
        let whole = self
            .access
            .listed(&question.scope, digest)
            .and_then(|listed| Some(part(asked, listed.size)? == (0..listed.size)));
        // One that reads here and there, as lazy snapshotters do, may never want what comes later.
        if whole == Some(true) {
            self.read_ahead(&question, digest);
        }
        let (found, turn) = self.blob_near(&question, digest, asked).await;
        let Some(found) = found else {
            let answer = self.blob_from_registry(question, digest, asked, outcome).await;
            drop(turn);
            return answer;
        };
        let turn = turn.filter(|_| !found.is_here());
        match self.right(&question, digest, &found).await {
            Right::Granted => {}
            Right::Refused => return self.pass(&question, outcome).await,
            Right::Away(away) if self.right_while_away(&question, digest, &found) => outcome.fault(&away.fault()),
            Right::Away(away) => return away.show(outcome),
        }
        let answer = self.blob_from_near(question, digest, found, asked, outcome).await;
        drop(turn);
        answer
    }

    /// The blob near, or to be brought here together with others; and the turn to do so.
    pub(super) async fn blob_near(
        &self,
        question: &Question,
        digest: Digest,
        asked: Asked,
    ) -> (Option<Found>, Option<Turn>) {
        let listed = self.access.listed(&question.scope, digest).map(|listed| listed.size);
        let wanted = listed.and_then(|size| Some((size, part(asked, size)?)));
        let registry = question.registry();
        if let Some(found) = self.content.here(digest, registry, wanted.clone()).await {
            return (Some(found), None);
        }
        let turn = self.content.turn(digest).await;
        // Whoever had the turn before us may have brought it.
        let mut found = self.content.find(digest, registry, wanted.clone()).await;
        if found.is_none()
            && let Some((size, part)) = wanted
            && part.end == size
            && let Some(nowhere) = self.content.together(digest, registry, size)
            && let Right::Granted = self.right(question, digest, &nowhere).await
        {
            found = Some(nowhere);
        }
        (found, Some(turn))
    }

    async fn blob_from_near(
        &self,
        question: Question,
        digest: Digest,
        found: Found,
        asked: Asked,
        outcome: &mut Outcome,
    ) -> Result<Response<Body>, Fault> {
        let size = found.size;
        let Some(part) = part(asked, size) else { return Ok(unsatisfiable(size)) };
        match self.content.open(digest, found, question.supply(), part.clone(), outcome.tally()).await {
            Ok(opened) => Ok(reply(digest, size, asked, part, opened)),
            Err(fault) => {
                // No room, or a broken store, is no reason for a failed pull.
                outcome.fault(&fault);
                self.pass(&question, outcome).await
            }
        }
    }

    async fn blob_from_registry(
        &self,
        question: Question,
        digest: Digest,
        asked: Asked,
        outcome: &mut Outcome,
    ) -> Result<Response<Body>, Fault> {
        let listed = self.access.listed(&question.scope, digest).map(|listed| listed.size);
        let span = match listed {
            Some(size) => match part(asked, size) {
                Some(part) => self.content.span(digest, question.registry(), size, part).await,
                None => return self.pass(&question, outcome).await,
            },
            None if asked == Asked::Whole => None,
            // Nobody said how large it is, so nothing can be kept of a part of it.
            None => return self.pass(&question, outcome).await,
        };
        let answer = self.upstream.blob(&question.client.origin, &question.head, span.clone()).await?;
        if !answer.status().is_success() {
            return Ok(relayed(answer, outcome));
        }
        let Some(size) = whole_size(&answer, span.as_ref()) else { return Ok(relayed(answer, outcome)) };
        self.access.show(&question.scope, question.expires, digest, size);
        if listed.is_some_and(|listed| listed != size) {
            outcome.fault(&Fault::new(Side::Registry, What::Length));
            return self.pass_or(&question, answer, asked, outcome).await;
        }
        let Some(part) = part(asked, size) else { return Ok(unsatisfiable(size)) };
        match self.content.begin(digest, size, question.supply(), answer, part.clone(), outcome.tally()).await {
            Ok(opened) => Ok(reply(digest, size, asked, part, opened)),
            Err(refused) => {
                let (why, answer) = *refused;
                if let Refusal::Fault(fault) = &why {
                    outcome.fault(fault);
                }
                let answer = self.pass_or(&question, answer, asked, outcome).await?;
                Ok(match why {
                    // It may be had from near when this registry has proven that it has it.
                    Refusal::Unproven if answer.status() == StatusCode::OK => {
                        answer.map(|body| self.content.proving(digest, question.provenance(), body))
                    }
                    _ => answer,
                })
            }
        }
    }

    /// Relays `answer` where it answers the client's own question, else asks that.
    async fn pass_or(
        &self,
        question: &Question,
        answer: Response<hyper::body::Incoming>,
        asked: Asked,
        outcome: &mut Outcome,
    ) -> Result<Response<Body>, Fault> {
        let fits = asked == Asked::Whole && answer.status() == StatusCode::OK;
        if fits { Ok(relayed(answer, outcome)) } else { self.pass(question, outcome).await }
    }

    /// HEAD always asks the registry; only when that is away do we answer.
    async fn blob_head(
        &self,
        question: Question,
        digest: Digest,
        outcome: &mut Outcome,
    ) -> Result<Response<Body>, Fault> {
        let away = match self.upstream.ask(&question.client.origin, &question.head).await {
            Ok(answer) if answer.status().is_server_error() => super::Away::Answer(Box::new(answer)),
            Ok(answer) => {
                if let (StatusCode::OK, Some(size)) = (answer.status(), length(&answer)) {
                    self.access.show(&question.scope, question.expires, digest, size);
                }
                return Ok(relayed(answer, outcome));
            }
            Err(fault) => super::Away::Fault(fault),
        };
        match self.content.find(digest, question.registry(), None).await {
            Some(found) if self.right_while_away(&question, digest, &found) => {
                outcome.fault(&away.fault());
                let mut response = Response::new(nothing());
                describe(&mut response, digest, found.size, OCTETS);
                Ok(response)
            }
            _ => away.show(outcome),
        }
    }
}

/// The bytes asked for, or `None` when there are none.
fn part(asked: Asked, size: u64) -> Option<Range<u64>> {
    match asked.of(size) {
        Wanted::Whole => Some(0..size),
        Wanted::Part { first, last } => Some(first..last + 1),
        Wanted::Unsatisfiable | Wanted::Several => None,
    }
}

/// The size of the whole blob by an answer to a request for `span`, if its bytes are the blob's own.
pub(super) fn whole_size<B>(answer: &Response<B>, span: Option<&Range<u64>>) -> Option<u64> {
    let headers = answer.headers();
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if text(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return None;
    }
    match (answer.status(), span) {
        (StatusCode::OK, _) => text(header::CONTENT_LENGTH)?.parse().ok(),
        (StatusCode::PARTIAL_CONTENT, Some(span)) => match text(header::CONTENT_RANGE)?.parse().ok()? {
            ContentRange::Part { first, size: Some(size), .. } if first == span.start => Some(size),
            _ => None,
        },
        _ => None,
    }
}

/// A part that happens to be all of it is still a part: containerd takes a 200 for "ranges are ignored here", and
/// gives up fetching in parallel.
fn reply(digest: Digest, size: u64, asked: Asked, part: Range<u64>, opened: Opened) -> Response<Body> {
    let mut response = Response::new(opened.body);
    describe(&mut response, digest, part.end - part.start, OCTETS);
    response.headers_mut().insert(header::ACCEPT_RANGES, value("bytes"));
    if matches!(asked.of(size), Wanted::Part { .. }) {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let range = ContentRange::Part { first: part.start, last: part.end - 1, size: Some(size) };
        response.headers_mut().insert(header::CONTENT_RANGE, value(range));
    }
    response
}

fn unsatisfiable(size: u64) -> Response<Body> {
    let mut response = Response::new(nothing());
    *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
    response.headers_mut().insert(header::CONTENT_RANGE, value(ContentRange::Unsatisfied { size }));
    response.headers_mut().insert(header::CONTENT_LENGTH, value(0));
    response
}

pub(super) fn nothing() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}
