//! `waylay run`: the daemon.

use std::path::Path;

use crate::{app, config::LogFormat, standin, telemetry};

/// Runs until told to stop.
pub(super) fn run(path: &Path) -> anyhow::Result<()> {
    let config = super::load(path)?;
    telemetry::init(&config.log.filter, config.log.format == LogFormat::Json)?;
    tracing::debug!(?config, "configuration");
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(app::run(config, path.to_owned()))
}

/// What stands beside the daemon. It has no configuration; its few lines are warnings.
pub(super) fn stand_in() -> anyhow::Result<()> {
    telemetry::init("warn", true)?;
    standin::main()
}
