//! The real hooks on a child cgroup, in a network namespace of the test's own: what is caught, what passes, and that
//! nothing is ever refused. Each test of a known trap is named after it, by its number in the notes on the kernel.

#[path = "kernel/proxy.rs"]
mod proxy;
#[path = "kernel/wire.rs"]
mod wire;
#[path = "kernel/world.rs"]
mod world;

use std::net::SocketAddr;

use world::{World, in_world};

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}

#[test]
fn catches_a_runtime_and_tells_who_and_where() {
    in_world(|world: &World| {
        let _registry = world.server("198.51.100.7:443");
        let proxy = world.proxy();
        let mut runtime = world.client("containerd");
        let pid = runtime.pid();
        assert_eq!(runtime.visit(at("198.51.100.7:443")), format!("proxy dst=198.51.100.7:443 pid={pid} comm=containerd"));
        assert_eq!(world.client("curl").visit(at("198.51.100.7:443")), "direct 198.51.100.7:443");
        drop(proxy);
        assert_eq!(runtime.visit(at("198.51.100.7:443")), "direct 198.51.100.7:443");
    });
}
