//! Whose process ids the hooks speak of. In the kernel a process has one number per pid namespace; a hook sees that
//! of the initial one unless told otherwise, and inside nspawn or kind that is somebody else's `/proc/PID`.

use std::{fs, os::unix::fs::MetadataExt as _};

use nix::sys::stat::{major, minor};

/// Inode of the initial pid namespace (`PROC_PID_INIT_INO`, a constant since Linux 3.8).
const INITIAL: u64 = 0xEFFF_FFFC;

/// Our pid namespace, as `bpf_get_ns_current_pid_tgid` wants it named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PidNamespace {
    /// The device of the namespace file system, in the kernel's own encoding.
    pub dev: u64,
    /// The namespace's inode.
    pub ino: u64,
}

impl PidNamespace {
    /// Our pid namespace when it is not the initial one, or can't be told.
    pub(super) fn nested() -> Option<Self> {
        // Without /proc nothing can be said about callers anyway: name no namespace that exists.
        let Ok(namespace) = fs::metadata("/proc/self/ns/pid") else { return Some(Self { dev: 0, ino: u64::MAX }) };
        let dev = (major(namespace.dev()) << 20) | minor(namespace.dev());
        (namespace.ino() != INITIAL).then_some(Self { dev, ino: namespace.ino() })
    }
}

/// What a process id from a hook means to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pids {
    /// We are in the initial pid namespace: every number is as `/proc` shows it.
    Initial,
    /// The hook asks for our namespace: a number is as our `/proc` shows it, and 0 for callers outside.
    Ours,
    /// The number is that of a namespace which we can't see.
    Foreign,
}

impl Pids {
    /// The number as our `/proc` shows it; `None` when the hook could not tell.
    pub(super) fn visible(self, tgid: u32) -> Option<u32> {
        (self != Self::Foreign && tgid != 0).then_some(tgid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_number_is_never_taken_for_ours() {
        assert_eq!(Pids::Initial.visible(7), Some(7));
        assert_eq!(Pids::Ours.visible(7), Some(7));
        assert_eq!(Pids::Ours.visible(0), None);
        assert_eq!(Pids::Foreign.visible(7), None);
    }
}
