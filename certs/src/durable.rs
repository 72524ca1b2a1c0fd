//! Files that are either there whole or not at all: temporary file, fsync, rename, fsync of the directory.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

/// Puts `content` at `path` with permissions `mode`, replacing what was there. After a crash the path holds the old
/// content or the new one, and the content is never readable with wider permissions than `mode`.
///
/// # Errors
/// When the system refuses; the old content stays then.
pub fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Made 0600 by tempfile; the mode is widened only once the content is complete.
    let mut file = tempfile::Builder::new().prefix(".waylay-").tempfile_in(parent)?;
    file.write_all(content)?;
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    sync_dir(parent)
}

/// Makes one directory with exactly these permissions, whatever the umask. An existing one is left as it is.
/// Returns whether it was made.
pub(crate) fn make_dir(path: &Path, mode: u32) -> io::Result<bool> {
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => return Ok(false),
        Err(e) => return Err(e),
    }
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        sync_dir(parent)?;
    }
    Ok(true)
}

/// Makes a change of names in `path` survive a crash.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_with_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write(&path, b"one", 0o600).unwrap();
        write(&path, b"two", 0o644).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o644);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_failed_write_leaves_the_old_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("missing/file");
        assert!(write(&path, b"x", 0o600).is_err());
        let kept = dir.path().join("directory");
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("inside"), b"old").unwrap();
        assert!(write(&kept, b"x", 0o600).is_err(), "a directory is never replaced by a file");
        assert_eq!(fs::read(kept.join("inside")).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
