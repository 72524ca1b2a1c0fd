//! The decision: which `connect()` to send to the proxy, and what to remember of it.
//!
//! The hooks implement [`Kernel`] with helpers and maps; tests implement it with plain values. Whatever is uncertain
//! passes: a connection that we miss is only as slow as before.

use crate::{Address, Comm, Endpoint, Exit, Remembered, Settings, Tuple};

/// `SOCK_STREAM`.
const STREAM: u32 = 1;
/// `IPPROTO_TCP`.
const TCP: u32 = 6;

/// One call of `connect()`.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// Where the caller wants to go.
    pub destination: Endpoint,
    /// `SOCK_STREAM` and so on.
    pub kind: u32,
    /// `IPPROTO_TCP` and so on. A subflow of an MPTCP socket shows TCP here.
    pub protocol: u32,
    /// The socket's `SO_MARK`.
    pub mark: u32,
    /// The device that the socket is bound to, 0 for none.
    pub device: u32,
}

/// What the decision asks the kernel. Each answer costs a helper call or a map look-up, so the order matters.
pub trait Kernel {
    /// The socket's cookie: one number for the socket's life, never used again.
    fn cookie(&self) -> u64;
    /// Cookie of the caller's network namespace.
    fn netns(&self) -> u64;
    /// The caller's process id; 0 when it can't be told.
    fn tgid(&self) -> u32;
    /// The calling thread's name.
    fn comm(&self) -> Option<Comm>;
    /// Now, `CLOCK_MONOTONIC` in nanoseconds.
    fn now(&self) -> u64;
    /// When user space last lived, by the same clock.
    fn heartbeat(&self) -> Option<u64>;
    /// Whether registries use this port (host order).
    fn port_listed(&self, port: u16) -> bool;
    /// Whether this is the name of a container runtime.
    fn runtime_listed(&self, comm: &Comm) -> bool;
    /// Whether this process was listed by number.
    fn process_listed(&self, tgid: u32) -> bool;
    /// Whether the caller's cgroup or one above it was listed.
    fn cgroup_listed(&self) -> bool;
    /// Whether the operator wants this destination left alone.
    fn bypassed(&self, destination: &Endpoint) -> bool;
    /// Whether somebody listens on loopback, this port, in the caller's network namespace.
    fn listening(&self, redirect: Redirect) -> bool;
    /// Keeps what `accept()` will ask for; false when there is no room.
    fn remember(&self, entry: &Remembered) -> bool;
}

/// Where to send a connection instead: 127.0.0.1 or ::1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Redirect {
    /// ::1 rather than 127.0.0.1.
    pub v6: bool,
    /// Our port, host order.
    pub port: u16,
}

/// Where this connection shall go: to the proxy, or on its way for the reason given.
///
/// # Errors
/// The reason to let it pass. That is the normal case, and never a refusal.
#[inline(always)]
pub fn decide(settings: &Settings, attempt: &Attempt, kernel: &impl Kernel) -> Result<Redirect, Exit> {
    if settings.enabled == 0 {
        return Err(Exit::Disabled);
    }
    if attempt.kind != STREAM || attempt.protocol != TCP {
        return Err(Exit::NotTcp);
    }
    let trial = settings.trial != 0 && kernel.cookie() == settings.trial;
    if attempt.device != 0 {
        return Err(Exit::BoundDevice);
    }
    let caller = if trial { name(kernel)? } else { wanted(settings, attempt, kernel)? };
    let now = kernel.now();
    match kernel.heartbeat() {
        None => return Err(Exit::Error),
        // Written on another CPU after we took `now`: as fresh as can be.
        Some(then) if then >= now => {}
        Some(then) if now - then > settings.heartbeat_limit => return Err(Exit::StaleHeartbeat),
        Some(_) => {}
    }
    let v6 = !attempt.destination.address.is_v4();
    let redirect = Redirect { v6, port: if v6 { settings.port6 } else { settings.port4 } };
    if redirect.port == 0 || !kernel.listening(redirect) {
        return Err(Exit::NoListener);
    }
    let entry = Remembered {
        cookie: kernel.cookie(),
        at: now,
        netns: kernel.netns(),
        destination: attempt.destination,
        tgid: caller.tgid,
        comm: caller.comm,
        proxy_port: redirect.port,
        v6: v6 as u8,
        trial: trial as u8,
        pad: 0,
    };
    if kernel.remember(&entry) { Ok(redirect) } else { Err(Exit::NoRoom) }
}

/// Who calls `connect()`.
struct Caller {
    tgid: u32,
    comm: Comm,
}

#[inline(always)]
fn name(kernel: &impl Kernel) -> Result<Caller, Exit> {
    let Some(comm) = kernel.comm() else { return Err(Exit::Error) };
    Ok(Caller { tgid: kernel.tgid(), comm })
}

/// Everything that the proxy's own trial is spared: is this a registry's port and a runtime's call?
#[inline(always)]
fn wanted(settings: &Settings, attempt: &Attempt, kernel: &impl Kernel) -> Result<Caller, Exit> {
    if !kernel.port_listed(attempt.destination.port) {
        return Err(Exit::Port);
    }
    if attempt.destination.address.is_local() {
        return Err(Exit::LocalDestination);
    }
    if attempt.mark == crate::OWN_MARK {
        return Err(Exit::OwnSocket);
    }
    if settings.netns == 0 || kernel.netns() != settings.netns {
        return Err(Exit::OtherNamespace);
    }
    let caller = name(kernel)?;
    if caller.tgid != 0 && caller.tgid == settings.own_tgid {
        return Err(Exit::OwnProcess);
    }
    let listed = kernel.runtime_listed(&caller.comm)
        || (caller.tgid != 0 && kernel.process_listed(caller.tgid))
        || (settings.cgroups != 0 && kernel.cgroup_listed());
    if !listed {
        return Err(Exit::NotListed);
    }
    if kernel.bypassed(&attempt.destination) {
        return Err(Exit::Bypassed);
    }
    Ok(caller)
}

/// Under which key `accept()` will look for a remembered connection that now leaves from `source`, or `None` when it
/// does not go to us after all: another program rewrote it, or the entry is left from an earlier attempt.
#[inline(always)]
pub fn publish(entry: &Remembered, source: Endpoint, remote: Endpoint) -> Option<Tuple> {
    let listener = if entry.v6 == 0 { Address::LOOPBACK4 } else { Address::LOOPBACK6 };
    if remote.port != entry.proxy_port || remote.address != listener {
        return None;
    }
    Some(Tuple { source: source.address, port: source.port, proxy_port: remote.port })
}

#[cfg(test)]
mod tests;
