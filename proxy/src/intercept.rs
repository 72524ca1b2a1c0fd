//! The kernel guard: loads the kernel program, attaches it, feeds it, and by being dropped takes it away again.
//!
//! The links are not pinned: when this process ends, however it ends, connections go straight to the registry as
//! before. What the kernel tells about a caught connection is in [`origin`]; the proof that it works is in [`selftest`].

pub mod cgroup;
mod destinations;
mod object;
pub mod origin;
mod owner;
mod pending;
pub mod pidns;
pub mod selftest;
mod settings;
pub mod targets;

use std::{
    collections::{BTreeSet, HashSet},
    io,
    net::SocketAddr,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError, PerCpuArray},
};
use nix::{
    sys::statfs::{CGROUP2_SUPER_MAGIC, statfs},
    time::{ClockId, clock_gettime},
};
use waylay_abi::{Endpoint, Exit, map};

pub use self::{
    destinations::Destinations, object::LoadError, origin::KernelOrigin, selftest::Ineffective, targets::Targets,
};
use self::{origin::Shared, selftest::Effect};

/// What to catch, and where to attach.
#[derive(Clone, Debug)]
pub struct Config {
    /// Directory of the cgroup whose processes are looked at; `None` means the root of the cgroup2 mount.
    pub cgroup: Option<PathBuf>,
    /// Whose connections to which ports.
    pub targets: Targets,
    /// Destinations that the operator wants left alone.
    pub bypass: Vec<SocketAddr>,
    /// How long [`Intercept::heartbeat`] may stay away before connections pass.
    pub heartbeat_limit: Duration,
    /// How many connections may be on their way from `connect()` to `accept()`; further ones pass.
    pub max_pending: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cgroup: None,
            targets: Targets::default(),
            bypass: Vec::new(),
            heartbeat_limit: Duration::from_nanos(waylay_abi::HEARTBEAT_LIMIT_NS),
            max_pending: waylay_abi::MAX_PENDING,
        }
    }
}

/// The ports of our listeners, which must be bound and listening before [`Intercept::attach`].
#[derive(Clone, Copy, Debug)]
pub struct Listeners {
    /// On 127.0.0.1.
    pub v4: u16,
    /// On ::1; `None` lets IPv6 connections pass (v4-mapped ones go to `v4`).
    pub v6: Option<u16>,
}

/// Why nothing is caught now.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// No cgroup2 hierarchy to attach to.
    #[error(transparent)]
    Mount(#[from] cgroup::MountError),
    /// What was named is no cgroup.
    #[error("{} (intercept.cgroup) is not a directory of the cgroup2 file system", .0.display())]
    NoCgroup(PathBuf),
    /// The cgroup's directory can't be opened.
    #[error("can't open the cgroup {}", path.display())]
    Cgroup {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused the program, or there is none in this build.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The maps could not be filled.
    #[error("can't tell the kernel program what to catch")]
    Map(#[from] MapError),
}

/// The attached hooks. Dropping it detaches them: connections made from then on go straight to the registry.
pub struct Intercept {
    shared: Arc<Shared>,
    effect: Effect,
    heartbeat: Mutex<Array<MapData, u64>>,
    processes: Mutex<HashMap<MapData, u32, u8>>,
    ports: Mutex<HashMap<MapData, u16, u8>>,
    bypass: Mutex<HashMap<MapData, Endpoint, u8>>,
    counters: PerCpuArray<MapData, u64>,
    caught: OwnedFd,
    cgroup: PathBuf,
    // Owns the links. Last, but the order does not matter: each link's file descriptor detaches on its own.
    _programs: Ebpf,
}

impl Intercept {
    /// Attaches the hooks and tries them once, with a connection from this thread to our own listener. Whether that
    /// worked is told by [`Intercept::is_effective`]; the hooks stay either way, and [`Intercept::prove`] may succeed
    /// later.
    ///
    /// Call it on a thread of the network namespace that the listeners are in.
    ///
    /// # Errors
    /// When there is no cgroup2 mount, no privilege, no kernel program in this build, or the kernel refuses it.
    pub fn attach(config: &Config, listeners: Listeners) -> Result<Self, AttachError> {
        let cgroup = match &config.cgroup {
            Some(path) => path.clone(),
            None => cgroup::find()?,
        };
        let directory =
            std::fs::File::open(&cgroup).map_err(|source| AttachError::Cgroup { path: cgroup.clone(), source })?;
        if statfs(&cgroup).is_ok_and(|found| found.filesystem_type() != CGROUP2_SUPER_MAGIC) {
            return Err(AttachError::NoCgroup(cgroup));
        }
        let mut loaded = object::load(config.max_pending)?;
        let ebpf = &mut loaded.ebpf;
        let ports = Mutex::new(config.targets.write(ebpf)?);
        let mut bypass: HashMap<_, Endpoint, u8> = HashMap::try_from(object::map(ebpf, map::BYPASS)?)?;
        for destination in &config.bypass {
            bypass.insert(Endpoint::from(*destination), 1, 0)?;
        }
        let caught = object::descriptor(ebpf, map::BY_TUPLE)?;
        let shared = Arc::new(Shared::new(ebpf, loaded.pids)?);
        let intercept = Self {
            effect: Effect::default(),
            heartbeat: Mutex::new(Array::try_from(object::map(ebpf, map::HEARTBEAT)?)?),
            processes: Mutex::new(HashMap::try_from(object::map(ebpf, map::PROCESSES)?)?),
            counters: PerCpuArray::try_from(object::map(ebpf, map::COUNTERS)?)?,
            ports,
            bypass: Mutex::new(bypass),
            caught,
            cgroup,
            _programs: object::attach(loaded.ebpf, &directory)?,
            shared,
        };
        intercept.heartbeat()?;
        intercept.shared.settings().change(|settings| {
            settings.enabled = 1;
            settings.port4 = listeners.v4;
            settings.port6 = listeners.v6.unwrap_or(0);
            settings.heartbeat_limit = u64::try_from(config.heartbeat_limit.as_nanos()).unwrap_or(u64::MAX);
            settings.cgroups = u16::from(!config.targets.cgroups.is_empty());
        })?;
        if let Err(ineffective) = intercept.learn() {
            tracing::warn!(
                error = &ineffective as &dyn std::error::Error,
                "the hooks are attached, but catch nothing yet"
            );
        }
        Ok(intercept)
    }

    /// The cgroup that the hooks are attached to.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Who answers the accept loop's question where a connection wanted to go. Stays usable after the guard is
    /// dropped, for the connections that were already caught.
    pub fn origin(&self) -> KernelOrigin {
        KernelOrigin::new(Arc::clone(&self.shared))
    }

    /// Says that connections are being accepted. Call it from the accept loop itself, each second: when that loop is
    /// stuck, connections must pass. One system call.
    ///
    /// # Errors
    /// When the kernel refuses the write; connections pass soon.
    pub fn heartbeat(&self) -> Result<(), MapError> {
        lock(&self.heartbeat).set(0, monotonic_ns(), 0)
    }

    /// Catches new connections, or lets them pass: while draining or at a limit. Those already caught are not touched.
    ///
    /// # Errors
    /// When the kernel refuses the write.
    pub fn set_enabled(&self, enabled: bool) -> Result<(), MapError> {
        self.shared.settings().change(|settings| settings.enabled = u32::from(enabled))
    }

    /// Catches new connections to these ports, and to no others.
    ///
    /// # Errors
    /// When there are too many, or the kernel refuses; some of the change may be made then.
    pub fn set_ports(&self, wanted: &BTreeSet<u16>) -> Result<(), MapError> {
        let mut ports = lock(&self.ports);
        for port in wanted {
            ports.insert(port, 1, 0)?;
        }
        let listed: Vec<u16> = ports.keys().collect::<Result<_, _>>()?;
        listed.iter().filter(|port| !wanted.contains(port)).try_for_each(|port| ports.remove(port))
    }

    /// Leaves new connections to these destinations alone, and to no others.
    ///
    /// # Errors
    /// When there are too many, or the kernel refuses; some of the change may be made then.
    pub fn set_bypass(&self, wanted: &HashSet<SocketAddr>) -> Result<(), MapError> {
        let wanted: HashSet<Endpoint> = wanted.iter().map(|destination| Endpoint::from(*destination)).collect();
        let mut bypass = lock(&self.bypass);
        for destination in &wanted {
            bypass.insert(destination, 1, 0)?;
        }
        let there: Vec<Endpoint> = bypass.keys().collect::<Result<_, _>>()?;
        there.iter().filter(|one| !wanted.contains(one)).try_for_each(|one| bypass.remove(one))
    }

    /// Catches this process's connections whatever its name is. `pid` is the number in the initial pid namespace, or in
    /// our own where the kernel can tell it there.
    ///
    /// # Errors
    /// When the list is full.
    pub fn list_process(&self, pid: u32) -> Result<(), MapError> {
        lock(&self.processes).insert(pid, 1, 0)?;
        self.shared.settings().change(|settings| settings.processes = 1)
    }

    /// Takes back [`Intercept::list_process`].
    ///
    /// # Errors
    /// When the process was not listed.
    pub fn unlist_process(&self, pid: u32) -> Result<(), MapError> {
        lock(&self.processes).remove(&pid)
    }

    /// The map of caught connections, for [`Destinations`] in another process.
    pub fn caught_map(&self) -> BorrowedFd<'_> {
        self.caught.as_fd()
    }

    /// How many connections are on their way from `connect()` to `accept()`.
    ///
    /// # Errors
    /// When the kernel refuses the read.
    pub fn pending(&self) -> Result<usize, MapError> {
        self.shared.pending().count()
    }

    /// Frees the places of connections that have been on their way for longer than `age`: their `connect()` failed after
    /// the hook, or they died in the listener's queue. Returns how many. [`Intercept::prove`] does it, too.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn forget_unaccepted(&self, age: Duration) -> Result<usize, MapError> {
        self.shared.pending().sweep(monotonic_ns(), age)
    }

    /// How often each way out of the hooks was taken since they were attached, summed over the processors.
    ///
    /// # Errors
    /// When the kernel refuses the read.
    pub fn counters(&self) -> Result<Vec<(Exit, u64)>, MapError> {
        let sum = |exit: Exit| Ok((exit, self.counters.get(&(exit as u32), 0)?.iter().sum()));
        Exit::ALL.into_iter().map(sum).collect()
    }
}

/// Whether this kernel takes the program: loads it and lets it go. Nothing is attached.
///
/// # Errors
/// When it does not, with the verifier's reason, or when there is no privilege or no kernel program in this build.
pub fn try_load() -> Result<(), LoadError> {
    object::load(waylay_abi::MAX_PENDING).map(drop)
}

/// `CLOCK_MONOTONIC` in nanoseconds: what `bpf_ktime_get_ns` returns in the kernel.
fn monotonic_ns() -> u64 {
    // This clock always exists; 0 would be a stale heartbeat, which is the safe side.
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .ok()
        .and_then(|now| u64::try_from(Duration::from(now).as_nanos()).ok())
        .unwrap_or(0)
}

/// A lock that outlives a panic elsewhere: the maps are in the kernel, and never half-changed here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guard_can_be_shared_by_the_accept_loop_and_the_rest() {
        fn shared<T: Send + Sync + 'static>() {}
        shared::<Intercept>();
        shared::<KernelOrigin>();
    }

    #[test]
    fn the_clock_is_the_kernels() {
        let before = monotonic_ns();
        assert!(before > 0 && monotonic_ns() >= before);
    }
}
