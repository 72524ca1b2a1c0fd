//! `TCP_CONNECT_CB`: makes a redirected connection's entry known under the addresses that `accept()` will see.

use core::ptr;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_SOCK_OPS_TCP_CONNECT_CB, bpf_sock_ops},
    helpers::bpf_get_socket_cookie,
    programs::SockOpsContext,
};
use waylay_abi::{Address, Endpoint, Exit, Tuple, publish};

use crate::{
    count::count,
    maps::{BY_COOKIE, BY_TUPLE, SETTINGS},
};

/// `AF_INET`.
const INET: u32 = 2;

macro_rules! word {
    ($place:expr) => {
        // SAFETY: the kernel hands us a valid context for the duration of the call. Volatile: see redirect.rs.
        unsafe { ptr::read_volatile(&raw const $place) }
    };
}

#[inline(always)]
pub fn sock_ops(ctx: &SockOpsContext) {
    let ops = ctx.ops;
    if word!((*ops).op) != BPF_SOCK_OPS_TCP_CONNECT_CB {
        return;
    }
    // SAFETY: a helper on the hook's own context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let Some(entry) = BY_COOKIE.get_ptr(cookie) else {
        return disown(ops);
    };
    // SAFETY: a pointer that the map gave out; this socket's lock is held, and only its own connect() writes here.
    let entry = unsafe { &*entry };
    match publish(entry, source(ops), remote(ops)) {
        Some(key) => match BY_TUPLE.insert(key, entry, 0) {
            Ok(()) => count(Exit::Published),
            Err(_) => count(Exit::PublishFailed),
        },
        None => {
            count(Exit::Diverted);
            let _ = BY_COOKIE.remove(cookie);
        }
    }
}

/// Somebody connects to one of our ports without having been redirected. What an earlier connection from the same
/// source left behind must not make this one look caught.
#[inline(always)]
fn disown(ops: *mut bpf_sock_ops) {
    let Some(settings) = SETTINGS.get(0) else { return };
    let to = remote(ops);
    if to.port != 0 && (to.port == settings.port4 || to.port == settings.port6) {
        let from = source(ops);
        let _ = BY_TUPLE.remove(Tuple { source: from.address, port: from.port, proxy_port: to.port });
    }
}

#[inline(always)]
fn source(ops: *mut bpf_sock_ops) -> Endpoint {
    let address = if word!((*ops).family) == INET {
        Address::v4(word!((*ops).local_ip4))
    } else {
        Address([
            word!((*ops).local_ip6[0]),
            word!((*ops).local_ip6[1]),
            word!((*ops).local_ip6[2]),
            word!((*ops).local_ip6[3]),
        ])
    };
    // The local port is in host order.
    Endpoint { address, port: word!((*ops).local_port) as u16, pad: 0 }
}

#[inline(always)]
fn remote(ops: *mut bpf_sock_ops) -> Endpoint {
    let address = if word!((*ops).family) == INET {
        Address::v4(word!((*ops).remote_ip4))
    } else {
        Address([
            word!((*ops).remote_ip6[0]),
            word!((*ops).remote_ip6[1]),
            word!((*ops).remote_ip6[2]),
            word!((*ops).remote_ip6[3]),
        ])
    };
    // The remote port is in network order, in the upper half of the word.
    Endpoint { address, port: u16::from_be((word!((*ops).remote_port) >> 16) as u16), pad: 0 }
}
