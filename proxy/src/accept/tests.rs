//! The accept loop: nobody gets in who was not caught, nobody is forgotten, and it ends when told.

#![expect(clippy::disallowed_methods, reason = "these are the clients, on loopback")]

use std::{collections::VecDeque, sync::Mutex};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    task::JoinHandle,
    time::pause,
};

use super::*;

/// What the watch was told.
#[derive(Debug, Clone, PartialEq)]
enum Told {
    Connection(Option<OrigDst>, Reason),
    Aside(bool),
}

/// Passes on what it is told; heartbeats are counted apart.
struct Teller {
    tell: mpsc::UnboundedSender<Told>,
    beats: mpsc::UnboundedSender<Instant>,
}

impl Watch for Teller {
    fn connection(&self, outcome: &ConnectionOutcome) {
        let _ = self.tell.send(Told::Connection(outcome.dst, outcome.reason));
    }

    fn heartbeat(&self) {
        let _ = self.beats.send(Instant::now());
    }

    fn step_aside(&self, aside: bool) {
        let _ = self.tell.send(Told::Aside(aside));
    }
}

/// Answers in turn; afterwards everything was caught on its way to [`DST`].
#[derive(Default)]
struct Script(Mutex<VecDeque<io::Result<Option<OrigDst>>>>);

const DST: OrigDst = OrigDst(SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 443));

impl Origin for Script {
    fn of(&self, client: ClientAddr, local: SocketAddr) -> io::Result<Option<Caught>> {
        assert!(client.0.ip().is_loopback() && client.0.is_ipv4() == local.is_ipv4());
        let dst = self.0.lock().unwrap().pop_front().unwrap_or(Ok(Some(DST)))?;
        Ok(dst.map(|dst| Caught { dst, pid: None, comm: "test".into() }))
    }
}

/// Obeys the first byte: echoes, panics, or sits until it is cut.
struct Obeys;

impl Handle for Obeys {
    async fn handle(&self, mut io: TcpStream, caught: Caught, outcome: &mut ConnectionOutcome) {
        assert_eq!(caught.dst, DST);
        match io.read_u8().await {
            Ok(b'p') => panic!("as told"),
            Ok(byte) => {
                outcome.reason = Reason::NotTls;
                io.write_u8(byte).await.unwrap();
                let _ = io.read_u8().await;
            }
            Err(_) => outcome.reason = Reason::ClientGone,
        }
    }
}

struct Running {
    addrs: Vec<SocketAddr>,
    told: mpsc::UnboundedReceiver<Told>,
    beats: mpsc::UnboundedReceiver<Instant>,
    shutdown: Shutdown,
    task: JoinHandle<io::Result<Drained>>,
}

impl Running {
    async fn start(max_connections: usize, script: Script) -> Self {
        let listeners =
            vec![TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("[::1]:0").await.unwrap()];
        Self::start_on(listeners, max_connections, script)
    }

    fn start_on(listeners: Vec<TcpListener>, max_connections: usize, script: Script) -> Self {
        let addrs = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
        let (tell, told) = mpsc::unbounded_channel();
        let (beat, beats) = mpsc::unbounded_channel();
        let watch = Arc::new(Teller { tell, beats: beat });
        let memory = Memory { most: 1, used: || Some(0) };
        let config = Config { max_connections, memory, drain: Duration::from_secs(30) };
        let shutdown = Shutdown::new();
        let task = tokio::spawn(run(listeners, config, script, Arc::new(Obeys), watch, shutdown.clone()));
        Self { addrs, told, beats, shutdown, task }
    }

    /// Connects to a listener and has its first byte echoed.
    async fn client(&self, listener: usize) -> TcpStream {
        let mut stream = TcpStream::connect(self.addrs[listener]).await.unwrap();
        stream.write_u8(b'e').await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'e');
        stream
    }

    async fn told(&mut self) -> Told {
        self.told.recv().await.unwrap()
    }
}

#[tokio::test]
async fn both_families_are_served_and_every_end_is_told_once() {
    let mut running = Running::start(100, Script::default()).await;
    for listener in [0, 1, 0] {
        drop(running.client(listener).await);
        assert_eq!(running.told().await, Told::Connection(Some(DST), Reason::NotTls));
    }
    assert!(running.told.try_recv().is_err());
}

#[tokio::test]
async fn nobody_gets_in_who_was_not_caught() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = OrigDst(listener.local_addr().unwrap());
    let mapped = OrigDst(format!("[::ffff:127.0.0.1]:{}", own.0.port()).parse().unwrap());
    let script = [Ok(None), Ok(Some(own)), Ok(Some(mapped)), Err(io::Error::other("no map"))];
    let mut running = Running::start_on(vec![listener], 100, Script(Mutex::new(script.into())));
    for told in [
        Told::Connection(None, Reason::NotCaught),
        Told::Connection(Some(own), Reason::OwnListener),
        Told::Connection(Some(mapped), Reason::OwnListener),
        Told::Connection(None, Reason::OriginFailed),
    ] {
        let mut stream = TcpStream::connect(own.0).await.unwrap();
        assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
        assert_eq!(running.told().await, told);
    }
    drop(running.client(0).await);
}

#[tokio::test]
async fn a_panic_ends_one_connection_and_is_told() {
    let mut running = Running::start(100, Script::default()).await;
    let other = running.client(0).await;
    let mut stream = TcpStream::connect(running.addrs[0]).await.unwrap();
    stream.write_u8(b'p').await.unwrap();
    assert_eq!(running.told().await, Told::Connection(Some(DST), Reason::Interrupted));
    drop(running.client(0).await);
    assert_eq!(running.told().await, Told::Connection(Some(DST), Reason::NotTls));
    drop(other);
    assert_eq!(running.told().await, Told::Connection(Some(DST), Reason::NotTls));
}

#[tokio::test]
async fn near_the_limit_the_kernel_is_told_and_those_on_their_way_wait_for_a_place() {
    let mut running = Running::start(2, Script::default()).await;
    let (first, second) = (running.client(0).await, running.client(1).await);
    assert_eq!(running.told().await, Told::Aside(true));
    let mut third = TcpStream::connect(running.addrs[0]).await.unwrap();
    third.write_u8(b'e').await.unwrap();
    drop(first);
    assert_eq!(third.read_u8().await.unwrap(), b'e');
    drop((second, third));
    let mut told = Vec::new();
    while told.last() != Some(&Told::Aside(false)) || told.len() < 4 {
        told.push(running.told().await);
    }
    assert_eq!(told.iter().filter(|told| matches!(told, Told::Connection(..))).count(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_heart_beats_every_second_while_waiting_and_while_draining() {
    let mut running = Running::start(8, Script::default()).await;
    let first = running.beats.recv().await.unwrap();
    for second in 1..5 {
        assert_eq!((running.beats.recv().await.unwrap() - first).as_secs(), second);
    }
    let _busy = TcpStream::connect(running.addrs[0]).await.unwrap();
    running.shutdown.begin();
    while !running.task.is_finished() {
        let before = Instant::now();
        if running.beats.recv().await.is_none() {
            break;
        }
        assert!(before.elapsed() <= Duration::from_secs(1));
    }
}

#[tokio::test]
async fn a_shutdown_steps_aside_first_takes_stragglers_and_lets_connections_end() {
    let mut running = Running::start(8, Script::default()).await;
    let early = running.client(0).await;
    running.shutdown.begin();
    assert_eq!(running.told().await, Told::Aside(true));
    let straggler = running.client(1).await;
    drop((early, straggler));
    for _ in 0..2 {
        assert_eq!(running.told().await, Told::Connection(Some(DST), Reason::NotTls));
    }
    assert_eq!(running.task.await.unwrap().unwrap(), Drained { cut: 0 });
    // Somebody else may have been given the port since; nobody of ours answers there.
    let _ = TcpStream::connect(running.addrs[0]).await;
    assert!(running.told.try_recv().is_err());
}

#[tokio::test]
async fn what_does_not_end_is_cut_at_the_deadline_and_told() {
    let mut running = Running::start(8, Script::default()).await;
    let mut stuck = running.client(0).await;
    pause();
    running.shutdown.begin();
    assert_eq!(running.told().await, Told::Aside(true));
    assert_eq!((&mut running.task).await.unwrap().unwrap(), Drained { cut: 1 });
    assert_eq!(running.told().await, Told::Connection(Some(DST), Reason::NotTls));
    assert_eq!(running.told.recv().await, None);
    assert!(!matches!(stuck.read(&mut [0; 1]).await, Ok(1..)));
}

#[tokio::test]
async fn dropping_the_loop_cuts_everything_and_tells() {
    let mut running = Running::start(8, Script::default()).await;
    let _held = running.client(0).await;
    running.task.abort();
    assert_eq!(running.told().await, Told::Connection(Some(DST), Reason::NotTls));
    assert_eq!(running.told.recv().await, None);
}
