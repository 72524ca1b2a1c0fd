//! What a tag last meant, for the time when the registry cannot be asked.
//!
//! One small JSON file a tag beside the store, so that it outlives a restart. Serving it is `pull`'s decision.

use std::{
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

use crate::oci::Digest;

/// Tags remembered at most; the oldest are dropped at start.
const MOST: usize = 10_000;
/// A file longer than this is not ours.
const LONGEST: u64 = 16 << 10;

/// Which tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag {
    /// The registry's name.
    pub registry: String,
    /// The repository, with the mirror's namespace in front where the request named one.
    pub repository: String,
    /// The tag.
    pub tag: String,
}

/// What it meant when upstream last said so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meaning {
    /// The manifest's digest.
    pub digest: Digest,
    /// The `Content-Type` that the manifest came with.
    pub media_type: String,
    /// Whether it was given without any credential.
    pub anonymous: bool,
}

#[derive(Serialize, Deserialize)]
struct Record {
    #[serde(flatten)]
    tag: Tag,
    #[serde(flatten)]
    meaning: Meaning,
}

/// All tags seen.
#[derive(Debug, Clone)]
pub struct Tags {
    dir: PathBuf,
}

impl Tags {
    /// Opens `dir`, making it where needed.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let mut files: Vec<(SystemTime, PathBuf)> = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            files.push((entry.metadata()?.modified()?, entry.path()));
        }
        files.sort_unstable();
        for (_, old) in files.iter().take(files.len().saturating_sub(MOST)) {
            std::fs::remove_file(old)?;
        }
        Ok(Self { dir: dir.to_owned() })
    }

    /// What `tag` last meant.
    pub fn get(&self, tag: &Tag) -> Option<Meaning> {
        let record = read(&self.path(tag))?;
        (record.tag == *tag).then_some(record.meaning)
    }

    /// What `tag` last meant at a registry of that name over plain HTTP, which is known by its address too; the newest, where
    /// there are several.
    pub fn at_any_address(&self, tag: &Tag) -> Option<Meaning> {
        let prefix = format!("{} at ", tag.registry);
        let mut newest = None;
        for entry in std::fs::read_dir(&self.dir).ok()?.flatten() {
            let Some(record) = read(&entry.path()) else { continue };
            let is_it = record.tag.registry.starts_with(&prefix)
                && (&record.tag.repository, &record.tag.tag) == (&tag.repository, &tag.tag);
            let at = entry.metadata().and_then(|meta| meta.modified()).ok();
            if is_it && newest.as_ref().is_none_or(|(latest, _)| *latest < at) {
                newest = Some((at, record.meaning));
            }
        }
        newest.map(|(_, meaning)| meaning)
    }

    /// Upstream says that `tag` means `meaning`, or an operator in its place.
    ///
    /// # Errors
    /// When the file cannot be written; the tag's former meaning then stays.
    pub fn put(&self, tag: &Tag, meaning: &Meaning) -> io::Result<()> {
        if self.get(tag).as_ref() == Some(meaning) {
            return Ok(());
        }
        let record = Record { tag: tag.clone(), meaning: meaning.clone() };
        let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
        serde_json::to_writer(&mut file, &record)?;
        file.persist(self.path(tag))?;
        Ok(())
    }

    fn path(&self, tag: &Tag) -> PathBuf {
        let key = format!("{}\n{}\n{}", tag.registry, tag.repository, tag.tag);
        self.dir.join(format!("{}.json", Digest::of(key.as_bytes()).hex()))
    }
}

fn read(path: &Path) -> Option<Record> {
    if std::fs::metadata(path).ok()?.len() > LONGEST {
        return None;
    }
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_across_a_restart_and_takes_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let tag = Tag { registry: "r".into(), repository: "a/b".into(), tag: "1".into() };
        let meaning = |text: &[u8]| Meaning { digest: Digest::of(text), media_type: "m".into(), anonymous: true };
        let tags = Tags::open(dir.path()).unwrap();
        assert_eq!(tags.get(&tag), None);
        tags.put(&tag, &meaning(b"1")).unwrap();
        tags.put(&tag, &meaning(b"2")).unwrap();
        assert_eq!(Tags::open(dir.path()).unwrap().get(&tag), Some(meaning(b"2")));
        assert_eq!(tags.get(&Tag { tag: "2".into(), ..tag }), None);
    }

    #[test]
    fn a_damaged_file_is_a_tag_never_seen() {
        let dir = tempfile::tempdir().unwrap();
        let tag = Tag { registry: "r".into(), repository: "a".into(), tag: "1".into() };
        let tags = Tags::open(dir.path()).unwrap();
        std::fs::write(tags.path(&tag), "{\"registry\":").unwrap();
        assert_eq!(tags.get(&tag), None);
    }
}
