//! `waylay config`: what a configuration resolves to, every default filled in.

use clap::Subcommand;

use super::ConfigFile;

/// Look at the configuration.
#[derive(Debug, Subcommand)]
pub(super) enum Show {
    /// Print the whole configuration, defaults included, as a file that could be used itself.
    Show {
        #[command(flatten)]
        file: ConfigFile,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

impl Show {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Self::Show { file, json } = self;
        let config = super::load(&file.config)?;
        if json {
            println!("{}", serde_json::to_string(&config)?);
        } else {
            print!("{}", toml::to_string_pretty(&config)?);
        }
        Ok(())
    }
}
