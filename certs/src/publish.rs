//! Putting our certificates where runtimes look: into the trust directory (for `SSL_CERT_DIR`) and into the per-registry
//! directories that were named (`certs.d`). Keys are never published.
//!
//! A runtime uses one directory per registry. Making one where there was none can hide another that the user has, so
//! that is not done; what was skipped, and why, is reported.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::identity::Published;
use crate::manifest::Purpose;
use crate::moment::Moment;
use crate::{Identities, Identity, IdentityError, Manifest, ManifestError, RegistryName};

/// Our file in a registry's directory of a `certs.d`.
pub const CERTS_D_FILE: &str = "waylay.crt";

/// Where to publish.
#[derive(Clone, Debug)]
pub struct Publish {
    /// The directory for `SSL_CERT_DIR`. Files in it are named as OpenSSL looks for them; Go reads any name.
    pub trust_dir: PathBuf,
    /// Directories of the kind of `/etc/docker/certs.d`.
    pub certs_d: Vec<PathBuf>,
}

/// What publishing did.
#[derive(Debug, Default)]
pub struct Report {
    /// Files that were written or changed.
    pub written: Vec<PathBuf>,
    /// Files that are no longer wanted and were taken back.
    pub withdrawn: Vec<PathBuf>,
    /// Directories that got no certificate.
    pub skipped: Vec<Skipped>,
}

/// A registry's directory that got no certificate.
#[derive(Debug)]
pub struct Skipped {
    /// The directory.
    pub dir: PathBuf,
    /// The reason.
    pub why: Why,
}

/// Why a registry's directory got no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Why {
    /// Making it would hide this directory of the user from a runtime.
    #[error("it would hide {}; put {CERTS_D_FILE} there, or copy what is in it", .0.display())]
    Hides(PathBuf),
    /// containerd reads only the certificates that this file names.
    #[error("{} decides there; add {CERTS_D_FILE} to its `ca`", .0.display())]
    HostsToml(PathBuf),
    /// It could not be written.
    #[error(transparent)]
    Failed(#[from] ManifestError),
}

/// Why nothing was published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// A registry has no identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The trust directory or the manifest could not be written.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The record of a publication could not be written.
    #[error("cannot record when the certificate of {host} was published: {source}")]
    Record {
        /// The name the certificate is for.
        host: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Publishes all identities of `registries` that are not over, making what is missing and successors in time, and takes back
/// certificates of ours that are no longer wanted. One that is valid only later is published too: our clock may be behind, and
/// what was taken back meanwhile would be unknown to runtimes until they start anew. `registries` is the whole list. A `certs.d` that cannot be written is
/// reported and does not stop the others.
pub fn publish(
    identities: &Identities,
    registries: &[RegistryName],
    to: &Publish,
    manifest: &mut Manifest,
) -> Result<Report, PublishError> {
    let now = SystemTime::now();
    let mut report = Report::default();
    let mut wanted = BTreeSet::new();
    manifest.make_dirs(&to.trust_dir, 0o755)?;
    let hosts: BTreeSet<&str> = registries.iter().map(|registry| registry.host.as_str()).collect();
    for host in hosts {
        identities.ensure(host, now)?;
        for identity in lasting(identities, host, now) {
            let file = into_trust_dir(&identity, &to.trust_dir, manifest, &mut report)
                .map_err(|error| error.for_host(host))?;
            wanted.insert(file);
        }
    }
    for dir in &to.certs_d {
        for registry in registries {
            let pem: String = lasting(identities, &registry.host, now).iter().map(|identity| identity.pem()).collect();
            for target in targets(dir, registry) {
                match into_certs_d(&target, dir, registry, &pem, manifest, &mut report) {
                    Ok(file) => _ = wanted.insert(file),
                    Err(why) => report.skipped.push(Skipped { dir: target, why }),
                }
            }
        }
    }
    for file in manifest.files(Purpose::Certificate) {
        if !wanted.contains(&file) {
            manifest.take_back(&file)?;
            report.withdrawn.push(file);
        }
    }
    Ok(report)
}

fn lasting(identities: &Identities, host: &str, now: SystemTime) -> Vec<Arc<Identity>> {
    identities.all(host).iter().filter(|identity| now < identity.not_after()).cloned().collect()
}

enum TrustDirError {
    Manifest(ManifestError),
    Record(std::io::Error),
}

impl TrustDirError {
    fn for_host(self, host: &str) -> PublishError {
        match self {
            Self::Manifest(error) => PublishError::Manifest(error),
            Self::Record(source) => PublishError::Record { host: host.to_string(), source },
        }
    }
}

fn into_trust_dir(
    identity: &Identity,
    dir: &Path,
    manifest: &mut Manifest,
    report: &mut Report,
) -> Result<PathBuf, TrustDirError> {
    let pem = identity.pem();
    let file = slot(dir, identity.subject_hash(), pem.as_bytes());
    let there = fs::read(&file).is_ok_and(|found| found == pem.as_bytes());
    let known = identity.published_at().is_some_and(|published| published.file == file);
    if there && known {
        return Ok(file);
    }
    // The record is newer than the file at all times: a crash in between costs a restart, not a failed pull.
    identity.clear_published().map_err(TrustDirError::Record)?;
    if manifest.write(&file, pem.as_bytes(), 0o644, Purpose::Certificate).map_err(TrustDirError::Manifest)? {
        report.written.push(file.clone());
    }
    let at = Moment::now().map_err(TrustDirError::Record)?;
    identity.set_published(&Published { file: file.clone(), at }).map_err(TrustDirError::Record)?;
    Ok(file)
}

/// The first `HASH.N` that is free or holds this certificate: OpenSSL looks for `.0` and goes on while there are more.
fn slot(dir: &Path, hash: &str, pem: &[u8]) -> PathBuf {
    let mut number = 0;
    loop {
        let file = dir.join(format!("{hash}.{number}"));
        match fs::read(&file) {
            Ok(found) if found != pem => number += 1,
            _ => return file,
        }
    }
}

/// The directories that may hold certificates for `registry`: the usual one, and containerd's other spelling of it where
/// the user has that.
fn targets(dir: &Path, registry: &RegistryName) -> Vec<PathBuf> {
    let mut targets = vec![dir.join(registry.certs_d())];
    targets.extend(registry.certs_d_underscored().map(|name| dir.join(name)).filter(|other| other.exists()));
    targets
}

fn into_certs_d(
    target: &Path,
    dir: &Path,
    registry: &RegistryName,
    pem: &str,
    manifest: &mut Manifest,
    report: &mut Report,
) -> Result<PathBuf, Why> {
    if let Some(hidden) = hides(target, dir, registry, manifest) {
        return Err(Why::Hides(hidden));
    }
    let hosts = target.join("hosts.toml");
    // containers/image and dockerd's own store do not know this file and read every certificate.
    if hosts.exists() && !(is_of(dir, "docker") || is_of(dir, "containers")) {
        return Err(Why::HostsToml(hosts));
    }
    manifest.make_dirs(target, 0o755)?;
    let file = target.join(CERTS_D_FILE);
    if manifest.write(&file, pem.as_bytes(), 0o644, Purpose::Certificate)? {
        report.written.push(file.clone());
    }
    Ok(file)
}

/// What of the user's the directory `target` would hide, or hides now when it is all ours.
fn hides(target: &Path, dir: &Path, registry: &RegistryName, manifest: &Manifest) -> Option<PathBuf> {
    if target.exists() && !all_ours(target, manifest) {
        return None;
    }
    let mut others = vec![dir.join("_default")];
    // containers/image, and containerd by its newer default, look into docker's directory last.
    if is_of(dir, "containers") || is_of(dir, "containerd") {
        let docker = dir.parent().and_then(Path::parent).map(|etc| etc.join("docker/certs.d"));
        others.extend(docker.map(|docker| docker.join(registry.certs_d())));
    }
    others.into_iter().find(|other| other.exists() && !all_ours(other, manifest))
}

/// Whether we made this directory and everything in it.
fn all_ours(dir: &Path, manifest: &Manifest) -> bool {
    let Ok(entries) = fs::read_dir(dir) else { return false };
    manifest.is_ours(dir) && entries.flatten().all(|entry| manifest.is_ours(&entry.path()))
}

/// Whether this `certs.d` belongs to the program with this directory in `/etc`.
fn is_of(dir: &Path, program: &str) -> bool {
    dir.parent().and_then(Path::file_name).is_some_and(|name| name == program)
}
