//! The DaemonSet of `deploy/kubernetes/waylay.yaml` as it runs on one machine: podman does what the kubelet would do, by what the
//! manifest says and nothing else. A field that is not understood here is an error, so that no privilege and no mount passes unseen.
//!
//! There is no cluster: no scheduler, no DNS of members, no secrets. What these would bring is given by the scenario.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use self::spec::{Container, DaemonSet, Field, Probe, Source, Volume};
use super::Machine;
use crate::fleet::{self, AccessLine};
use crate::wait::eventually;

mod spec;

/// Where the manifest stands.
const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/kubernetes/waylay.yaml");
/// What a kubelet calls this: where a machine has the files of volumes.
const VOLUMES: &str = "/var/lib/kubelet/volumes";
/// How the pod is called on its machine.
const NAME: &str = "waylay";
/// From start to ready, the debug build included.
const READY: Duration = Duration::from_secs(60);

/// With the runtime that containerd uses. systemd-nspawn has no keyrings for its machines, and this one's hierarchy of cgroups may
/// lack the controller of processes.
const PODMAN: &str = "[containers]\nkeyring = false\npids_limit = 0\n[engine]\nruntime = \"runc\"\n";
/// Outlives the command that starts the pod; else its end would be the end of all its processes.
const SCOPE: &str = "systemd-run --quiet --scope";
/// What podman would set is more than a machine of a machine may have.
const LIMITS: [&str; 3] = ["--pids-limit=0", "--ulimit=nofile=4096:4096", "--ulimit=nproc=4096:4096"];

/// The manifest, read.
#[derive(Debug)]
pub struct Manifest {
    daemon_set: DaemonSet,
    config: String,
}

impl Manifest {
    /// Reads it.
    ///
    /// # Errors
    /// When it is no DaemonSet and ConfigMap that this understands wholly.
    pub fn read() -> Result<Self> {
        let text = fs::read_to_string(MANIFEST).context("cannot read the manifest")?;
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text).context("the manifest is not YAML")?;
        let of_kind = |kind: &str| objects.iter().find(|object| object["kind"] == kind).cloned();
        let daemon_set = of_kind("DaemonSet").context("the manifest has no DaemonSet")?;
        let daemon_set =
            serde_json::from_value(daemon_set).context("the DaemonSet says more than is understood here")?;
        let config = of_kind("ConfigMap").and_then(|map| Some(map["data"]["config.toml"].as_str()?.to_owned()));
        Ok(Self { daemon_set, config: config.context("the manifest has no configuration")? })
    }

    /// The configuration in it.
    #[must_use]
    pub fn config(&self) -> &str {
        &self.config
    }

    /// What its container's image is called.
    ///
    /// # Errors
    /// When there is not exactly one container.
    pub fn image(&self) -> Result<&str> {
        Ok(&self.container()?.image)
    }

    fn container(&self) -> Result<&Container> {
        match self.daemon_set.pod().containers.as_slice() {
            [container] => Ok(container),
            several => bail!("the pod has {} containers", several.len()),
        }
    }
}

/// The pod on a machine.
#[derive(Debug)]
pub struct Pod<'a> {
    machine: &'a Machine,
    manifest: &'a Manifest,
}

impl<'a> Pod<'a> {
    /// Loads the image `archive` on `machine` and starts the manifest's pod with this configuration and join token.
    ///
    /// # Errors
    /// With what podman said.
    pub async fn start(
        machine: &'a Machine,
        manifest: &'a Manifest,
        archive: &Path,
        config: &str,
        token: &str,
    ) -> Result<Pod<'a>> {
        fs::copy(archive, machine.path("/root/image.tar")).context("cannot copy the image")?;
        let podman = machine.path("/etc/containers/containers.conf");
        fs::write(podman, PODMAN).context("cannot configure podman")?;
        machine.sh("podman load --quiet --input /root/image.tar").await?;
        let pod = Self { machine, manifest };
        let options = pod.options(config, token)?;
        let container = manifest.container()?;
        let (image, arguments) = (quoted(&container.image), container.args.iter().map(|a| quoted(a)));
        let arguments: Vec<String> = arguments.collect();
        let run = format!(
            "{}{SCOPE} podman run --detach --name {NAME} {} {image} {}",
            options.0,
            options.1,
            arguments.join(" ")
        );
        machine.sh(&run).await?;
        Ok(pod)
    }

    /// What has to be done before, and the options of `podman run`.
    fn options(&self, config: &str, token: &str) -> Result<(String, String)> {
        let (spec, container) = (self.manifest.daemon_set.pod(), self.manifest.container()?);
        let security = &container.security_context;
        ensure!(!security.privileged && spec.host_network && spec.host_pid, "another kind of pod than is run here");
        // A pod's cgroups are private, whatever else is the host's.
        let mut options = ["--cgroupns=private", "--network=host", "--pid=host"].map(str::to_owned).to_vec();
        options.extend(LIMITS.map(str::to_owned));
        options.push(format!("--user={}:{}", security.run_as_user, security.run_as_group));
        options.extend(security.capabilities.drop.iter().map(|name| format!("--cap-drop={name}")));
        options.extend(security.capabilities.add.iter().map(|name| format!("--cap-add={name}")));
        if !security.allow_privilege_escalation {
            options.push("--security-opt=no-new-privileges".to_owned());
        }
        if security.read_only_root_filesystem {
            options.extend(["--read-only".to_owned(), "--read-only-tmpfs=false".to_owned()]);
        }
        for (kind, profile) in [("seccomp", &security.seccomp_profile), ("apparmor", &security.app_armor_profile)] {
            match profile.kind.as_str() {
                "Unconfined" => options.push(format!("--security-opt={kind}=unconfined")),
                "RuntimeDefault" => {}
                other => bail!("a profile {other} is not understood here"),
            }
        }
        for variable in &container.env {
            let value = match (&variable.value, &variable.value_from) {
                (Some(value), None) => value.clone(),
                (None, Some(from)) if from.field_ref.field_path == Field::HostIp => self.machine.address().to_string(),
                _ => bail!("{}: a variable has a value or comes from somewhere", variable.name),
            };
            options.push(format!("--env={}", quoted(&format!("{}={value}", variable.name))));
        }
        let mut before = String::new();
        for mount in &container.volume_mounts {
            let volume = spec.volumes.iter().find(|volume| volume.name == mount.name);
            let volume = volume.with_context(|| format!("no volume is called {}", mount.name))?;
            let (prepare, option) = self.mount(volume, &mount.mount_path, mount.read_only, config, token)?;
            before += &prepare;
            options.push(option);
        }
        Ok((before, options.join(" ")))
    }

    fn mount(&self, volume: &Volume, to: &str, read_only: bool, config: &str, token: &str) -> Result<(String, String)> {
        let bind = |from: &str| format!("--volume={from}:{to}:rbind,{}", if read_only { "ro" } else { "rw" });
        Ok(match &volume.source {
            Source::HostPath { path, kind } if kind == "DirectoryOrCreate" => {
                (format!("mkdir -p {path} && "), bind(path))
            }
            Source::HostPath { path, kind } if kind == "Directory" => (format!("test -d {path} && "), bind(path)),
            Source::HostPath { kind, .. } => bail!("a host path of kind {kind} is not understood here"),
            Source::EmptyDir { size_limit, .. } => {
                let size = size_limit.trim_end_matches('i').to_lowercase();
                (String::new(), format!("--tmpfs={to}:rw,mode=0777,size={size}"))
            }
            Source::ConfigMap { .. } => (String::new(), bind(&self.files(&volume.name, "config.toml", config, 0o644)?)),
            Source::Secret { default_mode, .. } => {
                (String::new(), bind(&self.files(&volume.name, "token", token, *default_mode)?))
            }
        })
    }

    /// Makes the directory of a volume with one file.
    fn files(&self, volume: &str, name: &str, text: &str, mode: u32) -> Result<String> {
        let dir = format!("{VOLUMES}/{volume}");
        let full = self.machine.path(&dir);
        fs::create_dir_all(&full).with_context(|| format!("cannot make {}", full.display()))?;
        fs::write(full.join(name), text).with_context(|| format!("cannot write the volume {volume}"))?;
        fs::set_permissions(full.join(name), fs::Permissions::from_mode(mode)).context("cannot set its mode")?;
        Ok(dir)
    }

    /// Waits until the probes of start and readiness, as the manifest has them, succeed.
    ///
    /// # Errors
    /// When they do not in time, with the pod's log.
    pub async fn ready(&self) -> Result<()> {
        let container = self.manifest.container()?;
        let mut last = String::new();
        let waited = eventually("the pod to be ready", READY, async || {
            for probe in [&container.startup_probe, &container.liveness_probe, &container.readiness_probe] {
                match self.ask(probe).await {
                    Ok((status, _)) if status.is_success() => {}
                    answer => {
                        last = format!("{answer:?}");
                        return Ok(None);
                    }
                }
            }
            Ok(Some(()))
        });
        if let Err(error) = waited.await {
            let log = self.machine.try_sh(&format!("podman logs {NAME}"), "").await?;
            return Err(error.context(format!("last: {last}\n{}{}", log.out, log.err)));
        }
        Ok(())
    }

    async fn ask(&self, probe: &Probe) -> Result<(http::StatusCode, String)> {
        let get = &probe.http_get;
        ensure!(get.scheme == "HTTP", "a probe speaks {}", get.scheme);
        let address = SocketAddr::new(get.host.parse().context("a probe's host is no address")?, get.port);
        fleet::daemon::ask_at(&self.machine.namespace, address, &get.path).await
    }

    /// Asks one of the ports that the container declares, by its name, from outside the machine's loopback.
    ///
    /// # Errors
    /// When no port is called so, or nothing answers.
    pub async fn ask_port(&self, name: &str, path: &str) -> Result<(http::StatusCode, String)> {
        let ports = &self.manifest.container()?.ports;
        let port = ports.iter().find(|port| port.name == name).with_context(|| format!("no port is called {name}"))?;
        let address = SocketAddr::from((self.machine.address(), port.container_port));
        fleet::daemon::ask_at(&self.machine.namespace, address, path).await
    }

    /// What `kubectl exec` would do: a command of the program in the container.
    ///
    /// # Errors
    /// When it fails.
    pub async fn exec(&self, command: &str) -> Result<String> {
        self.machine.sh(&format!("podman exec {NAME} {command}")).await
    }

    /// Its access lines.
    ///
    /// # Errors
    /// When one cannot be read.
    pub async fn access(&self) -> Result<Vec<AccessLine>> {
        AccessLine::all(&self.machine.sh(&format!("podman logs {NAME} 2>&1")).await?)
    }

    /// Ends it as the kubelet does: SIGTERM, and SIGKILL when the manifest's grace has passed. Returns its exit status.
    ///
    /// # Errors
    /// With what podman said.
    pub async fn stop(&self) -> Result<String> {
        let grace = self.manifest.daemon_set.pod().termination_grace_period_seconds;
        self.machine.sh(&format!("podman stop --time {grace} {NAME} && podman wait {NAME}")).await
    }

    /// Kills it and all its processes, without a warning.
    ///
    /// # Errors
    /// With what podman said.
    pub async fn kill(&self) -> Result<()> {
        self.machine.sh(&format!("podman kill {NAME} && podman wait {NAME}")).await.map(drop)
    }

    /// Starts it again after it has ended.
    ///
    /// # Errors
    /// With what podman said.
    pub async fn again(&self) -> Result<()> {
        self.machine.sh(&format!("{SCOPE} podman start {NAME}")).await.map(drop)
    }
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
