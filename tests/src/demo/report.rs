//! What the demo measured: a table for people, one JSON object for machines, and the checks that make it a proof.

use std::time::Duration;

use anyhow::{Result, ensure};
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use crate::fleet::BySource;
use crate::fleet::network::Traffic;

/// How much more than one copy may leave the registry.
const EGRESS_LIMIT: f64 = 1.01;
/// Headers, acknowledgements, manifests and gossip on a wire, as a share of the bytes carried and as an amount.
const OVERHEAD: (f64, u64) = (0.12, 4_000_000);

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The runtime.
    pub runtime: &'static str,
    /// Bytes of the image's configuration and layers, compressed.
    pub image_bytes: u64,
    /// One for each node, in the order in which they pulled.
    pub nodes: Vec<NodeReport>,
    /// Bytes of blobs that left the registry, by its own access log.
    pub registry_log_blob_bytes: u64,
    /// What `waylay explain` prints on the last node.
    #[serde(skip)]
    pub explained: String,
}

/// One node's pull.
#[derive(Debug, Clone, Serialize)]
pub struct NodeReport {
    /// The node.
    pub name: String,
    /// How long the runtime took.
    pub seconds: f64,
    /// Bytes that the runtime got from this node's store.
    pub store_bytes: u64,
    /// From other nodes.
    pub peer_bytes: u64,
    /// From the registry.
    pub registry_bytes: u64,
    /// What the wire carried to and from the node meanwhile.
    #[serde(skip)]
    pub wire: Traffic,
}

impl NodeReport {
    pub(super) fn new(name: &str, took: Duration, counted: BySource, wire: Traffic) -> Self {
        Self {
            name: name.to_owned(),
            // Milliseconds are as much as a pull's time means.
            seconds: (took.as_secs_f64() * 1e3).round() / 1e3,
            store_bytes: counted.store,
            peer_bytes: counted.peer,
            registry_bytes: counted.registry,
            wire,
        }
    }
}

impl Report {
    /// Checks that one copy left the registry, and that each node's counters agree with its wire.
    ///
    /// # Errors
    /// Names the first number that cannot be.
    pub fn check(&self) -> Result<()> {
        let image = self.image_bytes;
        for node in &self.nodes {
            let (name, wire) = (&node.name, node.wire.received);
            let told = node.store_bytes + node.peer_bytes + node.registry_bytes;
            ensure!(told >= image, "{name} got {image} bytes, but its daemon counts {told}");
            let remote = node.peer_bytes + node.registry_bytes;
            ensure!(wire >= remote, "{name} counts {remote} bytes from elsewhere, but its wire carried {wire}");
            let most = (remote as f64 * (1.0 + OVERHEAD.0)) as u64 + OVERHEAD.1;
            ensure!(
                wire <= most,
                "{name} counts {remote} bytes from elsewhere, but its wire carried {wire}, over {most}"
            );
        }
        let left = self.registry_log_blob_bytes;
        let copies = left as f64 / image as f64;
        ensure!(copies <= EGRESS_LIMIT, "{left} bytes left the registry, {copies:.3} times the image");
        Ok(())
    }

    /// The table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
        table.set_header(["node", "seconds", "from store", "from peers", "from registry", "wire in", "wire out"]);
        for node in &self.nodes {
            let bytes = [node.store_bytes, node.peer_bytes, node.registry_bytes, node.wire.received, node.wire.sent];
            let mut row = vec![node.name.clone(), format!("{:.2}", node.seconds)];
            row.extend(bytes.map(megabytes));
            table.add_row(row);
        }
        table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
        let copies = self.registry_log_blob_bytes as f64 / self.image_bytes as f64;
        format!(
            "{table}\n{} pulled an image of {} on {} nodes; {} of it left the registry by its own log: {copies:.3} copies.",
            self.runtime,
            megabytes(self.image_bytes),
            self.nodes.len(),
            megabytes(self.registry_log_blob_bytes),
        )
    }

    /// The object for machines, on one line.
    ///
    /// # Errors
    /// Never in practice: all of it is numbers and text.
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string(self)?)
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(peer: u64, wire: u64, left: u64) -> Report {
        let counted = BySource { store: 0, peer, registry: 0 };
        let wire = Traffic { received: wire, sent: 0 };
        let nodes = vec![NodeReport::new("node1", Duration::from_millis(1500), counted, wire)];
        Report {
            runtime: "containerd",
            image_bytes: 100_000_000,
            nodes,
            registry_log_blob_bytes: left,
            explained: String::new(),
        }
    }

    #[test]
    fn accepts_numbers_that_agree_and_no_others() {
        assert!(report(100_000_000, 105_000_000, 101_000_000).check().is_ok());
        assert!(report(100_000_000, 105_000_000, 101_100_000).check().is_err(), "more than one copy left");
        assert!(report(100_000_000, 99_000_000, 100_000_000).check().is_err(), "more counted than carried");
        assert!(report(100_000_000, 200_000_000, 100_000_000).check().is_err(), "more carried than counted");
        assert!(report(90_000_000, 95_000_000, 100_000_000).check().is_err(), "less counted than received");
    }

    #[test]
    fn speaks_the_agreed_json() -> Result<()> {
        let json = report(5, 5, 7).json()?;
        let node = r#"{"name":"node1","seconds":1.5,"store_bytes":0,"peer_bytes":5,"registry_bytes":0}"#;
        let whole = r#"{"runtime":"containerd","image_bytes":100000000,"nodes":[NODE],"registry_log_blob_bytes":7}"#;
        assert_eq!(json, whole.replace("NODE", node));
        Ok(())
    }
}
