//! What `certs` knows of a calling process, as the answer that the TLS layer asks for.

use std::{fs, path::PathBuf, sync::Arc};

use rustls::{RootCertStore, pki_types::CertificateDer};
use waylay_certs::{Identities, Process, RegistryName, evidence, runtime_roots};

use crate::{
    intercept::targets::RUNTIMES,
    tls::{Caught, Reason, Trust, TrustDecision},
};

/// Decides by evidence: what a process was started with, and what stands in the directories that it reads.
pub struct ByEvidence {
    identities: Arc<Identities>,
    trust_dir: PathBuf,
    system: Vec<CertificateDer<'static>>,
    /// Root stores by what they hold beyond the system's, so that the same set is the same `Arc`.
    stores: moka::sync::Cache<Vec<CertificateDer<'static>>, Arc<RootCertStore>>,
}

impl ByEvidence {
    /// Decides with the identities that were published to `trust_dir`; upstream is verified against `system` and what
    /// the calling process itself would trust.
    pub fn new(identities: Arc<Identities>, trust_dir: PathBuf, system: Vec<CertificateDer<'static>>) -> Self {
        Self { identities, trust_dir, system, stores: moka::sync::Cache::new(256) }
    }

    fn roots(&self, process: &Process, name: &RegistryName) -> Arc<RootCertStore> {
        // What a registry says opens blobs for its name, so only root may say who that is on this node. A user who brings
        // an authority of its own sees its registry untouched.
        self.store(if process.uid == 0 { runtime_roots(process, name, &self.identities) } else { Vec::new() })
    }

    /// Whom root's runtimes on this node trust for `name`, all together. Reads /proc.
    pub(super) fn of_this_node(&self, name: &RegistryName) -> Arc<RootCertStore> {
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let runtime =
            |process: &Process| process.uid == 0 && RUNTIMES.contains(&process.comm.as_str()) && !process.in_pod();
        let mut own: Vec<_> = pids
            .filter_map(|pid| Process::read(pid).ok().filter(runtime))
            .flat_map(|process| runtime_roots(&process, name, &self.identities))
            .collect();
        own.sort_unstable_by(|one, other| one.as_ref().cmp(other.as_ref()));
        own.dedup();
        self.store(own)
    }

    fn store(&self, own: Vec<CertificateDer<'static>>) -> Arc<RootCertStore> {
        self.stores.get_with(own.clone(), || {
            let mut store = RootCertStore::empty();
            let (_, unusable) = store.add_parsable_certificates(self.system.iter().cloned().chain(own));
            if unusable > 0 {
                tracing::debug!(unusable, "some trusted certificates cannot be used as roots");
            }
            Arc::new(store)
        })
    }
}

/// The process that called, if it is one that we may answer.
fn caller(caught: &Caught) -> Result<Process, Reason> {
    let process = caught.pid.and_then(|pid| Process::read(pid).ok()).ok_or(Reason::CallerUnknown)?;
    if process.in_pod() { Err(Reason::CallerInPod) } else { Ok(process) }
}

impl Trust for ByEvidence {
    fn decide(&self, caught: &Caught, name: &RegistryName) -> TrustDecision {
        let process = match caller(caught) {
            Ok(process) => process,
            Err(reason) => return TrustDecision::Splice(reason),
        };
        match evidence(&self.identities, &self.trust_dir, &process, name) {
            Some(evidence) => {
                TrustDecision::Terminate { key: evidence.identity.certified_key(), roots: self.roots(&process, name) }
            }
            None => TrustDecision::Splice(Reason::Untrusted),
        }
    }

    fn admits_plain(&self, caught: &Caught, _: &RegistryName) -> Result<(), Reason> {
        caller(caught).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    use super::*;

    #[test]
    fn an_authority_that_a_user_brings_vouches_for_no_registry() {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let file = dir.path().join("own.pem");
        std::fs::write(&file, authority.pem()).unwrap();
        let identities = Arc::new(Identities::open(dir.path().join("identities")).unwrap());
        let trust = ByEvidence::new(identities, dir.path().to_owned(), Vec::new());
        let name = RegistryName::new("registry.test", 443).unwrap();
        let mut process = Process::read(std::process::id()).unwrap();
        process.environ.ssl_cert_file = Some(file.display().to_string());
        for (uid, roots) in [(0, 1), (1000, 0), (65_534, 0)] {
            process.uid = uid;
            assert_eq!(trust.roots(&process, &name).len(), roots, "user {uid}");
        }
    }
}
