//! Where the cgroup2 hierarchy is mounted. Never assumed: on a hybrid host it is not at `/sys/fs/cgroup`.

use std::path::PathBuf;

use procfs::{
    ProcError,
    process::{MountInfos, Process},
};

/// Why no place to attach was found.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// mountinfo can't be read.
    #[error("can't read /proc/self/mountinfo")]
    Mountinfo(#[source] ProcError),
    /// Only cgroup v1, or no cgroups at all.
    #[error("no cgroup2 file system is mounted: mount one (mount -t cgroup2 none /sys/fs/cgroup/unified) or name a cgroup")]
    NoCgroup2,
}

/// The mount point of the cgroup2 hierarchy in our mount namespace.
///
/// # Errors
/// When there is none; connections go straight to the registry.
pub fn find() -> Result<PathBuf, MountError> {
    let mounts = Process::myself().and_then(|process| process.mountinfo()).map_err(MountError::Mountinfo)?;
    choose(&mounts).ok_or(MountError::NoCgroup2)
}

/// The mount that shows most of the hierarchy: one of its root where there is one, else of the highest directory.
fn choose(mounts: &MountInfos) -> Option<PathBuf> {
    let cgroup2 = mounts.iter().filter(|mount| mount.fs_type == "cgroup2");
    let depth = |root: &str| root.split('/').filter(|name| !name.is_empty()).count();
    cgroup2.min_by_key(|mount| depth(&mount.root)).map(|mount| mount.mount_point.clone())
}

#[cfg(test)]
mod tests {
    use procfs::FromRead as _;

    use super::*;

    fn chosen(mountinfo: &str) -> Option<PathBuf> {
        choose(&MountInfos::from_read(mountinfo.as_bytes()).expect("mountinfo"))
    }

    #[test]
    fn pure_v2() {
        let text = "25 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
            30 25 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n";
        assert_eq!(chosen(text), Some("/sys/fs/cgroup".into()));
    }

    #[test]
    fn hybrid() {
        let text = "32 24 0:28 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,mode=755\n\
            33 32 0:29 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw\n\
            34 32 0:30 / /sys/fs/cgroup/memory rw,nosuid shared:12 - cgroup cgroup rw,memory\n";
        assert_eq!(chosen(text), Some("/sys/fs/cgroup/unified".into()));
    }

    #[test]
    fn v1_only() {
        let text = "32 24 0:28 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,mode=755\n\
            34 32 0:30 / /sys/fs/cgroup/memory rw,nosuid shared:12 - cgroup cgroup rw,memory\n";
        assert_eq!(chosen(text), None);
        assert!(MountError::NoCgroup2.to_string().contains("cgroup2"));
    }

    #[test]
    fn the_whole_hierarchy_is_preferred_to_a_part_of_it() {
        let text = "40 25 0:26 /kubepods.slice/pod1 /run/part rw - cgroup2 cgroup2 rw\n\
            41 25 0:26 / /host/sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(chosen(text), Some("/host/sys/fs/cgroup".into()));
    }
}
