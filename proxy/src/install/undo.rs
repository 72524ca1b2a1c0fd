//! Planning the way back: the daemon stops, and with it the hooks; every file is what it was; nothing of ours is left.

use std::path::{Path, PathBuf};

use waylay_certs::{Manifest, ManifestError, manifest::Purpose};

use super::{
    CONFIG, SERVICE,
    host::Host,
    plan::{Plan, Step},
    runtimes,
};
use crate::config::Config;

/// What the daemon keeps in its store's directory.
const STORE: &[&str] = &["blobs", "clean", "info", "lock", "maps", "partial", "tags", "version"];
/// What it and the installer keep in the state directory.
const STATE: &[&str] =
    &["bypass.json", "identities", "journal.1.jsonl", "journal.jsonl", "manifest.json", "members", "off", "trust"];

/// What an operator may choose.
#[derive(Debug, Default)]
pub struct Options {
    /// Leave the blobs where they are.
    pub keep_cache: bool,
    /// Restart runtimes that were told of our certificates, where that harms nothing.
    pub restart_runtime: bool,
}

/// Where an installation keeps its things.
#[derive(Debug)]
pub struct Places {
    /// Identities, published certificates, manifest.
    pub state_dir: PathBuf,
    /// Blobs.
    pub store: PathBuf,
}

impl Places {
    /// As the configuration says, or the usual ones when it is gone or unreadable: a broken node must be cleaned, too.
    pub fn of(host: &Host) -> Self {
        let config = host.read(CONFIG).and_then(|text| Config::parse(&text).ok());
        let config = config.or_else(|| Config::parse("").ok());
        match config {
            Some(config) => Self { state_dir: config.state_dir, store: config.store.dir },
            None => Self { state_dir: "/var/lib/waylay".into(), store: "/var/lib/waylay/store".into() },
        }
    }
}

/// What taking waylay off this node will do.
///
/// # Errors
/// When the record of what was put there cannot be read.
pub fn plan(host: &Host, options: &Options) -> Result<Plan, ManifestError> {
    let places = Places::of(host);
    let state = host.path(&places.state_dir);
    let manifest = Manifest::open(state.join("manifest.json"))?;
    let (certificates, files) = (manifest.files(Purpose::Certificate), manifest.files(Purpose::Installation));
    let mut plan = Plan { found: Vec::new(), steps: Vec::new(), warnings: Vec::new() };
    if files.is_empty() && certificates.is_empty() && !state.exists() {
        plan.found.push("waylay is not installed on this node.".to_owned());
        return Ok(plan);
    }
    let drop_ins: Vec<String> = host
        .list("/etc/systemd/system")
        .into_iter()
        .filter_map(|dir| dir.strip_suffix(".d").map(str::to_owned))
        .filter(|unit| manifest.is_ours(&host.path(runtimes::drop_in(unit))))
        .collect();
    if host.path(Path::new("/etc/systemd/system").join(SERVICE)).exists() {
        plan.steps
            .push(Step::systemctl(&["disable", "--now", SERVICE], "the hooks go with the daemon; pulls go directly"));
    }
    plan.steps.push(Step::TakeBack { certificates, files });
    plan.steps.push(Step::systemctl(&["daemon-reload"], "systemd reads its units again"));
    // The store first: it may lie in the state directory, which is empty only then.
    if !options.keep_cache {
        plan.steps.push(Step::Remove { dir: places.store, own: STORE });
    }
    plan.steps.push(Step::Remove { dir: places.state_dir, own: STATE });
    for runtime in runtimes::found(host) {
        let Some(unit) = runtime.unit.filter(|unit| unit.pid.is_some() && drop_ins.contains(&unit.name)) else {
            continue;
        };
        match &unit.harm {
            None if options.restart_runtime => {
                let why = "it forgets certificates that it read at its start";
                plan.steps.push(Step::systemctl(&["restart", &unit.name], why));
            }
            _ => plan.warnings.push(format!(
                "{} goes on as it is: it still trusts certificates whose keys are gone, until its next start",
                unit.name
            )),
        }
    }
    Ok(plan)
}
