//! What the store holds of an image: the tree below its manifest, walked without asking anybody.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::{
    oci::{
        Digest,
        manifest::{Kind, MAX_BYTES, MAX_CHILDREN, Manifest},
    },
    store::Store,
};

/// Indexes inside of indexes are followed so far.
const DEEPEST: usize = 4;

/// An image that can be used without a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// What its name means.
    pub top: Part,
    /// Everything that belongs to it and is here, `top` first, each once.
    pub parts: Vec<Part>,
    /// Manifests that an index lists and that are not here with all that belongs to them: other platforms, as a rule.
    pub absent: Vec<Digest>,
}

/// One manifest or blob of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// A manifest's media type; `None` for what is no manifest.
    pub media_type: Option<String>,
}

/// Why an image cannot be used without a registry.
#[derive(Debug, thiserror::Error)]
pub enum Lacking {
    /// Something that belongs to it is not here.
    #[error("{0}, which belongs to it, is not in the store")]
    Absent(Digest),
    /// An index, and not one of its platforms.
    #[error("{0} lists several platforms, and none of them is in the store with all its layers")]
    NoPlatform(Digest),
    /// What should be a manifest cannot be read as one.
    #[error("{digest} is no manifest: {why}")]
    NoManifest {
        /// What was read.
        digest: Digest,
        /// What is wrong with it.
        why: String,
    },
}

/// The image whose manifest is `top`, as far as `store` holds it. Blocks for the disk.
///
/// # Errors
/// When it is not complete for at least one platform.
pub fn held(store: &Store, top: Digest) -> Result<Held, Lacking> {
    let mut walk = Walk { store, seen: HashSet::new(), parts: Vec::new(), absent: Vec::new() };
    walk.manifest(top, 0)?;
    let first = walk.parts.first().cloned().ok_or(Lacking::Absent(top))?;
    Ok(Held { top: first, parts: walk.parts, absent: walk.absent })
}

struct Walk<'a> {
    store: &'a Store,
    seen: HashSet<Digest>,
    parts: Vec<Part>,
    absent: Vec<Digest>,
}

impl Walk<'_> {
    fn manifest(&mut self, digest: Digest, depth: usize) -> Result<(), Lacking> {
        let no_manifest = |why: String| Lacking::NoManifest { digest, why };
        let known = self.store.info(&digest).and_then(|info| info.media_type);
        let body = read(self.store, digest)?;
        let manifest = Manifest::parse(known.as_deref(), &body).map_err(|error| no_manifest(error.to_string()))?;
        if manifest.children.is_empty() || depth == DEEPEST || self.seen.len() > MAX_CHILDREN {
            return Err(no_manifest("it lists nothing, or too much".to_owned()));
        }
        if !self.seen.insert(digest) {
            return Ok(());
        }
        self.parts.push(Part { digest, size: body.len() as u64, media_type: Some(manifest.media_type) });
        let (mut platforms, mut listed) = (0, 0);
        for child in manifest.children {
            match child.kind {
                Kind::Manifest => {
                    listed += 1;
                    let (parts, absent) = (self.parts.len(), self.absent.len());
                    if self.manifest(child.digest, depth + 1).is_ok() {
                        platforms += 1;
                    } else {
                        for dropped in self.parts.drain(parts..) {
                            self.seen.remove(&dropped.digest);
                        }
                        self.absent.truncate(absent);
                        self.absent.push(child.digest);
                    }
                }
                Kind::Config | Kind::Layer if child.foreign => {}
                Kind::Config | Kind::Layer => self.blob(child.digest)?,
            }
        }
        if listed > 0 && platforms == 0 { Err(Lacking::NoPlatform(digest)) } else { Ok(()) }
    }

    fn blob(&mut self, digest: Digest) -> Result<(), Lacking> {
        let size = self.store.get(&digest).ok_or(Lacking::Absent(digest))?.size();
        if self.seen.insert(digest) {
            self.parts.push(Part { digest, size, media_type: None });
        }
        Ok(())
    }
}

fn read(store: &Store, digest: Digest) -> Result<Vec<u8>, Lacking> {
    let blob = store.get(&digest).ok_or(Lacking::Absent(digest))?;
    let no_manifest = |why: String| Lacking::NoManifest { digest, why };
    if blob.size() > MAX_BYTES as u64 {
        return Err(no_manifest(format!("{} bytes are too many", blob.size())));
    }
    let mut body = vec![0; blob.size() as usize];
    let read = blob.read_at(0, &mut body).map_err(|error| no_manifest(error.to_string()))?;
    // The disk may have changed since it was verified.
    if read < body.len() || Digest::of(&body) != digest {
        return Err(no_manifest("the disk has damaged it".to_owned()));
    }
    Ok(body)
}
