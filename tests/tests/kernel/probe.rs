//! A client process for the kernel tests: takes the name of a container runtime, then does with its sockets what the
//! test says on standard input. `waylay-probe daemon …` is the other side: the hooks and an accept loop, to be killed.
#![allow(clippy::expect_used, reason = "a test's program may panic")]

use std::{
    ffi::CString,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use socket2::{Domain, Protocol, Socket, Type};
use waylay::intercept::Config;

use self::{
    proxy::Proxy,
    wire::{Kind, Reply, Step},
};

mod proxy;
mod wire;

/// Longer than anything here takes, shorter than a test's patience.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    match (args.next().as_deref(), args.next(), args.next()) {
        (Some("client"), Some(comm), None) => client(comm),
        (Some("daemon"), Some(cgroup), Some(limit_ms)) => daemon(cgroup.into(), limit_ms.parse()?),
        _ => bail!("usage: waylay-probe client NAME | daemon CGROUP HEARTBEAT_LIMIT_MS"),
    }
}

/// Runs the proxy's side until standard input closes; says `ready` when connections are caught.
fn daemon(cgroup: PathBuf, limit_ms: u64) -> anyhow::Result<()> {
    let config = Config { cgroup: Some(cgroup), heartbeat_limit: Duration::from_millis(limit_ms), ..Config::default() };
    let proxy = Proxy::start(&config)?;
    proxy.intercept().prove(PATIENCE)?;
    println!("ready");
    // Our own connections, under a runtime's name: the answer goes to the test, which knows what it must be.
    nix::sys::prctl::set_name(c"containerd")?;
    for line in io::stdin().lines() {
        let mut text = String::new();
        let mut stream = TcpStream::connect(line?.trim()).context("own connection")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.read_to_string(&mut text)?;
        println!("{}", text.trim());
    }
    Ok(())
}

/// Does what standard input says, on a thread that is not the process's first: its id is not the process's.
fn client(comm: String) -> anyhow::Result<()> {
    let worker = thread::Builder::new().spawn(move || -> anyhow::Result<()> {
        nix::sys::prctl::set_name(&CString::new(comm)?)?;
        let mut sockets = Vec::new();
        for line in io::stdin().lines() {
            let reply = match step(&mut sockets, serde_json::from_str(&line?)?) {
                Ok(reply) => reply,
                Err(error) => Reply::Failed(error.to_string()),
            };
            println!("{}", serde_json::to_string(&reply)?);
            io::stdout().flush()?;
        }
        Ok(())
    })?;
    worker.join().map_err(|_| anyhow::anyhow!("the probe's thread panicked"))?
}

fn step(sockets: &mut Vec<Socket>, step: Step) -> io::Result<Reply> {
    if let Step::Open { kind, v6 } = step {
        let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
        let socket = match kind {
            Kind::Tcp => Socket::new(domain, Type::STREAM, Some(Protocol::TCP)),
            Kind::Udp => Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)),
            Kind::Mptcp => Socket::new(domain, Type::STREAM, Some(Protocol::MPTCP)),
        };
        sockets.push(socket?);
        return Ok(Reply::Done);
    }
    match step {
        Step::Abort => {
            sockets.drain(..).try_for_each(|socket| socket.set_linger(Some(Duration::ZERO)))?;
            Ok(Reply::Done)
        }
        Step::Close => {
            sockets.clear();
            Ok(Reply::Done)
        }
        Step::Pid => Ok(Reply::Pid(std::process::id())),
        Step::Crowd { to, connections, threads, expect } => Ok(crowd(to, connections, threads, &expect)),
        Step::Time { to, batches } => time(to, batches),
        step => on_socket(sockets, step),
    }
}

fn on_socket(sockets: &[Socket], step: Step) -> io::Result<Reply> {
    let Some(socket) = sockets.last() else { return Err(io::Error::other("no socket is open")) };
    match step {
        Step::Bind(address) => {
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
        }
        Step::BindDevice(name) => socket.bind_device(Some(name.as_bytes()))?,
        Step::Mark(mark) => socket.set_mark(mark)?,
        Step::Connect(to) => {
            socket.set_write_timeout(Some(PATIENCE))?;
            socket.connect(&to.into())?;
            return ends(socket);
        }
        Step::ConnectNonBlocking(to) => {
            socket.connect_timeout(&to.into(), PATIENCE)?;
            return ends(socket);
        }
        Step::ConnectFastOpen(to) => {
            // May return before the connection stands.
            socket.send_to_with_flags(b"x", &to.into(), nix::libc::MSG_FASTOPEN)?;
        }
        Step::Banner { within_ms } => {
            socket.set_read_timeout(Some(Duration::from_millis(within_ms)))?;
            let (mut text, mut socket) = (Vec::new(), socket);
            // A server that leaves something unread resets after its last word; what it said counts.
            match socket.read_to_end(&mut text) {
                Err(error) if text.is_empty() => return Err(error),
                _ => return Ok(Reply::Line(String::from_utf8_lossy(&text).trim_end().to_owned())),
            }
        }
        Step::Open { .. } | Step::Abort | Step::Close | Step::Pid | Step::Crowd { .. } | Step::Time { .. } => {
            return Err(io::Error::other("no matter of one socket"));
        }
    }
    Ok(Reply::Done)
}

fn ends(socket: &Socket) -> io::Result<Reply> {
    let address = |address: socket2::SockAddr| address.as_socket().ok_or_else(|| io::Error::other("no address"));
    Ok(Reply::Connected { local: address(socket.local_addr()?)?, peer: address(socket.peer_addr()?)? })
}

fn crowd(to: SocketAddr, connections: u32, threads: u32, expect: &str) -> Reply {
    let one = || -> io::Result<String> {
        let mut stream = TcpStream::connect(to)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let name = Arc::new(nix::sys::prctl::get_name().unwrap_or_default());
    let wrong: Vec<String> = thread::scope(|scope| {
        let run = |_| {
            let name = Arc::clone(&name);
            scope.spawn(move || -> Vec<String> {
                // A thread inherits its creator's name here; said again, because the hooks go by it.
                if nix::sys::prctl::set_name(&name).is_err() {
                    return vec!["can't set the thread's name".to_owned()];
                }
                let seen = (0..connections / threads).map(|_| one().unwrap_or_else(|error| error.to_string()));
                seen.filter(|text| !text.starts_with(expect)).collect()
            })
        };
        let threads: Vec<_> = (0..threads).map(run).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap_or_else(|_| vec!["panic".to_owned()])).collect()
    });
    Reply::Crowd { wrong: wrong.len() as u32, first: wrong.into_iter().next() }
}

fn time(to: SocketAddr, batches: u32) -> io::Result<Reply> {
    const BATCH: u32 = 20;
    let to = to.into();
    let mut best = u64::MAX;
    for _ in 0..batches {
        let sockets = (0..BATCH).map(|_| Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)));
        let sockets = sockets.collect::<io::Result<Vec<_>>>()?;
        let begin = Instant::now();
        for socket in &sockets {
            if socket.connect(&to).is_ok() {
                return Err(io::Error::other("somebody listens there"));
            }
        }
        best = best.min(begin.elapsed().as_nanos() as u64 / u64::from(BATCH));
    }
    Ok(Reply::Nanoseconds(best))
}
