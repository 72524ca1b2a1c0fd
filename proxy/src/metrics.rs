//! Every counter that waylay exports, in one list; the doc comment is the exported help.
//!
//! Labels are small sets of stable words; never a digest, a path or a peer's name.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Where bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// This node's store.
    Store,
    /// Another member.
    Peer,
    /// The registry.
    Registry,
}

/// One label `source`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SourceLabel {
    /// `store`, `peer` or `registry`.
    pub source: &'static str,
}

/// One label `outcome`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    /// `ok`, `cut`, `refused` or `failed`.
    pub outcome: &'static str,
}

/// What became of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ConnectionLabel {
    /// `terminate`, `splice` or `close`.
    pub decision: &'static str,
    /// Why, in a stable word.
    pub reason: &'static str,
}

/// Whose fault and what.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FaultLabel {
    /// `client`, `peer`, `registry` or `ours`.
    pub side: &'static str,
    /// What happened.
    pub what: &'static str,
}

/// One label `direction`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DirectionLabel {
    /// `sent` or `received`.
    pub direction: &'static str,
}

/// One label `reason`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// A stable word.
    pub reason: &'static str,
}

/// The counters of one daemon.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Body bytes sent to runtimes, by where they came from.
    pub bytes: Family<SourceLabel, Counter>,
    /// Bytes brought to this node, by where they came from.
    pub fetched: Family<SourceLabel, Counter>,
    /// Blobs and manifests asked for, by how that ended.
    pub pulls: Family<OutcomeLabel, Counter>,
    /// Bytes of layers that were brought here before they were asked for.
    pub read_ahead: Counter,
    /// Those of them that nobody asked for in time.
    pub read_ahead_unasked: Counter,
    /// Redirected connections, by what was decided and why.
    pub connections: Family<ConnectionLabel, Counter>,
    /// Faults, whether or not a client noticed.
    pub faults: Family<FaultLabel, Counter>,
    /// connect() calls seen by the kernel hooks, by what they did.
    pub kernel: Family<ReasonLabel, Gauge<f64, AtomicU64>>,
    /// Whether a self-test has just shown that connections are intercepted.
    pub intercept_effective: Gauge,
    /// Bytes of complete blobs in the store.
    pub store_bytes: Gauge,
    /// Bytes of blobs that containerd keeps for it.
    pub store_lent_bytes: Gauge,
    /// Other members that are there.
    pub peers: Gauge,
    /// Members' requests for pieces that found too many in line.
    pub piece_requests_turned_away: Counter,
    /// Messages between members about who is there and what they hold.
    pub swarm_control: Family<DirectionLabel, Counter>,
    /// Those of them that answered when last asked.
    pub peers_reachable: Gauge,
}

impl Source {
    /// The stable name in metrics and log lines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Peer => "peer",
            Self::Registry => "registry",
        }
    }

    /// This source as a label.
    pub const fn label(self) -> SourceLabel {
        SourceLabel { source: self.name() }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("waylay"),
            bytes: Family::default(),
            fetched: Family::default(),
            pulls: Family::default(),
            read_ahead: Counter::default(),
            read_ahead_unasked: Counter::default(),
            connections: Family::default(),
            faults: Family::default(),
            kernel: Family::default(),
            intercept_effective: Gauge::default(),
            store_bytes: Gauge::default(),
            store_lent_bytes: Gauge::default(),
            peers: Gauge::default(),
            piece_requests_turned_away: Counter::default(),
            swarm_control: Family::default(),
            peers_reachable: Gauge::default(),
        };
        let list = &mut metrics.registry;
        list.register("bytes", "Body bytes sent to runtimes, by where they came from", metrics.bytes.clone());
        list.register("fetched_bytes", "Bytes brought to this node, by where they came from", metrics.fetched.clone());
        list.register("pulls", "Blobs and manifests asked for, by how that ended", metrics.pulls.clone());
        let ahead = "Bytes of layers that were brought here before a runtime asked for them";
        list.register("read_ahead_bytes", ahead, metrics.read_ahead.clone());
        let unasked = "Bytes of layers that were brought here and that no runtime asked for within a minute";
        list.register("read_ahead_unasked_bytes", unasked, metrics.read_ahead_unasked.clone());
        list.register("connections", "Redirected connections, by decision and reason", metrics.connections.clone());
        list.register("faults", "Faults, whether or not a client noticed", metrics.faults.clone());
        list.register("kernel_total", "connect() calls seen by the kernel hooks, by reason", metrics.kernel.clone());
        list.register(
            "intercept_effective",
            "1 when a self-test has just shown that connections are intercepted",
            metrics.intercept_effective.clone(),
        );
        list.register("store_bytes", "Bytes of complete blobs in the store", metrics.store_bytes.clone());
        let lent = "Bytes of complete blobs that containerd's content store keeps for the store";
        list.register("store_lent_bytes", lent, metrics.store_lent_bytes.clone());
        list.register("peers", "Other members that are there", metrics.peers.clone());
        let turned_away = "Members' requests for pieces that found too many in line and were told to come back";
        list.register("piece_requests_turned_away", turned_away, metrics.piece_requests_turned_away.clone());
        list.register(
            "swarm_control_messages",
            "Messages between members about who is there and what they hold, by direction",
            metrics.swarm_control.clone(),
        );
        let reachable = "Other members that answered when last asked";
        list.register("peers_reachable", reachable, metrics.peers_reachable.clone());
        for source in [Source::Store, Source::Peer, Source::Registry] {
            let _ = metrics.bytes.get_or_create_owned(&source.label());
        }
        metrics
    }
}

impl Metrics {
    /// All counters in the OpenMetrics text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// Counts a fault.
    pub fn fault(&self, side: &'static str, what: &'static str) {
        self.faults.get_or_create(&FaultLabel { side, what }).inc();
    }
}
