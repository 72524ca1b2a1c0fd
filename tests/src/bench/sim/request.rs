//! A request for a piece, from one node to another.

use std::time::Duration;

use waylay::{store::piece::Layout, swarm::pure::SLOWEST};

/// A request for a piece.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) session: u32,
    pub(super) client: u32,
    pub(super) server: u32,
    pub(super) index: u32,
    pub(super) patience: Duration,
    pub(super) since: u64,
    pub(super) stage: Stage,
    /// The one that asked gave it up.
    pub(super) abandoned: bool,
}

/// How far a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Travelling,
    Waiting,
    Flowing(u32),
    Landing,
    /// Its server died, then.
    Lost(u64),
}

impl Request {
    /// Whether the one that asked gives it up.
    pub(super) fn is_silent(&self, now: u64, layout: &Layout) -> bool {
        let patience = self.patience.as_nanos() as u64;
        let whole = patience + layout.len(self.index) * 1_000_000_000 / SLOWEST;
        match self.stage {
            Stage::Travelling | Stage::Waiting => now > self.since + patience,
            Stage::Lost(since) => now > since.max(self.since) + patience,
            Stage::Flowing(_) => now > self.since + whole,
            Stage::Landing => false,
        }
    }
}
