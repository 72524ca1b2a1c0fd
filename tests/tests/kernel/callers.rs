//! Whose connections are caught, and what the others pay.

use waylay::intercept::{Config, Targets};
use waylay_abi::Exit;

use super::{
    DIRECT, REGISTRY, at, count,
    proxy::Proxy,
    wire::{Reply, Step},
    world::{World, eventually, in_world, move_process},
};

#[test]
fn a_destination_on_the_bypass_list_is_left_alone() {
    in_world(|world: &World| {
        let _servers = (world.server(REGISTRY), world.server("198.51.100.8:443"));
        let proxy = Proxy::start(&Config { bypass: vec![at(REGISTRY)], ..world.config() }).expect("attached");
        let mut runtime = world.client("containerd");
        assert_eq!(runtime.visit(at(REGISTRY)), DIRECT);
        assert_eq!(runtime.visit(at("[::ffff:198.51.100.7]:443")), DIRECT, "mapped or not");
        assert_eq!(count(proxy.intercept(), Exit::Bypassed), 2);
        assert!(runtime.visit(at("198.51.100.8:443")).starts_with("proxy"));
    });
}

#[test]
fn only_the_registries_ports_are_looked_at() {
    in_world(|world: &World| {
        let _servers = (world.server("198.51.100.7:8080"), world.server("198.51.100.7:5000"));
        let targets = Targets::for_ports([5000]);
        let proxy = Proxy::start(&Config { targets, ..world.config() }).expect("attached");
        let mut runtime = world.client("containerd");
        assert_eq!(runtime.visit(at("198.51.100.7:8080")), "direct 198.51.100.7:8080");
        assert!(count(proxy.intercept(), Exit::Port) > 0);
        assert!(runtime.visit(at("198.51.100.7:5000")).starts_with("proxy dst=198.51.100.7:5000"));
    });
}

#[test]
fn a_program_of_any_name_is_caught_when_its_cgroup_or_its_number_is_listed() {
    in_world(|world: &World| {
        let _registry = world.server(REGISTRY);
        let service = world.cgroup_below("exotic.service");
        let below = world.cgroup_below("exotic.service/worker");
        let targets = Targets { cgroups: vec![service], ..Targets::default() };
        let proxy = Proxy::start(&Config { targets, ..world.config() }).expect("attached");
        let mut exotic = world.client("exotic");
        assert_eq!(exotic.visit(at(REGISTRY)), DIRECT);
        move_process(exotic.pid(), &below);
        assert!(exotic.visit(at(REGISTRY)).starts_with("proxy"));

        let mut numbered = world.client("numbered");
        assert_eq!(numbered.visit(at(REGISTRY)), DIRECT);
        proxy.intercept().list_process(numbered.pid()).expect("listed");
        assert!(numbered.visit(at(REGISTRY)).ends_with("comm=numbered"));
        proxy.intercept().unlist_process(numbered.pid()).expect("unlisted");
        assert_eq!(numbered.visit(at(REGISTRY)), DIRECT);
    });
}

#[test]
fn a_runtime_in_another_network_namespace_is_left_alone() {
    in_world(|world: &World| {
        let proxy = world.proxy();
        let mut pod = world.client_by(&["unshare", "--net"], "containerd");
        pod.open(at(REGISTRY));
        let reply = pod.step(Step::Connect(at(REGISTRY)));
        assert!(matches!(reply, Reply::Failed(_)), "an empty namespace has no way out: {reply:?}");
        assert_eq!(count(proxy.intercept(), Exit::OtherNamespace), 1);
    });
}

/// What `connect()` costs a process that is no runtime: the hooks must be cheap for everybody else on the node. The
/// fastest batches with and without them are compared, because whatever else runs here only makes a batch slower; and
/// it is tried again for the same reason.
#[test]
fn a_process_that_is_no_runtime_pays_less_than_a_microsecond() {
    in_world(|world: &World| {
        let mut stranger = world.client("curl");
        let mut time = || match stranger.step(Step::Time { to: at(REGISTRY), batches: 20 }) {
            Reply::Nanoseconds(time) => time,
            other => panic!("{other:?}"),
        };
        let (mut with, mut without) = (u64::MAX, u64::MAX);
        eventually("at most 1,000 ns are added", || {
            for _ in 0..10 {
                without = without.min(time());
                let proxy = world.proxy();
                with = with.min(time());
                assert!(count(proxy.intercept(), Exit::NotListed) >= 400, "the whole match was run");
            }
            println!("connect(): {without} ns without the hooks, {with} ns with them");
            (with.saturating_sub(without) <= 1_000).then_some(())
        });
    });
}
