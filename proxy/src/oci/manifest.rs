//! What a manifest lists: the indexes and manifests of OCI and of Docker's schema 2, read just far enough to know
//! their children. Whether the bytes are what their digest says, and what a child may be used for, is decided above.

use std::fmt;

use serde::{
    Deserialize,
    de::{self, Deserializer, IgnoredAny, SeqAccess, Visitor},
};

use super::Digest;

/// The largest manifest that is read. Registries need not take more (OCI distribution spec 1.1, "Pushing manifests").
pub const MAX_BYTES: usize = 4 << 20;

/// The most children that are read in one manifest, far above what any image has.
pub const MAX_CHILDREN: usize = 8192;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";
const DOCKER_SCHEMA1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

/// What a manifest lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its media type: what it says itself, else what it came with, else what its shape says.
    pub media_type: String,
    /// What it lists, in its order (for an image the configuration first), without digests other than sha256.
    pub children: Vec<Child>,
}

/// One descriptor in a manifest (OCI image spec, "Content descriptors").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// What is listed.
    pub digest: Digest,
    /// Its size in bytes, as the manifest says.
    pub size: u64,
    /// In which place it is listed.
    pub kind: Kind,
    /// Whether it has `urls`, so that the registry need not have it, and need not have checked that it exists.
    pub foreign: bool,
    /// Its media type, as the manifest says; empty when it does not.
    pub media_type: String,
}

/// In which place a child is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// In `manifests` of an index: fetched by `/manifests/`.
    Manifest,
    /// As `config` of an image: a blob.
    Config,
    /// In `layers` of an image or `blobs` of an artifact, whatever its media type: a blob.
    Layer,
}

/// Why a body says nothing that we may rely on.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// More than [`MAX_BYTES`].
    #[error("a manifest of {0} bytes is larger than {MAX_BYTES}")]
    TooLarge(usize),
    /// Not JSON, a descriptor without digest or size, or more than [`MAX_CHILDREN`] of them.
    #[error("not a manifest: {0}")]
    Json(#[from] serde_json::Error),
    /// It says of itself to be something else than what it was served as.
    #[error("served as {served:?}, but says to be {says:?}")]
    MediaTypes {
        /// The `Content-Type` it came with.
        served: String,
        /// Its `mediaType`.
        says: String,
    },
    /// Both an index and an image, or not what its media type says: two clients might read two things in it
    /// (CVE-2021-41190).
    #[error("may be read both as an index and as an image")]
    Ambiguous,
}

/// What shape a media type or the fields say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Index,
    Image,
    /// Schema 1, or something that is not ours to read: lists nothing.
    Other,
}

impl Manifest {
    /// Reads `body`, served with `content_type`.
    ///
    /// A media type that is unknown, and Docker's schema 1, are no error but list nothing. `subject` is no child: a
    /// registry accepts a manifest whose subject it does not have (OCI distribution spec 1.1, "Pushing manifests with
    /// subject"), so that its naming proves nothing.
    ///
    /// # Errors
    /// See [`ManifestError`]. Whoever gets one can still relay the body; nothing in it is to be relied on.
    pub fn parse(content_type: Option<&str>, body: &[u8]) -> Result<Self, ManifestError> {
        if body.len() > MAX_BYTES {
            return Err(ManifestError::TooLarge(body.len()));
        }
        let document: Document = serde_json::from_slice(body)?;
        // Parameters such as a charset do not count, nor does a type that says no more than "JSON" or "bytes".
        let served = content_type
            .and_then(|value| value.split(';').next())
            .map(|value| value.trim().to_ascii_lowercase())
            .filter(|value| !matches!(&**value, "" | "application/json" | "application/octet-stream" | "text/plain"));
        let says = document.media_type.clone().filter(|says| !says.is_empty());
        if let (Some(served), Some(says)) = (&served, &says)
            && !served.eq_ignore_ascii_case(says)
        {
            return Err(ManifestError::MediaTypes { served: served.clone(), says: says.clone() });
        }
        let fields = document.fields()?;
        let named = says.or(served);
        let shape = match named.as_deref() {
            None => fields,
            Some(OCI_INDEX | DOCKER_LIST) => Shape::Index,
            Some(OCI_MANIFEST | DOCKER_MANIFEST | OCI_ARTIFACT) => Shape::Image,
            Some(_) => Shape::Other,
        };
        if shape != Shape::Other && fields != Shape::Other && fields != shape {
            return Err(ManifestError::Ambiguous);
        }
        let guessed = match shape {
            Shape::Index => OCI_INDEX,
            Shape::Image => OCI_MANIFEST,
            Shape::Other => DOCKER_SCHEMA1,
        };
        let children = if shape == Shape::Other { Vec::new() } else { document.children() };
        Ok(Self { media_type: named.unwrap_or_else(|| guessed.to_owned()), children })
    }

    /// Whether the media type is Docker's schema 1, whose digest is not that of its body.
    pub fn is_schema1(&self) -> bool {
        matches!(&*self.media_type, DOCKER_SCHEMA1 | DOCKER_SCHEMA1_SIGNED)
    }
}

/// The fields of all kinds of manifest together.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<Descriptor>,
    #[serde(default)]
    manifests: Descriptors,
    #[serde(default)]
    layers: Descriptors,
    #[serde(default)]
    blobs: Descriptors,
    fs_layers: Option<IgnoredAny>,
}

impl Document {
    /// The shape that the fields have, which is only one.
    fn fields(&self) -> Result<Shape, ManifestError> {
        let index = !self.manifests.0.is_empty();
        let image = self.config.is_some() || !self.layers.0.is_empty() || !self.blobs.0.is_empty();
        let schema1 = self.fs_layers.is_some() || self.schema_version == Some(1);
        match (index, image, schema1) {
            (true, false, false) => Ok(Shape::Index),
            (false, true, false) => Ok(Shape::Image),
            (false, false, _) => Ok(Shape::Other),
            _ => Err(ManifestError::Ambiguous),
        }
    }

    fn children(self) -> Vec<Child> {
        let config = self.config.into_iter().map(|config| (Kind::Config, config));
        let manifests = self.manifests.0.into_iter().map(|manifest| (Kind::Manifest, manifest));
        let layers = self.layers.0.into_iter().chain(self.blobs.0).map(|layer| (Kind::Layer, layer));
        config.chain(manifests).chain(layers).filter_map(|(kind, descriptor)| descriptor.child(kind)).collect()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: Option<String>,
    digest: String,
    size: u64,
    #[serde(default)]
    urls: Option<Vec<IgnoredAny>>,
}

impl Descriptor {
    /// `None` for a digest that we cannot check.
    fn child(self, kind: Kind) -> Option<Child> {
        Some(Child {
            digest: self.digest.parse().ok()?,
            size: self.size,
            kind,
            foreign: self.urls.is_some_and(|urls| !urls.is_empty()),
            media_type: self.media_type.unwrap_or_default(),
        })
    }
}

/// At most [`MAX_CHILDREN`] descriptors, `null` for none: four megabytes can hold so many empty ones that reading them
/// all would cost many times as much memory.
#[derive(Default)]
struct Descriptors(Vec<Descriptor>);

impl<'de> Deserialize<'de> for Descriptors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_option(Bounded)
    }
}

/// Stops at the first descriptor too many.
struct Bounded;

impl<'de> Visitor<'de> for Bounded {
    type Value = Descriptors;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {MAX_CHILDREN} descriptors")
    }

    fn visit_none<E: de::Error>(self) -> Result<Descriptors, E> {
        Ok(Descriptors::default())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Descriptors, D::Error> {
        deserializer.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Descriptors, A::Error> {
        let mut descriptors = Vec::new();
        while let Some(descriptor) = sequence.next_element()? {
            if descriptors.len() == MAX_CHILDREN {
                return Err(de::Error::invalid_length(MAX_CHILDREN + 1, &self));
            }
            descriptors.push(descriptor);
        }
        Ok(Descriptors(descriptors))
    }
}

#[cfg(test)]
mod tests;
