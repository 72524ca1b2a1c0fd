//! An archive, looked through and verified before anything of it goes anywhere.

use std::{collections::HashSet, path::Path};

use bytes::BytesMut;
use oci_spec::image::{Descriptor, ImageIndex, OciLayout};
use sha2::{Digest as _, Sha256};

use super::{
    ArchiveError, NAME, REF_NAME, blob_path,
    entries::{Entries, Place},
};
use crate::oci::{
    Digest, Manifest,
    image::ImageName,
    manifest::{Kind, MAX_BYTES, MAX_CHILDREN},
};

/// Indexes inside of indexes are followed so far.
const DEEPEST: usize = 4;
/// How much is read at once, in bytes.
const READ: usize = 256 << 10;

/// An open archive that holds at least one image.
pub struct Archive {
    entries: Entries,
    /// Its images, in their order.
    pub images: Vec<Image>,
}

/// One image in an archive, with all that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its whole name, where the archive tells one.
    pub name: Option<ImageName>,
    /// Its manifest.
    pub top: Digest,
    /// Everything that belongs to it, each once, by digest and size.
    pub parts: Vec<(Digest, u64)>,
    /// Manifests that an index lists and that the archive does not hold: other platforms, as a rule.
    pub absent: usize,
}

impl Archive {
    /// Opens the archive at `path` and reads its manifests.
    ///
    /// # Errors
    /// When it is no image layout, or lacks anything that an image of it needs.
    pub fn open(path: &Path) -> Result<Self, ArchiveError> {
        let entries = Entries::list(path)?;
        if entries.get("oci-layout").is_none() && entries.get("manifest.json").is_some() {
            return Err(ArchiveError::DockerFormat);
        }
        let mut archive = Self { entries, images: Vec::new() };
        let layout: OciLayout = archive.document("oci-layout", 4 << 10)?;
        if !layout.image_layout_version().starts_with("1.") {
            let version = layout.image_layout_version();
            return Err(ArchiveError::NotLayout(format!("its version is {version:?}, not 1.x")));
        }
        let index: ImageIndex = archive.document("index.json", MAX_BYTES)?;
        for descriptor in index.manifests() {
            let image = archive.image(descriptor)?;
            archive.images.push(image);
        }
        if archive.images.is_empty() {
            return Err(ArchiveError::NotLayout("its index.json lists no image".to_owned()));
        }
        Ok(archive)
    }

    /// Hashes everything that belongs to the images; `read` is told of bytes as they are read.
    ///
    /// # Errors
    /// At the first that is not what its name says.
    pub fn verify(&self, mut read: impl FnMut(u64)) -> Result<(), ArchiveError> {
        let mut seen = HashSet::new();
        for (digest, _) in self.images.iter().flat_map(|image| &image.parts).filter(|(digest, _)| seen.insert(*digest))
        {
            let mut hasher = Sha256::new();
            self.read(digest, |chunk| {
                hasher.update(chunk);
                read(chunk.len() as u64);
            })?;
            if hasher.finalize().as_slice() != digest.as_bytes() {
                return Err(ArchiveError::Damaged { digest: *digest });
            }
        }
        Ok(())
    }

    /// The bytes of a blob at `at`, at most some hundred kilobytes; none at its end.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn chunk(&self, digest: &Digest, at: u64) -> Result<BytesMut, ArchiveError> {
        let Some(place) = self.entries.get(&blob_path(digest)) else { return Ok(BytesMut::new()) };
        let mut chunk = BytesMut::zeroed(READ);
        let read = self.entries.read_at(place, at, &mut chunk).map_err(|error| unreadable(digest, &error))?;
        chunk.truncate(read);
        Ok(chunk)
    }

    fn read(&self, digest: &Digest, mut each: impl FnMut(&[u8])) -> Result<(), ArchiveError> {
        let mut at = 0;
        loop {
            let chunk = self.chunk(digest, at)?;
            if chunk.is_empty() {
                return Ok(());
            }
            at += chunk.len() as u64;
            each(&chunk);
        }
    }

    fn image(&self, descriptor: &Descriptor) -> Result<Image, ArchiveError> {
        let text = descriptor.digest().to_string();
        let top: Digest = text.parse().map_err(|error| wrong("index.json", &format!("{text:?}: {error}")))?;
        let mut image = Image { name: name(descriptor), top, parts: Vec::new(), absent: 0 };
        let mut seen = HashSet::new();
        self.manifest(top, Some(descriptor.size()), top, 0, &mut image, &mut seen)?;
        Ok(image)
    }

    fn manifest(
        &self,
        digest: Digest,
        said: Option<u64>,
        of: Digest,
        depth: usize,
        image: &mut Image,
        seen: &mut HashSet<Digest>,
    ) -> Result<(), ArchiveError> {
        let place = self.place(&digest, said, of)?;
        let bytes = self.entries.whole(place, MAX_BYTES).map_err(|error| unreadable(&digest, &error))?;
        if Digest::of(&bytes) != digest {
            return Err(ArchiveError::Damaged { digest });
        }
        let unusable = |why: String| ArchiveError::Document { name: digest.to_string(), why };
        let manifest = Manifest::parse(None, &bytes).map_err(|error| unusable(error.to_string()))?;
        if manifest.children.is_empty() || depth == DEEPEST || seen.len() > MAX_CHILDREN {
            return Err(unusable("it lists nothing, or too much".to_owned()));
        }
        if !seen.insert(digest) {
            return Ok(());
        }
        image.parts.push((digest, place.size));
        let before = image.absent;
        let listed = manifest.children.iter().filter(|child| child.kind == Kind::Manifest).count();
        for child in manifest.children.iter().filter(|child| !child.foreign) {
            if child.kind != Kind::Manifest {
                let place = self.place(&child.digest, Some(child.size), digest)?;
                if seen.insert(child.digest) {
                    image.parts.push((child.digest, place.size));
                }
            } else if self.entries.get(&blob_path(&child.digest)).is_none() {
                image.absent += 1;
            } else {
                self.manifest(child.digest, Some(child.size), digest, depth + 1, image, seen)?;
            }
        }
        if listed > 0 && image.absent - before >= listed {
            return Err(ArchiveError::Absent { digest: manifest.children[0].digest, of: digest });
        }
        Ok(())
    }

    fn place(&self, digest: &Digest, said: Option<u64>, of: Digest) -> Result<Place, ArchiveError> {
        let place = self.entries.get(&blob_path(digest)).ok_or(ArchiveError::Absent { digest: *digest, of })?;
        match said {
            Some(said) if said != place.size => Err(ArchiveError::Size { digest: *digest, said, found: place.size }),
            _ => Ok(place),
        }
    }

    fn document<T: serde::de::DeserializeOwned>(&self, name: &str, most: usize) -> Result<T, ArchiveError> {
        let place = self.entries.get(name).ok_or_else(|| ArchiveError::NotLayout(format!("it has no {name}")))?;
        let bytes = self.entries.whole(place, most).map_err(|error| wrong(name, &error.to_string()))?;
        serde_json::from_slice(&bytes).map_err(|error| wrong(name, &error.to_string()))
    }
}

/// An image's whole name. A tag alone, as skopeo writes it, says nothing of the registry.
fn name(descriptor: &Descriptor) -> Option<ImageName> {
    let told = |key| descriptor.annotations().as_ref()?.get(key);
    let whole = told(NAME).or_else(|| told(REF_NAME).filter(|name| name.contains('/')))?;
    whole.parse().ok()
}

fn wrong(name: &str, why: &str) -> ArchiveError {
    ArchiveError::Document { name: name.to_owned(), why: why.to_owned() }
}

fn unreadable(digest: &Digest, error: &std::io::Error) -> ArchiveError {
    wrong(&digest.to_string(), &error.to_string())
}
