//! The cases: how many nodes on which wires, who comes when and who dies, the time below which nothing can be, and what
//! is asked of us.

use std::time::Duration;

use clap::ValueEnum;

use super::rate::Rate;
use super::runtime::Runtime;
use crate::bench::report::Target;

/// A crowd with its own name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Case {
    /// 8 nodes, they and the registry at 100 Mbit/s.
    #[value(name = "8x100")]
    Eight,
    /// 16 nodes, they and the registry at 50 Mbit/s.
    #[value(name = "16x50")]
    Sixteen,
    /// 8 nodes at 100 Mbit/s, the registry at 400.
    FastRegistry,
    /// 8 nodes that come one second apart.
    Stagger,
    /// 8 nodes, two of them killed at half time.
    Kill,
    /// 4 nodes beside the registry and 4 behind a wire of 20 Mbit/s.
    Zones,
    /// One node alone.
    Single,
    /// 8 nodes at 100 Mbit/s, and an image of thirty layers, most of them small.
    Layers,
}

/// What a case means in numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setup {
    pub(super) nodes: u8,
    pub(super) rate: Rate,
    pub(super) registry_rate: Rate,
    /// From one client's start to the next one's.
    pub(super) apart: Duration,
    /// How many nodes are killed at half of the bound.
    pub(super) killed: usize,
    /// The wire to the second half of the nodes; `None` when all are on one switch.
    pub(super) between: Option<Rate>,
    /// What the layers of its image have of the whole, in their order.
    pub(super) layers: &'static [u64],
}

/// 64 : 24 : 8.
const THREE: &[u64] = &[8, 3, 1];
/// From a KiB to 50 MiB in 168: those of the simulator's `small`.
const THIRTY: &[u64] = &[
    17_076_704, 405_992, 62_600, 43_071, 5_562_092, 1_488, 6_641, 52_428_800, 14_028, 1_811_641, 29_634, 36_072_919,
    590_074, 132_236, 1_024, 1_246_475, 3_826_921, 9_652, 90_983, 2_633_061, 192_194, 279_337, 3_143, 20_389, 2_163,
    8_084_009, 11_749_393, 24_819_480, 857_620, 4_569,
];

/// A figure that a case is judged by, and what it must be.
pub(super) type Wanted = (&'static str, Target);

impl Case {
    /// Its setup as specified.
    pub(super) fn setup(self) -> Setup {
        let eight = Setup {
            nodes: 8,
            rate: Rate::mbit(100),
            registry_rate: Rate::mbit(100),
            apart: Duration::ZERO,
            killed: 0,
            between: None,
            layers: THREE,
        };
        match self {
            Self::Eight => eight,
            Self::Sixteen => Setup { nodes: 16, rate: Rate::mbit(50), registry_rate: Rate::mbit(50), ..eight },
            Self::FastRegistry => Setup { registry_rate: Rate::mbit(400), ..eight },
            Self::Stagger => Setup { apart: Duration::from_secs(1), ..eight },
            Self::Kill => Setup { killed: 2, ..eight },
            Self::Zones => Setup { between: Some(Rate::mbit(20)), ..eight },
            Self::Single => Setup { nodes: 1, ..eight },
            Self::Layers => Setup { layers: THIRTY, ..eight },
        }
    }

    /// What it is called on the command line.
    pub(super) fn name(self) -> String {
        self.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned())
    }

    /// What is asked of it. No time is asked where the client unpacks, which is the processors' work and not ours.
    pub(super) fn wanted(self, runtime: Runtime) -> Vec<Wanted> {
        let (time, egress) = match self {
            Self::Eight => (Some(("eta_last", Target::AtLeast(0.85))), 1.03),
            Self::Sixteen => (Some(("eta_last", Target::AtLeast(0.80))), 1.03),
            Self::FastRegistry => (Some(("eta_last", Target::AtLeast(0.85))), 1.05),
            Self::Stagger => (Some(("last_own_ratio", Target::AtMost(1.25))), 1.03),
            Self::Kill => (None, 1.15),
            Self::Zones => (Some(("cross_zone_ratio", Target::AtMost(1.10))), 1.03),
            Self::Single => (Some(("ratio_vs_direct", Target::AtMost(1.05))), 1.00),
            Self::Layers => (None, 1.03),
        };
        let always = [
            ("egress_ratio", Target::AtMost(egress)),
            ("failed", Target::AtMost(0.0)),
            ("peak_rss_mib", Target::AtMost(96.0)),
        ];
        time.filter(|_| runtime != Runtime::Cri).into_iter().chain(always).collect()
    }
}

impl Setup {
    /// The least time in which the last client can have all `bytes`, in seconds: max(F/u_s, F/d, N·F/(u_s + N·u)) (Kumar
    /// and Ross 2006), where the last arrival begins only when it comes, and a wire between zones carries everything once.
    pub(super) fn bound(&self, bytes: u64) -> f64 {
        let (bytes, nodes) = (bytes as f64, f64::from(self.nodes));
        let (node, registry) = (self.rate.bytes_per_second(), self.registry_rate.bytes_per_second());
        let last_comes = self.apart.as_secs_f64() * (nodes - 1.0);
        let between = self.between.map_or(0.0, |rate| bytes / rate.bytes_per_second());
        [bytes / registry, last_comes + bytes / node, nodes * bytes / (registry + nodes * node), between]
            .into_iter()
            .fold(0.0, f64::max)
    }

    /// The least time in which one client alone can have all `bytes`, in seconds.
    pub(super) fn alone(&self, bytes: u64) -> f64 {
        bytes as f64 / self.rate.bytes_per_second().min(self.registry_rate.bytes_per_second())
    }

    /// The time in which all have all `bytes` when nobody shares anything, in seconds.
    pub(super) fn worst(&self, bytes: u64) -> f64 {
        let narrowest = [Some(self.rate), Some(self.registry_rate), self.between].into_iter().flatten();
        let slowest = narrowest.map(Rate::bytes_per_second).fold(f64::INFINITY, f64::min);
        f64::from(self.nodes) * bytes as f64 / slowest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB_100: u64 = 100_000_000;

    #[test]
    fn the_slowest_of_all_limits_counts() {
        let seconds = |case: Case| (case.setup().bound(MB_100) * 1e3).round() / 1e3;
        assert_eq!(seconds(Case::Eight), 8.0);
        assert_eq!(seconds(Case::Sixteen), 16.0);
        assert_eq!(seconds(Case::FastRegistry), 8.0);
        assert_eq!(seconds(Case::Stagger), 15.0);
        assert_eq!(seconds(Case::Zones), 40.0);
        let narrow = Setup { rate: Rate::mbit(100), registry_rate: Rate::mbit(10), ..Case::Eight.setup() };
        assert_eq!(narrow.bound(MB_100), 80.0);
    }
}
