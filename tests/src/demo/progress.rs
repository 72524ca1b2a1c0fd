//! What the demo shows while it works: a bar on a terminal, plain lines elsewhere. Both go to standard error.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};

use crate::fleet::Node;

/// How often the bar looks at the wire.
const LOOK: Duration = Duration::from_millis(100);

/// The demo's progress.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(super) fn new() -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(LOOK);
            bar
        });
        Self { bar }
    }

    /// Tells what is being done now.
    pub(super) fn says(&self, step: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(step.to_owned()),
            None => eprintln!("{step}"),
        }
    }

    /// Shows the bytes that come over the wire of `node` while `pull` runs.
    pub(super) async fn pull(
        &self,
        node: &Node,
        bytes: u64,
        pull: impl Future<Output = Result<Duration>>,
    ) -> Result<Duration> {
        let Some(spinner) = &self.bar else {
            let took = pull.await?;
            eprintln!("{}: pulled in {:.1} s", node.name(), took.as_secs_f64());
            return Ok(took);
        };
        spinner.set_message("");
        let bar = ProgressBar::new(bytes).with_message(node.name().to_owned());
        let style = ProgressStyle::with_template("{msg:8} {bar:40} {bytes:>10}/{total_bytes} over the wire, {elapsed}");
        bar.set_style(style.context("the bar's template")?);
        let before = node.traffic()?;
        tokio::pin!(pull);
        let took = loop {
            tokio::select! {
                took = &mut pull => break took?,
                () = tokio::time::sleep(LOOK) => bar.set_position(node.traffic()?.since(before).received.min(bytes)),
            }
        };
        bar.finish_and_clear();
        spinner.println(format!("{}: pulled in {:.1} s", node.name(), took.as_secs_f64()));
        Ok(took)
    }

    /// Clears the line.
    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
