//! Images as files: OCI image layouts in a tar archive, as skopeo, podman and ctr write and read them. What is read
//! here came from anywhere: nothing in it is believed before its sha256 agrees, and no path in it is ever written to.

mod entries;
mod read;
mod write;

#[cfg(test)]
mod tests;

use std::{io, path::PathBuf};

pub use self::{
    read::{Archive, Image},
    write::{Bytes, write},
};
use crate::oci::Digest;

/// The annotation with an image's whole name, as containerd and docker write it.
const NAME: &str = "io.containerd.image.name";
/// The annotation of the OCI image layout: a tag, or a whole name.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Why an archive cannot be read or written. Nothing was changed by it.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// A file could not be read or written.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is no tar archive, or a damaged one.
    #[error("{} is no tar archive that can be read: {why}; a compressed one must be unpacked first", path.display())]
    NotTar {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A name in it leads out of the archive.
    #[error("the archive holds {0:?}: a path that leads out of it; nothing was imported")]
    Path(String),
    /// The same file twice: two readers might read two things.
    #[error("the archive holds {0:?} twice; nothing was imported")]
    Twice(String),
    /// Something that no image layout needs, and that could hide other things.
    #[error("the archive holds {0}, which is not read; write it anew with `skopeo copy … oci-archive:FILE`")]
    Unknown(String),
    /// An entry says that it is larger than the file.
    #[error("the archive is cut short: {name} should have {size} bytes; copy it again")]
    Short {
        /// Which.
        name: String,
        /// Its size, as it says.
        size: u64,
    },
    /// It is no image layout.
    #[error("the archive is no OCI image layout: {0}; `skopeo copy … oci-archive:FILE` and `waylay export` write one")]
    NotLayout(String),
    /// It is in Docker's own format, which keeps neither the registry's manifest nor its compressed layers.
    #[error(
        "the archive is one of `docker save` (before Docker 25) or `podman save`, whose layers are not those of the registry; \
         where there is a network, `skopeo copy docker://IMAGE oci-archive:FILE:IMAGE` writes one that can be imported, and \
         `podman save --format oci-archive` does, too"
    )]
    DockerFormat,
    /// A document in it cannot be read.
    #[error("{name} in the archive cannot be read: {why}")]
    Document {
        /// Which.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// Something that the image needs is not there.
    #[error("the archive lacks {digest}, which {of} needs; nothing was imported")]
    Absent {
        /// What is not there.
        digest: Digest,
        /// What needs it.
        of: Digest,
    },
    /// Bytes that are not those of their name.
    #[error("the archive is damaged: the bytes of {digest} are not what their name says; nothing was imported")]
    Damaged {
        /// Which.
        digest: Digest,
    },
    /// A manifest says another size than there is.
    #[error("{digest} has {found} bytes in the archive, not {said}; nothing was imported")]
    Size {
        /// Which.
        digest: Digest,
        /// What its manifest says.
        said: u64,
        /// What is there.
        found: u64,
    },
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}
