//! The course of one flight: which piece came when and from whom, for those who ask later why a pull was slow.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Mutex, OnceLock, PoisonError},
    time::{Instant, SystemTime},
};

use crate::{
    oci::Digest,
    store::piece::Layout,
    telemetry::{Event, FlightEvent, FlightPart, Trace, millis},
};

/// Steps that the time of a flight is told in.
const STEPS: u64 = 60;

/// Gathered while a flight lasts; told when it is dropped.
pub(super) struct Course {
    digest: Digest,
    layout: Layout,
    /// Bytes that were here before.
    held: u64,
    at: SystemTime,
    started: Instant,
    verified: OnceLock<Instant>,
    /// The last arrival of each piece: one that was wrong comes again.
    arrivals: Mutex<BTreeMap<u32, Arrival>>,
    trace: Trace,
}

struct Arrival {
    ms: u64,
    /// `None`: the registry.
    peer: Option<SocketAddr>,
}

impl Course {
    pub(super) fn begin(digest: Digest, layout: Layout, held: u64, trace: Trace) -> Self {
        let (at, started) = (SystemTime::now(), Instant::now());
        let (verified, arrivals) = (OnceLock::new(), Mutex::default());
        Self { digest, layout, held, at, started, verified, arrivals, trace }
    }

    /// A piece came, from a peer or, without one, from the registry.
    pub(super) fn came(&self, index: u32, peer: Option<SocketAddr>) {
        let arrival = Arrival { ms: self.ms(Instant::now()), peer };
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).insert(index, arrival);
    }

    /// All is here and is what its digest says.
    pub(super) fn verified(&self) {
        let _ = self.verified.set(Instant::now());
    }

    fn ms(&self, at: Instant) -> u64 {
        u64::try_from((at - self.started).as_millis()).unwrap_or(u64::MAX)
    }

    fn event(&mut self) -> FlightEvent {
        let arrivals = std::mem::take(self.arrivals.get_mut().unwrap_or_else(PoisonError::into_inner));
        let ms = self.ms(self.verified.get().copied().unwrap_or_else(Instant::now));
        let step_ms = (ms / STEPS + 1).max(1);
        let mut parts = BTreeMap::new();
        for (index, Arrival { ms, peer }) in arrivals {
            let part = parts.entry(peer).or_insert_with(|| FlightPart {
                from: peer.map_or_else(|| "registry".to_owned(), |peer| peer.to_string()),
                bytes: 0,
                first_ms: ms,
                last_ms: ms,
                curve: Vec::new(),
            });
            let (step, bytes) = ((ms / step_ms) as usize, self.layout.len(index));
            if part.curve.len() <= step {
                part.curve.resize(step + 1, 0);
            }
            part.curve[step] += bytes;
            part.bytes += bytes;
            part.last_ms = part.last_ms.max(ms);
        }
        FlightEvent {
            at_ms: millis(self.at),
            digest: self.digest.to_string(),
            size: self.layout.size(),
            held: self.held,
            verified: self.verified.get().is_some(),
            ms,
            step_ms,
            parts: parts.into_values().collect(),
        }
    }
}

impl Drop for Course {
    fn drop(&mut self) {
        let event = self.event();
        self.trace.tell(Event::Flight(event));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_who_gave_how_much_and_that_it_was_not_completed() {
        let trace = Trace::default();
        let mut events = trace.follow();
        let layout = Layout::new(3 << 20).unwrap();
        let course = Course::begin(Digest::of(b"x"), layout, 0, trace);
        let peer: SocketAddr = "192.0.2.1:4500".parse().unwrap();
        course.came(0, Some(peer));
        course.came(1, None);
        course.came(2, None);
        drop(course);
        let event = events.try_recv().unwrap();
        let Event::Flight(flight) = &*event else { panic!("{event:?}") };
        assert!(!flight.verified);
        let told: Vec<_> = flight.parts.iter().map(|part| (part.from.as_str(), part.bytes)).collect();
        let piece = layout.len(0);
        assert_eq!(told, [("registry", 2 * piece), ("192.0.2.1:4500", piece)]);
        let in_steps: u64 = flight.parts.iter().flat_map(|part| &part.curve).sum();
        assert_eq!(in_steps, 3 * piece, "each byte is in one step");
    }
}
