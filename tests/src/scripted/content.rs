//! What the scripted registry holds: blobs and manifests by repository, tags, and uploads that are under way.

use std::collections::{BTreeMap, HashMap};

use bytes::{Bytes, BytesMut};
use waylay::oci::Digest;

use super::image::{Built, Piece};

/// Everything in a registry. A blob is found only in the repositories that it was put in.
#[derive(Default)]
pub(super) struct Content {
    repositories: HashMap<String, Repository>,
    uploads: HashMap<String, BytesMut>,
    sessions: u64,
}

#[derive(Default)]
struct Repository {
    blobs: HashMap<Digest, Bytes>,
    manifests: HashMap<Digest, Piece>,
    tags: BTreeMap<String, Digest>,
}

impl Content {
    pub(super) fn put_image(&mut self, image: &Built) {
        let repository = self.repositories.entry(image.repository.clone()).or_default();
        for blob in image.configs.iter().chain(&image.layers) {
            repository.blobs.insert(blob.digest, blob.bytes.clone());
        }
        for manifest in image.manifests.iter().chain([&image.top]) {
            repository.manifests.insert(manifest.digest, manifest.clone());
        }
        repository.tags.insert(image.tag.clone(), image.top.digest);
    }

    pub(super) fn put_blob(&mut self, repository: &str, bytes: Bytes) -> Digest {
        let digest = Digest::of(&bytes);
        self.put_blob_as(repository, digest, bytes);
        digest
    }

    pub(super) fn put_blob_as(&mut self, repository: &str, digest: Digest, bytes: Bytes) {
        self.repositories.entry(repository.to_owned()).or_default().blobs.insert(digest, bytes);
    }

    /// `reference` is a tag or a digest.
    pub(super) fn put_manifest(&mut self, repository: &str, reference: &str, manifest: Piece) {
        let repository = self.repositories.entry(repository.to_owned()).or_default();
        if reference.parse::<Digest>().is_err() {
            repository.tags.insert(reference.to_owned(), manifest.digest);
        }
        repository.manifests.insert(manifest.digest, manifest);
    }

    pub(super) fn remove(&mut self, repository: &str, digest: &Digest) {
        if let Some(repository) = self.repositories.get_mut(repository) {
            repository.blobs.remove(digest);
            repository.manifests.remove(digest);
        }
    }

    pub(super) fn blob(&self, repository: &str, digest: &Digest) -> Option<Bytes> {
        self.repositories.get(repository)?.blobs.get(digest).cloned()
    }

    /// The blob wherever it is: storage behind a registry knows no repositories.
    pub(super) fn anywhere(&self, digest: &Digest) -> Option<Bytes> {
        self.repositories.values().find_map(|repository| repository.blobs.get(digest).cloned())
    }

    pub(super) fn manifest(&self, repository: &str, reference: &str) -> Option<Piece> {
        let repository = self.repositories.get(repository)?;
        let digest = reference.parse().ok().or_else(|| repository.tags.get(reference).copied())?;
        repository.manifests.get(&digest).cloned()
    }

    pub(super) fn tags(&self, repository: &str) -> Option<Vec<String>> {
        Some(self.repositories.get(repository)?.tags.keys().cloned().collect())
    }

    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.repositories.keys().cloned().collect();
        names.sort();
        names
    }

    pub(super) fn begin_upload(&mut self) -> String {
        self.sessions += 1;
        let session = format!("session-{}", self.sessions);
        self.uploads.insert(session.clone(), BytesMut::new());
        session
    }

    /// Bytes in the session so far, `None` if there is no such session.
    pub(super) fn append(&mut self, session: &str, bytes: &[u8]) -> Option<usize> {
        let upload = self.uploads.get_mut(session)?;
        upload.extend_from_slice(bytes);
        Some(upload.len())
    }

    /// Ends the session with the blob in place, or with `false` if it is not the one that was promised.
    pub(super) fn finish_upload(&mut self, repository: &str, session: &str, digest: &Digest) -> Option<bool> {
        let bytes = self.uploads.remove(session)?.freeze();
        let right = Digest::of(&bytes) == *digest;
        if right {
            self.put_blob(repository, bytes);
        }
        Some(right)
    }
}
