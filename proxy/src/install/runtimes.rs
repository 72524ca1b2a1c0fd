//! The container runtimes of a node: which are there, how systemd runs them, whom they trust now, and whether they can be
//! restarted without harm to what they run.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use waylay_certs::Process;

use super::host::Host;

/// A program that pulls images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// containerd, for Kubernetes or by itself.
    Containerd,
    /// Docker's daemon.
    Docker,
    /// CRI-O.
    Crio,
    /// Podman; the command itself pulls.
    Podman,
    /// Buildah; the command itself pulls.
    Buildah,
    /// Skopeo; the command itself pulls.
    Skopeo,
    /// k3s, with a containerd of its own.
    K3s,
    /// RKE2, with a containerd of its own.
    Rke2,
}

impl Kind {
    const ALL: [Self; 8] =
        [Self::Containerd, Self::Docker, Self::Crio, Self::Podman, Self::Buildah, Self::Skopeo, Self::K3s, Self::Rke2];

    /// The program that is asked for its version.
    pub fn program(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Docker => "dockerd",
            Self::Crio => "crio",
            Self::Podman => "podman",
            Self::Buildah => "buildah",
            Self::Skopeo => "skopeo",
            Self::K3s => "k3s",
            Self::Rke2 => "rke2",
        }
    }

    /// The units that it runs in, where it has a daemon.
    fn units(self) -> &'static [&'static str] {
        match self {
            Self::Containerd => &["containerd.service"],
            Self::Docker => &["docker.service"],
            Self::Crio => &["crio.service"],
            Self::K3s => &["k3s.service", "k3s-agent.service"],
            Self::Rke2 => &["rke2-server.service", "rke2-agent.service"],
            Self::Podman | Self::Buildah | Self::Skopeo => &[],
        }
    }

    /// Whether it reads containers/image's `certs.d`.
    pub fn reads_containers_certs_d(self) -> bool {
        matches!(self, Self::Crio | Self::Podman | Self::Buildah | Self::Skopeo)
    }
}

/// A runtime on this node.
#[derive(Clone, Debug, Serialize)]
pub struct Runtime {
    /// What it is.
    pub kind: Kind,
    /// What it says of its version.
    pub version: String,
    /// Its daemon's unit; `None` for a runtime without one.
    pub unit: Option<Unit>,
}

/// A runtime's daemon as systemd knows it.
#[derive(Clone, Debug, Serialize)]
pub struct Unit {
    /// Its name, with `.service`.
    pub name: String,
    /// Its main process, when it runs.
    pub pid: Option<u32>,
    /// `SSL_CERT_DIR` as its unit sets it without us; `None` when it does not.
    pub ssl_cert_dir: Option<String>,
    /// The HTTPS proxy that its process was started with.
    pub https_proxy: Option<String>,
    /// Why a restart would harm what it runs; `None` when it would not.
    pub harm: Option<String>,
}

/// All runtimes of the node.
pub fn found(host: &Host) -> Vec<Runtime> {
    let mut found = Vec::new();
    for kind in Kind::ALL.into_iter().filter(|kind| host.program(kind.program()).is_some()) {
        let version = host.ask(kind.program(), &["--version"]).unwrap_or_default();
        let version = version.lines().next().unwrap_or("of unknown version").trim().to_owned();
        let units: Vec<Unit> = kind.units().iter().filter_map(|name| unit(host, kind, name)).collect();
        if units.is_empty() {
            found.push(Runtime { kind, version, unit: None });
            continue;
        }
        found.extend(units.into_iter().map(|unit| Runtime { kind, version: version.clone(), unit: Some(unit) }));
    }
    found
}

fn unit(host: &Host, kind: Kind, name: &str) -> Option<Unit> {
    let said = host.ask("systemctl", &["show", name, "--property=LoadState,MainPID"])?;
    if property(&said, "LoadState") != Some("loaded") {
        return None;
    }
    let pid = property(&said, "MainPID").and_then(|pid| pid.parse().ok()).filter(|pid| *pid != 0);
    let process = pid.and_then(|pid| Process::read(pid).ok());
    Some(Unit {
        name: name.to_owned(),
        pid,
        ssl_cert_dir: own_ssl_cert_dir(host, name),
        https_proxy: process.and_then(|process| process.environ.https_proxy),
        harm: if pid.is_some() { harm(host, kind) } else { None },
    })
}

/// Where our drop-in of a unit stands.
pub fn drop_in(unit: &str) -> PathBuf {
    Path::new("/etc/systemd/system").join(format!("{unit}.d")).join("waylay.conf")
}

/// What the unit and all drop-ins but ours set.
fn own_ssl_cert_dir(host: &Host, unit: &str) -> Option<String> {
    let ours = drop_in(unit);
    let said = host.ask("systemctl", &["show", unit, "--property=FragmentPath,DropInPaths"])?;
    let files = property(&said, "FragmentPath").into_iter().chain(property(&said, "DropInPaths")?.split(' '));
    let texts = files.filter(|file| !file.is_empty() && Path::new(file) != ours).filter_map(|file| host.read(file));
    // The last assignment of a variable counts (systemd.exec(5)).
    texts.filter_map(|text| assigned(&text)).next_back()
}

/// The value of `SSL_CERT_DIR` in a unit's `Environment=` lines.
fn assigned(unit: &str) -> Option<String> {
    let lines = unit.lines().filter_map(|line| line.trim().strip_prefix("Environment="));
    let values = lines.flat_map(str::split_whitespace);
    let value = values.filter_map(|word| word.trim_matches('"').strip_prefix("SSL_CERT_DIR=")).next_back()?;
    Some(value.to_owned())
}

fn property<'a>(said: &'a str, name: &str) -> Option<&'a str> {
    said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

/// Why restarting a running daemon would harm what it runs.
fn harm(host: &Host, kind: Kind) -> Option<String> {
    match kind {
        Kind::Docker => docker_harm(host),
        Kind::Containerd => {
            let said = host.ask("systemctl", &["show", "docker.service", "--property=BindsTo,Requires,ActiveState"])?;
            let bound = ["BindsTo", "Requires"]
                .iter()
                .any(|name| property(&said, name).is_some_and(|units| units.contains("containerd.service")));
            let runs = property(&said, "ActiveState") == Some("active");
            let harm = if bound && runs { docker_harm(host) } else { None };
            harm.map(|harm| format!("docker.service restarts with it, and {harm}"))
        }
        // Their containers are held by shims, conmon or the like, which outlive the daemon.
        _ => None,
    }
}

fn docker_harm(host: &Host) -> Option<String> {
    #[derive(Deserialize)]
    struct Info {
        #[serde(rename = "LiveRestoreEnabled")]
        live_restore: bool,
        #[serde(rename = "ContainersRunning")]
        running: u64,
    }
    let info =
        host.ask("docker", &["info", "--format", "{{json .}}"]).and_then(|said| serde_json::from_str(&said).ok());
    match info {
        Some(Info { live_restore: true, .. }) | Some(Info { running: 0, .. }) => None,
        Some(Info { running, .. }) => {
            Some(format!("it would stop its {running} running containers (live-restore is off)"))
        }
        None => Some("docker does not say whether its containers would go on (live-restore)".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_assignment_counts() {
        let unit = "[Service]\nEnvironment=A=b SSL_CERT_DIR=/one\nEnvironment=\"SSL_CERT_DIR=/two:/three\"\n";
        assert_eq!(assigned(unit).as_deref(), Some("/two:/three"));
        assert_eq!(assigned("[Service]\nExecStart=/bin/true\n"), None);
    }

    #[test]
    fn properties_are_read_by_their_whole_name() {
        let said = "LoadState=loaded\nMainPID=7\nMainPIDx=8\n";
        assert_eq!(property(said, "MainPID"), Some("7"));
        assert_eq!(property(said, "Load"), None);
    }
}
