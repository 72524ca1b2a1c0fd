//! Proof that interception works: a connection of our own that must come back to us.
//!
//! "Attached" is not enough. A hook on a cgroup that nobody lives in, or behind another program that undoes it, reports
//! no error and catches nothing. The trial goes to the discard port of 127.0.0.1, so that it stays on this machine
//! whether or not it is caught; the hooks know its socket by the cookie and spare it the tests that it could not pass
//! (port, loopback, caller). Everything else is as for a runtime: heartbeat, listener, reservation, rewriting, re-keying,
//! and in [`Intercept::prove`] the accept loop too.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aya::maps::MapError;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Intercept, lock};
use crate::accept::{ClientAddr, Origin as _};

/// Where the trial pretends to go: the discard service (RFC 863), which nobody runs.
const DESTINATION: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9);

/// How long a connection may wait to be accepted before its place is given away.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// How long the first trial may take; it never leaves the kernel.
const FIRST: Duration = Duration::from_secs(1);

/// Why connections are not caught although the hooks are attached.
#[derive(Debug, thiserror::Error)]
pub enum Ineffective {
    /// The trial's socket could not be made.
    #[error("can't make the trial's socket")]
    Socket(#[source] io::Error),
    /// The kernel refused to be told of the trial.
    #[error("can't tell the kernel program of the trial")]
    Map(#[source] MapError),
    /// The connection went where it was sent, or nowhere.
    #[error("the hooks did not redirect our own connection: is this process outside the cgroup they are attached to?")]
    NotRedirected,
    /// It was redirected, and nobody asked for it in time.
    #[error("our own connection was redirected, but the accept loop did not see it in time")]
    NotAccepted,
}

/// Whether the last trial succeeded.
#[derive(Default)]
pub(super) struct Effect {
    proven: AtomicBool,
    /// The hooks know of one trial at a time.
    trying: Mutex<()>,
}

/// Which trial the accept loop saw last.
#[derive(Default)]
pub(super) struct Sightings {
    last: Mutex<u64>,
    news: Condvar,
}

impl Sightings {
    pub(super) fn saw(&self, cookie: u64) {
        *lock(&self.last) = cookie;
        self.news.notify_all();
    }

    fn wait(&self, cookie: u64, deadline: Duration) -> bool {
        let waited = self.news.wait_timeout_while(lock(&self.last), deadline, |last| *last != cookie);
        waited.is_ok_and(|(last, _)| *last == cookie)
    }
}

impl Intercept {
    /// Whether the last trial came back to us: the metric `waylay_intercept_effective`.
    pub fn is_effective(&self) -> bool {
        self.effect.proven.load(Ordering::Relaxed)
    }

    /// Tries the hooks and the accept loop with a connection of our own, and forgets connections that were never
    /// accepted. Blocks up to `deadline`, and for as long as others that were called before. Call it each minute, on a thread
    /// that is not the accept loop's.
    ///
    /// # Errors
    /// When the connection did not come back; connections are as slow as without us, and [`Intercept::is_effective`]
    /// says so until a later call succeeds.
    pub fn prove(&self, deadline: Duration) -> Result<(), Ineffective> {
        let freed = self.forget_unaccepted(FORGOTTEN).map_err(Ineffective::Map)?;
        if freed > 0 {
            tracing::debug!(freed, "forgot connections that were never accepted");
        }
        self.record(self.trial(deadline, |_, _| Ok(())))
    }

    /// The first trial, before anybody accepts: what the hooks remember of it says who and where we are.
    pub(super) fn learn(&self) -> Result<(), Ineffective> {
        let ask = |client, local| match self.origin().of(ClientAddr(client), local) {
            Ok(_) => Ok(()),
            Err(error) => Err(Ineffective::Socket(error)),
        };
        self.record(self.trial(FIRST, ask))
    }

    fn record(&self, outcome: Result<(), Ineffective>) -> Result<(), Ineffective> {
        self.effect.proven.store(outcome.is_ok(), Ordering::Relaxed);
        outcome
    }

    /// One trial. `ask` is called with the connection's ends once it stands, in case nobody accepts it.
    fn trial(
        &self,
        deadline: Duration,
        ask: impl Fn(SocketAddr, SocketAddr) -> Result<(), Ineffective>,
    ) -> Result<(), Ineffective> {
        let _alone = lock(&self.effect.trying);
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).map_err(Ineffective::Socket)?;
        let cookie = socket.cookie().map_err(Ineffective::Socket)?;
        self.shared.settings().change(|settings| settings.trial = cookie).map_err(Ineffective::Map)?;
        let connected = socket.connect_timeout(&DESTINATION.into(), deadline);
        self.shared.settings().change(|settings| settings.trial = 0).map_err(Ineffective::Map)?;
        let end = |address: io::Result<socket2::SockAddr>| address.ok().and_then(|address| address.as_socket());
        let (Ok(()), Some(client), Some(local)) = (connected, end(socket.local_addr()), end(socket.peer_addr())) else {
            return Err(Ineffective::NotRedirected);
        };
        if local == DESTINATION {
            return Err(Ineffective::NotRedirected);
        }
        ask(client, local)?;
        if self.shared.sightings.wait(cookie, deadline) { Ok(()) } else { Err(Ineffective::NotAccepted) }
    }
}
