//! `waylay check`: would this configuration do, and would this program?

use anyhow::Context as _;
use clap::Args;

use super::ConfigFile;
use crate::rehearsal;

/// Arguments of `waylay check`.
#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    file: ConfigFile,
    /// Then start a second daemon of this program beside the one that runs, with everything of its own, and see it prove that
    /// it intercepts. Needs root, leaves nothing, and touches no pull.
    #[arg(long)]
    rehearse: bool,
}

impl Check {
    /// Validates the file and shows what it resolves to; nothing is changed.
    pub(super) fn run(self) -> anyhow::Result<()> {
        let path = &self.file.config;
        let config = super::load(path)?;
        println!("{config:#?}");
        println!("{}: valid", path.display());
        if self.rehearse {
            rehearsal::rehearse(&config).context("this program does not work here")?;
            println!("rehearsal: a daemon of this program intercepts here, proven by a connection of its own");
        }
        Ok(())
    }
}
