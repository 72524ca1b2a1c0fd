//! How the registry does for one fetch: how fast it is, whether it fails, and when it may be asked again.

use std::time::{Duration, Instant};

use super::Declined;

/// A registry that failed rests for so long, doubled with each failure.
pub(super) const RETRY: Duration = Duration::from_millis(250);
/// What a lease counts beside the next one.
const FADES: f64 = 0.75;
/// A registry that failed so often, one time after the other, is not asked again.
const FAILURES: u32 = 3;

/// How the registry does.
#[derive(Debug, Default)]
pub(super) struct Registry {
    pub(super) pace: Pace,
    /// It ignores ranges.
    pub(super) whole: bool,
    pub(super) never: bool,
    /// Failures since it last brought something.
    failures: u32,
    not_before: Option<Instant>,
}

impl Registry {
    /// A lease of so many bytes has ended.
    pub(super) fn lease_ended(&mut self, bytes: u64, took: Duration, ended: Result<(), Declined>, now: Instant) {
        match ended {
            Ok(()) => {
                self.failures = 0;
                self.pace.add(bytes, took);
            }
            Err(Declined::Failed) => {
                self.failures += 1;
                self.never |= self.failures >= FAILURES;
                self.not_before = Some(now + RETRY * 2u32.pow(self.failures.min(5)));
            }
            // It may say that no time is to pass.
            Err(Declined::Later(wait)) => self.not_before = Some(now + wait.max(RETRY)),
            Err(Declined::Ranges) => self.whole = true,
            Err(Declined::Never) => self.never = true,
        }
    }

    /// Whether it may be asked now.
    pub(super) fn may_be_asked(&self, now: Instant) -> bool {
        !self.never && self.not_before.is_none_or(|until| until <= now)
    }
}

/// How fast a registry gives to this node: bytes that leases brought, and the seconds they took, each counting three quarters of
/// the next one. A mean of rates would say too much of a first piece that a shaped wire let through at once.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::swarm) struct Pace {
    brought: f64,
    seconds: f64,
}

impl Pace {
    pub(super) fn add(&mut self, bytes: u64, took: Duration) {
        self.brought = self.brought * FADES + bytes as f64;
        self.seconds = self.seconds * FADES + took.as_secs_f64().max(0.001);
    }

    /// Bytes per second, 0 before the first lease.
    pub(super) fn rate(self) -> u64 {
        if self.seconds == 0.0 { 0 } else { (self.brought / self.seconds) as u64 }
    }
}
