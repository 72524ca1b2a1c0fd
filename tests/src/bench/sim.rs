//! `sim`: crowds that nobody can rent for a test, on a network that is not there. What nodes decide is the product's own
//! code, run as it is: its plan, its fetch, its owners' books and its choice of owners. Only links, delays and arrivals are
//! made up, and they stand in `tests/presets`.

mod figures;
mod idle;
mod net;
mod node;
mod owner;
mod plot;
mod preset;
mod queue;
mod registry;
mod request;
mod session;
mod slab;
mod tally;
#[cfg(test)]
mod tests;
mod world;

use std::{fs, path::PathBuf, time::Instant};

use anyhow::{Context, Result};

use self::{preset::Preset, world::World};
use super::report::Report;

/// The one that all blobs are of.
const REGISTRY: &str = "registry.test";

/// Which crowd, and how it differs from its preset.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The crowd: the name of a file in tests/presets, or the path of another.
    #[arg(long, default_value = "kraken")]
    preset: String,
    /// Decides all chances.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Another number of nodes; several, to see how it grows.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), value_delimiter = ',')]
    nodes: Vec<u32>,
    /// Share links by exact progressive filling: slow, for small crowds.
    #[arg(long)]
    exact: bool,
    /// Draw when nodes finish into this file, or with several numbers of nodes, what it costs.
    #[arg(long)]
    plot: Option<PathBuf>,
}

/// Simulates one crowd, or one after the other; the report is the last one's.
///
/// # Errors
/// When there is no such preset, or the plot cannot be written.
pub fn run(options: &Options) -> Result<Report> {
    if options.preset == idle::NAME {
        return idle::run(options.seed, options.nodes.last().copied());
    }
    let preset = Preset::named(&options.preset)?;
    let all = if options.nodes.is_empty() { vec![preset.nodes] } else { options.nodes.clone() };
    let mut sketches = Vec::new();
    let mut report = Report::default();
    for nodes in all {
        let began = Instant::now();
        let mut world = World::new(Preset { nodes, ..preset.clone() }, options.seed, options.exact)?;
        world.run();
        report = figures::report(&options.preset, options.seed, &world, began.elapsed());
        sketches.push(figures::Sketch::of(&world));
        if options.nodes.len() > 1 {
            eprintln!("{}", report.json());
        }
    }
    if let Some(path) = &options.plot {
        let (frame, lines) = figures::plotted(&options.preset, &sketches);
        fs::write(path, plot::draw(&frame, &lines)).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(report)
}
