//! A small process beside the daemon for the moment when that stands still or dies: connections that wait in its listen
//! queue would be reset, and a runtime that sees its first request reset gives the pull up. The stand-in shares the
//! listeners and carries those connections to where they wanted to go, untouched.
//!
//! The kernel closes a dying process's newest descriptors first, so its connections end before its hooks and listeners
//! do; a runtime that tries again at once lands in the queue of a process that is no more. It is met there.

use std::{
    io::{self, IoSlice, IoSliceMut, Write as _},
    mem::MaybeUninit,
    net::TcpListener,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::{io::AsyncReadExt as _, task::JoinSet, time::timeout};

use crate::{
    accept::ClientAddr,
    dial,
    intercept::{Destinations, Intercept},
    lifecycle::Terminations,
    tls::splice,
};

/// The hidden subcommand that it is.
pub const COMMAND: &str = "stand-in";
/// Listeners, IPv4 and IPv6, and a map.
const MOST_DESCRIPTORS: usize = 3;
/// The daemon lives: sent from its accept loop.
const BEAT: u8 = b'.';
/// The daemon ends in good order, with nothing left in its queue.
const GOODBYE: u8 = b'!';
/// So long without a beat, and the daemon stands still.
const PATIENCE: Duration = Duration::from_secs(3);
/// After the daemon's death connections may still arrive for so long: until its hooks are gone.
const LINGER: Duration = Duration::from_secs(1);
/// What was taken over may go on for so long after the daemon's death.
const LONGEST: Duration = Duration::from_secs(600);

/// The daemon's end. Dropping it without a goodbye is the daemon's death.
#[derive(Debug)]
pub struct StandIn {
    line: UnixStream,
}

impl StandIn {
    /// Starts the process and hands it the listeners.
    ///
    /// # Errors
    /// When it cannot be started; the daemon can do without.
    pub fn start(listeners: &[BorrowedFd<'_>], guard: &Intercept) -> io::Result<Self> {
        let (line, theirs) = UnixStream::pair()?;
        let map = guard.caught_map().try_clone_to_owned()?;
        let mut command = Command::new("/proc/self/exe");
        command.arg(COMMAND).stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null());
        // The service manager is told by the daemon alone.
        command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
        let child = command.spawn()?;
        let descriptors: Vec<_> = listeners.iter().copied().chain([map.as_fd()]).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::Error::other("too many listeners"));
        }
        sendmsg(&line, &[IoSlice::new(&[BEAT])], &mut ancillary, SendFlags::empty())?;
        line.set_nonblocking(true)?;
        reap(child);
        Ok(Self { line })
    }

    /// The accept loop lives.
    pub fn beat(&self) {
        // A full line has beats enough; a closed one has nobody behind it.
        let _ = (&self.line).write(&[BEAT]);
    }

    /// Nothing is left in the queue.
    pub fn goodbye(&self) {
        let _ = (&self.line).write(&[GOODBYE]);
    }
}

/// Its end is nobody's business, but somebody has to ask for it.
fn reap(mut child: std::process::Child) {
    std::thread::spawn(move || child.wait());
}

/// The process itself: what standard input is connected to is the daemon.
///
/// # Errors
/// When it was not started by a daemon.
pub fn main() -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(stand_in())
}

async fn stand_in() -> anyhow::Result<()> {
    let line = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let (listeners, mut destinations) = receive(&line).context("this is started by `waylay run`, not by hand")?;
    line.set_nonblocking(true)?;
    let mut line = tokio::net::UnixStream::from_std(line)?;
    let mut tunnels = JoinSet::new();
    // A signal to the whole group, such as a terminal's, is the daemon's to obey: it says goodbye.
    let _heard = Terminations::listen()?;
    let mut said = [0];
    loop {
        match timeout(PATIENCE, line.read(&mut said)).await {
            Ok(Ok(1)) if said == [GOODBYE] => return Ok(()),
            Ok(Ok(1)) => {}
            Ok(_) => break,
            Err(_) => {
                tracing::warn!("the daemon stands still; what waits in its queue is carried to where it wanted to go");
                tokio::select! {
                    _ = line.readable() => {}
                    () = take_over(&listeners, &mut destinations, &mut tunnels) => {}
                }
            }
        }
        while tunnels.try_join_next().is_some() {}
    }
    // Each that comes is a reason to wait for another.
    let _ = timeout(LINGER, take_over(&listeners, &mut destinations, &mut tunnels)).await;
    drop(listeners);
    let carried = tunnels.len();
    if carried > 0 {
        tracing::warn!(carried, "the daemon died; connections from its queue are carried to where they wanted to go");
    }
    let _ = timeout(LONGEST, async { while tunnels.join_next().await.is_some() {} }).await;
    Ok(())
}

/// Takes what is in the queues, and what comes, until dropped.
async fn take_over(listeners: &[tokio::net::TcpListener], destinations: &mut Destinations, tunnels: &mut JoinSet<()>) {
    loop {
        let accepts = listeners.iter().map(|listener| Box::pin(listener.accept()));
        let (accepted, _, _) = futures_util::future::select_all(accepts).await;
        let Ok((stream, client)) = accepted else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let client = ClientAddr(std::net::SocketAddr::new(client.ip().to_canonical(), client.port()));
        let destination = stream.local_addr().map_err(anyhow::Error::from).and_then(|local| {
            dial::prepare(&stream)?;
            Ok(destinations.take(client, local)?)
        });
        match destination {
            Ok(Some(destination)) => {
                tunnels.spawn(async move {
                    let (mut sent, mut received) = (0, 0);
                    // Both sides have seen how it ended.
                    let _ = splice::run(stream, destination, &mut sent, &mut received).await;
                });
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "the kernel does not tell where a connection wanted to go"),
        }
    }
}

/// The listeners and the map, as the daemon sent them.
fn receive(line: &UnixStream) -> anyhow::Result<(Vec<tokio::net::TcpListener>, Destinations)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut beat = [0];
    recvmsg(line, &mut [IoSliceMut::new(&mut beat)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    let Some(map) = descriptors.pop() else { bail!("nothing was handed over") };
    let listeners = descriptors.into_iter().map(|descriptor| {
        let listener = TcpListener::from(descriptor);
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)
    });
    Ok((listeners.collect::<io::Result<_>>()?, Destinations::from_fd(map)?))
}
