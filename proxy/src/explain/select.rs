//! Which of all events belong to the last pull of something.

use super::Subject;
use crate::telemetry::{ConnectionEvent, Event, FlightEvent, RequestEvent};

/// Requests of one program to one repository with no longer silence between them are one pull, in milliseconds.
/// Runtimes ask for all layers at once, or one after the other without a pause.
const SILENCE: u64 = 20_000;

/// A pull's events.
pub(super) struct Pull<'a> {
    /// Sorted by their begin; never empty.
    pub(super) requests: Vec<&'a RequestEvent>,
    /// What brought the bytes to this node meanwhile.
    pub(super) flights: Vec<&'a FlightEvent>,
    connections: Vec<&'a ConnectionEvent>,
}

/// The last pull of `subject`; `None` when there was none.
pub(super) fn last<'a>(events: &'a [Event], subject: &Subject) -> Option<Pull<'a>> {
    let mut requests: Vec<&RequestEvent> = Vec::new();
    for event in events {
        if let Event::Request(request) = event
            && request.repository.is_some()
        {
            requests.push(request);
        }
    }
    requests.sort_by_key(|request| request.at_ms);
    let asks = requests.iter().rev().filter(|request| is_for(request, subject));
    // A mirror may have been asked in place of the registry that the image is named after.
    let anchor = asks.clone().find(|request| is_of(request, subject)).or_else(|| asks.clone().next())?;
    let related = |request: &&RequestEvent| {
        request.program == anchor.program
            && request.registry == anchor.registry
            && request.repository == anchor.repository
    };
    let mut burst = around(requests.iter().copied().filter(related), anchor);
    match subject {
        Subject::Digest(_) => burst.retain(|request| is_for(request, subject)),
        // What came before its own first request belongs to another image of the repository.
        Subject::Image { .. } => {
            let first = burst.iter().position(|request| is_for(request, subject)).unwrap_or_default();
            burst.drain(..first);
        }
    }
    Some(Pull::of(burst, events))
}

/// Those that follow each other and `anchor` without a long silence.
fn around<'a>(requests: impl Iterator<Item = &'a RequestEvent>, anchor: &RequestEvent) -> Vec<&'a RequestEvent> {
    let mut burst: Vec<&RequestEvent> = Vec::new();
    let mut end = 0;
    for request in requests {
        if request.at_ms > end + SILENCE {
            if burst.contains(&anchor) {
                break;
            }
            burst.clear();
        }
        end = end.max(request.at_ms + request.ms);
        burst.push(request);
    }
    burst
}

fn is_for(request: &RequestEvent, subject: &Subject) -> bool {
    let names = |name: &str| request.reference.as_deref() == Some(name) || request.meant.as_deref() == Some(name);
    match subject {
        Subject::Digest(digest) => names(&digest.to_string()),
        Subject::Image { repository, reference, .. } => {
            request.repository.as_ref() == Some(repository) && names(reference)
        }
    }
}

fn is_of(request: &RequestEvent, subject: &Subject) -> bool {
    match subject {
        Subject::Digest(_) => true,
        Subject::Image { registry, .. } => request.registry.eq_ignore_ascii_case(registry),
    }
}

impl<'a> Pull<'a> {
    fn of(requests: Vec<&'a RequestEvent>, events: &'a [Event]) -> Self {
        let mut pull = Self { requests, flights: Vec::new(), connections: Vec::new() };
        let (at, end) = (pull.at_ms(), pull.end_ms());
        for event in events {
            match event {
                Event::Flight(flight) if flight.at_ms <= end && flight.at_ms + flight.ms >= at => {
                    let asked = |request: &&RequestEvent| {
                        request.reference.as_ref() == Some(&flight.digest)
                            || request.meant.as_ref() == Some(&flight.digest)
                    };
                    if pull.requests.iter().any(asked) {
                        pull.flights.push(flight);
                    }
                }
                Event::Connection(connection) if connection.at_ms <= end && connection.at_ms + connection.ms >= at => {
                    pull.connections.push(connection);
                }
                _ => {}
            }
        }
        pull
    }

    pub(super) fn at_ms(&self) -> u64 {
        self.requests.first().map_or(0, |request| request.at_ms)
    }

    pub(super) fn end_ms(&self) -> u64 {
        self.requests.iter().map(|request| request.at_ms + request.ms).max().unwrap_or_default()
    }

    /// The reasons of connections of the same program to the same host that were passed through, with their number.
    pub(super) fn passed(&self) -> Vec<(String, usize)> {
        let Some(first) = self.requests.first() else { return Vec::new() };
        let host = first.registry.rsplit_once(':').map_or(first.registry.as_str(), |(host, _)| host);
        let mut passed = std::collections::BTreeMap::<String, usize>::new();
        for connection in &self.connections {
            let same = connection.program == first.program && connection.name.as_deref() == Some(host);
            if same && connection.decision == "splice" {
                *passed.entry(connection.reason.clone()).or_default() += 1;
            }
        }
        passed.into_iter().collect()
    }
}
