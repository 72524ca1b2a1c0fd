//! What `/proc` tells: processor time and memory of processes, idle time of the machine; and the median.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// Processor time of `root` and all its descendants so far.
pub(super) fn cpu(root: Pid) -> Result<Duration> {
    let all: Vec<Stat> = fs::read_dir("/proc")
        .context("cannot list /proc")?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()))
        .filter_map(|entry| Stat::read(&entry.path()))
        .collect();
    let mut family = vec![root.as_raw()];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(all.iter().filter(|stat| stat.parent == parent).map(|stat| stat.pid));
        next += 1;
    }
    ensure!(all.iter().any(|stat| stat.pid == root.as_raw()), "process {root} is gone");
    let ticks: u64 = all.iter().filter(|stat| family.contains(&stat.pid)).map(|stat| stat.ticks).sum();
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock ticks")?;
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

struct Stat {
    pid: i32,
    parent: i32,
    /// User and system time.
    ticks: u64,
}

impl Stat {
    /// `None`: gone.
    fn read(proc: &Path) -> Option<Self> {
        Self::parse(&fs::read_to_string(proc.join("stat")).ok()?)
    }

    /// Fields are counted from behind the last parenthesis, because a name may contain anything; proc(5).
    fn parse(text: &str) -> Option<Self> {
        let (before, after) = text.rsplit_once(')')?;
        let field = |at: usize| after.split_whitespace().nth(at);
        let ticks = field(11)?.parse::<u64>().ok()? + field(12)?.parse::<u64>().ok()?;
        Some(Self { pid: before.split_once(' ')?.0.parse().ok()?, parent: field(1)?.parse().ok()?, ticks })
    }
}

/// Resident memory of a process in MiB: now, and the most there ever was.
pub(super) fn resident(pid: Pid) -> Result<(f64, f64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    let mib = |name: &str| -> Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse().with_context(|| format!("{name} is {line}"))?;
        Ok(kib / 1024.0)
    };
    Ok((mib("VmRSS:")?, mib("VmHWM:")?))
}

/// The machine's processor time from a moment on.
pub(super) struct Idle {
    begun: Ticks,
}

/// Processor time of the whole machine, by who had it.
struct Ticks {
    idle: u64,
    yielding: u64,
    all: u64,
}

impl Idle {
    pub(super) fn begin() -> Result<Self> {
        Ok(Self { begun: Self::read()? })
    }

    /// The share of all processors that was idle since.
    pub(super) fn share(&self) -> Result<f64> {
        let now = Self::read()?;
        Ok((now.idle - self.begun.idle) as f64 / (now.all - self.begun.all).max(1) as f64)
    }

    /// The share of all processors that went to programs which asked to be last (nice(1)) since.
    pub(super) fn yielding(&self) -> Result<f64> {
        let now = Self::read()?;
        Ok((now.yielding - self.begun.yielding) as f64 / (now.all - self.begun.all).max(1) as f64)
    }

    /// Ticks of all processors.
    fn read() -> Result<Ticks> {
        let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        let line = text.lines().next().unwrap_or_default();
        let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
        ensure!(ticks.len() >= 8, "cannot read {line}");
        // Idle and waiting for the disk; the guests' time behind the first eight is counted in user time already.
        Ok(Ticks { idle: ticks[3] + ticks[4], yielding: ticks[1], all: ticks[..8].iter().sum() })
    }
}

/// Uses so many bytes of memory once and gives them back, as far as they are free. The host of a virtual machine provides a
/// page when it is touched for the first time, and that costs the process which happens to touch it several times what
/// it does with the page: up to 2.5 processor seconds a GiB where this was measured.
pub(super) fn touch(bytes: u64) -> Result<()> {
    let text = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let free = text.lines().find_map(|line| line.strip_prefix("MemFree:")?.trim().strip_suffix(" kB")?.parse().ok());
    let free: u64 = free.context("no MemFree in /proc/meminfo")?;
    let bytes = usize::try_from(bytes.min(free * 1024 / 4 * 3)).context("more than a process can have")?;
    drop(std::hint::black_box(vec![1_u8; bytes]));
    Ok(())
}

/// The median; of an even number, the upper of the middle two. 0 of none.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    quantile(values, 0.5)
}

/// The value below which `share` of `values` lie.
pub(super) fn quantile(values: impl IntoIterator<Item = f64>, share: f64) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    let at = (values.len() as f64 * share) as usize;
    values.get(at.min(values.len().saturating_sub(1))).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_time_of_a_process_with_a_strange_name() {
        let stat = Stat::parse("42 (a) b) S 7 42 42 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 1 0 100")
            .map(|s| (s.pid, s.parent, s.ticks));
        assert_eq!(stat, Some((42, 7, 300)));
    }

    #[test]
    fn finds_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([]), 0.0);
        assert_eq!(quantile((0..100).map(f64::from), 0.99), 99.0);
    }
}
