//! Which faults come when: decided by the seed alone, before anything starts.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Map, Value};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(super) enum Fault {
    /// A daemon dies without a word, and comes back later.
    Kill,
    /// A daemon ends as it is told, and comes back later.
    Stop,
    /// A daemon is stopped and started at once, as an upgrade does.
    Restart,
    /// A daemon stands still, and goes on.
    Freeze,
    /// A daemon stands still until the watchdog kills it.
    Watchdog,
    /// A daemon's clock is moved, and put right; every other time it is started anew with the wrong one.
    Clock,
    /// A daemon's certificates have expired when it starts.
    Expired,
    /// The registry is gone.
    RegistryDown,
    /// The registry is stopped and started at once.
    RegistryRestart,
    /// The registry answers 503 to everything.
    RegistryUnwell,
    /// The registry answers 429 to everything.
    RegistryBusy,
    /// The registry's own certificate has expired.
    RegistryExpired,
    /// The registry's wire is slow.
    RegistrySlow,
    /// A node's wire is cut.
    Cut,
    /// Two nodes do not reach each other, but everybody else.
    Partition,
    /// One byte of a stored blob flips.
    Corrupt,
    /// A node's disk is full.
    Full,
}

impl Fault {
    const TO_DAEMONS: [Self; 7] =
        [Self::Kill, Self::Stop, Self::Restart, Self::Freeze, Self::Watchdog, Self::Clock, Self::Expired];
    const AROUND_THEM: [Self; 10] = [
        Self::RegistryDown,
        Self::RegistryRestart,
        Self::RegistryUnwell,
        Self::RegistryBusy,
        Self::RegistryExpired,
        Self::RegistrySlow,
        Self::Cut,
        Self::Partition,
        Self::Corrupt,
        Self::Full,
    ];
}

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) fault: Fault,
    /// Since the begin.
    pub(super) at: Duration,
    pub(super) lasts: Duration,
    /// Whom it befalls, and who else where two are needed.
    pub(super) node: usize,
    pub(super) other: usize,
    /// Which of its ways, where there are several.
    pub(super) way: usize,
}

/// A multiple of how many ways any fault has.
const WAYS: usize = 12;

/// All of them, in two rows, each of which goes on when the fault before is over.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    pub(super) to_daemons: Vec<Event>,
    pub(super) around_them: Vec<Event>,
}

impl Schedule {
    /// Faults of the kinds in `only`, of all kinds when that is empty, for so long on so many nodes.
    pub(super) fn new(seed: u64, duration: Duration, nodes: usize, only: &[Fault]) -> Self {
        let row = |kinds: &[Fault], stream: u64| {
            let kinds: Vec<_> = kinds.iter().copied().filter(|kind| only.is_empty() || only.contains(kind)).collect();
            let mut random = StdRng::seed_from_u64(seed.wrapping_mul(2).wrapping_add(stream));
            let (mut events, mut at) = (Vec::new(), Duration::from_secs(5));
            while !kinds.is_empty() {
                let lasts = Duration::from_millis(random.random_range(500..8_000));
                let pause = Duration::from_millis(random.random_range(1_000..6_000));
                if at + lasts > duration {
                    break;
                }
                let node = random.random_range(0..nodes);
                let other = (node + random.random_range(1..nodes)) % nodes;
                let fault = kinds[random.random_range(0..kinds.len())];
                let way = random.random_range(0..WAYS);
                events.push(Event { fault, at, lasts, node, other, way });
                at += lasts + pause;
            }
            events
        };
        Self { to_daemons: row(&Fault::TO_DAEMONS, 0), around_them: row(&Fault::AROUND_THEM, 1) }
    }

    /// When the last fault is over.
    pub(super) fn end(&self) -> Duration {
        let all = self.to_daemons.iter().chain(&self.around_them);
        all.map(|event| event.at + event.lasts).max().unwrap_or_default()
    }

    /// How often each fault comes.
    pub(super) fn counted(&self) -> Value {
        let mut counted = BTreeMap::new();
        for event in self.to_daemons.iter().chain(&self.around_them) {
            *counted.entry(event.fault).or_insert(0) += 1;
        }
        Value::Object(
            counted.into_iter().map(|(fault, times)| (format!("{fault:?}"), times.into())).collect::<Map<_, _>>(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_faults() {
        let ten = Duration::from_secs(600);
        let schedule = Schedule::new(1, ten, 6, &[]);
        assert_eq!(schedule, Schedule::new(1, ten, 6, &[]));
        assert_ne!(schedule, Schedule::new(2, ten, 6, &[]));
        assert!(schedule.to_daemons.len() > 30 && schedule.around_them.len() > 30, "{schedule:?}");
        assert!(schedule.around_them.iter().all(|event| event.node != event.other && event.at + event.lasts <= ten));
        let only = Schedule::new(1, ten, 6, &[Fault::Kill]);
        assert!(only.around_them.is_empty() && only.to_daemons.iter().all(|event| event.fault == Fault::Kill));
    }

    #[test]
    fn each_fault_comes_in_the_ten_minutes_that_are_measured() {
        let schedule = Schedule::new(1, Duration::from_secs(600), 6, &[]);
        let come = |row: &[Event], fault: &Fault| row.iter().any(|event| event.fault == *fault);
        assert!(Fault::TO_DAEMONS.iter().all(|fault| come(&schedule.to_daemons, fault)));
        assert!(Fault::AROUND_THEM.iter().all(|fault| come(&schedule.around_them, fault)));
    }
}
