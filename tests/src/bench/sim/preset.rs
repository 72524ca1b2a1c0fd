//! A preset: everything that a simulated crowd is, as it stands in a committed file.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// The presets by their names, smallest first.
const FILES: [(&str, &str); 14] = [
    ("8x100", include_str!("../../../presets/8x100.toml")),
    ("16x50", include_str!("../../../presets/16x50.toml")),
    ("fast-registry", include_str!("../../../presets/fast-registry.toml")),
    ("stagger", include_str!("../../../presets/stagger.toml")),
    ("sixty-four", include_str!("../../../presets/sixty-four.toml")),
    ("kraken", include_str!("../../../presets/kraken.toml")),
    ("large", include_str!("../../../presets/large.toml")),
    ("thin", include_str!("../../../presets/thin.toml")),
    ("tail", include_str!("../../../presets/tail.toml")),
    ("churn", include_str!("../../../presets/churn.toml")),
    ("zones", include_str!("../../../presets/zones.toml")),
    ("two-zones", include_str!("../../../presets/two-zones.toml")),
    ("small", include_str!("../../../presets/small.toml")),
    ("million", include_str!("../../../presets/million.toml")),
];

/// A crowd. Sizes in bytes, rates in bytes of payload per second, times as their names say.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Preset {
    /// What it shows, for people.
    pub(super) about: String,
    pub(super) nodes: u32,
    /// The sizes of the image's layers.
    pub(super) layers: Vec<u64>,
    /// Layers that a client pulls at the same time.
    pub(super) parallel: usize,
    /// Bytes of later layers that are begun before they are asked for.
    #[serde(default)]
    pub(super) read_ahead: u64,
    pub(super) up: f64,
    pub(super) down: f64,
    pub(super) registry: Registry,
    pub(super) delays: Delays,
    /// How uneven flows are: the deviation of the logarithm of their weights.
    pub(super) uneven: f64,
    /// From one node's start to the next one's.
    #[serde(default)]
    pub(super) apart_ms: f64,
    /// All nodes' bytes together pass this, because they share the processors of one machine.
    pub(super) machine: Option<f64>,
    /// The share of nodes that crash in each second.
    #[serde(default)]
    pub(super) crashes: f64,
    /// When the owner of the first layer dies.
    pub(super) owner_dies_s: Option<f64>,
    pub(super) tail: Option<Tail>,
    pub(super) zones: Option<Zones>,
    /// It ends after this, whoever has finished.
    pub(super) limit_s: f64,
    #[serde(default)]
    pub(super) targets: Targets,
}

/// The registry's wire.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Registry {
    pub(super) rate: f64,
    /// What one connection gets at most.
    pub(super) connection: f64,
    /// From a request to the first byte, the round trip not counted.
    pub(super) answers_ms: f64,
    /// The zone that it stands in: what others take from it crosses what the zones share. Without one it is near to all.
    pub(super) zone: Option<u16>,
}

/// What takes time beside the wires.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Delays {
    /// Until a client's first question for a layer: resolving the tag, permission.
    pub(super) start_ms: f64,
    /// A round trip inside a zone.
    pub(super) near_ms: f64,
    /// A round trip between zones, and to the registry.
    pub(super) far_ms: f64,
    /// From a request for a piece to its first byte, the line before it not counted.
    pub(super) serve_ms: f64,
    /// From a piece's last byte to its being held, for each MiB.
    pub(super) hold_ms: f64,
    /// What one greeting costs the node that is greeted.
    pub(super) greet_ms: f64,
    /// What one report costs the owner.
    pub(super) join_ms: f64,
}

/// Some nodes are slow.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tail {
    pub(super) share: f64,
    /// Of the others' speed.
    pub(super) speed: f64,
}

/// Nodes stand in zones.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Zones {
    pub(super) count: u16,
    /// What each pair of zones shares, each way.
    pub(super) between: f64,
}

/// What is asked of it: at most, but `eta_p99`, at least.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Targets {
    pub(super) p50_s: Option<f64>,
    pub(super) p99_s: Option<f64>,
    pub(super) p999_s: Option<f64>,
    pub(super) eta_p99: Option<f64>,
    pub(super) egress_ratio: Option<f64>,
    pub(super) zone_ratio: Option<f64>,
    /// Measured by `bench flash`: what the simulation is held against, within a tenth.
    pub(super) measured_last_s: Option<f64>,
}

impl Preset {
    /// The preset of that name, or in that file.
    pub(super) fn named(name: &str) -> Result<Self> {
        let text = match FILES.iter().find(|(own, _)| *own == name) {
            Some((_, text)) => (*text).to_owned(),
            None if name.ends_with(".toml") => {
                fs::read_to_string(name).with_context(|| format!("cannot read {name}"))?
            }
            None => {
                let names: Vec<_> = Self::names().chain([super::idle::NAME]).collect();
                bail!("no preset {name}; there are {}", names.join(", "))
            }
        };
        let preset: Self = toml::from_str(&text).with_context(|| format!("the preset {name}"))?;
        ensure!(preset.nodes > 0 && !preset.layers.is_empty() && preset.parallel > 0, "the preset {name} is empty");
        Ok(preset)
    }

    /// The names of all crowds.
    pub(super) fn names() -> impl Iterator<Item = &'static str> {
        FILES.iter().map(|(name, _)| *name)
    }

    /// The image's length in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.layers.iter().sum()
    }

    /// The least time in which the last healthy node can have all, in seconds: max(F/u_s, F/d, N·F/(u_s + Σu)) (Kumar and
    /// Ross 2006), where the last arrival begins only when it comes, and what enters a zone, or passes one machine's
    /// processors, takes its time there.
    pub(super) fn bound(&self) -> f64 {
        let (bytes, nodes) = (self.bytes() as f64, f64::from(self.nodes));
        let slow = self.tail.as_ref().map_or(0.0, |tail| tail.share * (1.0 - tail.speed));
        let all_up = self.registry.rate + nodes * self.up * (1.0 - slow);
        let last = self.apart_ms / 1e3 * (nodes - 1.0);
        let into_zone = match (&self.zones, self.registry.zone) {
            (Some(zones), Some(_)) => bytes / (f64::from(zones.count - 1) * zones.between),
            _ => 0.0,
        };
        [into_zone, bytes / self.registry.rate, last + bytes / self.down, nodes * bytes * (1.0 - slow) / all_up]
            .into_iter()
            .fold(0.0, f64::max)
    }
}
