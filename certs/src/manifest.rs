//! The record of every file and directory that waylay put outside its own state, with what was there before, so that
//! uninstalling leaves the node byte for byte as it was.
//!
//! An entry is on the disk before the change it describes. What somebody else has changed since is never undone.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use crate::durable;

const VERSION: u32 = 1;
/// So many of our own former contents of one file are recognised.
const HASHES: usize = 8;

/// What a file was put there for: withdrawn when no longer wanted, or kept until uninstalling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// A published certificate; [`crate::publish()`] withdraws it by itself.
    Certificate,
    /// Part of an installation, such as a systemd drop-in.
    Installation,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
enum Entry {
    File {
        purpose: Purpose,
        /// What was there before us; `None` when nothing was.
        before: Option<Former>,
        /// BLAKE3 of what we wrote, the newest last.
        written: Vec<String>,
    },
    Directory,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Former {
    content_base64: String,
    mode: u32,
}

#[derive(Serialize, Deserialize)]
struct OnDisk {
    version: u32,
    entries: BTreeMap<PathBuf, Entry>,
}

/// Why the manifest cannot be used, or a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not the JSON that we write.
    #[error(
        "{path} is damaged ({source}): it says what waylay put on this node; restore it, or move it away and undo by hand"
    )]
    Damaged {
        /// The manifest.
        path: PathBuf,
        /// Where reading failed.
        source: serde_json::Error,
    },
    /// Written by a newer waylay.
    #[error("{path} has version {found}, this waylay reads version {VERSION}: use the newer waylay")]
    Newer {
        /// The manifest.
        path: PathBuf,
        /// The version it has.
        found: u32,
    },
    /// A link, a directory or a device is where a file should go.
    #[error("{0} is not a regular file, so it is not replaced")]
    NotAFile(PathBuf),
}

/// The manifest, held in memory and on the disk.
#[derive(Debug)]
pub struct Manifest {
    path: PathBuf,
    entries: BTreeMap<PathBuf, Entry>,
}

impl Manifest {
    /// Opens the manifest at `path`; a missing one is empty.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, ManifestError> {
        let path = path.into();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Self { path, entries: BTreeMap::new() }),
            Err(source) => return Err(ManifestError::Io { path, source }),
        };
        let found: OnDisk = match serde_json::from_slice(&text) {
            Ok(found) => found,
            Err(source) => return Err(newer(&text, &path).unwrap_or(ManifestError::Damaged { path, source })),
        };
        match found.version {
            VERSION => Ok(Self { path, entries: found.entries }),
            found => Err(ManifestError::Newer { path, found }),
        }
    }

    /// Whether we made what is at `path`: a file that still holds what we wrote, or a directory that was not there.
    pub fn is_ours(&self, path: &Path) -> bool {
        match self.entries.get(path) {
            Some(Entry::Directory) => true,
            Some(Entry::File { written, .. }) => fs::read(path).is_ok_and(|now| written.contains(&hash(&now))),
            None => false,
        }
    }

    /// The files we put there for `purpose`.
    pub fn files(&self, purpose: Purpose) -> Vec<PathBuf> {
        let of_purpose = |entry: &Entry| matches!(entry, Entry::File { purpose: p, .. } if *p == purpose);
        self.entries.iter().filter(|(_, entry)| of_purpose(entry)).map(|(path, _)| path.clone()).collect()
    }

    /// Puts `content` at `path` with permissions `mode`. Returns whether anything had to be changed.
    pub fn write(&mut self, path: &Path, content: &[u8], mode: u32, purpose: Purpose) -> Result<bool, ManifestError> {
        let now = current(path)?;
        let entry = self.entries.get(path);
        if now.as_ref().is_some_and(|(found, _)| found == content) && entry.is_some() {
            return Ok(false);
        }
        let (before, mut written) = match entry {
            Some(Entry::File { before, written, .. }) => (before.clone(), written.clone()),
            _ => (None, Vec::new()),
        };
        // What stands there and is not from us is what to go back to, be it old or put there meanwhile.
        let theirs = now.filter(|(found, _)| !written.contains(&hash(found)));
        let before = match theirs {
            Some((content, mode)) => Some(Former { content_base64: BASE64_STANDARD.encode(content), mode }),
            None => before,
        };
        written.push(hash(content));
        written.drain(..written.len().saturating_sub(HASHES));
        self.entries.insert(path.to_path_buf(), Entry::File { purpose, before, written });
        self.save()?;
        durable::write(path, content, mode).map_err(io_at(path))?;
        Ok(true)
    }

    /// Makes the directory at `path` and those above it that are missing.
    pub fn make_dirs(&mut self, path: &Path, mode: u32) -> Result<(), ManifestError> {
        let mut missing: Vec<&Path> = path.ancestors().take_while(|dir| !dir.exists()).collect();
        while let Some(dir) = missing.pop() {
            self.entries.insert(dir.to_path_buf(), Entry::Directory);
            self.save()?;
            durable::make_dir(dir, mode).map_err(io_at(dir))?;
        }
        Ok(())
    }

    /// Takes one file back: what was there before is there again, and the directories that we made for it go when they
    /// are empty. Returns false when somebody else has changed it; then it stays, and is forgotten.
    pub fn take_back(&mut self, path: &Path) -> Result<bool, ManifestError> {
        let Some(Entry::File { before, written, .. }) = self.entries.get(path) else { return Ok(false) };
        let now = current(path)?;
        let ours = now.is_some_and(|(found, _)| written.contains(&hash(&found)));
        if ours {
            match before {
                Some(former) => {
                    let content = BASE64_STANDARD.decode(&former.content_base64).map_err(|_| invalid(&self.path))?;
                    durable::write(path, &content, former.mode).map_err(io_at(path))?;
                }
                None => fs::remove_file(path).map_err(io_at(path))?,
            }
        }
        self.entries.remove(path);
        for dir in path.ancestors().skip(1) {
            if self.entries.get(dir) != Some(&Entry::Directory) || !remove_empty(dir)? {
                break;
            }
            self.entries.remove(dir);
        }
        self.save()?;
        Ok(ours)
    }

    /// Takes everything back. Returns the paths that stay because somebody else has changed or uses them.
    pub fn undo(&mut self) -> Result<Vec<PathBuf>, ManifestError> {
        let mut left = Vec::new();
        for path in [self.files(Purpose::Certificate), self.files(Purpose::Installation)].concat() {
            if !self.take_back(&path)? && path.exists() {
                left.push(path);
            }
        }
        // Deepest first: a path sorts before what is in it.
        let dirs: Vec<PathBuf> = self.entries.keys().rev().cloned().collect();
        for dir in dirs {
            if !remove_empty(&dir)? {
                left.push(dir.clone());
            }
            self.entries.remove(&dir);
        }
        self.save()?;
        Ok(left)
    }

    fn save(&self) -> Result<(), ManifestError> {
        let on_disk = OnDisk { version: VERSION, entries: self.entries.clone() };
        let text = serde_json::to_vec_pretty(&on_disk)
            .map_err(|source| ManifestError::Damaged { path: self.path.clone(), source })?;
        durable::write(&self.path, &text, 0o600).map_err(io_at(&self.path))
    }
}

/// Content and permissions of the regular file at `path`; `None` when nothing is there.
fn current(path: &Path) -> Result<Option<(Vec<u8>, u32)>, ManifestError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => {
            let content = fs::read(path).map_err(io_at(path))?;
            Ok(Some((content, metadata.permissions().mode() & 0o7777)))
        }
        Ok(_) => Err(ManifestError::NotAFile(path.to_path_buf())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ManifestError::Io { path: path.to_path_buf(), source }),
    }
}

/// Removes a directory if it is empty; true when it is gone.
fn remove_empty(dir: &Path) -> Result<bool, ManifestError> {
    match fs::remove_dir(dir) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(false),
        Err(e) => Err(io_at(dir)(e)),
    }
}

/// The error for a manifest of another version whose entries we cannot even read.
fn newer(text: &[u8], path: &Path) -> Option<ManifestError> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let Version { version } = serde_json::from_slice(text).ok()?;
    (version > VERSION).then(|| ManifestError::Newer { path: path.to_path_buf(), found: version })
}

fn hash(content: &[u8]) -> String {
    blake3::hash(content).to_hex().to_string()
}

fn io_at(path: &Path) -> impl FnOnce(io::Error) -> ManifestError {
    let path = path.to_path_buf();
    move |source| ManifestError::Io { path, source }
}

fn invalid(path: &Path) -> ManifestError {
    io_at(path)(io::Error::new(io::ErrorKind::InvalidData, "a former content in it cannot be decoded"))
}
