//! The maps and constants, named as `waylay_abi::map` and `waylay_abi::global` say.

use aya_ebpf::{
    Global,
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, PerCpuArray},
};
use waylay_abi::{Comm, Endpoint, Exit, MAX_PENDING, Remembered, Settings, Tuple};

#[map]
pub static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

#[map]
pub static HEARTBEAT: Array<u64> = Array::with_max_entries(1, 0);

#[map]
pub static PORTS: HashMap<u16, u8> = HashMap::with_max_entries(256, BPF_F_NO_PREALLOC);

#[map]
pub static RUNTIMES: HashMap<Comm, u8> = HashMap::with_max_entries(64, BPF_F_NO_PREALLOC);

#[map]
pub static PROCESSES: HashMap<u32, u8> = HashMap::with_max_entries(256, BPF_F_NO_PREALLOC);

#[map]
pub static CGROUPS: HashMap<u64, u8> = HashMap::with_max_entries(256, BPF_F_NO_PREALLOC);

#[map]
pub static BYPASS: HashMap<Endpoint, u8> = HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// A place here is a connection's reservation until `accept()`: not an LRU map, because an evicted entry would be a
/// connection that was redirected and then closed. When it is full, `connect()` passes.
#[map]
pub static BY_COOKIE: HashMap<u64, Remembered> = HashMap::with_max_entries(MAX_PENDING, BPF_F_NO_PREALLOC);

/// Twice as large: a socket that connects again before its first connection was accepted has one place above and two
/// here.
#[map]
pub static BY_TUPLE: HashMap<Tuple, Remembered> = HashMap::with_max_entries(2 * MAX_PENDING, BPF_F_NO_PREALLOC);

#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Exit::ALL.len() as u32, 0);

#[unsafe(no_mangle)]
static PIDNS_DEV: Global<u64> = Global::new(0);

#[unsafe(no_mangle)]
static PIDNS_INO: Global<u64> = Global::new(0);

/// Our pid namespace's device and inode, when the loader set them. The section is frozen before loading, so the
/// verifier knows the values and drops the branch that is not taken, together with the helper that an older kernel
/// does not offer here.
#[inline(always)]
pub fn pid_namespace() -> Option<(u64, u64)> {
    let ino = PIDNS_INO.load();
    (ino != 0).then(|| (PIDNS_DEV.load(), ino))
}
