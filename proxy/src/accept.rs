//! Takes caught connections from the kernel: permits, the true destination, one task for each, heartbeat, drain.
//! What is done with a connection is decided by `tls`.

mod ending;
mod limit;

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use ending::Ending;
use limit::Limit;
pub use limit::Memory;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::OwnedSemaphorePermit,
    task::{JoinError, JoinSet},
    time::{Instant, Interval, MissedTickBehavior, interval, sleep_until},
};
use tracing::Instrument;

use crate::{dial, lifecycle::Shutdown, tls};
pub use crate::{
    dial::{ClientAddr, OrigDst},
    tls::{Caught, ConnectionOutcome, Reason},
};

/// How often [`Watch::heartbeat`] is called.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// After the kernel was told to step aside, connections that it had already sent to us still arrive for this long.
const STRAGGLERS: Duration = Duration::from_secs(1);
/// The first and the longest pause after a failed accept (no file descriptors, no memory).
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Where a caught connection wanted to go. The kernel's answer in production.
pub trait Origin: Send + Sync + 'static {
    /// What is known of the connection that came from `client` to our listener at `local`; asking forgets it.
    /// `None`: it was not caught, somebody connected to our port. Must not block.
    fn of(&self, client: ClientAddr, local: SocketAddr) -> io::Result<Option<Caught>>;
}

/// What is done with a caught connection.
pub trait Handle: Send + Sync + 'static {
    /// Takes the connection to its end and writes what became of it into `outcome` as it goes.
    fn handle(&self, io: TcpStream, caught: Caught, outcome: &mut ConnectionOutcome)
    -> impl Future<Output = ()> + Send;
}

impl<T: tls::Trust, S: tls::Serve> Handle for tls::Tls<T, S> {
    async fn handle(&self, io: TcpStream, caught: Caught, outcome: &mut ConnectionOutcome) {
        let io = Ending::for_program(io, &caught.comm);
        self.connection(io, &caught, outcome).await;
    }
}

/// Is told what happens here. None of it may block.
pub trait Watch: Send + Sync + 'static {
    /// A connection has ended; called exactly once for each one accepted, whatever ended it.
    fn connection(&self, outcome: &ConnectionOutcome);

    /// The accept loop lives. Called every second from the loop itself, while draining too; silence means stuck.
    fn heartbeat(&self);

    /// `true`: the kernel should send new connections directly. `false`: we can take them again.
    fn step_aside(&self, aside: bool);
}

/// The limits of the accept loop.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Connections at one time. From seven eighths of it on new ones go directly.
    pub max_connections: usize,
    /// Memory. Beyond it new connections go directly; looked at with each heartbeat.
    pub memory: Memory,
    /// How long connections may go on after the shutdown has begun.
    pub drain: Duration,
}

/// How the accept loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections cut at the deadline.
    pub cut: usize,
}

/// Accepts from all listeners until `shutdown` begins and its connections have ended, or were cut at the deadline.
/// Dropping the future cuts all connections at once.
pub async fn run<O, H, W>(
    listeners: Vec<TcpListener>,
    config: Config,
    origin: O,
    handle: Arc<H>,
    watch: Arc<W>,
    shutdown: Shutdown,
) -> io::Result<Drained>
where
    O: Origin,
    H: Handle,
    W: Watch,
{
    let own = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<Vec<_>>>()?;
    let mut accept = Accept {
        limit: Limit::new(config.max_connections, config.memory),
        door: Arc::new(Door { origin, own, handle, watch }),
        tasks: JoinSet::new(),
        pause: None,
        turn: 0,
    };
    accept.until(&listeners, shutdown.begun()).await;
    accept.limit.stopping = true;
    accept.tell();
    accept.until(&listeners, tokio::time::sleep(STRAGGLERS)).await;
    drop(listeners);
    Ok(accept.drain(config.drain).await)
}

/// The loop's state.
struct Accept<O, H, W> {
    limit: Limit,
    door: Arc<Door<O, H, W>>,
    tasks: JoinSet<()>,
    /// Until when accepting pauses, and how long that pause is. `None`: the last accept went well.
    pause: Option<(Instant, Duration)>,
    /// The listener that is asked first, so that none starves the others.
    turn: usize,
}

/// What every connection needs on its way in.
struct Door<O, H, W> {
    origin: O,
    own: Vec<SocketAddr>,
    handle: Arc<H>,
    watch: Arc<W>,
}

impl<O: Origin, H: Handle, W: Watch> Accept<O, H, W> {
    /// Accepts until `end`.
    async fn until(&mut self, listeners: &[TcpListener], end: impl Future<Output = ()>) {
        let mut end = pin!(end);
        let mut beat = heartbeat();
        loop {
            tokio::select! {
                biased;
                () = &mut end => return,
                _ = beat.tick() => {
                    self.door.watch.heartbeat();
                    self.limit.measure();
                }
                Some(ended) = self.tasks.join_next() => self.ended(ended),
                // Unasked: while we step aside nobody connects, so no accept would show that we can again.
                () = over(self.pause), if self.limit.failing => self.limit.failing = false,
                (permit, accepted) = next(&self.limit, self.pause, listeners, self.turn) => {
                    self.turn = self.turn.wrapping_add(1);
                    self.accepted(permit, accepted);
                }
            }
            self.tell();
        }
    }

    fn accepted(&mut self, permit: OwnedSemaphorePermit, accepted: io::Result<(TcpStream, SocketAddr)>) {
        match accepted {
            Ok((stream, client)) => {
                self.pause = None;
                let (door, client) = (self.door.clone(), ClientAddr(canonical(client)));
                let span = tracing::info_span!("connection", %client, dst = tracing::field::Empty);
                let task = async move {
                    door.enter(stream, client).await;
                    drop(permit);
                };
                self.tasks.spawn(task.instrument(span));
            }
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                let length = match self.pause {
                    Some((_, before)) => (before * 2).min(PAUSES.1),
                    None => {
                        tracing::warn!(%error, "cannot accept, new connections go directly meanwhile");
                        PAUSES.0
                    }
                };
                self.pause = Some((Instant::now() + length, length));
                self.limit.failing = true;
            }
        }
    }

    /// Tells the kernel when something has changed about whether we can take connections.
    fn tell(&mut self) {
        if let Some(aside) = self.limit.change() {
            self.door.watch.step_aside(aside);
        }
    }

    fn ended(&self, ended: Result<(), JoinError>) {
        if let Err(error) = ended
            && error.is_panic()
        {
            tracing::error!(%error, "a connection failed because of a defect of ours");
        }
    }

    /// Waits for the connections to end, and cuts those that have not at the deadline.
    async fn drain(mut self, deadline: Duration) -> Drained {
        let mut beat = heartbeat();
        let mut end = pin!(tokio::time::sleep(deadline));
        loop {
            tokio::select! {
                biased;
                ended = self.tasks.join_next() => match ended {
                    Some(ended) => self.ended(ended),
                    None => return Drained { cut: 0 },
                },
                () = &mut end => break,
                _ = beat.tick() => self.door.watch.heartbeat(),
            }
        }
        let cut = self.tasks.len();
        self.tasks.shutdown().await;
        Drained { cut }
    }
}

impl<O: Origin, H: Handle, W: Watch> Door<O, H, W> {
    /// Takes one connection from the listener to its end.
    async fn enter(&self, stream: TcpStream, client: ClientAddr) {
        let mut recorded = Recorded { watch: self.watch.clone(), outcome: ConnectionOutcome::new(client) };
        let outcome = &mut recorded.outcome;
        let caught = match self.caught(&stream, client) {
            Ok(Some(caught)) => caught,
            Ok(None) => {
                outcome.reason = Reason::NotCaught;
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "the kernel does not tell where a connection wanted to go");
                outcome.reason = Reason::OriginFailed;
                outcome.error = Some(error.to_string());
                return;
            }
        };
        outcome.dst = Some(caught.dst);
        outcome.pid = caught.pid;
        outcome.program.clone_from(&caught.comm);
        tracing::Span::current().record("dst", tracing::field::display(caught.dst));
        if self.own.contains(&canonical(caught.dst.0)) {
            tracing::error!(program = caught.comm, pid = caught.pid, "a connection to ourselves was caught: closed");
            outcome.reason = Reason::OwnListener;
            return;
        }
        self.handle.handle(stream, caught, outcome).await;
    }

    fn caught(&self, stream: &TcpStream, client: ClientAddr) -> io::Result<Option<Caught>> {
        dial::prepare(stream)?;
        self.origin.of(client, canonical(stream.local_addr()?))
    }
}

/// Reports its outcome when it is dropped, so that a connection that is cut or panics is reported too.
struct Recorded<W: Watch> {
    watch: Arc<W>,
    outcome: ConnectionOutcome,
}

impl<W: Watch> Drop for Recorded<W> {
    fn drop(&mut self) {
        self.watch.connection(&self.outcome);
    }
}

/// Waits for a permit, then for the end of a pause, then for a connection. Loses nothing when dropped.
async fn next(
    limit: &Limit,
    pause: Option<(Instant, Duration)>,
    listeners: &[TcpListener],
    turn: usize,
) -> (OwnedSemaphorePermit, io::Result<(TcpStream, SocketAddr)>) {
    let permit = limit.permit().await;
    over(pause).await;
    let accepted = poll_fn(|cx: &mut Context<'_>| {
        for offset in 0..listeners.len() {
            let listener = &listeners[turn.wrapping_add(offset) % listeners.len()];
            if let Poll::Ready(accepted) = listener.poll_accept(cx) {
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    });
    (permit, accepted.await)
}

/// Waits for the end of a pause.
async fn over(pause: Option<(Instant, Duration)>) {
    if let Some((until, _)) = pause {
        sleep_until(until).await;
    }
}

fn heartbeat() -> Interval {
    let mut beat = interval(HEARTBEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beat
}

/// Whether a failed accept concerns one client only (accept(2): errors already pending on the new socket).
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, TimedOut};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted | TimedOut)
}

/// IPv4 written as IPv4, so that the same client has one address whatever socket it came through.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

#[cfg(test)]
mod tests;
