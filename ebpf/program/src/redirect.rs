//! `connect()`: asks the decision and rewrites the address. The kernel's answers to it are here too.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_F_CURRENT_NETNS, BPF_TCP_LISTEN, bpf_pidns_info, bpf_sock_addr, bpf_sock_tuple},
    helpers::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_current_pid_tgid,
        bpf_get_netns_cookie, bpf_get_ns_current_pid_tgid, bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_sk_lookup_tcp,
        bpf_sk_release,
    },
};
use waylay_abi::{Address, Attempt, Comm, Endpoint, Exit, Kernel, Redirect, Remembered, decide};

use crate::{
    count::count,
    maps::{BY_COOKIE, BYPASS, CGROUPS, HEARTBEAT, PORTS, PROCESSES, RUNTIMES, SETTINGS, pid_namespace},
};

/// How deep below the root a listed cgroup may be: `kubepods.slice/…/cri-….scope` is 4.
const CGROUP_DEPTH: i32 = 8;

/// Reads one word of the context. Volatile, because the verifier allows only the loads that the source spells: a
/// compiler that merges two words makes the program unloadable.
macro_rules! word {
    ($place:expr) => {
        // SAFETY: the kernel hands us a valid context for the duration of the call.
        unsafe { ptr::read_volatile(&raw const $place) }
    };
}

#[inline(always)]
pub fn connect4(ctx: *mut bpf_sock_addr) {
    let address = Address::v4(word!((*ctx).user_ip4));
    if let Some(redirect) = connect(ctx, address) {
        // SAFETY: as above; the kernel takes the new address when we return 1.
        unsafe {
            ptr::write_volatile(&raw mut (*ctx).user_ip4, Address::LOOPBACK4.0[3]);
            ptr::write_volatile(&raw mut (*ctx).user_port, u32::from(redirect.port.to_be()));
        }
    }
}

#[inline(always)]
pub fn connect6(ctx: *mut bpf_sock_addr) {
    let address = Address([
        word!((*ctx).user_ip6[0]),
        word!((*ctx).user_ip6[1]),
        word!((*ctx).user_ip6[2]),
        word!((*ctx).user_ip6[3]),
    ]);
    if let Some(redirect) = connect(ctx, address) {
        let to = if redirect.v6 { Address::LOOPBACK6 } else { Address::LOOPBACK4 };
        // SAFETY: as above. Written word by word: the verifier allows no wider store here.
        unsafe {
            ptr::write_volatile(&raw mut (*ctx).user_ip6[0], to.0[0]);
            ptr::write_volatile(&raw mut (*ctx).user_ip6[1], to.0[1]);
            ptr::write_volatile(&raw mut (*ctx).user_ip6[2], to.0[2]);
            ptr::write_volatile(&raw mut (*ctx).user_ip6[3], to.0[3]);
            ptr::write_volatile(&raw mut (*ctx).user_port, u32::from(redirect.port.to_be()));
        }
    }
}

#[inline(always)]
fn connect(ctx: *mut bpf_sock_addr, address: Address) -> Option<Redirect> {
    let Some(settings) = SETTINGS.get(0) else {
        count(Exit::Error);
        return None;
    };
    let socket = word!((*ctx).__bindgen_anon_1.sk);
    if socket.is_null() {
        count(Exit::Error);
        return None;
    }
    let attempt = Attempt {
        destination: Endpoint { address, port: u16::from_be(word!((*ctx).user_port) as u16), pad: 0 },
        kind: word!((*ctx).type_),
        protocol: word!((*ctx).protocol),
        mark: word!((*socket).mark),
        device: word!((*socket).bound_dev_if),
    };
    let hook = Hook { ctx };
    match decide(settings, &attempt, &hook) {
        Ok(redirect) => {
            count(Exit::Redirected);
            Some(redirect)
        }
        Err(exit) => {
            if exit as u32 != Exit::NotTcp as u32 {
                forget(hook.cookie());
            }
            count(exit);
            None
        }
    }
}

/// The socket connects again, and this time not through us: what it wanted before must not be found.
#[inline(always)]
fn forget(cookie: u64) {
    // Looking is lock-free and nearly always finds nothing.
    if BY_COOKIE.get_ptr(cookie).is_some() {
        let _ = BY_COOKIE.remove(cookie);
    }
}

/// The kernel's answers for one call of `connect()`.
struct Hook {
    ctx: *mut bpf_sock_addr,
}

impl Kernel for Hook {
    #[inline(always)]
    fn cookie(&self) -> u64 {
        // SAFETY: a helper on the hook's own context.
        unsafe { bpf_get_socket_cookie(self.ctx.cast()) }
    }

    #[inline(always)]
    fn netns(&self) -> u64 {
        // SAFETY: a helper on the hook's own context.
        unsafe { bpf_get_netns_cookie(self.ctx.cast()) }
    }

    #[inline(always)]
    fn tgid(&self) -> u32 {
        let Some((dev, ino)) = pid_namespace() else {
            return (bpf_get_current_pid_tgid() >> 32) as u32;
        };
        let mut info = bpf_pidns_info { pid: 0, tgid: 0 };
        // SAFETY: writes at most the size given. It fails, and leaves zeros, for callers of other pid namespaces.
        unsafe { bpf_get_ns_current_pid_tgid(dev, ino, &raw mut info, size_of::<bpf_pidns_info>() as u32) };
        info.tgid
    }

    #[inline(always)]
    fn comm(&self) -> Option<Comm> {
        bpf_get_current_comm().ok()
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: no arguments.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn heartbeat(&self) -> Option<u64> {
        let beat = HEARTBEAT.get_ptr(0)?;
        // SAFETY: a pointer that the map gave out; user space writes it as one aligned word.
        Some(unsafe { ptr::read_volatile(beat) })
    }

    #[inline(always)]
    fn port_listed(&self, port: u16) -> bool {
        PORTS.get_ptr(port).is_some()
    }

    #[inline(always)]
    fn runtime_listed(&self, comm: &Comm) -> bool {
        RUNTIMES.get_ptr(comm).is_some()
    }

    #[inline(always)]
    fn process_listed(&self, tgid: u32) -> bool {
        PROCESSES.get_ptr(tgid).is_some()
    }

    #[inline(always)]
    fn cgroup_listed(&self) -> bool {
        // SAFETY: no arguments.
        let own = unsafe { bpf_get_current_cgroup_id() };
        if CGROUPS.get_ptr(own).is_some() {
            return true;
        }
        for level in 1..=CGROUP_DEPTH {
            // SAFETY: a number; 0 comes back for a level below the caller's own.
            let id = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
            if id == 0 || id == own {
                return false;
            }
            if CGROUPS.get_ptr(id).is_some() {
                return true;
            }
        }
        false
    }

    #[inline(always)]
    fn bypassed(&self, destination: &Endpoint) -> bool {
        BYPASS.get_ptr(destination).is_some()
    }

    #[inline(always)]
    fn listening(&self, redirect: Redirect) -> bool {
        // SAFETY: all zero is a valid tuple.
        let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
        let size = if redirect.v6 {
            tuple.__bindgen_anon_1.ipv6.daddr = Address::LOOPBACK6.0;
            tuple.__bindgen_anon_1.ipv6.dport = redirect.port.to_be();
            36
        } else {
            tuple.__bindgen_anon_1.ipv4.daddr = Address::LOOPBACK4.0[3];
            tuple.__bindgen_anon_1.ipv4.dport = redirect.port.to_be();
            12
        };
        // SAFETY: the tuple is at least that long; the reference is released below.
        unsafe {
            let socket = bpf_sk_lookup_tcp(self.ctx.cast(), &raw mut tuple, size, BPF_F_CURRENT_NETNS as u64, 0);
            if socket.is_null() {
                return false;
            }
            let state = ptr::read_volatile(&raw const (*socket).state);
            bpf_sk_release(socket.cast());
            state == BPF_TCP_LISTEN
        }
    }

    #[inline(always)]
    fn remember(&self, entry: &Remembered) -> bool {
        BY_COOKIE.insert(entry.cookie, entry, 0).is_ok()
    }
}
