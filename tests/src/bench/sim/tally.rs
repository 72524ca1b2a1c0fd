//! What is counted while it runs.

use std::{collections::HashMap, time::Duration};

/// The counters.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Bytes that left the registry, and requests for them.
    pub(super) egress: u64,
    pub(super) requests: u64,
    /// When a piece last came from the registry, in nanoseconds.
    pub(super) registry_until: u64,
    /// Bytes that nodes gave each other.
    pub(super) delivered: u64,
    /// Bytes that came into each zone from others.
    pub(super) into_zones: Vec<u64>,
    control: u64,
    control_messages: u64,
    /// Questions that each owner got in each second.
    asked: HashMap<(u32, u64), u32>,
    connections: u32,
    /// Connections that were refused, and greetings that took too long.
    pub(super) refused: u64,
    pub(super) late_greetings: u64,
    pub(super) late_answers: u64,
    /// Times that the owner after the first was asked, and that a node was its own owner.
    pub(super) next_owner: u64,
    pub(super) alone: u64,
    /// Requests that found too many in line.
    pub(super) turned_away: u64,
    /// Requests that were called stalled, leases given up, pieces taken without a lease, fetches that ended without all.
    pub(super) stalls: u64,
    pub(super) given_up: u64,
    pub(super) unleased: u64,
    pub(super) hopeless: u64,
    pub(super) crashed: u64,
    /// What answering took on this machine.
    pub(super) owners_took: Duration,
}

impl Tally {
    /// Nothing yet, in so many zones.
    pub(super) fn of_zones(zones: u16) -> Self {
        Self { into_zones: vec![0; zones.into()], ..Self::default() }
    }

    /// Bytes came at `now`, from the registry or from a node.
    pub(super) fn came(&mut self, bytes: u64, from_registry: bool, now: u64) {
        if from_registry {
            self.registry_until = now;
        } else {
            self.delivered += bytes;
        }
    }

    pub(super) fn control(&mut self, bytes: u64) {
        self.control += bytes;
        self.control_messages += 1;
    }

    pub(super) fn asked(&mut self, owner: u32, now: u64) {
        *self.asked.entry((owner, now / 1_000_000_000)).or_default() += 1;
    }

    pub(super) fn connected(&mut self, connections: u32) {
        self.connections = self.connections.max(connections);
    }

    /// The most questions that an owner got in a second.
    pub(super) fn asked_most(&self) -> u32 {
        self.asked.values().copied().max().unwrap_or_default()
    }

    /// The most connections that a node had.
    pub(super) fn peak_connections(&self) -> u32 {
        self.connections
    }

    /// The share of control in all bytes between members.
    pub(super) fn control_share(&self) -> f64 {
        self.control as f64 / (self.control + self.delivered).max(1) as f64
    }

    pub(super) fn control_messages(&self) -> u64 {
        self.control_messages
    }
}
