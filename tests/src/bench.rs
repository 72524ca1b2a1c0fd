//! The benchmarks: each measures waylay and what it is compared with in the same run, turn by turn, on a real fleet.
//!
//! A machine that does other things too makes absolute numbers useless, so what counts is the ratio or the difference
//! within one round, and of several rounds the median. Raw numbers of both sides are in the JSON.

mod blob;
mod chaos;
pub mod client;
pub mod flash;
mod hit;
mod measure;
mod memory;
mod nginx;
mod parts;
mod overhead;
mod report;
pub mod sim;
mod warm;

use anyhow::{Result, ensure};

use self::measure::Idle;
pub use self::report::Report;
use crate::privilege;

/// What can be measured.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Scenario {
    /// A blob in the local store against nginx serving the same file.
    Hit,
    /// A blob from one peer against the registry itself.
    Warm,
    /// What a manifest and a connect() cost more.
    Overhead,
    /// Resident memory, idle and under eight pulls.
    Memory,
    /// Many nodes that pull one image at the same time, which nobody has.
    Flash(flash::Options),
    /// Random pulls while faults come at random.
    Chaos(chaos::Options),
    /// Thousands of nodes that pull one image at the same time, simulated.
    Sim(sim::Options),
}

impl Scenario {
    /// Measures, saying on standard error what is being done.
    ///
    /// # Errors
    /// When something is missing on this machine or a part fails.
    pub async fn run(&self) -> Result<Report> {
        if let Self::Sim(options) = self {
            // Nothing of this machine is needed, and nothing of it matters.
            return sim::run(options);
        }
        let missing = privilege::missing();
        ensure!(missing.is_empty(), "benchmarks cannot run here; missing: {}", missing.join("; "));
        let idle = Idle::begin()?;
        let report = match self {
            Self::Hit => Box::pin(hit::run()).await,
            Self::Warm => Box::pin(warm::run()).await,
            Self::Overhead => Box::pin(overhead::run()).await,
            Self::Memory => Box::pin(memory::run()).await,
            // Says itself how idle its crowds were.
            Self::Flash(options) => return Box::pin(flash::run(options)).await,
            // Measures no speed.
            Self::Chaos(options) => return Box::pin(chaos::run(options)).await,
            Self::Sim(options) => return sim::run(options),
        }?;
        Ok(report.idle(idle.share()?, "over the whole run"))
    }
}
