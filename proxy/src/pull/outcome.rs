//! What became of one request: gathered while it runs, told exactly once when it ends, even if it is cancelled.
//!
//! Telling is counters, the access line and the trace event together, so that they cannot disagree.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use crate::{
    content::Tally,
    fault::Fault,
    metrics::{Metrics, OutcomeLabel, Source},
    oci::Digest,
    telemetry::{Event, RequestEvent, Trace, millis},
};

/// How far the answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Asked,
    Answered,
    Ended,
}

/// One request; dropping it tells what became of it.
pub struct Outcome {
    event: RequestEvent,
    tally: Arc<Tally>,
    /// What was brought here of it before it was asked for.
    before: Option<Arc<Tally>>,
    started: Instant,
    progress: Progress,
    counted: bool,
    metrics: Arc<Metrics>,
    trace: Trace,
}

impl Outcome {
    /// A request of `program` to `registry` has arrived.
    pub fn new(program: &str, registry: &str, method: &str, metrics: Arc<Metrics>, trace: Trace) -> Self {
        let event = RequestEvent {
            at_ms: millis(SystemTime::now()),
            program: program.to_owned(),
            registry: registry.to_owned(),
            method: method.to_owned(),
            route: String::new(),
            repository: None,
            reference: None,
            meant: None,
            status: 0,
            sent: 0,
            store_bytes: 0,
            peer_bytes: 0,
            registry_bytes: 0,
            first_ms: 0,
            ms: 0,
            faults: Vec::new(),
        };
        let (started, progress) = (Instant::now(), Progress::Asked);
        Self { event, tally: Arc::default(), before: None, started, progress, counted: false, metrics, trace }
    }

    /// It passes through as a `route`.
    pub fn passes(&mut self, route: &str) {
        route.clone_into(&mut self.event.route);
    }

    /// It asks for `reference` in `repository`; a GET of that is a pull.
    pub fn asks(&mut self, route: &str, repository: &str, reference: String) {
        self.passes(route);
        self.event.repository = Some(repository.to_owned());
        self.event.reference = Some(reference);
        self.counted = self.event.method == "GET";
    }

    /// The tag that it asks for means this.
    pub fn meant(&mut self, digest: Digest) {
        self.event.meant = Some(digest.to_string());
    }

    /// Where its body is counted.
    pub fn tally(&self) -> Arc<Tally> {
        self.tally.clone()
    }

    /// It was begun before it was asked for: what is in the store by now came from where `before` says.
    pub fn began_before(&mut self, before: Arc<Tally>) {
        self.before = Some(before);
    }

    /// Something went wrong, whether or not the client will notice.
    pub fn fault(&mut self, fault: &Fault) {
        self.metrics.fault(fault.side.name(), fault.what.name());
        self.tally.note(fault.label());
        tracing::debug!(%fault, reference = self.event.reference, "fault");
    }

    /// The answer begins with `status`.
    pub fn answered(&mut self, status: u16) {
        self.event.status = status;
        self.event.first_ms = since(self.started);
        self.progress = Progress::Answered;
    }

    /// The answer was sent to its end.
    pub fn ended(&mut self) {
        self.progress = Progress::Ended;
        self.attribute();
    }

    fn attribute(&mut self) {
        if let Some(before) = self.before.take() {
            self.tally.came_before(&before);
        }
    }

    fn label(&self) -> &'static str {
        match (self.progress, self.event.status) {
            (Progress::Ended, ..400) => "ok",
            (Progress::Ended, 400..500) => "refused",
            (Progress::Ended, _) => "failed",
            (Progress::Asked | Progress::Answered, _) => "cut",
        }
    }
}

fn since(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX)
}

impl Drop for Outcome {
    fn drop(&mut self) {
        let outcome = self.label();
        self.attribute();
        let mut event = self.event.clone();
        event.ms = since(self.started);
        event.store_bytes = self.tally.get(Source::Store);
        event.peer_bytes = self.tally.get(Source::Peer);
        event.registry_bytes = self.tally.get(Source::Registry);
        event.faults = self.tally.faults();
        event.sent = event.store_bytes + event.peer_bytes + event.registry_bytes;
        if self.counted {
            self.metrics.pulls.get_or_create(&OutcomeLabel { outcome }).inc();
            for source in [Source::Store, Source::Peer, Source::Registry] {
                self.metrics.bytes.get_or_create(&source.label()).inc_by(self.tally.get(source));
            }
            let fault = if event.faults.is_empty() { "-".to_owned() } else { event.faults.join(",") };
            tracing::info!(
                target: "access",
                event = "pull",
                program = event.program,
                registry = event.registry,
                repository = event.repository,
                digest = event.reference,
                status = event.status,
                outcome,
                size = event.sent,
                store_bytes = event.store_bytes,
                peer_bytes = event.peer_bytes,
                registry_bytes = event.registry_bytes,
                ms = event.ms,
                fault,
            );
        }
        self.trace.tell(Event::Request(event));
    }
}
