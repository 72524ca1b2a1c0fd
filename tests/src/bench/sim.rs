//! `sim`: crowds that nobody can rent for a test, on a network that is not there. What nodes decide is the product's own
//! code, run as it is: its plan, its fetch, its owners' books and its choice of owners. Only links, delays and arrivals are
//! made up, and they stand in `tests/presets`.

mod figures;
mod net;
mod node;
mod owner;
mod preset;
mod queue;
mod registry;
mod session;
mod slab;
mod tally;
mod world;

use std::time::Instant;

use anyhow::Result;

use self::{preset::Preset, world::World};
use super::report::Report;

/// Which crowd, and how it differs from its preset.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The crowd: a file in tests/presets.
    #[arg(long, default_value = "kraken")]
    preset: String,
    /// Decides all chances.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Another number of nodes.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    nodes: Option<u32>,
    /// Share links by exact progressive filling: slow, for small crowds.
    #[arg(long)]
    exact: bool,
}

/// Simulates one crowd.
///
/// # Errors
/// When there is no such preset.
pub fn run(options: &Options) -> Result<Report> {
    let mut preset = Preset::named(&options.preset)?;
    preset.nodes = options.nodes.unwrap_or(preset.nodes);
    let began = Instant::now();
    let mut world = World::new(preset, options.seed, options.exact)?;
    world.run();
    if std::env::var_os("TENTHS").is_some() { for (n, (a, b)) in world.tally.tenths.iter().enumerate().step_by(5) { eprintln!("{:.1} util {:.3} registry {:.3}", n as f64/10., *a as f64/1e8*1e9/(world.preset.down*world.nodes.len() as f64)/1.0, *b as f64*10.0/world.preset.registry.rate); } }
    Ok(figures::report(&options.preset, options.seed, &world, began.elapsed()))
}
