//! An answer on its way out: ranges, and the faults that befall it.

use std::{
    io::{self, Write as _},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use flate2::{Compression, write::GzEncoder};
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use serde_json::{Value, json};

use super::{
    log::Entry,
    script::{Fault, Gate},
};

/// A body that may break off.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// How much is handed to the connection at once.
const CHUNK: usize = 64 << 10;

/// What a server would say if nothing went wrong.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// Whether a part of it may be asked for.
    pub(super) ranged: bool,
}

impl Answer {
    pub(super) fn new(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::new(), body: Bytes::new(), ranged: false }
    }

    /// An error as the distribution spec wants it ("Error codes").
    pub(super) fn error(status: StatusCode, code: &str) -> Self {
        let body = json!({ "errors": [{ "code": code, "message": "the scripted registry says so" }] });
        Self { status, ..Self::json(&body) }
    }

    pub(super) fn json(value: &Value) -> Self {
        let answer = Self { body: value.to_string().into(), ..Self::new(StatusCode::OK) };
        answer.with(header::CONTENT_TYPE, "application/json")
    }

    pub(super) fn with(mut self, name: HeaderName, value: impl AsRef<str>) -> Self {
        let value = HeaderValue::from_str(value.as_ref()).expect("the script writes valid headers");
        self.headers.insert(name, value);
        self
    }
}

/// The response that this request gets, whatever befalls it.
pub(super) fn respond(mut answer: Answer, faults: &[Fault], entry: Arc<Entry>) -> Response<Body> {
    let method = &entry.request.method;
    if faults.iter().any(|fault| matches!(fault, Fault::Gzip)) {
        answer = gzip(answer);
    }
    let mut start = 0;
    let ranged = answer.ranged && !faults.iter().any(|fault| matches!(fault, Fault::NoRange));
    if ranged {
        answer = answer.with(header::ACCEPT_RANGES, "bytes");
        if let Some(range) =
            entry.request.header("range").filter(|_| *method == Method::GET && answer.status == StatusCode::OK)
        {
            (answer, start) = part(answer, range);
        }
    }
    let mut length = answer.body.len() as u64;
    let mut flow =
        Flow { body: answer.body, start, at: 0, pace: None, cut: None, corrupt: None, stalls: Vec::new(), entry };
    for fault in faults {
        match fault {
            Fault::Slow(rate) => flow.pace = Some((*rate).max(1)),
            Fault::CutAfter(bytes) => flow.cut = Some(usize::try_from(*bytes).unwrap_or(usize::MAX)),
            Fault::CorruptAt(offset) => flow.corrupt = Some(*offset),
            Fault::Stall(after, gate) => {
                flow.stalls.push((usize::try_from(*after).unwrap_or(usize::MAX), gate.clone()))
            }
            Fault::Length(lie) => length = *lie,
            Fault::Header(name, value) => {
                let value = HeaderValue::from_str(value).expect("the script writes valid headers");
                answer.headers.append(HeaderName::from_static(name), value);
            }
            _ => {}
        }
    }
    let entry = flow.entry.clone();
    entry.status.store(answer.status.as_u16(), Relaxed);
    let mut response = Response::new(if entry.request.method == Method::HEAD {
        entry.finished.store(true, Relaxed);
        http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync()
    } else {
        flow.body()
    });
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    if answer.status != StatusCode::NO_CONTENT {
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    entry.changed();
    response
}

fn gzip(answer: Answer) -> Answer {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&answer.body).expect("a vector takes all");
    let body = encoder.finish().expect("a vector takes all").into();
    Answer { body, ranged: false, ..answer }.with(header::CONTENT_ENCODING, "gzip")
}

/// The part of an answer that `range` asks for, and its offset (RFC 9110 section 14). A range that makes no sense is
/// ignored; several are answered in `multipart/byteranges`.
fn part(answer: Answer, range: &str) -> (Answer, u64) {
    let size = answer.body.len();
    let Some(set) = range.strip_prefix("bytes=") else { return (answer, 0) };
    let Some(ranges) = set.split(',').map(|range| one(range.trim(), size)).collect::<Option<Vec<_>>>() else {
        return (answer, 0);
    };
    let inside: Vec<_> = ranges.into_iter().flatten().collect();
    match *inside {
        [] => {
            let unsatisfiable = Answer::error(StatusCode::RANGE_NOT_SATISFIABLE, "RANGE_INVALID");
            (unsatisfiable.with(header::CONTENT_RANGE, format!("bytes */{size}")), 0)
        }
        [(first, last)] => {
            let body = answer.body.slice(first..=last);
            let part = Answer { status: StatusCode::PARTIAL_CONTENT, body, ..answer };
            (part.with(header::CONTENT_RANGE, format!("bytes {first}-{last}/{size}")), first as u64)
        }
        _ => {
            let mut body = BytesMut::new();
            for (first, last) in inside {
                body.extend_from_slice(
                    format!("\r\n--part\r\nContent-Range: bytes {first}-{last}/{size}\r\n\r\n").as_bytes(),
                );
                body.extend_from_slice(&answer.body[first..=last]);
            }
            body.extend_from_slice(b"\r\n--part--\r\n");
            let parts = Answer { status: StatusCode::PARTIAL_CONTENT, body: body.freeze(), ..answer };
            (parts.with(header::CONTENT_TYPE, "multipart/byteranges; boundary=part"), 0)
        }
    }
}

/// First and last byte of one range; the outer `None` if it makes no sense, the inner if it lies outside.
fn one(range: &str, size: usize) -> Option<Option<(usize, usize)>> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(usize::MAX))
    };
    let (first, last) = range.split_once('-')?;
    Some(match (first, last) {
        ("", length) => {
            let length = number(length)?;
            (length > 0 && size > 0).then(|| (size.saturating_sub(length), size - 1))
        }
        (first, last) => {
            let first = number(first)?;
            let last = if last.is_empty() { usize::MAX } else { number(last).filter(|&last| last >= first)? };
            (first < size).then(|| (first, last.min(size - 1)))
        }
    })
}

/// A body as the faults let it flow.
struct Flow {
    body: Bytes,
    /// Offset of the body in the blob.
    start: u64,
    at: usize,
    pace: Option<u64>,
    cut: Option<usize>,
    corrupt: Option<u64>,
    stalls: Vec<(usize, Gate)>,
    entry: Arc<Entry>,
}

impl Flow {
    fn body(self) -> Body {
        let frames = stream::unfold(self, |mut flow| async move {
            let next = flow.next().await?;
            Some((next.map(Frame::data), flow))
        });
        StreamBody::new(frames).boxed_unsync()
    }

    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if self.cut.is_some_and(|cut| self.at >= cut && cut < self.body.len()) {
            // What was handed over before is written out only when the connection has nothing else to do.
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
            self.cut = None;
            self.at = self.body.len();
            return Some(Err(io::Error::other("cut by the script")));
        }
        if let Some(index) = self.stalls.iter().position(|(after, _)| *after == self.at && self.at < self.body.len()) {
            let (_, gate) = self.stalls.swap_remove(index);
            gate.pass().await;
        }
        if self.at == self.body.len() {
            return None;
        }
        let mut chunk = CHUNK;
        if let Some(rate) = self.pace {
            chunk = usize::try_from(rate / 20).unwrap_or(CHUNK).clamp(1, CHUNK);
            tokio::time::sleep(Duration::from_secs_f64(chunk as f64 / rate as f64)).await;
        }
        let stops = self.stalls.iter().map(|(after, _)| *after).chain(self.cut).chain([self.body.len()]);
        let end = stops.filter(|&stop| stop > self.at).min().unwrap_or(self.body.len()).min(self.at + chunk);
        let mut bytes = self.body.slice(self.at..end);
        let offset = self.corrupt.and_then(|offset| usize::try_from(offset.checked_sub(self.start)?).ok());
        if let Some(offset) = offset.filter(|offset| (self.at..end).contains(offset)) {
            let mut wrong = BytesMut::from(&bytes[..]);
            wrong[offset - self.at] ^= 0xff;
            bytes = wrong.freeze();
        }
        self.at = end;
        self.entry.sent.fetch_add(bytes.len() as u64, Relaxed);
        self.entry.finished.store(self.at == self.body.len(), Relaxed);
        self.entry.changed();
        Some(Ok(bytes))
    }
}
