//! What is wrong on this node, and how to mend it: each check says what it saw, and when that is not well, what to do. It
//! looks at the node itself, not only at what the daemon says of itself, and changes nothing.

mod daemon;
mod handshakes;
mod machine;
mod network;
mod trust;

use std::path::Path;

use serde::Serialize;

use crate::{
    config::Config,
    install::{host::Host, registries, runtimes},
};

/// How one check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Pass,
    /// Pulls work, but not all as they could.
    Warn,
    /// Something that should work does not.
    Fail,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it went.
    pub outcome: Outcome,
    /// What was seen.
    pub saw: String,
    /// What to do; `None` when nothing is to be done.
    pub fix: Option<String>,
}

impl Check {
    fn pass(name: &'static str, saw: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Pass, saw: saw.into(), fix: None }
    }

    fn warn(name: &'static str, saw: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Warn, saw: saw.into(), fix: Some(fix.into()) }
    }

    fn fail(name: &'static str, saw: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Fail, saw: saw.into(), fix: Some(fix.into()) }
    }
}

/// Looks at everything. The order is that in which one thing rests on another.
pub fn examine(host: &Host, config: &Path) -> Vec<Check> {
    let config = match Config::load(config) {
        Ok(config) => config,
        Err(error) => {
            let saw =
                std::error::Error::source(&error).map_or_else(|| error.to_string(), |why| format!("{error}: {why}"));
            let fix = "mend that line (`waylay check` tries it), or run `waylay install` where there is none";
            return vec![Check::fail("configuration", saw, fix)];
        }
    };
    let mut checks = vec![Check::pass("configuration", format!("{} registries listed", config.registries.len()))];
    let runtimes = runtimes::found(host);
    checks.extend(machine::kernel());
    let asked = daemon::ask(&config);
    checks.extend(daemon::checks(&asked));
    checks.push(trust::secrets(&config));
    checks.extend(trust::certificates(&config));
    checks.extend(trust::published(&config));
    checks.extend(trust::runtimes(&config, &runtimes));
    checks.extend(asked.as_ref().ok().map(|said| said.handshakes.check()));
    checks.extend(machine::proxies(&runtimes));
    checks.extend(machine::mirrors(host, &config));
    let mut found = registries::found(host);
    let (passed, members) = asked.map(daemon::Said::seen).unwrap_or_default();
    found.extend(passed);
    checks.push(machine::unlisted(&config, &found));
    checks.push(machine::disk(&config));
    checks.extend(machine::clock(host));
    if let Some(swarm) = &config.swarm {
        checks.extend(network::buffers(host));
        checks.extend(network::mtu(swarm.listen.ip(), &members));
    }
    checks
}
