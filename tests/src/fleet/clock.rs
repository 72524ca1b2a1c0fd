//! A wall clock of its own for a daemon, which a scenario moves: libfaketime answers for the kernel where the daemon asks for
//! the time of day.
//!
//! It is not the machine's clock: the runtimes of the node keep the true time, and so do the times of files and the clocks
//! that only count (`CLOCK_MONOTONIC`, `CLOCK_BOOTTIME`), which a moved clock does not move either.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::node::Entry;

/// Where Debian's package `libfaketime` has it, with the processor's name in between.
const LIBRARY: [&str; 2] = ["/usr/lib", "faketime/libfaketimeMT.so.1"];

/// The clock of one node's daemon: a file with what it is off by.
#[derive(Debug, Clone)]
pub struct Clock(PathBuf);

impl Clock {
    /// The daemon's clock on `node`, showing the true time.
    pub(super) fn of(node: &Entry) -> Result<Self> {
        let clock = Self(node.make_dir("waylay")?.join("clock"));
        clock.set(0)?;
        Ok(clock)
    }

    /// Gives it to what `command` starts, and to all that this starts in turn.
    pub(super) fn give(&self, command: &mut Command) -> Result<()> {
        let library = library()?;
        command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", &self.0);
        // Read again each second.
        command.env("FAKETIME_CACHE_DURATION", "1");
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("NO_FAKE_STAT", "1");
        Ok(())
    }

    /// Moves it so many seconds ahead of the true time, or behind it; seen within a second.
    ///
    /// # Errors
    /// When its file cannot be written.
    pub fn set(&self, seconds: i64) -> Result<()> {
        // Whole or not at all: half of it would be another time.
        let new = self.0.with_extension("new");
        let set = fs::write(&new, format!("{seconds:+}\n")).and_then(|()| fs::rename(&new, &self.0));
        set.with_context(|| format!("cannot set the clock {}", self.0.display()))
    }
}

fn library() -> Result<PathBuf> {
    let [lib, file] = LIBRARY;
    let path = Path::new(lib).join(format!("{}-linux-gnu", std::env::consts::ARCH)).join(file);
    ensure!(path.is_file(), "there is no {}: apt-get install libfaketime", path.display());
    Ok(path)
}
