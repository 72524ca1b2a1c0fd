//! What went wrong, as data: whose fault it was and whether the client can still be spared.
//!
//! Making an HTTP response of a fault is `http::reply`'s job; counting it is the outcome's.

use std::{fmt, net::SocketAddr};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Who caused a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The runtime or its request.
    Client,
    /// Another member.
    Peer,
    /// The registry, or a host that it redirected us to.
    Registry,
    /// waylay or the node that it runs on.
    Ours,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum What {
    /// No connection could be made.
    Unreachable,
    /// Nothing came for too long.
    Stalled,
    /// The connection ended before the body did.
    Cut,
    /// The bytes do not have the hash that they should.
    Corrupt,
    /// The size differs from what the manifest or the members say.
    Length,
    /// An answer whose status does not fit the question.
    Status,
    /// An answer that breaks the protocol.
    Protocol,
    /// A peer did not have what it had announced.
    Gone,
    /// No room on the disk.
    Full,
    /// Reading or writing the store failed.
    Disk,
}

/// A failed step of a pull.
#[derive(Debug)]
pub struct Fault {
    /// Who caused it.
    pub side: Side,
    /// What happened.
    pub what: What,
    /// The member that it happened with.
    pub at: Option<SocketAddr>,
    source: Option<BoxError>,
}

impl Side {
    /// The stable name in metrics and log lines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Peer => "peer",
            Self::Registry => "registry",
            Self::Ours => "ours",
        }
    }
}

impl What {
    /// The stable name in metrics and log lines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Stalled => "stalled",
            Self::Cut => "cut",
            Self::Corrupt => "corrupt",
            Self::Length => "length",
            Self::Status => "status",
            Self::Protocol => "protocol",
            Self::Gone => "gone",
            Self::Full => "full",
            Self::Disk => "disk",
        }
    }
}

impl Fault {
    /// A fault without a deeper cause.
    pub const fn new(side: Side, what: What) -> Self {
        Self { side, what, at: None, source: None }
    }

    /// A fault and the error that showed it.
    pub fn with(side: Side, what: What, source: impl Into<BoxError>) -> Self {
        Self { side, what, at: None, source: Some(source.into()) }
    }

    /// Something that a member did.
    pub const fn of_peer(what: What, at: SocketAddr) -> Self {
        Self { side: Side::Peer, what, at: Some(at), source: None }
    }

    /// `side:what`, with `@` and the member where there is one, as access lines show it.
    pub fn label(&self) -> String {
        match self.at {
            Some(at) => format!("{}:{}@{at}", self.side.name(), self.what.name()),
            None => format!("{}:{}", self.side.name(), self.what.name()),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label())?;
        let mut cause: Option<&dyn std::error::Error> = self.source.as_ref().map(|e| e.as_ref() as _);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}
