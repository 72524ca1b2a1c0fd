//! What our daemon says of itself: its counters, and its access lines.

use anyhow::{Context, Result};
use serde::Deserialize;

/// The counters of a daemon, as read once.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    text: String,
}

impl Counters {
    /// The counters in `text`, as they were exported.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self { text }
    }

    /// The sum of all series called `name` that have every one of `labels`; 0 when there are none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let lines = self.text.lines().filter(|line| !line.starts_with('#'));
        let values = lines.filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (series_name, rest) = series.split_once('{').unwrap_or((series, ""));
            let wanted =
                series_name == name && labels.iter().all(|(key, value)| rest.contains(&format!("{key}=\"{value}\"")));
            // Gauges may be printed as floating point; all of ours are whole numbers.
            wanted.then(|| value.parse::<f64>().unwrap_or_default())
        });
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole numbers below 2^53")]
        let sum = values.sum::<f64>() as u64;
        sum
    }

    /// Bytes sent to runtimes from `source`: `store`, `peer` or `registry`.
    #[must_use]
    pub fn bytes(&self, source: &str) -> u64 {
        self.sum("waylay_bytes_total", &[("source", source)])
    }

    /// Bytes sent to runtimes, by source.
    #[must_use]
    pub fn by_source(&self) -> BySource {
        BySource { store: self.bytes("store"), peer: self.bytes("peer"), registry: self.bytes("registry") }
    }

    /// Connections decided upon, by decision: `terminate`, `splice` or `close`.
    #[must_use]
    pub fn connections(&self, decision: &str) -> u64 {
        self.sum("waylay_connections_total", &[("decision", decision)])
    }

    /// Faults of `side`: `client`, `peer`, `registry` or `ours`.
    #[must_use]
    pub fn faults(&self, side: &str) -> u64 {
        self.sum("waylay_faults_total", &[("side", side)])
    }

    /// Everything, as it was exported.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Bytes by where they came from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BySource {
    /// This node's store.
    pub store: u64,
    /// Other members.
    pub peer: u64,
    /// The registry.
    pub registry: u64,
}

impl BySource {
    /// What was added since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            store: self.store - earlier.store,
            peer: self.peer - earlier.peer,
            registry: self.registry - earlier.registry,
        }
    }

    /// All of them.
    #[must_use]
    pub fn total(self) -> u64 {
        self.store + self.peer + self.registry
    }
}

/// The one line that a daemon logs for each blob or manifest it was asked for.
#[derive(Debug, Clone, Deserialize)]
pub struct AccessLine {
    /// `comm` of the client.
    pub program: String,
    /// The registry's name.
    #[serde(default)]
    pub registry: String,
    /// The repository.
    #[serde(default)]
    pub repository: String,
    /// The digest, or the tag.
    #[serde(default)]
    pub digest: String,
    /// The status that the client saw.
    pub status: u16,
    /// Bytes that the client got.
    pub size: u64,
    /// Of these, from this node's store.
    pub store_bytes: u64,
    /// Of these, from other members.
    pub peer_bytes: u64,
    /// Of these, from the registry.
    pub registry_bytes: u64,
    /// What went wrong, as `side:what`, or `-`.
    pub fault: String,
}

impl AccessLine {
    /// The access lines in a log of JSON objects. Fields may stand beside the target or below `fields`.
    ///
    /// # Errors
    /// When a line with the target `access` lacks a field: it is an interface, and must not rot unseen.
    pub(crate) fn all(log: &str) -> Result<Vec<Self>> {
        let objects = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let access = objects.filter(|object| object["target"] == "access");
        let pulls = access
            .map(|mut object| if object["fields"].is_object() { object["fields"].take() } else { object })
            .filter(|fields| fields["event"] == "pull");
        pulls
            .map(|fields| serde_json::from_value(fields.clone()).with_context(|| format!("an access line: {fields}")))
            .collect()
    }

    /// Its bytes by source.
    #[must_use]
    pub fn by_source(&self) -> BySource {
        BySource { store: self.store_bytes, peer: self.peer_bytes, registry: self.registry_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_the_series_that_have_the_labels() {
        let counters = Counters::new(
            "# HELP waylay_bytes x\nwaylay_bytes_total{source=\"store\"} 5\nwaylay_bytes_total{source=\"peer\"} 7\n\
             waylay_connections_total{decision=\"splice\",reason=\"untrusted\"} 2\n\
             waylay_connections_total{decision=\"splice\",reason=\"no_sni\"} 1\nwaylay_intercept_effective 1\n"
                .to_owned(),
        );
        assert_eq!(counters.by_source(), BySource { store: 5, peer: 7, registry: 0 });
        assert_eq!(counters.connections("splice"), 3);
        assert_eq!(counters.sum("waylay_intercept_effective", &[]), 1);
    }

    #[test]
    fn reads_access_lines_and_refuses_half_ones() {
        let line = r#"{"target":"access","event":"pull","program":"ctr","registry":"r","repository":"a","digest":"sha256:ab","status":200,"size":9,"store_bytes":9,"peer_bytes":0,"registry_bytes":0,"ms":1,"fault":"-"}"#;
        let lines = AccessLine::all(&format!("starting\n{line}\n")).unwrap_or_default();
        assert_eq!(lines.iter().map(|line| line.store_bytes).collect::<Vec<_>>(), [9]);
        assert!(AccessLine::all(r#"{"target":"access","event":"pull","program":"ctr"}"#).is_err());
    }
}
