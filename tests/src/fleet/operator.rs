//! What an operator types on a node where a daemon runs, and what they are told.

use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::daemon::{Daemon, binary};

/// What a command said, however it ended.
#[derive(Debug)]
pub struct Said {
    /// Its exit status; -1 when a signal ended it.
    pub status: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// What an ended process said.
    #[must_use]
    pub fn of(output: &std::process::Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { status: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

/// One check of `waylay doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// `pass`, `warn` or `fail`.
    pub outcome: String,
    /// What was seen.
    pub saw: String,
    /// What to do.
    pub fix: Option<String>,
}

impl Daemon {
    /// `waylay ARGS` on its node, before it is told which daemon or configuration to look at.
    ///
    /// # Errors
    /// When there is no program.
    pub fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = self.entry().command(binary()?);
        command.args(args);
        Ok(command)
    }

    /// What `waylay ARGS --socket …` says on its node.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn told(&self, args: &[&str]) -> Result<Said> {
        let output = self.command(args)?.arg("--socket").arg(self.socket()).output().context("waylay")?;
        Ok(Said::of(&output))
    }

    /// What `waylay ARGS --config …` says on its node.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn told_of_config(&self, args: &[&str]) -> Result<Said> {
        let output = self.command(args)?.arg("--config").arg(self.config()).output().context("waylay")?;
        Ok(Said::of(&output))
    }

    /// All checks of `waylay doctor` on its node, and its exit status.
    ///
    /// # Errors
    /// When it cannot be run or says something else.
    pub fn doctor(&self) -> Result<(i32, Vec<Check>)> {
        let said = self.told_of_config(&["doctor", "--json"])?;
        let checks = serde_json::from_str(&said.out).with_context(|| format!("{said:?}"))?;
        Ok((said.status, checks))
    }
}
