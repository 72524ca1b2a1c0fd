//! What was asked for in a pull, and who gave it when.

use std::collections::BTreeMap;

use super::{Asked, COLUMNS, Source, select::Pull};
use crate::telemetry::RequestEvent;

/// The requests of a pull, those for the same thing together.
pub(super) fn asked(pull: &Pull<'_>) -> Vec<Asked> {
    let at = pull.at_ms();
    let mut all: Vec<Asked> = Vec::new();
    for request in &pull.requests {
        let reference = request.reference.clone().unwrap_or_default();
        let known = all.iter().position(|asked| asked.what == request.route && asked.reference == reference);
        let index = known.unwrap_or_else(|| {
            all.push(fresh(request, reference, at));
            all.len() - 1
        });
        let asked = &mut all[index];
        asked.requests += 1;
        asked.status = request.status;
        asked.bytes += request.sent;
        asked.store_bytes += request.store_bytes;
        asked.peer_bytes += request.peer_bytes;
        asked.registry_bytes += request.registry_bytes;
        asked.ms = asked.ms.max(request.at_ms + request.ms - at - asked.began_ms);
        for fault in &request.faults {
            if !asked.faults.contains(fault) {
                asked.faults.push(fault.clone());
            }
        }
    }
    for asked in &mut all {
        let flights = pull.flights.iter().filter(|flight| flight.digest == asked.reference && flight.verified);
        asked.here_ms = flights.map(|flight| (flight.at_ms + flight.ms).saturating_sub(at)).max();
    }
    all
}

fn fresh(request: &RequestEvent, reference: String, at: u64) -> Asked {
    Asked {
        what: request.route.clone(),
        reference,
        requests: 0,
        status: 0,
        bytes: 0,
        store_bytes: 0,
        peer_bytes: 0,
        registry_bytes: 0,
        began_ms: request.at_ms - at,
        first_ms: request.first_ms,
        ms: 0,
        here_ms: None,
        faults: Vec::new(),
    }
}

/// Bytes of one source, put into the columns of a pull's time.
struct Columns {
    ms: u64,
    sources: BTreeMap<String, Source>,
}

impl Columns {
    /// `bytes` came evenly between these times, in milliseconds since the pull began.
    fn add(&mut self, from: &str, bytes: u64, first: u64, last: u64) {
        if bytes == 0 {
            return;
        }
        // In parts of a millisecond, so that each column's borders are whole numbers.
        let (columns, width) = (COLUMNS as u64, self.ms + 1);
        let (start, end) = (first.min(self.ms) * columns, (last.min(self.ms) + 1) * columns);
        let came =
            |at: u64| (u128::from(bytes) * u128::from(at.clamp(start, end) - start) / u128::from(end - start)) as u64;
        let source = self.sources.entry(from.to_owned()).or_insert_with(|| Source {
            from: from.to_owned(),
            bytes: 0,
            first_ms: first,
            last_ms: last,
            curve: vec![0; COLUMNS],
        });
        source.bytes += bytes;
        source.first_ms = source.first_ms.min(first);
        source.last_ms = source.last_ms.max(last);
        for at in start / width..=(end - 1) / width {
            source.curve[at as usize] += came((at + 1) * width) - came(at * width);
        }
    }
}

/// Who gave the bytes of a pull, the largest part first. What a flight brought is known piece by piece; the rest was sent
/// from the store, or passed on from the registry as it came.
pub(super) fn sources(pull: &Pull<'_>) -> Vec<Source> {
    let at = pull.at_ms();
    let mut columns = Columns { ms: pull.end_ms() - at, sources: BTreeMap::new() };
    for flight in &pull.flights {
        for part in &flight.parts {
            for (step, bytes) in part.curve.iter().enumerate() {
                let begin = flight.at_ms + step as u64 * flight.step_ms;
                let (first, last) = (begin.max(flight.at_ms + part.first_ms), begin + flight.step_ms - 1);
                let last = last.min(flight.at_ms + part.last_ms).max(first);
                columns.add(&part.from, *bytes, first.saturating_sub(at), last.saturating_sub(at));
            }
        }
    }
    for request in &pull.requests {
        let (first, last) = (request.at_ms + request.first_ms - at, request.at_ms + request.ms - at);
        columns.add("store", request.store_bytes, first, last.max(first));
        if !pull.flights.iter().any(|flight| request.reference.as_ref() == Some(&flight.digest)) {
            columns.add("registry", request.registry_bytes, first, last.max(first));
        }
    }
    let mut sources: Vec<Source> = columns.sources.into_values().collect();
    sources.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.from.cmp(&b.from)));
    sources
}
