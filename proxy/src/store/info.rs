//! What is remembered about a blob beside its bytes: `info/HEX.json`, rewritten whole.

use std::{
    fs, io,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::disk::{self, DiskFile};

/// The most registry/repository pairs kept for one blob; the oldest goes first.
pub const MAX_PROVENANCE: usize = 32;
/// The longest registry or repository name believed, in bytes (the distribution specification allows 255).
pub const MAX_NAME: usize = 255;

/// A registry has itself served the blob under this repository: half of the right to be given it (DESIGN section 5).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Provenance {
    /// The registry's name, with its port when that is not 443.
    pub registry: String,
    /// The repository's name in it.
    pub repository: String,
}

impl Provenance {
    /// Whether the names are of bearable length; what a peer tells is checked with this.
    pub fn is_bounded(&self) -> bool {
        self.registry.len() <= MAX_NAME && self.repository.len() <= MAX_NAME
    }
}

/// What is remembered about a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Info {
    /// Length in bytes.
    pub size: u64,
    /// The media type, for manifests: the body does not always tell it. `None` for blobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Where a registry has served it, at most [`MAX_PROVENANCE`].
    #[serde(default)]
    pub provenance: Vec<Provenance>,
    /// Where an operator has imported it for: nobody has shown that a registry has it, so it opens nothing of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub imported: Vec<Provenance>,
    /// Whether eviction must leave it alone.
    #[serde(default)]
    pub pinned: bool,
    /// When it was first asked for, in seconds since 1970.
    pub created: u64,
}

impl Info {
    pub(super) fn new(size: u64) -> Self {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { size, media_type: None, provenance: Vec::new(), imported: Vec::new(), pinned: false, created }
    }

    /// Adds a pair; whether anything changed.
    pub(super) fn add(&mut self, provenance: Provenance) -> bool {
        add(&mut self.provenance, provenance)
    }

    /// Adds where it was imported for; whether anything changed.
    pub(super) fn add_import(&mut self, imported: Provenance) -> bool {
        add(&mut self.imported, imported)
    }

    /// Reads the file; `None` when there is none or it makes no sense, which only means less is known.
    pub(super) fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// Replaces the file at once: a reader sees the old one or the new one. Unless `durable`, a power failure may take
    /// it, which costs a question to the registry.
    pub(super) fn write(&self, path: &Path, durable: bool) -> io::Result<()> {
        let temporary = path.with_extension(TEMPORARY);
        let file = DiskFile::create(&temporary)?;
        file.write_all_at(&serde_json::to_vec(self)?, 0)?;
        if durable {
            file.sync()?;
        }
        disk::rename(&temporary, path)?;
        match path.parent() {
            Some(dir) if durable => disk::sync_dir(dir),
            _ => Ok(()),
        }
    }
}

fn add(pairs: &mut Vec<Provenance>, new: Provenance) -> bool {
    if !new.is_bounded() || pairs.contains(&new) {
        return false;
    }
    if pairs.len() >= MAX_PROVENANCE {
        pairs.remove(0);
    }
    pairs.push(new);
    true
}

/// The extension of files that only we make and that mean nothing after a crash.
pub(super) const TEMPORARY: &str = "waylay-tmp";
