//! Every change that the store makes on its disk, as plain calls of the system.
//!
//! They stand together so that a test can write down their order and ask what is left when the power goes between two of
//! them (`disk/journal.rs`); in the product they are those calls and nothing more. Reading is everybody's own.

#[cfg(test)]
pub(super) mod journal;

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt as _, symlink},
    path::Path,
};

use nix::fcntl::OFlag;

#[cfg(test)]
use self::journal::Op;

/// A file open for writing, and for reading back.
#[derive(Debug)]
pub(super) struct DiskFile {
    file: File,
    #[cfg(test)]
    handle: journal::Handle,
}

impl DiskFile {
    /// Opens the file as it is; it must be there.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Self::with(path, OpenOptions::new().read(true).write(true), false)
    }

    /// Opens the file with nothing in it.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        Self::with(path, OpenOptions::new().read(true).write(true).create(true).truncate(true), true)
    }

    #[cfg_attr(not(test), expect(unused_variables, reason = "only the journal asks whether it is made anew"))]
    fn with(path: &Path, options: &mut OpenOptions, anew: bool) -> io::Result<Self> {
        // What is lent is a link to somebody else's file, which is never written.
        let file = options.custom_flags(OFlag::O_NOFOLLOW.bits()).open(path)?;
        Ok(Self {
            file,
            #[cfg(test)]
            handle: journal::opened(path, anew),
        })
    }

    pub(super) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)?;
        #[cfg(test)]
        self.handle.record(|handle| Op::Write { handle, offset, bytes: bytes.to_vec() });
        Ok(())
    }

    pub(super) fn set_len(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        #[cfg(test)]
        self.handle.record(|handle| Op::SetLen { handle, length });
        Ok(())
    }

    /// Makes content and length durable; not the name, which is its directory's.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()?;
        #[cfg(test)]
        self.handle.record(|handle| Op::Sync { handle });
        Ok(())
    }

    /// For reading.
    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

/// Makes `path` a link to `target`.
pub(super) fn link(target: &Path, path: &Path) -> io::Result<()> {
    symlink(target, path)?;
    #[cfg(test)]
    journal::record(path, || Op::Link { target: target.to_owned(), path: path.to_owned() });
    Ok(())
}

pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    #[cfg(test)]
    journal::record(from, || Op::Rename { from: from.to_owned(), to: to.to_owned() });
    Ok(())
}

/// Removes the file; one that is not there is no error.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        removed => removed?,
    }
    #[cfg(test)]
    journal::record(path, || Op::Remove { path: path.to_owned() });
    Ok(())
}

/// Makes one directory; one that is there is no error.
pub(super) fn make_dir(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made?,
    }
    #[cfg(test)]
    journal::record(path, || Op::MakeDir { path: path.to_owned() });
    Ok(())
}

/// Makes the names in a directory durable, and that others are gone.
pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    #[cfg(test)]
    journal::record(path, || Op::SyncDir { path: path.to_owned() });
    Ok(())
}
