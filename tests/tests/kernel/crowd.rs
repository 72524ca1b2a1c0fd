//! Many connections at once, more than there is room for, and connections that the hooks have not seen.

use std::{collections::HashSet, time::Duration};

use waylay::intercept::Config;
use waylay_abi::Exit;

use super::{
    REGISTRY, at, count,
    proxy::Proxy,
    wire::{Reply, Step},
    world::{PATIENCE, World, eventually, in_world},
};

#[test]
fn pitfall_11_no_entry_is_missing_when_thousands_connect_at_once() {
    in_world(|world: &World| {
        let proxy = world.proxy();
        let crowd = Step::Crowd {
            to: at(REGISTRY),
            connections: 10_000,
            threads: 32,
            expect: "proxy dst=198.51.100.7:443 ".to_owned(),
        };
        let reply = world.client("containerd").step(crowd);
        assert_eq!(reply, Reply::Crowd { wrong: 0, first: None });
        assert_eq!(count(proxy.intercept(), Exit::PublishFailed), 0);
        assert_eq!(proxy.intercept().pending().expect("a count"), 0);
    });
}

#[test]
fn pitfall_12_what_finds_no_room_goes_straight_and_nothing_goes_astray() {
    in_world(|world: &World| {
        let destinations: Vec<String> = (1..=100).map(|n| format!("203.0.113.{n}:443")).collect();
        super::world::run("ip", &["address", "add", "203.0.113.0/24", "dev", "lo"]);
        // All of 203.0.113.0/24 is local: one server stands for a hundred registries.
        let _registry = world.server("0.0.0.0:443");
        let mut proxy = Proxy::start_paused(&Config { max_pending: 8, ..world.config() }).expect("attached");
        let port = proxy.listeners().v4;
        let mut runtime = world.client("containerd");
        let mut caught = HashSet::new();
        for to in &destinations {
            runtime.open(at(to));
            let (_, peer) = runtime.connect(at(to));
            if peer == at(&format!("127.0.0.1:{port}")) {
                caught.insert(at(to));
            } else {
                assert_eq!(peer, at(to), "straight");
                assert_eq!(runtime.banner(), "direct 0.0.0.0:443");
            }
        }
        assert_eq!(caught.len(), 8);
        assert_eq!(count(proxy.intercept(), Exit::NoRoom), 92);
        proxy.accept().expect("accepting");
        let seen = eventually("all eight are accepted", || {
            let seen: Vec<_> = proxy.seen().into_iter().flatten().map(|caught| caught.dst.0).collect();
            (seen.len() == 8).then_some(seen)
        });
        assert_eq!(seen.into_iter().collect::<HashSet<_>>(), caught, "each with its own destination");
        assert!(runtime.visit(at(REGISTRY)).starts_with("proxy"), "there is room again");
    });
}

#[test]
fn pitfall_12_a_place_that_was_never_used_is_freed() {
    in_world(|world: &World| {
        let mut proxy = Proxy::start_paused(&world.config()).expect("attached");
        let mut runtime = world.client("containerd");
        runtime.open(at(REGISTRY));
        runtime.connect(at(REGISTRY));
        assert_eq!(proxy.intercept().forget_unaccepted(PATIENCE).expect("swept"), 0, "still young");
        assert_eq!(proxy.intercept().forget_unaccepted(Duration::ZERO).expect("swept"), 1);
        assert_eq!(proxy.intercept().pending().expect("a count"), 0);
        proxy.accept().expect("accepting");
        assert_eq!(runtime.banner(), "", "too late: closed, not taken elsewhere");
    });
}

#[test]
fn pitfall_15_nobody_uses_the_port_without_having_been_caught() {
    in_world(|world: &World| {
        let proxy = world.proxy();
        let listeners = proxy.listeners();
        let mut stranger = world.client("containerd");
        for to in [format!("127.0.0.1:{}", listeners.v4), format!("[::1]:{}", listeners.v6.expect("a listener"))] {
            assert_eq!(stranger.visit(at(&to)), "", "closed without a word");
        }
        assert!(proxy.seen().iter().all(Option::is_none));
    });
}

#[test]
fn pitfall_15_what_a_caught_connection_left_behind_is_no_way_in() {
    in_world(|world: &World| {
        // Nobody accepts: the entries stay.
        let mut proxy = Proxy::start_paused(&world.config()).expect("attached");
        let port = proxy.listeners().v4;
        let mut runtime = world.client("containerd");
        let source = at("198.51.100.20:7777");
        runtime.open(at(REGISTRY));
        runtime.done(Step::Bind(source));
        runtime.connect(at(REGISTRY));
        runtime.done(Step::Abort);
        // The same source port, straight to the proxy.
        let mut stranger = world.client("curl");
        stranger.open(at(REGISTRY));
        stranger.done(Step::Bind(source));
        let to = at(&format!("127.0.0.1:{port}"));
        let connected = eventually("the address is free again", || match stranger.step(Step::Connect(to)) {
            Reply::Connected { peer, .. } => Some(peer),
            _ => None,
        });
        assert_eq!(connected, to);
        proxy.accept().expect("accepting");
        assert_eq!(stranger.banner(), "");
        assert!(proxy.seen().iter().all(Option::is_none), "{:?}", proxy.seen());
    });
}
