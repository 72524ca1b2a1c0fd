//! What `certs` knows of a calling process, as the answer that the TLS layer asks for.

use std::{path::PathBuf, sync::Arc};

use rustls::{RootCertStore, pki_types::CertificateDer};
use waylay_certs::{Identities, Process, RegistryName, evidence, runtime_roots};

use crate::tls::{Caught, Reason, Trust, TrustDecision};

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
        let own = runtime_roots(process, name, &self.identities);
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
