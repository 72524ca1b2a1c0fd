//! A probe process as a test holds it: one step, one answer.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use waylay_tests::saw::saw;

use super::{
    wire::{Kind, Reply, Step},
    world::{PATIENCE, eventually},
};

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

    /// The next line that it writes.
    pub(crate) fn read(&mut self) -> String {
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
            Reply::Line(line) => {
                saw("a process", if line.is_empty() { "closed" } else { &line });
                line
            }
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
        saw("a process", banner);
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
