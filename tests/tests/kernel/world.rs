//! One test's world: a network namespace and a cgroup of its own, in which a thread of the test lives and from which
//! its processes inherit. Gone when dropped.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
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
    proxy::{Proxy, Serving},
    wire::{Kind, Reply, Step},
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

/// A probe process. Killed when dropped.
pub(crate) struct Client {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Client {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the probe");
        let (stdin, stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        Self { child, stdin, stdout: BufReader::new(stdout) }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it with this signal; SIGKILL also waits until it is gone.
    pub(crate) fn signal(&mut self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, signal).expect("our own child");
        if signal == nix::sys::signal::SIGKILL {
            self.child.wait().expect("our own child");
        }
    }

    /// Writes a line and reads one.
    pub(crate) fn ask(&mut self, line: &str) -> String {
        writeln!(self.stdin, "{line}").expect("the probe lives");
        self.read()
    }

    fn read(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("the probe lives");
        assert!(!line.is_empty(), "the probe ended");
        line.trim_end().to_owned()
    }

    /// Does one step.
    pub(crate) fn step(&mut self, step: Step) -> Reply {
        let line = serde_json::to_string(&step).expect("a step");
        let reply = self.ask(&line);
        serde_json::from_str(&reply).expect("a reply")
    }

    /// The process id that it sees itself.
    pub(crate) fn inner_pid(&mut self) -> u32 {
        match self.step(Step::Pid) {
            Reply::Pid(pid) => pid,
            other => panic!("{other:?}"),
        }
    }

    /// Its process ids from this namespace down to its own, found below the programs that started it.
    pub(crate) fn pids_seen(&mut self) -> Vec<u32> {
        // It lives once it has answered.
        self.inner_pid();
        let mut pid = self.pid().to_string();
        while let Ok(children) = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
            && let Some(child) = children.split_whitespace().next()
        {
            pid = child.to_owned();
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the probe lives");
        let line = status.lines().find_map(|line| line.strip_prefix("NSpid:")).expect("pid namespaces");
        line.split_whitespace().map(|pid| pid.parse().expect("a number")).collect()
    }

    /// Does one step that has no answer but success.
    pub(crate) fn done(&mut self, step: Step) {
        assert_eq!(self.step(step.clone()), Reply::Done, "{step:?}");
    }

    /// A new TCP socket of the address's family becomes the current one.
    pub(crate) fn open(&mut self, to: SocketAddr) {
        self.done(Step::Open { kind: Kind::Tcp, v6: to.is_ipv6() });
    }

    /// Connects the current socket; its ends, local first.
    pub(crate) fn connect(&mut self, to: SocketAddr) -> (SocketAddr, SocketAddr) {
        match self.step(Step::Connect(to)) {
            Reply::Connected { local, peer } => (local, peer),
            other => panic!("connecting to {to}: {other:?}"),
        }
    }

    /// What the server at the other end says.
    pub(crate) fn banner(&mut self) -> String {
        match self.step(Step::Banner { within_ms: PATIENCE.as_millis() as u64 }) {
            Reply::Line(line) => line,
            other => panic!("reading the banner: {other:?}"),
        }
    }

    /// Connects a new socket and reads the banner, if one comes soon.
    pub(crate) fn glance(&mut self, to: SocketAddr) -> Option<String> {
        self.open(to);
        let Reply::Connected { .. } = self.step(Step::Connect(to)) else { return None };
        match self.step(Step::Banner { within_ms: 50 }) {
            Reply::Line(line) => Some(line),
            _ => None,
        }
    }

    /// Connects anew until the banner is this one. For what follows a close in this process: a child of another test
    /// that has not reached its exec() still holds a copy of the closed descriptor.
    pub(crate) fn soon(&mut self, to: SocketAddr, banner: &str) {
        eventually(banner, || (self.glance(to)? == banner).then_some(()));
    }

    /// Connects a new socket and reads the banner.
    pub(crate) fn visit(&mut self, to: SocketAddr) -> String {
        self.open(to);
        self.connect(to);
        self.banner()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
