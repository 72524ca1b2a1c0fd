//! What a fetch is asked for, and how it ended.

use std::{
    net::SocketAddr,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;

use crate::store::{Partial, StoreError};

/// What a peer did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Blame {
    /// Its bytes were not what was stated, or it found them damaged itself.
    Corrupt,
    /// It was silent for too long.
    Stall,
    /// It could not be reached or went away.
    Gone,
    /// It said something untrue: pieces it has not got, a statement nobody signed, nonsense.
    Lied,
}

impl Blame {
    /// A stable name for metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Corrupt => "corrupt",
            Self::Stall => "stall",
            Self::Gone => "gone",
            Self::Lied => "lied",
        }
    }
}

/// One fault of one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerFault {
    /// Which peer.
    pub peer: SocketAddr,
    /// What it did.
    pub blame: Blame,
}

/// How a fetch ended.
#[derive(Debug, Clone, Default)]
pub struct Fetched {
    /// Bytes that came from each peer and count.
    pub bytes: Vec<(SocketAddr, u64)>,
    /// What went wrong, at most one for each peer.
    pub faults: Vec<PeerFault>,
    /// Pieces that were wanted and are still not here: for the registry.
    pub missing: Vec<u32>,
    /// Our own store failed, and that is why it ended.
    pub failed: Option<StoreError>,
}

/// Why a registry did not give what was leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Declined {
    /// It may be asked again after this.
    Later(Duration),
    /// It failed, and may be better soon.
    Failed,
    /// It gives the whole only, and was not asked for that.
    Ranges,
    /// It will not give it, or not to us.
    Never,
}

/// What is to be fetched, and what may help.
#[derive(Clone)]
pub struct Wish {
    /// The registry by whose word this node may have it.
    pub served_by: String,
    /// The blob.
    pub partial: Arc<Partial>,
    /// Which pieces of it.
    pub wanted: Range<u32>,
    /// The piece that the client reads now.
    pub cursor: Arc<AtomicU32>,
    /// Brings pieces from the registry; with `true`, an answer that ignores the range will do.
    pub registry: Arc<Leases>,
    /// Told of each piece that a member gave, before anybody can see it; again when it had to be fetched anew.
    pub given: Arc<Given>,
}

/// See [`Wish::given`].
pub type Given = dyn Fn(u32, SocketAddr) + Send + Sync;

/// See [`Wish::registry`]. It counts the bytes as they come in the last argument.
pub type Leases = dyn Fn(Range<u32>, bool, Arc<AtomicU64>) -> BoxFuture<'static, Result<(), Declined>> + Send + Sync;
