//! Does this process trust us for this name? An untrusted certificate is a failed pull, so only evidence counts:
//!
//! - our trust directory is in the `SSL_CERT_DIR` the process was started with, and the certificate was published
//!   there before the process started (Go reads its roots once);
//! - or the certificate stands in the per-registry directory that this runtime reads on each pull.
//!
//! Whether the process is one whose connections may be intercepted at all (never a pod's) is the caller's decision.

mod certs_d;
#[cfg(test)]
mod fixture;
mod process;
mod root;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;

pub use process::{Environ, Process};
use root::Root;

use crate::{Identities, Identity, RegistryName};

/// A certificate that was added to a file only now may not be known to a pull that has already read the file. While
/// there is an older choice, a newer one counts only after this time.
const SETTLE: Duration = Duration::from_secs(60);
/// Where systems keep their own roots; ours are the caller's business.
const SYSTEM: [&str; 4] =
    ["/etc/ssl/certs", "/etc/pki/tls/certs", "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// The proof that a process trusts one of our identities for a name.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// The newest identity that the process knows: the one to serve.
    pub identity: Arc<Identity>,
    /// Where it knows it from.
    pub how: How,
}

/// Where a process knows a certificate from. Paths are as the process sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// It was started with our directory in `SSL_CERT_DIR`, after the certificate was published there.
    SslCertDir(PathBuf),
    /// It reads this file in a `certs.d` on each pull.
    CertsD(PathBuf),
}

/// What shows that `process` trusts us for `registry` now, with the identity to serve to it; `None` when nothing shows
/// it, the process is gone, or anything is in doubt.
pub fn evidence(
    identities: &Identities,
    trust_dir: &Path,
    process: &Process,
    registry: &RegistryName,
) -> Option<Evidence> {
    let now = SystemTime::now();
    let held = identities.all(&registry.host);
    let valid: Vec<Arc<Identity>> = held.iter().filter(|identity| identity.is_valid(now)).cloned().collect();
    if valid.is_empty() {
        return None;
    }
    let root = process.open_root().ok()?;
    // Both may hold, with different identities: serve the newest.
    let found = [by_certs_d(&valid, process, &root, registry, now), by_ssl_cert_dir(&valid, trust_dir, process, &root)];
    found.into_iter().flatten().max_by_key(|evidence| evidence.identity.not_before())
}

fn by_ssl_cert_dir(valid: &[Arc<Identity>], trust_dir: &Path, process: &Process, root: &Root) -> Option<Evidence> {
    let ours = fs::metadata(trust_dir).ok()?;
    if process.program() == "curl" && process.environ.curl_ca_bundle.is_some() {
        return None;
    }
    let listed = process.environ.ssl_cert_dir.as_deref()?;
    // The same directory, by whatever path or mount the process reaches it.
    let seen = listed.split(':').map(Path::new).find(|dir| root.is_same(dir, &ours))?;
    let known = valid.iter().find(|identity| {
        identity.published_at().is_some_and(|published| {
            let Some(name) = published.file.file_name() else { return false };
            let file = seen.join(name);
            published.file.parent() == Some(trust_dir)
                && published.at.not_after(&process.started_at)
                && root.readable_by(&file, process.uid)
                && certs_d::pem_file(root, &file).iter().any(|(_, found)| found == identity.certificate())
        })
    })?;
    Some(Evidence { identity: known.clone(), how: How::SslCertDir(seen.to_path_buf()) })
}

fn by_certs_d(
    valid: &[Arc<Identity>],
    process: &Process,
    root: &Root,
    registry: &RegistryName,
    now: SystemTime,
) -> Option<Evidence> {
    let found = certs_d::find(process, root, registry)?;
    // Each valid identity that stands in a file this process can read, newest first.
    let known: Vec<(&Arc<Identity>, &PathBuf)> = valid
        .iter()
        .filter_map(|identity| {
            let (file, _) = found.iter().find(|(_, certificate)| certificate == identity.certificate())?;
            root.readable_by(file, process.uid).then_some((identity, file))
        })
        .collect();
    let settled = |(_, file): &&(&Arc<Identity>, &PathBuf)| {
        let written = root.metadata(file).and_then(|metadata| metadata.modified());
        written.is_ok_and(|written| process.started > written || now > written + SETTLE)
    };
    let (identity, file) = known.iter().find(settled).or(known.last())?;
    Some(Evidence { identity: Arc::clone(identity), how: How::CertsD(PathBuf::clone(file)) })
}

/// What `process` itself would trust for `registry` beyond its system's roots: its per-registry directory,
/// `SSL_CERT_FILE`, and the directories in `SSL_CERT_DIR`, without any certificate of ours. Empty when the process is
/// gone or nothing can be read.
pub fn runtime_roots(
    process: &Process,
    registry: &RegistryName,
    identities: &Identities,
) -> Vec<CertificateDer<'static>> {
    let Ok(root) = process.open_root() else { return Vec::new() };
    let mut roots: Vec<CertificateDer<'static>> = Vec::new();
    let mut add = |found: Vec<(PathBuf, CertificateDer<'static>)>| {
        for (_, certificate) in found {
            if !roots.contains(&certificate) {
                roots.push(certificate);
            }
        }
    };
    if let Some(found) = certs_d::find(process, &root, registry) {
        add(found);
    }
    // The system's own roots are many, and the caller has them already.
    let is_system =
        |path: &Path| SYSTEM.iter().any(|ours| fs::metadata(ours).is_ok_and(|ours| root.is_same(path, &ours)));
    if let Some(file) = process.environ.ssl_cert_file.as_deref().map(Path::new).filter(|file| !is_system(file)) {
        add(certs_d::pem_file(&root, file));
    }
    let listed = process.environ.ssl_cert_dir.iter().flat_map(|list| list.split(':')).map(Path::new);
    for dir in listed.filter(|dir| !is_system(dir)) {
        for file in root.list(dir).unwrap_or_default() {
            add(certs_d::pem_file(&root, &file));
        }
    }
    // As anchors of our upstream verification, our own certificates would turn their keys into authorities.
    roots.retain(|root| !identities.is_ours(root));
    roots
}
