//! What a test and its probe process say to each other: one JSON value a line, a [`Reply`] for each [`Step`].

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// The kinds of sockets that the hooks must tell apart.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Kind {
    Tcp,
    Udp,
    Mptcp,
}

/// One thing that the probe does with its current socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Step {
    /// Puts the current socket aside, still open, and makes another.
    Open { kind: Kind, v6: bool },
    /// Binds it, with SO_REUSEADDR.
    Bind(SocketAddr),
    /// Binds it to a network device.
    BindDevice(String),
    /// Sets SO_MARK.
    Mark(u32),
    /// Connects it, waiting for the answer.
    Connect(SocketAddr),
    /// Connects it without blocking and waits until it is writable (as Go's runtime does).
    ConnectNonBlocking(SocketAddr),
    /// Sends the first byte with the SYN: TCP Fast Open (RFC 7413).
    ConnectFastOpen(SocketAddr),
    /// Reads to the end what the server says, waiting at most so many milliseconds.
    Banner { within_ms: u64 },
    /// Closes every socket with a reset: the addresses are free at once.
    Abort,
    /// Closes every socket.
    Close,
    /// Says the process id, as the process itself sees it.
    Pid,
    /// Makes so many connections on so many threads; each must show a banner that starts with the text.
    Crowd { to: SocketAddr, connections: u32, threads: u32, expect: String },
    /// Calls connect() towards a port that refuses, in so many batches, and says how long one call took in the fastest.
    Time { to: SocketAddr, batches: u32 },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reply {
    Done,
    Connected {
        local: SocketAddr,
        peer: SocketAddr,
    },
    /// The server's line; empty when it closed without one.
    Line(String),
    /// What the system said.
    Failed(String),
    /// How many connections of a crowd showed something else, and the first such thing.
    Crowd {
        wrong: u32,
        first: Option<String>,
    },
    Pid(u32),
    /// Nanoseconds for one call.
    Nanoseconds(u64),
}
