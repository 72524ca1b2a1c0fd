//! An archive, written: the same image gives the same bytes.

use std::{
    io::{self, Read, Write as _},
    path::Path,
};

use serde_json::json;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use super::{ArchiveError, NAME, REF_NAME, blob_path};
use crate::{
    content::image::Held,
    oci::{
        Digest,
        image::{ImageName, Reference},
    },
};

/// Where an image's bytes come from.
pub trait Bytes {
    /// The bytes of one of its manifests or blobs.
    ///
    /// # Errors
    /// When they cannot be had.
    fn open(&mut self, digest: &Digest) -> io::Result<impl Read>;
}

/// Writes `image` to the file `path`, which is there whole or not at all; only its owner may read it.
///
/// # Errors
/// When bytes are not what they should be, or the file cannot be written.
pub fn write(path: &Path, name: &ImageName, image: &Held, bytes: &mut impl Bytes) -> Result<(), ArchiveError> {
    let io = |source| ArchiveError::Io { what: "write", path: path.to_owned(), source };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file = NamedTempFile::new_in(parent).map_err(io)?;
    let mut archive = tar::Builder::new(io::BufWriter::with_capacity(1 << 20, file));
    let mut put = |path: &str, size: u64, reader: &mut dyn Read| {
        let mut header = tar::Header::new_ustar();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_mtime(0);
        archive.append_data(&mut header, path, reader)
    };
    let layout = json!({ "imageLayoutVersion": "1.0.0" }).to_string();
    put("oci-layout", layout.len() as u64, &mut layout.as_bytes()).map_err(io)?;
    let index = index(name, image);
    put("index.json", index.len() as u64, &mut index.as_bytes()).map_err(io)?;
    for part in &image.parts {
        let mut reader = Hashed { inner: bytes.open(&part.digest).map_err(io)?, hasher: Sha256::new() };
        put(&blob_path(&part.digest), part.size, &mut (&mut reader).take(part.size)).map_err(io)?;
        if reader.hasher.finalize().as_slice() != part.digest.as_bytes() {
            return Err(ArchiveError::Damaged { digest: part.digest });
        }
    }
    let mut file = archive.into_inner().and_then(|file| file.into_inner().map_err(Into::into)).map_err(io)?;
    file.flush().and_then(|()| file.as_file().sync_all()).map_err(io)?;
    file.persist(path).map_err(|error| io(error.error))?;
    Ok(())
}

/// The top of the layout. Both annotations, because readers know one or the other.
fn index(name: &ImageName, image: &Held) -> String {
    let mut annotations = serde_json::Map::from_iter([(NAME.to_owned(), json!(name.to_string()))]);
    if let Reference::Tag(tag) = &name.reference {
        annotations.insert(REF_NAME.to_owned(), json!(tag));
    }
    let manifest = json!({
        "mediaType": image.top.media_type,
        "digest": image.top.digest,
        "size": image.top.size,
        "annotations": annotations,
    });
    let media_type = "application/vnd.oci.image.index.v1+json";
    json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": [manifest] }).to_string()
}

struct Hashed<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}
