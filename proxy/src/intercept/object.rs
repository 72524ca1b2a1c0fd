//! The object file: loading it, with what this kernel offers, and attaching its programs.

use std::{
    error::Error,
    fs::File,
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Map, MapError},
    programs::{CgroupAttachMode, CgroupSockAddr, ProgramError, SockOps},
};
use waylay_abi::{global, map, program};

use super::pidns::{PidNamespace, Pids};

/// What `build.rs` built; empty where it found no toolchain.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/kernel.o"));

/// Why the kernel program is not in the kernel.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// `build.rs` wrote a stub.
    #[error("built without the kernel program; run cargo xtask setup and build again")]
    Stub,
    /// The caller may not load or attach kernel programs.
    #[error("not allowed to load or attach the kernel program: run as root, or with CAP_BPF and CAP_NET_ADMIN")]
    Privilege(#[source] EbpfError),
    /// The object or its maps are not to the kernel's liking.
    #[error("the kernel did not take the kernel program's maps")]
    Object(#[source] EbpfError),
    /// The verifier refused a program: the error ends with its log. Most likely the kernel is older than 5.10.
    #[error("the kernel refused the program {name}; is it older than 5.10?")]
    Program {
        /// The program's name.
        name: &'static str,
        /// What the verifier said.
        source: ProgramError,
    },
    /// The program can't be attached to the cgroup.
    #[error("can't attach the program {name} to the cgroup")]
    Attach {
        /// The program's name.
        name: &'static str,
        /// What the kernel said.
        source: ProgramError,
    },
    /// The object is of another version than this program.
    #[error("the kernel program has no {0}; build again")]
    Missing(&'static str),
}

/// A loaded object, and whose process ids it speaks of.
pub(super) struct Loaded {
    pub(super) ebpf: Ebpf,
    pub(super) pids: Pids,
}

/// Loads the object and its programs.
pub(super) fn load(max_pending: u32) -> Result<Loaded, LoadError> {
    if OBJECT.is_empty() {
        return Err(LoadError::Stub);
    }
    // In the initial pid namespace the plain number is right for every process, those in nested namespaces included.
    let Some(namespace) = PidNamespace::nested() else {
        return Ok(Loaded { ebpf: try_load(max_pending, None)?, pids: Pids::Initial });
    };
    match try_load(max_pending, Some(namespace)) {
        Ok(ebpf) => Ok(Loaded { ebpf, pids: Pids::Ours }),
        // Kernels before 6.10 lack the helper in these hooks; whatever else is wrong shows again without it.
        Err(LoadError::Program { .. }) => Ok(Loaded { ebpf: try_load(max_pending, None)?, pids: Pids::Foreign }),
        Err(other) => Err(other),
    }
}

fn try_load(max_pending: u32, namespace: Option<PidNamespace>) -> Result<Ebpf, LoadError> {
    let (dev, ino) = namespace.map_or((0, 0), |namespace| (namespace.dev, namespace.ino));
    let mut ebpf = EbpfLoader::new()
        .override_global(global::PIDNS_DEV, &dev, true)
        .override_global(global::PIDNS_INO, &ino, true)
        .map_max_entries(map::BY_COOKIE, max_pending)
        .map_max_entries(map::BY_TUPLE, max_pending.saturating_mul(2))
        .load(OBJECT)
        .map_err(refused)?;
    for name in [program::CONNECT4, program::CONNECT6] {
        hook(&mut ebpf, name)?.load().map_err(|source| refused_program(name, source))?;
    }
    sock_ops(&mut ebpf)?.load().map_err(|source| refused_program(program::PUBLISH, source))?;
    Ok(ebpf)
}

/// Attaches all programs. `sock_ops` first: a connection that is redirected must find it there.
pub(super) fn attach(mut ebpf: Ebpf, cgroup: &File) -> Result<Ebpf, LoadError> {
    // Links are always able to stand beside other programs; any other mode is EINVAL for them.
    let mode = CgroupAttachMode::Single;
    let attached = sock_ops(&mut ebpf)?.attach(cgroup, mode);
    attached.map_err(|source| refused_link(program::PUBLISH, source))?;
    for name in [program::CONNECT4, program::CONNECT6] {
        let attached = hook(&mut ebpf, name)?.attach(cgroup, mode);
        attached.map_err(|source| refused_link(name, source))?;
    }
    Ok(ebpf)
}

/// Another descriptor of a hash map that is still in the object.
pub(super) fn descriptor(ebpf: &Ebpf, name: &'static str) -> Result<OwnedFd, LoadError> {
    let Some(Map::HashMap(data)) = ebpf.map(name) else { return Err(LoadError::Missing(name)) };
    let copied = data.fd().as_fd().try_clone_to_owned();
    copied.map_err(|error| MapError::IoError(error).into())
}

/// Takes a map out of the object.
pub(super) fn map(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, LoadError> {
    ebpf.take_map(name).ok_or(LoadError::Missing(name))
}

fn hook<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut CgroupSockAddr, LoadError> {
    let program = ebpf.program_mut(name).ok_or(LoadError::Missing(name))?;
    program.try_into().map_err(|_| LoadError::Missing(name))
}

fn sock_ops(ebpf: &mut Ebpf) -> Result<&mut SockOps, LoadError> {
    let program = ebpf.program_mut(program::PUBLISH).ok_or(LoadError::Missing(program::PUBLISH))?;
    program.try_into().map_err(|_| LoadError::Missing(program::PUBLISH))
}

fn refused(source: EbpfError) -> LoadError {
    if lacks_privilege(&source) { LoadError::Privilege(source) } else { LoadError::Object(source) }
}

fn refused_program(name: &'static str, source: ProgramError) -> LoadError {
    // The verifier, too, says EPERM (to a helper that needs more privilege), but then it has written a log.
    let silent =
        matches!(&source, ProgramError::LoadError { verifier_log, .. } if verifier_log.to_string().trim().is_empty());
    if silent && lacks_privilege(&source) {
        LoadError::Privilege(EbpfError::ProgramError(source))
    } else {
        LoadError::Program { name, source }
    }
}

fn refused_link(name: &'static str, source: ProgramError) -> LoadError {
    if lacks_privilege(&source) {
        LoadError::Privilege(EbpfError::ProgramError(source))
    } else {
        LoadError::Attach { name, source }
    }
}

/// Whether the kernel said EPERM or EACCES somewhere below.
fn lacks_privilege(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::PermissionDenied) {
            return true;
        }
        next = error.source();
    }
    false
}

impl From<MapError> for LoadError {
    fn from(error: MapError) -> Self {
        refused(EbpfError::MapError(error))
    }
}
