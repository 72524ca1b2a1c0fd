//! Whatever happens to the proxy, a new connection arrives; and our own are left alone.

use std::time::Duration;

use nix::sys::signal::Signal::{SIGCONT, SIGKILL, SIGSTOP};
use waylay_abi::{Exit, OWN_MARK};

use super::{
    DIRECT, REGISTRY, at, count,
    proxy::Proxy,
    wire::{Reply, Step},
    world::{World, eventually, in_world},
};

/// Shorter than in production, so that the test need not wait.
const LIMIT: Duration = Duration::from_millis(300);

#[test]
fn pitfall_13_killed() {
    in_world(|world: &World| {
        let _registry = world.server(REGISTRY);
        let mut daemon = world.daemon(&[], LIMIT);
        let mut runtime = world.client("containerd");
        assert!(runtime.visit(at(REGISTRY)).starts_with("proxy"));
        daemon.signal(SIGKILL);
        assert_eq!(runtime.visit(at(REGISTRY)), DIRECT);
    });
}

#[test]
fn pitfall_13_stopped_and_continued() {
    in_world(|world: &World| {
        let _registry = world.server(REGISTRY);
        let mut daemon = world.daemon(&[], LIMIT);
        let mut runtime = world.client("containerd");
        assert!(runtime.visit(at(REGISTRY)).starts_with("proxy"));
        daemon.signal(SIGSTOP);
        runtime.soon(at(REGISTRY), DIRECT);
        daemon.signal(SIGCONT);
        eventually("a proxy that goes on is used again", || {
            runtime.glance(at(REGISTRY))?.starts_with("proxy").then_some(())
        });
    });
}

#[test]
fn pitfall_13_silent() {
    in_world(|world: &World| {
        let _registry = world.server(REGISTRY);
        let config = waylay::intercept::Config { heartbeat_limit: Duration::from_millis(1), ..world.config() };
        // Nothing feeds the heartbeat while nobody accepts.
        let proxy = Proxy::start_paused(&config).expect("attached");
        let mut runtime = world.client("containerd");
        runtime.soon(at(REGISTRY), DIRECT);
        assert!(count(proxy.intercept(), Exit::StaleHeartbeat) > 0);
    });
}

#[test]
fn pitfall_13_listener_closed() {
    in_world(|world: &World| {
        let _registry = world.server(REGISTRY);
        let mut proxy = world.proxy();
        let mut runtime = world.client("containerd");
        assert!(runtime.visit(at(REGISTRY)).starts_with("proxy"));
        proxy.close_listeners();
        proxy.intercept().heartbeat().expect("alive");
        runtime.soon(at(REGISTRY), DIRECT);
        assert_eq!(count(proxy.intercept(), Exit::NoListener), 1);
    });
}

#[test]
fn pitfall_13_switched_off_and_on() {
    in_world(|world: &World| {
        let _registry = world.server(REGISTRY);
        let proxy = world.proxy();
        let mut runtime = world.client("containerd");
        proxy.intercept().set_enabled(false).expect("off");
        assert_eq!(runtime.visit(at(REGISTRY)), DIRECT);
        assert_eq!(count(proxy.intercept(), Exit::Disabled), 1);
        proxy.intercept().set_enabled(true).expect("on");
        assert!(runtime.visit(at(REGISTRY)).starts_with("proxy"));
    });
}

#[test]
fn pitfall_14_a_marked_socket_passes() {
    in_world(|world: &World| {
        let _registry = world.server(REGISTRY);
        let proxy = world.proxy();
        let mut runtime = world.client("containerd");
        runtime.open(at(REGISTRY));
        runtime.done(Step::Mark(OWN_MARK));
        runtime.connect(at(REGISTRY));
        assert_eq!(runtime.banner(), DIRECT);
        assert_eq!(count(proxy.intercept(), Exit::OwnSocket), 1);
    });
}

#[test]
fn pitfall_14_our_own_process_passes() {
    in_world(|world: &World| {
        let _registry = world.server(REGISTRY);
        let mut daemon = world.daemon(&[], LIMIT);
        assert_eq!(daemon.ask(REGISTRY), DIRECT);
        assert!(world.client("containerd").visit(at(REGISTRY)).starts_with("proxy"), "others do not");
    });
}

#[test]
fn pitfall_14_in_another_pid_namespace_too() {
    in_world(|world: &World| {
        let _registry = world.server(REGISTRY);
        let unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];
        let mut daemon = world.daemon(&unshare, LIMIT);
        assert_eq!(daemon.ask(REGISTRY), DIRECT, "ourselves");
        // One in the same pid namespace as the proxy: its number is the inner one.
        let init = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", daemon.pid())).expect("a child");
        let nsenter = ["nsenter", "--target", init.trim(), "--pid", "--mount"];
        let mut inside = world.client_by(&nsenter, "containerd");
        let pid = inside.inner_pid();
        assert_ne!(pid, inside.pid());
        assert_eq!(inside.visit(at(REGISTRY)), format!("proxy dst={REGISTRY} pid={pid} comm=containerd"));
        // One in a namespace below: the hook can't name it for us, its socket's owner in our /proc can.
        let nested = [&nsenter[..], &["unshare", "--pid", "--fork", "--kill-child"]].concat();
        let mut below = world.client_by(&nested, "containerd");
        let seen = below.pids_seen();
        assert_eq!(seen.len(), 3, "ours, the proxy's, its own: {seen:?}");
        assert_eq!(below.visit(at(REGISTRY)), format!("proxy dst={REGISTRY} pid={} comm=containerd", seen[1]));
        // One outside is caught by its name; its number means nothing in there.
        let outside = world.client("containerd").visit(at(REGISTRY));
        assert_eq!(outside, format!("proxy dst={REGISTRY} pid=- comm=containerd"));
    });
}

#[test]
fn a_connection_that_nobody_answers_is_refused_by_its_destination_not_by_us() {
    in_world(|world: &World| {
        let proxy = world.proxy();
        proxy.intercept().set_enabled(false).expect("off");
        let mut runtime = world.client("containerd");
        runtime.open(at(REGISTRY));
        let reply = runtime.step(Step::Connect(at(REGISTRY)));
        let refused = std::io::Error::from_raw_os_error(nix::libc::ECONNREFUSED).to_string();
        assert_eq!(reply, Reply::Failed(refused), "a hook that refuses would say EPERM");
    });
}
