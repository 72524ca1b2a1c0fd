//! Descriptors and memory of the daemons: whether they come back.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::time::{sleep, sleep_until};

use crate::fleet::Daemon;
use crate::wait::eventually;

/// How often memory is read.
const EVERY: Duration = Duration::from_secs(2);
/// A life must have so many readings to tell of growth.
const LONG: usize = 45;

/// What was read so far.
#[derive(Debug)]
pub(super) struct Vitals {
    /// Descriptors of a fresh daemon that nobody asks anything.
    fresh: Vec<u64>,
    /// Resident memory of each daemon's present life, in KiB.
    lives: Vec<Vec<u64>>,
    /// The greatest growth of a life that has ended, in KiB.
    growth: u64,
}

impl Vitals {
    pub(super) fn begin(daemons: &[Daemon]) -> Result<Self> {
        let fresh = daemons.iter().map(descriptors).collect::<Result<_>>()?;
        Ok(Self { fresh, lives: vec![Vec::new(); daemons.len()], growth: 0 })
    }

    /// Reads until then.
    pub(super) async fn sample_until(&mut self, until: Instant, daemons: &[Daemon]) -> Result<()> {
        while Instant::now() + EVERY < until {
            for (life, daemon) in self.lives.iter_mut().zip(daemons) {
                life.push(resident_kib(daemon)?);
            }
            sleep(EVERY).await;
        }
        sleep_until(until.into()).await;
        Ok(())
    }

    /// A daemon's life has ended.
    pub(super) fn ended(&mut self, node: usize) {
        let life = std::mem::take(&mut self.lives[node]);
        self.growth = self.growth.max(grown(&life));
    }

    /// By how much a daemon's memory grew at most, from the second to the last quarter of a life.
    pub(super) fn rss_growth_mib(&self) -> f64 {
        let now = self.lives.iter().map(|life| grown(life)).max().unwrap_or_default();
        now.max(self.growth) as f64 / 1024.0
    }

    /// Descriptors that each daemon has more than a fresh one, once nobody asks it anything.
    pub(super) async fn leaked_fds(&self, daemons: &[Daemon], calm: Duration) -> Result<Vec<u64>> {
        let mut leaked = Vec::new();
        let settled = eventually("all descriptors to come back", calm, async || {
            let now = daemons.iter().map(descriptors).collect::<Result<Vec<_>>>()?;
            leaked = now.iter().zip(&self.fresh).map(|(now, fresh)| now.saturating_sub(*fresh)).collect();
            Ok(leaked.iter().all(|leaked| *leaked == 0).then_some(()))
        });
        // Not an error: the report says how many, and whose.
        if settled.await.is_err() {
            for (daemon, _) in daemons.iter().zip(&leaked).filter(|(_, leaked)| **leaked > 0) {
                eprintln!("{}: open descriptors: {}", daemon.entry().node(), kinds(daemon)?);
            }
        }
        Ok(leaked)
    }
}

fn grown(life: &[u64]) -> u64 {
    if life.len() < LONG {
        return 0;
    }
    let quarter = life.len() / 4;
    let median = |part: &[u64]| {
        let mut part = part.to_vec();
        part.sort_unstable();
        part[part.len() / 2]
    };
    median(&life[3 * quarter..]).saturating_sub(median(&life[quarter..2 * quarter]))
}

fn descriptors(daemon: &Daemon) -> Result<u64> {
    let dir = format!("/proc/{}/fd", daemon.process().pid());
    Ok(fs::read_dir(dir).context("the daemon is gone")?.count() as u64)
}

/// What the descriptors lead to, each with its number.
fn kinds(daemon: &Daemon) -> Result<String> {
    let dir = format!("/proc/{}/fd", daemon.process().pid());
    let entries = fs::read_dir(dir).context("the daemon is gone")?.flatten();
    let mut targets: Vec<_> = entries.filter_map(|entry| fs::read_link(entry.path()).ok()).collect();
    targets.sort();
    Ok(targets.iter().map(|target| target.display().to_string()).collect::<Vec<_>>().join(" "))
}

fn resident_kib(daemon: &Daemon) -> Result<u64> {
    let status =
        fs::read_to_string(format!("/proc/{}/status", daemon.process().pid())).context("the daemon is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    line.trim().trim_end_matches(" kB").parse().context("VmRSS")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_seen_and_a_peak_is_not_growth() {
        let steady: Vec<u64> = (0..100).map(|n| 50_000 + n % 7).collect();
        assert!(grown(&steady) < 10);
        let mut peak = steady.clone();
        peak[60] = 900_000;
        assert!(grown(&peak) < 10);
        let leaking: Vec<u64> = (0..100).map(|n| 50_000 + n * 1_000).collect();
        assert_eq!(grown(&leaking), 50_000);
        assert_eq!(grown(&leaking[..20]), 0, "too short a life to say");
    }
}
