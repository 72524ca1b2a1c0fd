//! The whole match of the kernel program, on the host: each reason to pass, alone, against a call that is caught.
extern crate std;

use core::{cell::Cell, net::SocketAddr};
use std::vec::Vec;

use super::*;
use crate::{HEARTBEAT_LIMIT_NS, OWN_MARK};

/// A node as one `connect()` sees it. The defaults describe a call that is caught.
struct Node {
    cookie: u64,
    netns: u64,
    tgid: u32,
    comm: Option<Comm>,
    now: u64,
    heartbeat: Option<u64>,
    processes: Vec<u32>,
    cgroup_listed: bool,
    bypass: Vec<Endpoint>,
    listeners: Vec<Redirect>,
    room: bool,
    remembered: Cell<Option<Remembered>>,
}

fn comm(name: &str) -> Comm {
    let mut comm = [0; 16];
    comm[..name.len()].copy_from_slice(name.as_bytes());
    comm
}

fn endpoint(text: &str) -> Endpoint {
    text.parse::<SocketAddr>().expect("an address and a port").into()
}

impl Default for Node {
    fn default() -> Self {
        Self {
            cookie: 77,
            netns: 3,
            tgid: 500,
            comm: Some(comm("containerd")),
            now: 60_000_000_000,
            heartbeat: Some(59_500_000_000),
            processes: Vec::new(),
            cgroup_listed: false,
            bypass: Vec::new(),
            listeners: [Redirect { v6: false, port: 4000 }, Redirect { v6: true, port: 6000 }].into(),
            room: true,
            remembered: Cell::new(None),
        }
    }
}

impl Kernel for Node {
    fn cookie(&self) -> u64 {
        self.cookie
    }
    fn netns(&self) -> u64 {
        self.netns
    }
    fn tgid(&self) -> u32 {
        self.tgid
    }
    fn comm(&self) -> Option<Comm> {
        self.comm
    }
    fn now(&self) -> u64 {
        self.now
    }
    fn heartbeat(&self) -> Option<u64> {
        self.heartbeat
    }
    fn port_listed(&self, port: u16) -> bool {
        port == 443
    }
    fn runtime_listed(&self, name: &Comm) -> bool {
        *name == comm("containerd")
    }
    fn process_listed(&self, tgid: u32) -> bool {
        self.processes.contains(&tgid)
    }
    fn cgroup_listed(&self) -> bool {
        self.cgroup_listed
    }
    fn bypassed(&self, destination: &Endpoint) -> bool {
        self.bypass.contains(destination)
    }
    fn listening(&self, redirect: Redirect) -> bool {
        self.listeners.contains(&redirect)
    }
    fn remember(&self, entry: &Remembered) -> bool {
        self.remembered.set(Some(*entry));
        self.room
    }
}

fn settings() -> Settings {
    Settings {
        netns: 3,
        trial: 0,
        heartbeat_limit: HEARTBEAT_LIMIT_NS,
        enabled: 1,
        own_tgid: 900,
        port4: 4000,
        port6: 6000,
        cgroups: 0,
    }
}

fn attempt(to: &str) -> Attempt {
    Attempt { destination: endpoint(to), kind: STREAM, protocol: TCP, mark: 0, device: 0 }
}

#[test]
fn catches_a_runtime_and_remembers_what_it_wanted() {
    let node = Node::default();
    assert_eq!(decide(&settings(), &attempt("192.0.2.1:443"), &node), Ok(Redirect { v6: false, port: 4000 }));
    let entry = node.remembered.get().expect("remembered");
    assert_eq!(SocketAddr::from(entry.destination), "192.0.2.1:443".parse().expect("an address"));
    assert_eq!((entry.cookie, entry.tgid, entry.comm), (77, 500, comm("containerd")));
    assert_eq!((entry.proxy_port, entry.v6, entry.trial, entry.netns), (4000, 0, 0, 3));
}

#[test]
fn a_mapped_address_goes_to_the_ipv4_listener_and_a_native_one_to_the_ipv6_listener() {
    let mapped = decide(&settings(), &attempt("[::ffff:192.0.2.1]:443"), &Node::default());
    assert_eq!(mapped, Ok(Redirect { v6: false, port: 4000 }));
    let native = decide(&settings(), &attempt("[2001:db8::1]:443"), &Node::default());
    assert_eq!(native, Ok(Redirect { v6: true, port: 6000 }));
    let only4 = Settings { port6: 0, ..settings() };
    assert_eq!(decide(&only4, &attempt("[2001:db8::1]:443"), &Node::default()), Err(Exit::NoListener));
}

#[test]
fn every_reason_to_pass() {
    let to = "192.0.2.1:443";
    let far = || attempt(to);
    let cases = [
        (Exit::Disabled, Settings { enabled: 0, ..settings() }, far(), Node::default()),
        (Exit::NotTcp, settings(), Attempt { protocol: 17, kind: 2, ..far() }, Node::default()),
        (Exit::NotTcp, settings(), Attempt { protocol: 132, ..far() }, Node::default()),
        (Exit::Port, settings(), attempt("192.0.2.1:80"), Node::default()),
        (Exit::LocalDestination, settings(), attempt("127.0.0.1:443"), Node::default()),
        (Exit::LocalDestination, settings(), attempt("[fe80::1]:443"), Node::default()),
        (Exit::OwnSocket, settings(), Attempt { mark: OWN_MARK, ..far() }, Node::default()),
        (Exit::BoundDevice, settings(), Attempt { device: 2, ..far() }, Node::default()),
        (Exit::OtherNamespace, settings(), far(), Node { netns: 4, ..Node::default() }),
        (Exit::OtherNamespace, Settings { netns: 0, ..settings() }, far(), Node { netns: 0, ..Node::default() }),
        (Exit::OwnProcess, settings(), far(), Node { tgid: 900, ..Node::default() }),
        (Exit::NotListed, settings(), far(), Node { comm: Some(comm("curl")), ..Node::default() }),
        (Exit::NotListed, settings(), far(), Node { comm: Some(comm("containerd-shim")), ..Node::default() }),
        (Exit::Bypassed, settings(), far(), Node { bypass: [endpoint(to)].into(), ..Node::default() }),
        (Exit::StaleHeartbeat, settings(), far(), Node { heartbeat: Some(54_999_999_999), ..Node::default() }),
        (Exit::StaleHeartbeat, settings(), far(), Node { heartbeat: Some(0), ..Node::default() }),
        (Exit::NoListener, settings(), far(), Node { listeners: Vec::new(), ..Node::default() }),
        (Exit::NoListener, Settings { port4: 0, ..settings() }, far(), Node::default()),
        (Exit::NoRoom, settings(), far(), Node { room: false, ..Node::default() }),
        (Exit::Error, settings(), far(), Node { comm: None, ..Node::default() }),
        (Exit::Error, settings(), far(), Node { heartbeat: None, ..Node::default() }),
    ];
    for (exit, settings, attempt, node) in cases {
        assert_eq!(decide(&settings, &attempt, &node), Err(exit), "{exit:?}");
        assert_eq!(node.remembered.get().is_some(), exit == Exit::NoRoom, "{exit:?} must leave nothing behind");
    }
}

#[test]
fn nothing_set_up_means_everything_passes() {
    assert_eq!(decide(&Settings::default(), &attempt("192.0.2.1:443"), &Node::default()), Err(Exit::Disabled));
}

#[test]
fn a_caller_may_be_listed_by_number_or_by_cgroup() {
    let stranger = || Node { comm: Some(comm("exotic")), ..Node::default() };
    let by_number = Node { processes: [500].into(), ..stranger() };
    assert!(decide(&settings(), &attempt("192.0.2.1:443"), &by_number).is_ok());
    let by_cgroup = || Node { cgroup_listed: true, ..stranger() };
    assert!(decide(&Settings { cgroups: 1, ..settings() }, &attempt("192.0.2.1:443"), &by_cgroup()).is_ok());
    assert_eq!(decide(&settings(), &attempt("192.0.2.1:443"), &by_cgroup()), Err(Exit::NotListed));
}

#[test]
fn an_unknown_process_number_is_nobodys() {
    let node = Node { tgid: 0, comm: Some(comm("exotic")), processes: [0].into(), ..Node::default() };
    assert_eq!(decide(&settings(), &attempt("192.0.2.1:443"), &node), Err(Exit::NotListed));
    let unlearnt = Settings { own_tgid: 0, ..settings() };
    assert!(decide(&unlearnt, &attempt("192.0.2.1:443"), &Node { tgid: 0, ..Node::default() }).is_ok());
}

#[test]
fn a_heartbeat_from_the_future_is_fresh() {
    let node = Node { heartbeat: Some(60_000_000_001), ..Node::default() };
    assert!(decide(&settings(), &attempt("192.0.2.1:443"), &node).is_ok());
}

#[test]
fn the_trial_is_caught_before_anything_is_known_and_only_on_its_own_socket() {
    let learning = Settings { trial: 77, netns: 0, own_tgid: 0, ..settings() };
    let node = Node { comm: Some(comm("waylay")), ..Node::default() };
    assert!(decide(&learning, &attempt("127.0.0.1:9"), &node).is_ok());
    assert_eq!(node.remembered.get().map(|entry| (entry.trial, entry.netns, entry.tgid)), Some((1, 3, 500)));
    let other = Node { cookie: 78, ..Node::default() };
    assert_eq!(decide(&learning, &attempt("127.0.0.1:443"), &other), Err(Exit::LocalDestination));
    let stuck = Node { heartbeat: Some(0), ..Node::default() };
    assert_eq!(decide(&learning, &attempt("127.0.0.1:9"), &stuck), Err(Exit::StaleHeartbeat));
}

#[test]
fn publishes_only_what_really_goes_to_us() {
    let entry = Remembered { proxy_port: 4000, ..Remembered::default() };
    let source = endpoint("192.0.2.2:5555");
    let key = publish(&entry, source, endpoint("127.0.0.1:4000")).expect("ours");
    assert_eq!((key.source, key.port, key.proxy_port), (source.address, 5555, 4000));
    assert_eq!(publish(&entry, source, endpoint("127.0.0.1:4001")), None);
    assert_eq!(publish(&entry, source, endpoint("192.0.2.1:4000")), None);
    assert_eq!(publish(&entry, source, endpoint("[::1]:4000")), None);
    let native = Remembered { v6: 1, ..entry };
    assert!(publish(&native, endpoint("[2001:db8::2]:5555"), endpoint("[::1]:4000")).is_some());
}
