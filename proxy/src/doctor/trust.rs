//! Whether each runtime trusts our certificate for each registry, by the evidence that the daemon itself goes by.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use waylay_certs::{Identities, Manifest, Process, Purpose, evidence};

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

/// The cluster's secret and the certificates' keys are for nobody but the daemon. Their contents are not looked at.
pub(super) fn secrets(config: &Config) -> Check {
    const NAME: &str = "secrets";
    let below = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let keys = below(&config.state_dir.join("identities"))
        .flat_map(|host| below(&host).collect::<Vec<_>>())
        .filter(|file| file.extension().is_some_and(|end| end == "pem"));
    let token = config.swarm.as_ref().map(|swarm| swarm.token_file.clone());
    let open = |file: &PathBuf| fs::metadata(file).is_ok_and(|about| about.mode() & 0o077 != 0);
    let open: Vec<String> = token.into_iter().chain(keys).filter(open).map(|file| file.display().to_string()).collect();
    if open.is_empty() {
        return Check::pass(NAME, "only their owner may read the join token and the certificates' keys");
    }
    let fix = format!(
        "`chmod 600 {}`, then `systemctl restart waylay`; whoever could read them may have: `waylay cert rotate --withdraw` \
         makes new keys, SECURITY.md says how a token is replaced",
        open.join(" ")
    );
    Check::fail(NAME, format!("others may read {}; the daemon refuses such a file", open.join(", ")), fix)
}

/// Whether the certificates stand where they were put for runtimes to find.
pub(super) fn published(config: &Config) -> Option<Check> {
    const NAME: &str = "published";
    let identities = identities(config)?;
    let manifest = match Manifest::open(config.manifest()) {
        Ok(manifest) => manifest,
        Err(error) => {
            let saw = format!("the record of what was published cannot be read: {error}");
            return Some(Check::fail(NAME, saw, format!("remove {} and restart waylay", config.manifest().display())));
        }
    };
    let now = SystemTime::now();
    let certificates = config.registries.iter().flat_map(|name| identities.all(&name.host).to_vec());
    let ours: Vec<String> = certificates.filter(|one| one.is_valid(now)).map(|one| one.pem()).collect();
    let files = manifest.files(Purpose::Certificate);
    let stands = |file: &PathBuf| fs::read_to_string(file).is_ok_and(|text| ours.iter().any(|pem| text.contains(pem)));
    let lacking: Vec<String> =
        files.iter().filter(|file| !stands(file)).map(|file| file.display().to_string()).collect();
    Some(if lacking.is_empty() {
        Check::pass(NAME, format!("all {} files with certificates are in place", files.len()))
    } else {
        let saw = format!("removed or changed by somebody: {}; who reads that is passed through", lacking.join(", "));
        Check::fail(NAME, saw, "`systemctl restart waylay` puts them there again")
    })
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
