//! One test's world: a network namespace and a cgroup of its own, in which a thread of the test lives and from which
//! its processes inherit. Gone when dropped.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::gettid,
};
use tokio::{io::AsyncWriteExt as _, net::TcpListener};
use waylay::intercept::{Config, cgroup};

use super::{
    client::Client,
    proxy::{Proxy, Serving},
};

/// How long anything may take before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Addresses that the namespace has, on its loopback device: to the hooks they are as far away as any registry.
pub(crate) const ADDRESSES: [&str; 5] =
    ["198.51.100.7/32", "198.51.100.8/32", "198.51.100.20/32", "198.51.100.21/32", "2001:db8::7/128"];

/// Runs `test` in a world of its own, on a thread of its own. Without the privilege to make one, says so and passes;
/// in CI, fails.
pub(crate) fn in_world(test: impl FnOnce(&World) + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "the kernel tests need root, and CI must run them");
        eprintln!("SKIPPED: the kernel tests need root");
        return;
    }
    let name = thread::current().name().unwrap_or("test").to_owned();
    let body = thread::Builder::new().name(name).spawn(move || test(&World::new()));
    if let Err(panic) = body.expect("a thread").join() {
        std::panic::resume_unwind(panic);
    }
}

/// A namespace and a cgroup. Belongs to one thread.
pub(crate) struct World {
    cgroup: PathBuf,
    parent: PathBuf,
}

impl World {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of our own");
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let parent = own_cgroup();
        let world = Self { cgroup: parent.join(format!("waylay-test-{}-{number}", std::process::id())), parent };
        make_cgroup(&world.cgroup);
        enter(&world.cgroup);
        run("ip", &["link", "set", "lo", "up"]);
        for address in ADDRESSES {
            // Without duplicate address detection, which would leave an IPv6 address unusable for a moment.
            let flags: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
            run("ip", &[&["address", "add", address, "dev", "lo"], flags].concat());
        }
        world
    }

    /// This world's cgroup.
    pub(crate) fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// A further cgroup in it, empty.
    pub(crate) fn cgroup_below(&self, name: &str) -> PathBuf {
        let path = self.cgroup.join(name);
        make_cgroup(&path);
        path
    }

    /// Removes such a cgroup once its processes are gone.
    pub(crate) fn remove(&self, cgroup: &Path) {
        eventually("the cgroup is empty", || fs::remove_dir(cgroup).ok());
    }

    /// The usual configuration, on this world's cgroup.
    pub(crate) fn config(&self) -> Config {
        Config { cgroup: Some(self.cgroup.clone()), ..Config::default() }
    }

    /// A running proxy with the usual configuration.
    pub(crate) fn proxy(&self) -> Proxy {
        let proxy = Proxy::start(&self.config()).unwrap_or_else(|error| panic!("the hooks must attach: {error:?}"));
        assert!(proxy.intercept().is_effective(), "the first trial must have come back");
        proxy
    }

    /// A server that says `direct ADDRESS` to whoever comes: where a connection that passes ends.
    pub(crate) fn server(&self, address: &str) -> Serving {
        let text = format!("direct {address}\n");
        let listener = std::net::TcpListener::bind(address).expect("this address is free in our namespace");
        listener.set_nonblocking(true).expect("a listener");
        let serve = |mut stop: tokio::sync::watch::Receiver<()>| async move {
            let listener = TcpListener::from_std(listener)?;
            loop {
                let (mut stream, _) = tokio::select! {
                    _ = stop.changed() => return Ok(()),
                    accepted = listener.accept() => accepted?,
                };
                let _ = stream.write_all(text.as_bytes()).await;
            }
        };
        Serving::start(serve).expect("a server")
    }

    /// A process of that name in this world.
    pub(crate) fn client(&self, name: &str) -> Client {
        self.client_by(&[], name)
    }

    /// The same, started by another program, such as `unshare --net`.
    pub(crate) fn client_by(&self, launcher: &[&str], name: &str) -> Client {
        Client::start(probe(launcher).args(["client", name]))
    }

    /// A proxy in a process of its own, started by `launcher` (an empty one starts it directly).
    pub(crate) fn daemon(&self, launcher: &[&str], heartbeat_limit: Duration) -> Client {
        let limit = heartbeat_limit.as_millis().to_string();
        let mut command = probe(launcher);
        let mut daemon = Client::start(command.arg("daemon").arg(self.cgroup()).arg(limit));
        assert_eq!(daemon.read(), "ready");
        daemon
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let left = try_enter(&self.parent);
        // A thread or process that just ended may still be counted for a moment.
        let begin = Instant::now();
        while left.is_ok() && fs::remove_dir(&self.cgroup).is_err() && begin.elapsed() < PATIENCE {
            remove_below(&self.cgroup);
            thread::yield_now();
        }
        if !thread::panicking() {
            assert!(!self.cgroup.exists(), "{} is left behind", self.cgroup.display());
        }
    }
}

/// The command line of the probe, after that of a program which starts it.
pub(crate) fn probe(launcher: &[&str]) -> Command {
    let mut words = launcher.iter().copied().chain([env!("CARGO_BIN_EXE_waylay-probe")]);
    let mut command = Command::new(words.next().expect("at least the probe"));
    command.args(words);
    command
}

fn remove_below(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_below(&entry.path());
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// The cgroup2 directory that this process is in.
fn own_cgroup() -> PathBuf {
    let text = fs::read_to_string("/proc/self/cgroup").expect("cgroups");
    let own = text.lines().find_map(|line| line.strip_prefix("0::")).expect("a cgroup2 hierarchy");
    cgroup::find().expect("a cgroup2 mount").join(own.trim_start_matches('/'))
}

/// Threaded, because one process runs many tests, each on a thread in a cgroup of its own.
fn make_cgroup(path: &Path) {
    fs::create_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    fs::write(path.join("cgroup.type"), "threaded").expect("a threaded cgroup");
}

/// Moves the calling thread.
fn enter(cgroup: &Path) {
    try_enter(cgroup).unwrap_or_else(|error| panic!("{}: {error}", cgroup.display()));
}

/// Moves every thread of a process, as a service manager would.
pub(crate) fn move_process(pid: u32, cgroup: &Path) {
    for thread in fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives").flatten() {
        let id = thread.file_name().into_string().expect("a number");
        fs::write(cgroup.join("cgroup.threads"), id).expect("moved");
    }
}

fn try_enter(cgroup: &Path) -> std::io::Result<()> {
    fs::write(cgroup.join("cgroup.threads"), gettid().to_string())
}

/// Runs a system command that must succeed.
pub(crate) fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Tries again until `probe` says something, or fails the test.
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        thread::yield_now();
    }
}
