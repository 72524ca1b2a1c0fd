//! `waylay doctor`: every check, and for what is not well the line that mends it.

use std::path::PathBuf;

use anyhow::bail;

use crate::{
    doctor::{self, Check, Outcome},
    install::host::Host,
};

/// Arguments of `waylay doctor`.
#[derive(Debug, clap::Args)]
pub(super) struct Doctor {
    /// The configuration file.
    #[arg(long, default_value = "/etc/waylay/config.toml", value_name = "FILE")]
    config: PathBuf,
    /// Print JSON, one object for each check.
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let checks = doctor::examine(&Host::this(), &self.config);
        if self.json {
            println!("{}", serde_json::to_string(&checks)?);
        } else {
            checks.iter().for_each(|check| println!("{}", shown(check)));
        }
        let failed = checks.iter().filter(|check| check.outcome == Outcome::Fail).count();
        if failed > 0 {
            bail!("{failed} of {} checks failed", checks.len());
        }
        Ok(())
    }
}

fn shown(check: &Check) -> String {
    let outcome = match check.outcome {
        Outcome::Pass => "pass",
        Outcome::Warn => "WARN",
        Outcome::Fail => "FAIL",
    };
    let fix = check.fix.as_ref().map_or_else(String::new, |fix| format!("\n                     -> {fix}"));
    format!("{outcome}  {:<13}  {}{fix}", check.name, check.saw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_well_has_its_remedy_below() {
        let check = Check { name: "clock", outcome: Outcome::Warn, saw: "wrong".into(), fix: Some("set it".into()) };
        assert_eq!(shown(&check), "WARN  clock          wrong\n                     -> set it");
    }
}
