//! The file system as a process sees it: paths resolved inside its root, whatever symbolic links it contains.
//!
//! A runtime may live in another mount namespace or chroot, and belongs to somebody else there. So files are opened with
//! `openat2(RESOLVE_IN_ROOT)`, never block (no FIFO is waited for), and are read only up to a limit.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

/// A certificate or configuration file is smaller than this; what is larger is not read.
const FILE_MAX: u64 = 4 << 20;

/// The root directory of a process.
pub(crate) struct Root(OwnedFd);

impl Root {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        Ok(Self(fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?.into()))
    }

    fn at(&self, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
        if !path.is_absolute() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not an absolute path"));
        }
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT);
        Ok(openat2(&self.0, path, how)?)
    }

    /// The metadata of what stands at the absolute `path`.
    pub(crate) fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        File::from(self.at(path, OFlag::O_PATH)?).metadata()
    }

    /// Whether something stands at the absolute `path`. Only a certain absence is `false`.
    pub(crate) fn exists(&self, path: &Path) -> bool {
        !matches!(self.metadata(path), Err(e) if e.kind() == io::ErrorKind::NotFound)
    }

    /// Whether the absolute `path` in this root is the same directory or file as `ours` in our own.
    pub(crate) fn is_same(&self, path: &Path, ours: &Metadata) -> bool {
        self.metadata(path).is_ok_and(|theirs| theirs.dev() == ours.dev() && theirs.ino() == ours.ino())
    }

    /// The content of the regular file at the absolute `path`.
    pub(crate) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut file = File::from(self.at(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)?);
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.len() > FILE_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file of reasonable size"));
        }
        let mut content = Vec::with_capacity(metadata.len() as usize);
        file.by_ref().take(FILE_MAX).read_to_end(&mut content)?;
        Ok(content)
    }

    /// The paths of what is in the directory at the absolute `path`, sorted by name.
    pub(crate) fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let dir = self.at(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        let mut names: Vec<PathBuf> = fs::read_dir(format!("/proc/self/fd/{}", dir.as_raw_fd()))?
            .filter_map(|entry| Some(path.join(entry.ok()?.file_name())))
            .collect();
        names.sort();
        Ok(names)
    }

    /// Whether user `uid`, without any privilege but root's, can read the file at the absolute `path`. Groups and
    /// access lists do not count, so a `false` may be wrong.
    pub(crate) fn readable_by(&self, path: &Path, uid: u32) -> bool {
        if uid == 0 {
            return true;
        }
        let may = |path: &Path, bit: u32| {
            let shift = |owner: u32| if owner == uid { bit << 6 } else { bit };
            self.metadata(path).is_ok_and(|m| m.mode() & shift(m.uid()) != 0)
        };
        let mut parents = path.ancestors().skip(1);
        path.components().all(|part| part != Component::ParentDir) && parents.all(|dir| may(dir, 0o1)) && may(path, 0o4)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn links_stay_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("etc/real")).unwrap();
        fs::write(dir.path().join("etc/real/file"), "inside").unwrap();
        symlink("/etc/real", dir.path().join("link")).unwrap();
        symlink("../../../../etc/real/file", dir.path().join("etc/up")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert_eq!(root.read(Path::new("/link/file")).unwrap(), b"inside");
        assert_eq!(root.read(Path::new("/etc/up")).unwrap(), b"inside");
        assert!(root.read(Path::new("etc/real/file")).is_err(), "relative paths mean nothing here");
        assert_eq!(root.list(Path::new("/link")).unwrap(), [Path::new("/link/file")]);
        assert!(root.is_same(Path::new("/link"), &fs::metadata(dir.path().join("etc/real")).unwrap()));
        assert!(!root.exists(Path::new("/proc/self")), "ours is not theirs");
    }

    #[test]
    fn a_fifo_or_a_huge_file_is_an_error_at_once() {
        let dir = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        File::create(dir.path().join("huge")).unwrap().set_len(FILE_MAX + 1).unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert!(root.read(Path::new("/fifo")).is_err());
        assert!(root.read(Path::new("/huge")).is_err());
    }

    #[test]
    fn readability_for_others_follows_the_modes() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.path().join("file"), "x").unwrap();
        fs::set_permissions(dir.path().join("file"), fs::Permissions::from_mode(0o644)).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let file = Path::new("/file");
        let other = nix::unistd::geteuid().as_raw() + 4711;
        assert!(root.readable_by(file, 0) && root.readable_by(file, other));
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!root.readable_by(file, other));
    }
}
