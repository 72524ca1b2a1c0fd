//! The real hooks on a child cgroup, in a network namespace of the test's own: what is caught, what passes, and that
//! nothing is ever refused. Each test of a known trap is named after it, by its number in the notes on the kernel.

#![allow(clippy::expect_used, reason = "a test may panic")]

#[path = "kernel/attach.rs"]
mod attach;
#[path = "kernel/callers.rs"]
mod callers;
#[path = "kernel/client.rs"]
mod client;
#[path = "kernel/crowd.rs"]
mod crowd;
#[path = "kernel/fail_open.rs"]
mod fail_open;
#[path = "kernel/proxy.rs"]
mod proxy;
#[path = "kernel/sockets.rs"]
mod sockets;
#[path = "kernel/wire.rs"]
mod wire;
#[path = "kernel/world.rs"]
mod world;

use std::net::SocketAddr;

use waylay::intercept::Intercept;
use waylay_abi::Exit;

/// The registry in these tests, and what it says to whom the hooks let pass.
const REGISTRY: &str = "198.51.100.7:443";
const DIRECT: &str = "direct 198.51.100.7:443";

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}

/// How often the hooks were left that way.
fn count(intercept: &Intercept, exit: Exit) -> u64 {
    let counters = intercept.counters().expect("counters");
    counters.into_iter().find(|(other, _)| *other == exit).map_or(0, |(_, count)| count)
}
