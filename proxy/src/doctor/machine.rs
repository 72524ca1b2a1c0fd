//! The node around the daemon: kernel, disk, clock, and configuration of others that gets in the way.

use bytesize::ByteSize;

use super::Check;
use crate::{
    config::Config,
    install::{
        host::Host,
        probe,
        registries::{CERTS_D, Found},
        runtimes::Runtime,
    },
    intercept::{self, cgroup},
};

pub(super) fn kernel() -> Vec<Check> {
    let taken = match intercept::try_load() {
        Ok(()) => Check::pass("kernel", "takes the kernel program"),
        Err(error) => {
            let why = std::error::Error::source(&error).map_or_else(String::new, |why| format!(": {why}"));
            Check::fail("kernel", format!("{error}{why}"), "run this as root; a kernel of 5.10 or newer is needed")
        }
    };
    let mounted = match cgroup::find() {
        Ok(path) => Check::pass("cgroups", format!("cgroup2 is at {}", path.display())),
        Err(error) => Check::fail("cgroups", error.to_string(), "mount cgroup2, as the message says"),
    };
    vec![taken, mounted]
}

pub(super) fn proxies(runtimes: &[Runtime]) -> Vec<Check> {
    const NAME: &str = "proxies";
    let units = runtimes.iter().filter_map(|runtime| runtime.unit.as_ref());
    let through = units.filter_map(|unit| Some((&unit.name, unit.https_proxy.as_ref()?)));
    let warnings: Vec<Check> = through
        .map(|(unit, proxy)| {
            // Without what stands before the host: that may be a password.
            let proxy = proxy.rsplit('@').next().unwrap_or_default();
            let saw = format!("{unit} pulls through the proxy {proxy}; such pulls are not seen");
            Check::warn(NAME, saw, format!("add the registries to NO_PROXY of {unit}, and restart it"))
        })
        .collect();
    if warnings.is_empty() { vec![Check::pass(NAME, "no runtime pulls through a proxy")] } else { warnings }
}

/// Mirrors take pulls away from the listed registries, to hosts that are not listed.
pub(super) fn mirrors(host: &Host, config: &Config) -> Vec<Check> {
    const NAME: &str = "mirrors";
    let listed = |name: &str| name.parse().is_ok_and(|name| config.registries.contains(&name));
    let mut warnings = Vec::new();
    for dir in CERTS_D {
        for name in host.list(dir) {
            let file = format!("{dir}/{name}/hosts.toml");
            for mirror in host.read(&file).map(|text| mirror_hosts(&text)).unwrap_or_default() {
                if !listed(&mirror) {
                    let saw = format!("{file} sends pulls to {mirror}, which is not listed");
                    warnings.push(Check::warn(NAME, saw, format!("`waylay registry add {mirror}`")));
                }
            }
        }
    }
    if warnings.is_empty() { vec![Check::pass(NAME, "no mirror leads past waylay")] } else { warnings }
}

/// The hosts of a `hosts.toml` (containerd, docs/hosts.md) that are spoken to by TLS.
fn mirror_hosts(text: &str) -> Vec<String> {
    let Ok(table) = text.parse::<toml::Table>() else { return Vec::new() };
    let hosts = table.get("host").and_then(toml::Value::as_table).into_iter().flat_map(|hosts| hosts.keys());
    let hosts = hosts.filter_map(|url| url.strip_prefix("https://")?.split('/').next());
    hosts.map(str::to_owned).collect()
}

/// Registries that this node pulls from, by its images, its configuration or the daemon's memory, but which nobody listed.
pub(super) fn unlisted(config: &Config, found: &Found) -> Check {
    const NAME: &str = "registries";
    let known = |name| config.registries.contains(name) || config.plain_http.contains(name);
    let unknown: Vec<_> = found.iter().filter(|(name, _)| !known(name)).collect();
    if unknown.is_empty() {
        return Check::pass(NAME, "all that images and configuration on this node name are listed");
    }
    let saw = unknown.iter().map(|(name, place)| format!("{name} ({place})")).collect::<Vec<_>>().join(", ");
    let fix = unknown.iter().map(|(name, _)| format!("`waylay registry add {name}`")).collect::<Vec<_>>().join(", ");
    Check::warn(NAME, format!("not listed, so passed through: {saw}"), fix)
}

pub(super) fn disk(config: &Config) -> Check {
    const NAME: &str = "disk";
    let size = |bytes: u64| ByteSize(bytes).display().iec();
    // Before the first start the directory is not there yet.
    let there = config.store.dir.ancestors().find(|dir| dir.exists()).unwrap_or(&config.store.dir);
    let free = probe::free(there);
    if free >= config.store.low_disk {
        return Check::pass(NAME, format!("{} free at {}", size(free), there.display()));
    }
    let saw = format!(
        "{} free at {}, less than store.low_disk = {}",
        size(free),
        there.display(),
        size(config.store.low_disk)
    );
    Check::fail(NAME, saw + ": nothing new is stored", "make room, or lower store.quota and store.low_disk and restart")
}

/// `None` where nobody can tell.
pub(super) fn clock(host: &Host) -> Option<Check> {
    const NAME: &str = "clock";
    let said = host.ask("timedatectl", &["show", "--property=NTPSynchronized", "--value"])?;
    Some(match said.trim() {
        "yes" => Check::pass(NAME, "synchronised"),
        _ => Check::warn(
            NAME,
            "not synchronised; certificates are valid by the clock",
            "run chrony or systemd-timesyncd",
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::{super::Outcome, *};
    use crate::install::runtimes;

    #[test]
    fn a_mirror_that_is_not_listed_is_told_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let host = Host::at(dir.path());
        let file = host.path("/etc/containerd/certs.d/docker.io/hosts.toml");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "[host.\"https://mirror.test:5000\"]\n[host.\"http://plain.test\"]\n").unwrap();
        let config = Config::parse("registries = [\"docker.io\"]").unwrap();
        let checks = mirrors(&host, &config);
        assert_eq!(checks.len(), 1, "{checks:?}");
        assert!(checks[0].saw.contains("mirror.test:5000") && checks[0].saw.contains("docker.io/hosts.toml"));
        let config = Config::parse("registries = [\"docker.io\", \"mirror.test:5000\"]").unwrap();
        assert_eq!(mirrors(&host, &config)[0].outcome, Outcome::Pass);
    }

    #[test]
    fn a_runtime_that_pulls_through_a_proxy_is_told_without_its_password() {
        let runtime = |https_proxy: Option<&str>| Runtime {
            kind: runtimes::Kind::Containerd,
            version: String::new(),
            unit: Some(runtimes::Unit {
                name: "containerd.service".into(),
                pid: Some(1),
                ssl_cert_dir: None,
                https_proxy: https_proxy.map(Into::into),
                harm: None,
            }),
        };
        assert_eq!(proxies(&[runtime(None)])[0].outcome, Outcome::Pass);
        let check = &proxies(&[runtime(None), runtime(Some("http://user:secret@proxy.test:3128"))])[0];
        assert_eq!(check.outcome, Outcome::Warn);
        assert!(check.saw.contains("containerd.service") && check.saw.contains("proxy.test:3128"), "{}", check.saw);
        assert!(!check.saw.contains("secret") && check.fix.as_ref().unwrap().contains("NO_PROXY"), "{}", check.saw);
    }

    #[test]
    fn a_registry_that_images_come_from_and_nobody_listed_is_told() {
        let config = Config::parse("registries = [\"a.test\"]").unwrap();
        let found = |name: &str| Found::from([(name.parse().unwrap(), "podman's images".to_owned())]);
        assert_eq!(unlisted(&config, &found("a.test")).outcome, Outcome::Pass);
        let check = unlisted(&config, &found("b.test:5000"));
        assert!(check.outcome == Outcome::Warn && check.saw.contains("b.test:5000 (podman's images)"));
    }
}
