//! What an owner knows of one member of a crowd, and for how long what it takes is waited for.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use fixedbitset::FixedBitSet;

/// A lease of which no piece came for so long is somebody else's, although its lessee reports. It gives up far sooner
/// where no byte comes; only it can see those.
pub(super) const STALLED: Duration = Duration::from_secs(30);
/// The same for members of other zones, or this many times a piece's usual time if that is longer: there, leases and imports
/// may share a narrow wire, and everybody would wait for them.
pub(super) const STALLED_ABROAD: Duration = Duration::from_secs(2);
const PIECES_ABROAD: u64 = 4;
/// What a registry whose rate is not known is taken for there, in bytes per second.
const UNKNOWN_RATE: u64 = 1 << 20;
/// What somebody has whole is not taken from the registry by those who were not told of it, until one of them had nothing more
/// for so long.
pub(super) const STARVED: Duration = Duration::from_secs(2);

/// One member.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) zone: String,
    pub(super) held: FixedBitSet,
    pub(super) fetching: FixedBitSet,
    /// Granted, and not seen in a report yet; since when.
    pub(super) granted: FixedBitSet,
    pub(super) granted_at: Instant,
    pub(super) leases: u32,
    /// To be had from another zone, and not held yet; since when.
    pub(super) imports: BTreeMap<usize, Instant>,
    /// Bytes per second from the registry, 0 before it is known.
    pub(super) rate: u64,
    pub(super) links: BTreeSet<SocketAddr>,
    /// When what it takes last brought more.
    pub(super) progress: Instant,
    /// When it last had more than before, from anywhere.
    pub(super) grew: Instant,
    pub(super) due: Instant,
}

impl Member {
    /// Whether a piece of `piece` bytes that it takes may still come, as far as members of the zone `asker` will wait.
    pub(super) fn is_awaited(&self, asker: &str, piece: u64, now: Instant) -> bool {
        let patience = if self.zone == asker { STALLED } else { patience_abroad(piece, self.rate) };
        now.saturating_duration_since(self.progress) <= patience
    }

    /// Whether it had nothing more for long, from anywhere.
    pub(super) fn starves(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.grew) >= STARVED
    }

    /// What it takes from the registry.
    pub(super) fn leased(&self) -> FixedBitSet {
        let mut leased = self.fetching.clone();
        leased.union_with(&self.granted);
        self.imports.keys().for_each(|piece| leased.remove(*piece));
        leased
    }

    /// Whether it takes anything from the registry.
    pub(super) fn is_leasing(&self) -> bool {
        !self.leased().is_clear()
    }

    pub(super) fn is_fetching(&self) -> bool {
        !self.fetching.is_clear() || !self.granted.is_clear()
    }
}

/// How long other zones wait for a piece of so many bytes that is taken at this rate, which is 0 where it is not known.
pub(super) fn patience_abroad(piece: u64, rate: u64) -> Duration {
    let rate = if rate == 0 { UNKNOWN_RATE } else { rate };
    Duration::from_millis((PIECES_ABROAD * piece).saturating_mul(1000) / rate).clamp(STALLED_ABROAD, STALLED)
}
