//! From the registry into an unfinished blob: one bounded request, its body cut into pieces and stated as ours.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::{Inner, Supply, blocking, fault};
use crate::{
    fault::{Fault, Side, What},
    metrics::Source,
    oci::range::ContentRange,
    store::{Partial, PieceWriter, StoreError},
    swarm::{Declined, Swarm},
};

/// A body that brings nothing for so long is given up.
const SILENCE: Duration = Duration::from_secs(30);
/// Told of a piece that came from the registry.
pub(super) type Mark = Arc<dyn Fn(u32) + Send + Sync>;

/// How much is gathered before a thread that may wait for the disk writes it.
const BATCH: usize = 256 << 10;

/// A registry's limit without a time is tried again after this.
const LIMITED: Duration = Duration::from_secs(2);
/// No registry is left alone for longer than this.
const LONGEST: Duration = Duration::from_secs(60);

/// Why a registry did not give a run of pieces.
#[derive(Debug)]
pub(super) struct Miss {
    /// What went wrong.
    pub(super) fault: Fault,
    /// Whether asking again makes sense.
    pub(super) declined: Declined,
}

impl From<Fault> for Miss {
    fn from(fault: Fault) -> Self {
        let declined = if fault.side == Side::Ours { Declined::Never } else { Declined::Failed };
        Self { fault, declined }
    }
}

/// What to take from a registry.
pub(super) struct Request {
    /// These pieces.
    pub(super) run: Range<u32>,
    /// From this answer, where one has begun; else by a new request.
    pub(super) first: Option<Response<Incoming>>,
    /// An answer that ignores the range will do.
    pub(super) whole: bool,
    /// Where bytes are counted as they come.
    pub(super) received: Arc<AtomicU64>,
}

/// Fills pieces of `partial` as the request says. `mark` is called for each piece that came, before anybody can see it.
///
/// # Errors
/// When the registry does not give all of them; what came counts.
pub(super) async fn fill(
    content: &Arc<Inner>,
    supply: &Supply,
    partial: &Arc<Partial>,
    Request { run, first, whole, received }: Request,
    mark: Mark,
) -> Result<(), Miss> {
    let layout = partial.layout();
    if run.is_empty() {
        return Ok(());
    }
    let bytes = layout.range(run.start).start..layout.range(run.end - 1).end;
    let answer = match first {
        Some(answer) => answer,
        None => {
            let span = (bytes != (0..layout.size())).then(|| bytes.clone());
            content.upstream.blob(&supply.origin, &supply.head, span).await?
        }
    };
    let at = start(&answer, layout.size())?;
    if at < bytes.start && !whole {
        let fault = Fault::with(Side::Registry, What::Protocol, "it ignores ranges");
        return Err(Miss { fault, declined: Declined::Ranges });
    }
    let mut sink = Sink { partial: partial.clone(), run, at, writer: None, swarm: content.swarm.clone(), mark };
    let fetched = content.metrics.fetched.get_or_create_owned(&Source::Registry.label());
    let mut body = answer.into_body();
    let (mut batch, mut gathered) = (Vec::new(), 0);
    loop {
        let frame = match tokio::time::timeout(SILENCE, body.frame()).await {
            Err(_) => return Err(Fault::new(Side::Registry, What::Stalled).into()),
            Ok(Some(Err(error))) => Some(Err(Fault::with(Side::Registry, What::Cut, error))),
            Ok(Some(Ok(frame))) => frame.into_data().ok().map(Ok),
            Ok(None) => None,
        };
        let end = !matches!(frame, Some(Ok(_)));
        if let Some(Ok(data)) = &frame {
            // What is not read here waits at the registry.
            content.upstream.rate().pass(data.len() as u64).await;
            fetched.inc_by(data.len() as u64);
            received.fetch_add(data.len() as u64, Ordering::Relaxed);
            gathered += data.len();
            batch.push(data.clone());
        }
        if gathered >= BATCH || end || sink.would_finish(gathered as u64) {
            let chunks = std::mem::take(&mut batch);
            gathered = 0;
            let (returned, written) = blocking(move || {
                let written = sink.write(chunks);
                (sink, written)
            })
            .await
            .ok_or_else(|| Fault::new(Side::Ours, What::Disk))?;
            sink = returned;
            written.map_err(fault)?;
        }
        if sink.is_done() {
            return Ok(());
        }
        match frame {
            Some(Err(fault)) => return Err(fault.into()),
            None => return Err(Fault::new(Side::Registry, What::Cut).into()),
            Some(Ok(_)) => {}
        }
    }
}

/// Where in the blob an answer's body begins.
fn start(answer: &Response<Incoming>, size: u64) -> Result<u64, Miss> {
    let headers = answer.headers();
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if text(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(Fault::with(Side::Registry, What::Protocol, "it encodes the body of a blob").into());
    }
    match answer.status() {
        StatusCode::OK => match text(header::CONTENT_LENGTH).map(str::parse::<u64>) {
            Some(Ok(length)) if length != size => Err(Fault::new(Side::Registry, What::Length).into()),
            _ => Ok(0),
        },
        StatusCode::PARTIAL_CONTENT => match text(header::CONTENT_RANGE).map(str::parse) {
            Some(Ok(ContentRange::Part { size: Some(whole), .. })) if whole != size => {
                Err(Fault::new(Side::Registry, What::Length).into())
            }
            Some(Ok(ContentRange::Part { first, .. })) => Ok(first),
            _ => Err(Fault::with(Side::Registry, What::Protocol, "a 206 without a usable Content-Range").into()),
        },
        status => {
            let wait = text(header::RETRY_AFTER).and_then(retry_after);
            let declined = match status {
                StatusCode::TOO_MANY_REQUESTS => Declined::Later(wait.unwrap_or(LIMITED)),
                StatusCode::SERVICE_UNAVAILABLE if wait.is_some() => Declined::Later(wait.unwrap_or(LIMITED)),
                status if status.is_server_error() => Declined::Failed,
                _ => Declined::Never,
            };
            Err(Miss { fault: Fault::with(Side::Registry, What::Status, status.to_string()), declined })
        }
    }
}

/// How long to wait (RFC 9110, section 10.2.3): seconds or a date.
fn retry_after(text: &str) -> Option<Duration> {
    let wait = match text.trim().parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).unwrap_or_default(),
    };
    Some(wait.min(LONGEST))
}

/// Cuts a body into pieces.
pub(super) struct Sink {
    partial: Arc<Partial>,
    run: Range<u32>,
    at: u64,
    writer: Option<PieceWriter>,
    swarm: Swarm,
    mark: Mark,
}

impl Sink {
    /// For all of a blob.
    pub(super) fn whole(partial: Arc<Partial>, swarm: Swarm) -> Self {
        let run = 0..partial.layout().count();
        Self { partial, run, at: 0, writer: None, swarm, mark: Arc::new(|_| {}) }
    }

    fn end(&self) -> u64 {
        self.partial.layout().range(self.run.end - 1).end
    }

    pub(super) fn is_done(&self) -> bool {
        self.at >= self.end()
    }

    /// Whether `more` bytes complete the piece that is being written, so that readers need not wait for a full batch.
    pub(super) fn would_finish(&self, more: u64) -> bool {
        let layout = self.partial.layout();
        let end = (self.at + more).min(layout.size());
        self.at < end && layout.index_of(self.at) != layout.index_of(end - 1) || end == layout.size()
    }

    pub(super) fn write(&mut self, chunks: Vec<Bytes>) -> Result<(), StoreError> {
        for mut chunk in chunks {
            while !chunk.is_empty() && !self.is_done() {
                let taken = self.step(&chunk)?;
                let _ = chunk.split_to(taken);
            }
        }
        Ok(())
    }

    /// Writes or skips bytes up to the end of one piece; how many.
    fn step(&mut self, chunk: &[u8]) -> Result<usize, StoreError> {
        let layout = self.partial.layout();
        let index = layout.index_of(self.at);
        let range = layout.range(index);
        if self.writer.is_none() && self.at == range.start && self.run.contains(&index) {
            self.writer = match self.partial.writer(index) {
                Ok(writer) => Some(writer),
                Err(StoreError::Taken(_)) => None,
                Err(error) => return Err(error),
            };
        }
        let length = usize::try_from(range.end - self.at).unwrap_or(usize::MAX).min(chunk.len());
        if let Some(writer) = &mut self.writer {
            writer.write(&chunk[..length])?;
        }
        self.at += length as u64;
        if self.at == range.end
            && let Some(writer) = self.writer.take()
        {
            let statement = self.swarm.seal(self.partial.digest(), layout.size(), index, writer.blake3());
            (self.mark)(index);
            writer.finish(&statement)?;
        }
        Ok(length)
    }
}
