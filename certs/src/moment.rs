//! Moments that can be compared although the wall clock may jump: the boot's identity and the time since that boot.
//!
//! "Was the certificate there before the process started?" decides whether a pull works, and a node without a battery
//! clock steps by hours soon after its boot. So both sides are counted on the kernel's boot clock, at the
//! resolution of `/proc` (10 ms, rounded down on both sides).

use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use serde::{Deserialize, Serialize};

/// A moment of one boot of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    boot: String,
    since_boot_ms: u64,
}

impl Moment {
    /// This moment.
    pub fn now() -> io::Result<Self> {
        Self::now_in(Path::new("/proc"))
    }

    /// This moment, read from a `/proc` mounted elsewhere.
    pub(crate) fn now_in(proc: &Path) -> io::Result<Self> {
        let uptime = fs::read_to_string(proc.join("uptime"))?;
        let seconds = uptime.split(' ').next().and_then(|text| text.trim().parse::<f64>().ok());
        let seconds = seconds.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "cannot read the uptime"))?;
        Self::of_boot(proc, Duration::from_millis((seconds * 1000.0).round() as u64))
    }

    /// The moment `since_boot` of the boot that is running.
    pub(crate) fn of_boot(proc: &Path, since_boot: Duration) -> io::Result<Self> {
        let boot = fs::read_to_string(proc.join("sys/kernel/random/boot_id"))?.trim().to_string();
        Ok(Self { boot, since_boot_ms: since_boot.as_millis() as u64 })
    }

    /// Whether this moment was not later than `other`, which belongs to the running boot. A moment of another boot
    /// can only have been recorded earlier.
    pub fn not_after(&self, other: &Moment) -> bool {
        self.boot != other.boot || self.since_boot_ms <= other.since_boot_ms
    }

    /// The time from this moment to `later`; `None` across boots or backwards.
    pub fn until(&self, later: &Moment) -> Option<Duration> {
        if self.boot != later.boot {
            return None;
        }
        later.since_boot_ms.checked_sub(self.since_boot_ms).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_of_one_boot_are_ordered_and_other_boots_are_earlier() {
        let at = |boot: &str, ms| Moment { boot: boot.into(), since_boot_ms: ms };
        assert!(at("a", 10).not_after(&at("a", 10)));
        assert!(!at("a", 20).not_after(&at("a", 10)));
        assert!(at("earlier", 99).not_after(&at("a", 1)));
        assert_eq!(at("a", 5).until(&at("a", 8)), Some(Duration::from_millis(3)));
        assert_eq!(at("a", 8).until(&at("a", 5)), None);
        assert_eq!(at("b", 5).until(&at("a", 8)), None);
    }

    #[test]
    fn the_present_can_be_read() {
        let first = Moment::now().unwrap();
        assert!(first.not_after(&Moment::now().unwrap()));
    }
}
