//! Whether each runtime trusts our certificate for each registry, by the evidence that the daemon itself goes by.

use std::time::{Duration, SystemTime};

use waylay_certs::{Identities, Process, evidence};

use super::Check;
use crate::{
    config::Config,
    install::runtimes::{Runtime, Unit},
};

/// A successor is published long before; this near the end, something is wrong.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// Reading identities needs root, as the keys do.
fn identities(config: &Config) -> Option<Identities> {
    let dir = config.state_dir.join("identities");
    if std::fs::read_dir(&dir).is_ok() { Identities::open(dir).ok() } else { None }
}

pub(super) fn certificates(config: &Config) -> Option<Check> {
    const NAME: &str = "certificates";
    if config.registries.is_empty() {
        return Some(Check::fail(NAME, "no registry is listed, so none is made", "`waylay install --registry HOST`"));
    }
    let Some(identities) = identities(config) else {
        let saw = format!("{} cannot be read", config.state_dir.join("identities").display());
        return Some(Check::fail(NAME, saw, "run this as root; if you are, `waylay install` repairs it"));
    };
    let now = SystemTime::now();
    let lacking =
        |host: &str, at: SystemTime| !identities.all(host).iter().any(|one| one.is_valid(at) && one.is_valid(now));
    let hosts = || config.registries.iter().map(|registry| registry.host.as_str());
    let none: Vec<&str> = hosts().filter(|host| lacking(host, now)).collect();
    let ending: Vec<&str> = hosts().filter(|host| lacking(host, now + SOON)).collect();
    Some(if !none.is_empty() {
        let saw = format!("none is valid now for {}", none.join(", "));
        Check::fail(NAME, saw, "see that the clock is right, then `systemctl restart waylay`, which makes new ones")
    } else if !ending.is_empty() {
        let saw = format!("in {} days none is valid for {}", SOON.as_secs() / 86400, ending.join(", "));
        Check::warn(
            NAME,
            saw,
            "`systemctl restart waylay` makes successors; `journalctl -u waylay` says why it did not",
        )
    } else {
        Check::pass(NAME, format!("valid for all {} registries", config.registries.len()))
    })
}

/// One check for each runtime that runs as a daemon. The commands (podman, skopeo, buildah) exist only while they pull.
pub(super) fn runtimes(config: &Config, runtimes: &[Runtime]) -> Vec<Check> {
    let Some(identities) = identities(config) else { return Vec::new() };
    let units = runtimes.iter().filter_map(|runtime| runtime.unit.as_ref());
    units.filter_map(|unit| trusting(config, &identities, unit, unit.pid?)).collect()
}

fn trusting(config: &Config, identities: &Identities, unit: &Unit, pid: u32) -> Option<Check> {
    const NAME: &str = "trust";
    // Gone meanwhile, or not ours to look at; the latter was said above.
    let process = Process::read(pid).ok()?;
    let trust_dir = &config.trust.directory;
    let trusts = |registry| evidence(identities, trust_dir, &process, registry).is_some();
    let (known, unknown): (Vec<_>, Vec<_>) = config.registries.iter().partition(|registry| trusts(registry));
    let unit = &unit.name;
    if unknown.is_empty() {
        return Some(Check::pass(NAME, format!("{unit} trusts us for all {} registries", known.len())));
    }
    let names = unknown.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let listed = process.environ.ssl_cert_dir.iter().flat_map(|list| list.split(':'));
    let told = listed.map(std::path::Path::new).any(|dir| dir == trust_dir);
    let saw = format!("{unit} does not know our certificate for {names}; these pulls pass through");
    Some(match told {
        true => {
            Check::warn(NAME, saw + ": it was started before that was published", format!("`systemctl restart {unit}`"))
        }
        false => {
            let fix =
                format!("`waylay install` writes its drop-in if that is missing, then `systemctl restart {unit}`");
            Check::warn(NAME, saw + ": it was started without our directory in SSL_CERT_DIR", fix)
        }
    })
}
