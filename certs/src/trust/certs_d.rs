//! Which per-registry directory of certificates a runtime really uses, and what is in it.
//!
//! Each program has its own rule and uses one directory only. Where the rule cannot be followed with certainty (an
//! option we do not know, several directories, a changed configuration) the answer is that nothing is known.

use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::process::Process;
use super::root::Root;
use crate::RegistryName;

const DOCKER: &str = "/etc/docker/certs.d";
const CONTAINERS: &str = "/etc/containers/certs.d";
const CONTAINERS_HOME: &str = ".config/containers/certs.d";
const CONTAINERD_CONFIG: &str = "/etc/containerd/config.toml";

/// What a runtime trusts for one registry beyond its system's roots: certificates with the files they are in, as the
/// process sees them.
pub(super) type Found = Vec<(PathBuf, CertificateDer<'static>)>;

/// The certificates that `process` reads for `registry` on each pull.
pub(super) fn find(process: &Process, root: &Root, registry: &RegistryName) -> Option<Found> {
    let dir = match process.program() {
        "podman" | "skopeo" | "buildah" | "crio" => containers_image(process, root, registry)?,
        "dockerd" => dockerd(process, root, registry)?,
        "containerd" => return host_dir(root, &containerd_config_path(process, root)?, registry),
        "ctr" => return host_dir(root, Path::new(option(&process.args, &["--hosts-dir"])?), registry),
        _ => return None,
    };
    Some(crt_files(root, &dir))
}

/// containers/image: the first of three directories that exists, and only that one. Options that name another
/// directory or turn verification off end our knowledge.
fn containers_image(process: &Process, root: &Root, registry: &RegistryName) -> Option<PathBuf> {
    let own_rule = |arg: &String| arg.contains("cert-dir") || arg.contains("cert-path");
    if process.args.iter().any(own_rule) {
        return None;
    }
    let name = registry.certs_d();
    let home = process.environ.home.as_deref().map(|home| Path::new(home).join(CONTAINERS_HOME));
    // Without HOME it asks the user database, which for root is this.
    let home = home.or_else(|| (process.uid == 0).then(|| Path::new("/root").join(CONTAINERS_HOME)))?;
    let candidates = [home, CONTAINERS.into(), DOCKER.into()];
    candidates.into_iter().map(|dir| dir.join(&name)).find(|dir| root.exists(dir))
}

/// dockerd: one directory; Docker Hub is always verified with the system's roots by its own image store, and a rootless
/// one reads its user's directory instead.
fn dockerd(process: &Process, root: &Root, registry: &RegistryName) -> Option<PathBuf> {
    // With the containerd image store this spelling would win, and with its own store it is not read.
    let doubtful = registry.certs_d_underscored().is_some_and(|dir| root.exists(&Path::new(DOCKER).join(dir)));
    let known = process.uid == 0 && !registry.is_docker_hub() && !doubtful;
    known.then(|| Path::new(DOCKER).join(registry.certs_d()))
}

/// containerd's CRI: `config_path`, when it is a single path. Read from the configuration only if that has not changed
/// since the daemon started.
fn containerd_config_path(process: &Process, root: &Root) -> Option<PathBuf> {
    let config = match option(&process.args, &["-c", "--config"]) {
        Some(path) => Path::new(path),
        None => Path::new(CONTAINERD_CONFIG),
    };
    if root.metadata(config).ok()?.modified().ok()? > process.started {
        return None;
    }
    let table: toml::Table = String::from_utf8(root.read(config).ok()?).ok()?.parse().ok()?;
    let plugins = table.get("plugins")?;
    // Version 3 of the configuration, then version 2.
    let plugin =
        ["io.containerd.cri.v1.images", "io.containerd.grpc.v1.cri"].iter().find_map(|name| plugins.get(name))?;
    let path = plugin.get("registry")?.get("config_path")?.as_str()?;
    // A list of paths is taken for one strange path by the releases that pull through the transfer service.
    (path.starts_with('/') && !path.contains(':')).then(|| PathBuf::from(path))
}

/// containerd's host directories: `host_port_`, `host:port`, `_default`, the first that exists. Without a
/// `hosts.toml` every `*.crt` in it is a root, with one only what its `ca` for the registry itself names.
fn host_dir(root: &Root, config_path: &Path, registry: &RegistryName) -> Option<Found> {
    let names = registry.certs_d_underscored().into_iter().chain([registry.certs_d(), "_default".into()]);
    let dir = names.map(|name| config_path.join(name)).find(|dir| root.exists(dir))?;
    let hosts = dir.join("hosts.toml");
    if !root.exists(&hosts) {
        return Some(crt_files(root, &dir));
    }
    let table: toml::Table = String::from_utf8(root.read(&hosts).ok()?).ok()?.parse().ok()?;
    let files: Vec<&str> = match table.get("ca")? {
        toml::Value::String(file) => vec![file],
        toml::Value::Array(files) => files.iter().filter_map(toml::Value::as_str).collect(),
        _ => return None,
    };
    Some(files.into_iter().flat_map(|file| pem_file(root, &dir.join(file))).collect())
}

/// All certificates in the `*.crt` files of `dir`.
fn crt_files(root: &Root, dir: &Path) -> Found {
    let files = root.list(dir).unwrap_or_default();
    let crt = files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "crt"));
    crt.flat_map(|file| pem_file(root, file)).collect()
}

/// All certificates in a PEM file; none when it cannot be read.
pub(super) fn pem_file(root: &Root, file: &Path) -> Found {
    let Ok(content) = root.read(file) else { return Vec::new() };
    CertificateDer::pem_slice_iter(&content).filter_map(|found| Some((file.to_path_buf(), found.ok()?))).collect()
}

/// The value of an option written `--name value` or `--name=value`.
fn option<'a>(args: &'a [String], names: &[&str]) -> Option<&'a str> {
    let mut args = args.iter().skip(1);
    while let Some(arg) = args.next() {
        for name in names {
            match arg.strip_prefix(name) {
                Some("") => return args.next().map(String::as_str),
                Some(rest) if rest.starts_with('=') => return Some(&rest[1..]),
                _ => {}
            }
        }
    }
    None
}
