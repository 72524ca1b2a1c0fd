//! The kinds of sockets, and what was done to them before `connect()`.

use std::fs;

use waylay_abi::Exit;

use super::{
    DIRECT, REGISTRY, at, count,
    wire::{Kind, Reply, Step},
    world::{World, eventually, in_world},
};

#[test]
fn pitfall_05_v4_mapped() {
    in_world(|world: &World| {
        let _registry = world.server(REGISTRY);
        let proxy = world.proxy();
        let mut runtime = world.client("containerd");
        let to = at("[::ffff:198.51.100.7]:443");
        runtime.open(to);
        let (_, peer) = runtime.connect(to);
        assert_eq!(peer, at(&format!("[::ffff:127.0.0.1]:{}", proxy.listeners().v4)));
        let pid = runtime.pid();
        assert_eq!(runtime.banner(), format!("proxy dst={REGISTRY} pid={pid} comm=containerd"));
    });
}

#[test]
fn pitfall_05_native_v6() {
    in_world(|world: &World| {
        let _registry = world.server("[2001:db8::7]:443");
        let proxy = world.proxy();
        let mut runtime = world.client("containerd");
        let to = at("[2001:db8::7]:443");
        runtime.open(to);
        let (_, peer) = runtime.connect(to);
        assert_eq!(peer, at(&format!("[::1]:{}", proxy.listeners().v6.expect("a listener"))));
        assert!(runtime.banner().starts_with("proxy dst=[2001:db8::7]:443 "));
        assert_eq!(world.client("curl").visit(to), "direct [2001:db8::7]:443");
    });
}

#[test]
fn pitfall_05_no_v6() {
    in_world(|world: &World| {
        // Loopback loses ::1, the other address comes back: a node with IPv6 whose proxy could not bind ::1.
        super::world::run("ip", &["address", "del", "::1/128", "dev", "lo"]);
        let _registry = (world.server(REGISTRY), world.server("[2001:db8::7]:443"));
        let proxy = world.proxy();
        assert!(proxy.listeners().v6.is_none(), "the premise of this test");
        let mut runtime = world.client("containerd");
        assert_eq!(runtime.visit(at("[2001:db8::7]:443")), "direct [2001:db8::7]:443");
        assert_eq!(count(proxy.intercept(), Exit::NoListener), 1);
        assert!(runtime.visit(at("[::ffff:198.51.100.7]:443")).starts_with("proxy dst=198.51.100.7:443"));
    });
}

#[test]
fn pitfall_05_v6_switched_off() {
    in_world(|world: &World| {
        fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").expect("our own namespace");
        let _registry = world.server(REGISTRY);
        let _proxy = world.proxy();
        assert!(world.client("containerd").visit(at(REGISTRY)).starts_with("proxy dst=198.51.100.7:443"));
    });
}

#[test]
fn pitfall_06_udp_keeps_its_peer() {
    in_world(|world: &World| {
        let proxy = world.proxy();
        let mut runtime = world.client("containerd");
        runtime.done(Step::Open { kind: Kind::Udp, v6: false });
        let (_, peer) = runtime.connect(at(REGISTRY));
        assert_eq!(peer, at(REGISTRY));
        runtime.done(Step::Open { kind: Kind::Udp, v6: true });
        let (_, peer) = runtime.connect(at("[2001:db8::7]:443"));
        assert_eq!(peer, at("[2001:db8::7]:443"));
        assert_eq!(count(proxy.intercept(), Exit::NotTcp), 2);
    });
}

#[test]
fn pitfall_07_bound_to_a_device() {
    in_world(|world: &World| {
        let _registry = world.server(REGISTRY);
        let proxy = world.proxy();
        let mut runtime = world.client("containerd");
        runtime.open(at(REGISTRY));
        runtime.done(Step::BindDevice("lo".to_owned()));
        runtime.connect(at(REGISTRY));
        assert_eq!(runtime.banner(), DIRECT);
        assert_eq!(count(proxy.intercept(), Exit::BoundDevice), 1);
    });
}

#[test]
fn pitfall_08_one_source_port_on_two_addresses() {
    in_world(|world: &World| {
        let proxy = world.proxy();
        let mut runtime = world.client("containerd");
        let sources = ["198.51.100.20:7777", "198.51.100.21:7777"];
        let wanted = ["198.51.100.7:443", "198.51.100.8:443"];
        for (source, to) in sources.into_iter().zip(wanted) {
            runtime.open(at(to));
            runtime.done(Step::Bind(at(source)));
            let (local, peer) = runtime.connect(at(to));
            assert_eq!((local, peer.port()), (at(source), proxy.listeners().v4));
            assert!(runtime.banner().starts_with(&format!("proxy dst={to} ")));
        }
    });
}

#[test]
fn pitfall_09_mptcp() {
    in_world(|world: &World| {
        let _proxy = world.proxy();
        let mut runtime = world.client("containerd");
        if let Reply::Failed(error) = runtime.step(Step::Open { kind: Kind::Mptcp, v6: false }) {
            eprintln!("SKIPPED: this kernel has no MPTCP: {error}");
            return;
        }
        runtime.connect(at(REGISTRY));
        let pid = runtime.pid();
        assert_eq!(runtime.banner(), format!("proxy dst={REGISTRY} pid={pid} comm=containerd"));
    });
}

#[test]
fn pitfall_09_fast_open() {
    in_world(|world: &World| {
        let _proxy = world.proxy();
        let mut runtime = world.client("containerd");
        for _ in 0..2 {
            runtime.open(at(REGISTRY));
            runtime.done(Step::ConnectFastOpen(at(REGISTRY)));
            assert!(runtime.banner().starts_with("proxy dst=198.51.100.7:443 "));
        }
    });
}

#[test]
fn pitfall_10_the_last_destination_counts() {
    in_world(|world: &World| {
        let _registry = world.server("198.51.100.8:8443");
        let proxy = world.proxy();
        let (mut holder, mut runtime) = (world.client("containerd"), world.client("containerd"));
        let source = at("198.51.100.20:7777");
        // Somebody holds the very connection that ours would be after the redirect, so ours fails after the hook.
        holder.open(at(REGISTRY));
        holder.done(Step::Bind(source));
        holder.connect(at(REGISTRY));
        assert!(holder.banner().starts_with("proxy dst=198.51.100.7:443"));
        runtime.open(at(REGISTRY));
        runtime.done(Step::Bind(source));
        let refused = runtime.step(Step::Connect(at("198.51.100.8:443")));
        assert!(matches!(refused, Reply::Failed(_)), "{refused:?}");
        assert_eq!(proxy.intercept().pending().expect("a count"), 1, "the reservation of the failed one");
        // The same socket elsewhere, uncaught: nothing may be left of it.
        runtime.connect(at("198.51.100.8:8443"));
        assert_eq!(runtime.banner(), "direct 198.51.100.8:8443");
        assert_eq!(proxy.intercept().pending().expect("a count"), 0);

        // And once more, to be caught the second time.
        runtime.done(Step::Close);
        runtime.open(at(REGISTRY));
        runtime.done(Step::Bind(source));
        assert!(matches!(runtime.step(Step::Connect(at("198.51.100.8:443"))), Reply::Failed(_)));
        holder.done(Step::Abort);
        eventually("the address is free again", || match runtime.step(Step::Connect(at(REGISTRY))) {
            Reply::Connected { .. } => Some(()),
            _ => None,
        });
        assert!(runtime.banner().starts_with("proxy dst=198.51.100.7:443 "), "not .8, which failed");
    });
}

#[test]
fn a_non_blocking_connect_is_caught_as_well() {
    in_world(|world: &World| {
        let _proxy = world.proxy();
        let mut runtime = world.client("containerd");
        runtime.open(at(REGISTRY));
        let reply = runtime.step(Step::ConnectNonBlocking(at(REGISTRY)));
        assert!(matches!(reply, Reply::Connected { .. }), "{reply:?}");
        assert!(runtime.banner().starts_with("proxy dst=198.51.100.7:443 "));
    });
}
