//! Where the hooks are attached, what stands beside them, and what an operator reads when they can't be.

use std::process::Stdio;

use waylay::intercept::{Config, Ineffective, Intercept, Listeners, cgroup};
use waylay_abi::Exit;

use super::{
    DIRECT, REGISTRY, at, count,
    proxy::Proxy,
    wire::{Kind, Reply, Step},
    world::{PATIENCE, World, eventually, in_world, move_process, probe},
};

#[test]
fn catches_a_runtime_tells_who_and_where_and_is_gone_when_dropped() {
    in_world(|world: &World| {
        let _registry = world.server(REGISTRY);
        let mut proxy = world.proxy();
        let mut runtime = world.client("containerd");
        let pid = runtime.pid();
        assert_eq!(runtime.visit(at(REGISTRY)), format!("proxy dst={REGISTRY} pid={pid} comm=containerd"));
        assert_eq!(world.client("curl").visit(at(REGISTRY)), DIRECT);
        assert_eq!(count(proxy.intercept(), Exit::Redirected), 2, "the trial and the visit");
        assert_eq!(count(proxy.intercept(), Exit::NotListed), 1);
        assert_eq!(proxy.intercept().pending().expect("a count"), 0, "all were accepted");
        proxy.detach();
        runtime.soon(at(REGISTRY), DIRECT);
    });
}

#[test]
fn pitfall_01_stands_beside_another_program() {
    in_world(|world: &World| {
        let _registry = world.server(REGISTRY);
        let mut proxies = [world.proxy(), world.proxy()];
        let mut runtime = world.client("containerd");
        assert!(runtime.visit(at(REGISTRY)).starts_with("proxy dst=198.51.100.7:443"));
        let first = usize::from(count(proxies[1].intercept(), Exit::Redirected) == 2);
        let second = proxies[1 - first].intercept();
        assert!(count(second, Exit::Port) > 0, "the second ran too, and saw what the first had made of it");
        assert_eq!(count(second, Exit::Redirected), 1, "its own trial alone");
        proxies[first].detach();
        eventually("the other takes over", || {
            runtime.open(at(REGISTRY));
            let Reply::Connected { peer, .. } = runtime.step(Step::Connect(at(REGISTRY))) else { return None };
            (peer.port() == proxies[1 - first].listeners().v4).then_some(())
        });
        assert!(runtime.banner().starts_with("proxy"));
    });
}

#[test]
fn pitfall_02_finds_the_cgroup2_mount() {
    in_world(|world: &World| {
        let _registry = world.server(REGISTRY);
        let proxy = Proxy::start(&Config::default()).expect("attached to the root");
        assert_eq!(proxy.intercept().cgroup(), cgroup::find().expect("a mount"));
        assert!(world.client("containerd").visit(at(REGISTRY)).starts_with("proxy"));
    });
}

#[test]
fn pitfall_03_catches_a_service_whose_cgroup_was_made_anew() {
    in_world(|world: &World| {
        let _registry = world.server(REGISTRY);
        let _proxy = world.proxy();
        for _ in 0..2 {
            let service = world.cgroup_below("containerd.service");
            let mut runtime = world.client("containerd");
            move_process(runtime.pid(), &service);
            assert!(runtime.visit(at(REGISTRY)).starts_with("proxy"));
            drop(runtime);
            world.remove(&service);
        }
    });
}

#[test]
fn pitfall_04_catches_a_socket_made_before_its_process_was_moved() {
    in_world(|world: &World| {
        let _registry = world.server(REGISTRY);
        let _proxy = world.proxy();
        let (before, after) = (world.cgroup_below("before"), world.cgroup_below("after"));
        let mut runtime = world.client("containerd");
        move_process(runtime.pid(), &before);
        runtime.done(Step::Open { kind: Kind::Tcp, v6: false });
        move_process(runtime.pid(), &after);
        runtime.connect(at(REGISTRY));
        assert!(runtime.banner().starts_with("proxy"), "made before");
        assert!(runtime.visit(at(REGISTRY)).starts_with("proxy"), "made after");
    });
}

#[test]
fn a_port_that_is_listed_while_it_runs_is_caught_from_then_on_and_no_longer_when_it_is_taken_off() {
    const OTHER: &str = "198.51.100.7:5000";
    in_world(|world: &World| {
        let _registries = [world.server(REGISTRY), world.server(OTHER)];
        let proxy = world.proxy();
        let mut runtime = world.client("containerd");
        assert_eq!(runtime.visit(at(OTHER)), "direct 198.51.100.7:5000");
        assert!(runtime.visit(at(REGISTRY)).starts_with("proxy"));

        proxy.intercept().set_ports(&[443, 5000].into()).expect("room for two");
        let pid = runtime.pid();
        assert_eq!(runtime.visit(at(OTHER)), format!("proxy dst={OTHER} pid={pid} comm=containerd"));
        assert!(runtime.visit(at(REGISTRY)).starts_with("proxy"), "what was listed stays so");
        assert_eq!(count(proxy.intercept(), Exit::Redirected), 4, "the trial and three visits");

        proxy.intercept().set_ports(&[5000].into()).expect("room for one");
        assert_eq!(runtime.visit(at(REGISTRY)), DIRECT);
        assert!(runtime.visit(at(OTHER)).starts_with("proxy"));
    });
}

#[test]
fn a_destination_that_is_bypassed_while_it_runs_passes_and_is_caught_again_afterwards() {
    in_world(|world: &World| {
        let _registry = world.server(REGISTRY);
        let proxy = world.proxy();
        let mut runtime = world.client("containerd");
        assert!(runtime.visit(at(REGISTRY)).starts_with("proxy"));
        proxy.intercept().set_bypass(&[at(REGISTRY), at("198.51.100.8:443")].into()).expect("room for two");
        assert_eq!(runtime.visit(at(REGISTRY)), DIRECT);
        assert_eq!(count(proxy.intercept(), Exit::Bypassed), 1);
        proxy.intercept().set_bypass(&[at("198.51.100.8:443")].into()).expect("room for one");
        assert!(runtime.visit(at(REGISTRY)).starts_with("proxy"));
    });
}

#[test]
fn a_trial_that_nobody_accepts_is_not_effective_until_somebody_does() {
    in_world(|world: &World| {
        let mut proxy = Proxy::start_paused(&world.config()).expect("attached");
        let deadline = std::time::Duration::from_millis(50);
        assert!(matches!(proxy.intercept().prove(deadline), Err(Ineffective::NotAccepted)));
        assert!(!proxy.intercept().is_effective());
        proxy.accept().expect("accepting");
        proxy.intercept().prove(PATIENCE).expect("effective again");
        assert!(proxy.intercept().is_effective());
    });
}

#[test]
fn trials_at_the_same_time_do_not_spoil_each_other() {
    in_world(|world: &World| {
        let proxy = world.proxy();
        std::thread::scope(|scope| {
            let prove = || (0..50).try_for_each(|_| proxy.intercept().prove(PATIENCE));
            let others: Vec<_> = (0..3).map(|_| scope.spawn(prove)).collect();
            for other in others {
                other.join().expect("no panic").expect("effective");
            }
        });
        assert!(proxy.intercept().is_effective());
    });
}

#[test]
fn a_cgroup_that_we_do_not_live_in_is_attached_to_but_not_effective() {
    in_world(|world: &World| {
        let elsewhere = world.cgroup_below("elsewhere");
        let config = Config { cgroup: Some(elsewhere), ..Config::default() };
        let proxy = Proxy::start(&config).expect("attached");
        assert!(!proxy.intercept().is_effective());
        let again = proxy.intercept().prove(PATIENCE);
        assert!(matches!(again, Err(Ineffective::NotRedirected)), "{again:?}");
    });
}

#[test]
fn says_plainly_why_it_can_not_attach() {
    in_world(|world: &World| {
        let listeners = Listeners { v4: 1, v6: None };
        let missing = Config { cgroup: Some(world.cgroup().join("missing")), ..Config::default() };
        let error = Intercept::attach(&missing, listeners).err().expect("no such directory");
        assert!(error.to_string().contains("missing"), "{error}");
        let directory = tempfile::tempdir().expect("a directory");
        let plain = Config { cgroup: Some(directory.path().to_owned()), ..Config::default() };
        let error = Intercept::attach(&plain, listeners).err().expect("no cgroup");
        assert!(error.to_string().contains("not a directory of the cgroup2 file system"), "{error}");

        let mut command = probe(&["setpriv", "--bounding-set=-all", "--inh-caps=-all"]);
        command.arg("daemon").arg(world.cgroup()).arg("5000").stdin(Stdio::null());
        let output = command.output().expect("setpriv");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains("not allowed to load or attach"), "{text}");
    });
}
