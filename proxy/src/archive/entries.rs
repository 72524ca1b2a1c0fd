//! What stands where in a tar archive. Headers are read one by one, and only plain files count: nothing is read into memory
//! because an archive says that it is long.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::Path,
};

use tar::EntryType;

use super::ArchiveError;

/// Entries in an archive at most, far above what any image has.
const MOST: usize = 100_000;
/// An extended header is longer than this only to do harm.
const LONGEST_PAX: u64 = 64 << 10;

/// Plain files in an archive, by their path.
pub(super) struct Entries {
    file: File,
    places: HashMap<String, Place>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    offset: u64,
    pub(super) size: u64,
}

impl Entries {
    pub(super) fn list(path: &Path) -> Result<Self, ArchiveError> {
        // What follows the colon is the file's own bytes, which are nobody's to print.
        let why = |error: io::Error| error.to_string().split(':').next().unwrap_or_default().to_owned();
        let not_tar = |error| ArchiveError::NotTar { path: path.to_owned(), why: why(error) };
        let io = |source| ArchiveError::Io { what: "read", path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let mut archive = tar::Archive::new(file);
        let mut places = HashMap::new();
        for entry in archive.entries_with_seek().map_err(not_tar)?.raw(true) {
            let mut entry = entry.map_err(not_tar)?;
            let (kind, size, offset) = (entry.header().entry_type(), entry.size(), entry.raw_file_position());
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            if size > length.saturating_sub(offset) {
                return Err(ArchiveError::Short { name, size });
            }
            match kind {
                EntryType::Regular | EntryType::Continuous => {
                    let name = inside(&name)?;
                    if places.insert(name.clone(), Place { offset, size }).is_some() {
                        return Err(ArchiveError::Twice(name));
                    }
                }
                EntryType::XHeader | EntryType::XGlobalHeader => {
                    let mut text = Vec::new();
                    entry.by_ref().take(LONGEST_PAX).read_to_end(&mut text).map_err(not_tar)?;
                    if size > LONGEST_PAX || changes_meaning(&text) {
                        return Err(ArchiveError::Unknown("an extended header with another path or size".to_owned()));
                    }
                }
                // No path in a layout is so long that it needs one of these.
                EntryType::GNULongName | EntryType::GNULongLink | EntryType::GNUSparse => {
                    return Err(ArchiveError::Unknown("a long name or a sparse file".to_owned()));
                }
                // Directories mean nothing here, and neither do links: what they stand for is then not there.
                _ => {
                    inside(&name)?;
                }
            }
            if places.len() > MOST {
                return Err(ArchiveError::Unknown(format!("more than {MOST} files")));
            }
        }
        Ok(Self { file: archive.into_inner(), places })
    }

    pub(super) fn get(&self, name: &str) -> Option<Place> {
        self.places.get(name).copied()
    }

    /// All of a file, which is to be of at most `most` bytes.
    pub(super) fn whole(&self, place: Place, most: usize) -> io::Result<Vec<u8>> {
        let size = usize::try_from(place.size).ok().filter(|size| *size <= most);
        let too_long = || io::Error::new(io::ErrorKind::InvalidData, format!("it has {} bytes", place.size));
        let mut bytes = vec![0; size.ok_or_else(too_long)?];
        self.file.read_exact_at(&mut bytes, place.offset)?;
        Ok(bytes)
    }

    /// Reads a file at `at` until the buffer is full or it ends; how many bytes there were.
    pub(super) fn read_at(&self, place: Place, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(place.size.saturating_sub(at)).unwrap_or(usize::MAX).min(buffer.len());
        self.file.read_exact_at(&mut buffer[..left], place.offset + at)?;
        Ok(left)
    }
}

/// A path in the one way that layouts write it.
fn inside(name: &str) -> Result<String, ArchiveError> {
    let plain = name.strip_prefix("./").unwrap_or(name);
    if plain.starts_with('/') || plain.split('/').any(|part| part == "..") || plain.contains('\0') {
        return Err(ArchiveError::Path(name.to_owned()));
    }
    Ok(plain.to_owned())
}

/// Whether an extended header gives its file another path or size than its own header does.
fn changes_meaning(pax: &[u8]) -> bool {
    let odd = |key: &str| matches!(key, "path" | "size" | "linkpath") || key.starts_with("GNU.sparse");
    tar::PaxExtensions::new(pax).any(|record| record.map_or(true, |record| record.key().map_or(true, odd)))
}
