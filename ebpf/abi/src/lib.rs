//! What the kernel program and the proxy agree on: the maps' names, their keys and values, and the decision which
//! connections to catch, written as plain functions so that the host can test what the kernel runs.
//!
//! Nothing here allocates, calls the kernel or panics: `ebpf/program` compiles it for the BPF target.
#![no_std]

mod address;
mod decide;
mod exit;
mod types;
#[cfg(feature = "user")]
mod user;

pub use address::{Address, Endpoint};
pub use decide::{Attempt, Kernel, Redirect, decide, publish};
pub use exit::Exit;
pub use types::{COMM_LEN, Comm, Remembered, Settings, Tuple};

/// `SO_MARK` of every socket that we open ourselves: the hook lets such a connection pass.
///
/// One low byte without its top bit: kube-proxy, Cilium, Calico, Tailscale and the AWS CNI all match masks above it.
pub const OWN_MARK: u32 = 0x57;

/// How long user space may be silent before new connections go straight to the registry, in nanoseconds.
pub const HEARTBEAT_LIMIT_NS: u64 = 5_000_000_000;

/// How many connections may be on their way from `connect()` to `accept()` before further ones pass.
pub const MAX_PENDING: u32 = 16_384;

/// Names of the maps in the object file, as the loader finds them.
pub mod map {
    /// Array of one [`Settings`](crate::Settings).
    pub const SETTINGS: &str = "SETTINGS";
    /// Array of one `u64`: when user space last lived, `CLOCK_MONOTONIC` in nanoseconds.
    pub const HEARTBEAT: &str = "HEARTBEAT";
    /// Hash of destination ports (`u16`) to look at.
    pub const PORTS: &str = "PORTS";
    /// Hash of callers' names ([`Comm`](crate::Comm)).
    pub const RUNTIMES: &str = "RUNTIMES";
    /// Hash of callers' process ids (`u32`), as the hook sees them.
    pub const PROCESSES: &str = "PROCESSES";
    /// Hash of callers' cgroup ids (`u64`); descendants count.
    pub const CGROUPS: &str = "CGROUPS";
    /// Hash of destinations ([`Endpoint`](crate::Endpoint)) that the operator wants left alone.
    pub const BYPASS: &str = "BYPASS";
    /// Hash of socket cookie (`u64`) to [`Remembered`](crate::Remembered), from `connect()` to `accept()`.
    pub const BY_COOKIE: &str = "BY_COOKIE";
    /// Hash of [`Tuple`](crate::Tuple) to [`Remembered`](crate::Remembered), from the SYN to `accept()`.
    pub const BY_TUPLE: &str = "BY_TUPLE";
    /// Per-CPU array of `u64` counters, indexed by [`Exit`](crate::Exit).
    pub const COUNTERS: &str = "COUNTERS";
}

/// Names of the constants that the loader may set before loading.
pub mod global {
    /// Device number of our pid namespace as the kernel encodes it (`u64`); used only where [`PIDNS_INO`] is not 0.
    pub const PIDNS_DEV: &str = "PIDNS_DEV";
    /// Inode of our pid namespace (`u64`); 0 leaves `bpf_get_ns_current_pid_tgid` out of the program.
    pub const PIDNS_INO: &str = "PIDNS_INO";
}

/// Names of the programs in the object file.
pub mod program {
    /// `cgroup/connect4`.
    pub const CONNECT4: &str = "connect4";
    /// `cgroup/connect6`.
    pub const CONNECT6: &str = "connect6";
    /// `sockops`.
    pub const PUBLISH: &str = "sock_ops";
}
