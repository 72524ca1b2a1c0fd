//! The last pulls of this node, kept across restarts so that `waylay explain` can be asked in the morning: the live
//! trace's events, one JSON object a line, in two files of bounded size.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::sync::broadcast::{Receiver, error::RecvError};

use crate::telemetry::Event;

/// A file of this size in bytes becomes the older one, and the one before it goes: days of pulls on most nodes.
const LARGEST: u64 = 4 << 20;

/// Where events are kept.
#[derive(Debug, Clone)]
pub struct Journal {
    dir: PathBuf,
}

impl Journal {
    /// The journal in a directory that exists and is ours.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Writes down what is told, until the daemon ends. A disk that cannot take it costs the journal, nothing else.
    pub async fn keep(self, mut events: Receiver<Arc<Event>>) {
        loop {
            let first = match events.recv().await {
                Ok(event) => event,
                Err(RecvError::Lagged(missed)) => {
                    tracing::debug!(missed, "the journal could not follow");
                    continue;
                }
                Err(RecvError::Closed) => return,
            };
            let mut lines = line(&first);
            while let Ok(event) = events.try_recv() {
                lines.push_str(&line(&event));
            }
            let journal = self.clone();
            let written = tokio::task::spawn_blocking(move || journal.append(&lines)).await;
            if let Ok(Err(error)) = written {
                tracing::warn!(%error, "cannot write the journal in {}; `waylay explain` will not know", self.dir.display());
            }
        }
    }

    /// All that is kept, oldest first. Blocks for the disk.
    ///
    /// # Errors
    /// When a file is there and cannot be read.
    pub fn read(&self) -> io::Result<String> {
        let mut all = String::new();
        for path in [self.older(), self.newer()] {
            match std::fs::read(path) {
                // A line that was cut by a crash is skipped by who reads it.
                Ok(lines) => all.push_str(&String::from_utf8_lossy(&lines)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    fn append(&self, lines: &str) -> io::Result<()> {
        let mut file = self.open()?;
        let length = file.metadata()?.len();
        if length > 0 && length + lines.len() as u64 > LARGEST {
            std::fs::rename(self.newer(), self.older())?;
            file = self.open()?;
        }
        file.write_all(lines.as_bytes())
    }

    /// Names of repositories are nobody else's business.
    fn open(&self) -> io::Result<File> {
        OpenOptions::new().append(true).create(true).mode(0o600).open(self.newer())
    }

    fn newer(&self) -> PathBuf {
        self.dir.join("journal.jsonl")
    }

    fn older(&self) -> PathBuf {
        self.dir.join("journal.1.jsonl")
    }
}

fn line(event: &Event) -> String {
    serde_json::to_string(event).map(|line| line + "\n").unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn keeps_the_newest_lines_in_bounded_files_that_only_we_read() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::new(dir.path());
        assert_eq!(journal.read().unwrap(), "");
        let block = "x".repeat(LARGEST as usize / 4 - 1) + "\n";
        for _ in 0..11 {
            journal.append(&block).unwrap();
        }
        journal.append("last\n").unwrap();
        let all = journal.read().unwrap();
        assert!(all.ends_with("\nlast\n"));
        assert!(all.len() as u64 > LARGEST && all.len() as u64 <= 2 * LARGEST, "{}", all.len());
        let mode = journal.newer().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
