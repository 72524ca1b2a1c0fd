//! The kernel program: sends a container runtime's registry connections to the proxy beside it.
//!
//! Three hooks, each a few lines. What to catch is decided in `waylay-abi`, where the host tests it; here stand only the
//! answers of the kernel ([`redirect`]), the re-keying ([`publish`]) and the maps. No hook ever refuses anything: all
//! return 1, whatever happens.
#![no_std]
#![no_main]

mod count;
mod maps;
mod publish;
mod redirect;

use aya_ebpf::{
    macros::{cgroup_sock_addr, sock_ops},
    programs::{SockAddrContext, SockOpsContext},
};

/// `connect()` on an IPv4 socket.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    redirect::connect4(ctx.sock_addr);
    1
}

/// `connect()` on an IPv6 socket, to a native or a v4-mapped address: the latter never passes `connect4`.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    redirect::connect6(ctx.sock_addr);
    1
}

/// The source port is known and the SYN has not left: the last moment before `accept()` may ask.
#[sock_ops]
pub fn sock_ops(ctx: SockOpsContext) -> u32 {
    publish::sock_ops(&ctx);
    1
}

/// Some of the helpers are reserved for programs under the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Never linked in: nothing here can panic, and the verifier would refuse a program with an endless loop.
#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
