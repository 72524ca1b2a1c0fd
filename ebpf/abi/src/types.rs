//! Map keys and values: fixed width, no implicit padding, sizes asserted, so that kernel and user space read the same
//! bytes.

use crate::{Address, Endpoint};

/// Length of a task's name in the kernel, its final NUL included (`TASK_COMM_LEN`).
pub const COMM_LEN: usize = 16;

/// A task's name, filled up with NULs.
pub type Comm = [u8; COMM_LEN];

/// What user space tells the hooks. All zero means: let everything pass.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// Cookie of the network namespace that our listeners live in; 0 while unknown: only the trial is caught.
    pub netns: u64,
    /// Cookie of the socket with which the proxy tries its own hooks; 0 when no trial runs.
    pub trial: u64,
    /// Age beyond which the heartbeat is stale, in nanoseconds.
    pub heartbeat_limit: u64,
    /// Not 0 when connections may be caught.
    pub enabled: u32,
    /// Our own process id as the hooks see it; 0 while unknown.
    pub own_tgid: u32,
    /// Port of our listener on 127.0.0.1, host order; 0 for none.
    pub port4: u16,
    /// Port of our listener on ::1, host order; 0 for none.
    pub port6: u16,
    /// Not 0 when `CGROUPS` has entries: spares everybody else the look-ups.
    pub cgroups: u32,
}

/// What the hooks know about a caught connection.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Remembered {
    /// The socket's cookie.
    pub cookie: u64,
    /// When `connect()` was called, `CLOCK_MONOTONIC` in nanoseconds.
    pub at: u64,
    /// Cookie of the caller's network namespace.
    pub netns: u64,
    /// Where the caller wanted to go.
    pub destination: Endpoint,
    /// The caller's process id as the hook sees it; 0 when it lives outside the pid namespace that the hook can name.
    pub tgid: u32,
    /// The caller's name: of the thread that called `connect()`.
    pub comm: Comm,
    /// Which of our ports it was sent to, host order.
    pub proxy_port: u16,
    /// Not 0 when it was sent to ::1 rather than to 127.0.0.1.
    pub v6: u8,
    /// Not 0 when this is the proxy trying its own hooks.
    pub trial: u8,
    /// Always 0.
    pub pad: u32,
}

/// How `accept()` finds a caught connection again: its source, and which of our ports it reached.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Tuple {
    /// The client's address; IPv4 in its mapped form.
    pub source: Address,
    /// The client's port, host order.
    pub port: u16,
    /// Our port, host order.
    pub proxy_port: u16,
}

const _: () = {
    assert!(size_of::<Settings>() == 40);
    assert!(size_of::<Remembered>() == 72);
    assert!(size_of::<Tuple>() == 20);
    assert!(size_of::<Endpoint>() == 20);
    assert!(align_of::<Remembered>() == 8);
};
