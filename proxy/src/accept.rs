//! What the way in knows of a caught connection, and whom it asks: the seam between the kernel and the proxy.

use std::{fmt, io, net::SocketAddr};

/// Where a client's connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddr(pub SocketAddr);

/// Where a client wanted to go before the kernel sent it to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OrigDst(pub SocketAddr);

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for OrigDst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the kernel told about a caught connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caught {
    /// Where the client wanted to go.
    pub dst: OrigDst,
    /// The client's process in our pid namespace; `None` when it can't be told.
    pub pid: Option<u32>,
    /// The name of the thread that connected.
    pub comm: String,
}

/// Tells what an accepted connection is about.
pub trait Origin: Send + Sync + 'static {
    /// What is known of the connection from `client` that was accepted on `local`; `Ok(None)` when it was not
    /// caught: close it, or the port would be an open relay. Each connection can be asked for once.
    ///
    /// # Errors
    /// When the kernel can't be asked; the connection can't be served.
    fn of(&self, client: ClientAddr, local: SocketAddr) -> io::Result<Option<Caught>>;
}
