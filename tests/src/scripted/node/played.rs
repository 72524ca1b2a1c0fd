//! The kernel and the runtime, played: where a connection wanted to go, and whom the caller trusts.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use rustls::{RootCertStore, sign::CertifiedKey};
use waylay::{
    accept::{Caught, ClientAddr, OrigDst, Origin, Reason},
    tls::{Trust, TrustDecision},
};
use waylay_certs::RegistryName;

/// What the kernel and the runtime would say.
pub(super) struct Played {
    pub(super) destination: Mutex<SocketAddr>,
    /// Where connections to further listeners lead: one for each further registry.
    pub(super) others: Mutex<Vec<(SocketAddr, SocketAddr)>>,
    pub(super) caught: bool,
    pub(super) program: String,
    pub(super) trusted: AtomicBool,
    /// What is shown for each host, that of [`Node::beside`](super::Node::beside) first.
    pub(super) keys: Vec<(String, Arc<CertifiedKey>)>,
    pub(super) roots: Arc<RootCertStore>,
}

/// Answers as the kernel would: every connection was caught on its way to the destination.
pub(super) struct Kernel(pub(super) Arc<Played>);

impl Origin for Kernel {
    fn of(&self, _: ClientAddr, local: SocketAddr) -> io::Result<Option<Caught>> {
        if !self.0.caught {
            return Ok(None);
        }
        let others = self.0.others.lock().unwrap_or_else(PoisonError::into_inner);
        let destination = match others.iter().find(|(listener, _)| *listener == local) {
            Some((_, destination)) => *destination,
            None => *self.0.destination.lock().unwrap_or_else(PoisonError::into_inner),
        };
        Ok(Some(Caught { dst: OrigDst(destination), pid: None, comm: self.0.program.clone() }))
    }
}

/// A runtime that trusts us, or not.
pub(super) struct Runtime(pub(super) Arc<Played>);

impl Trust for Runtime {
    fn decide(&self, _: &Caught, name: &RegistryName) -> TrustDecision {
        match self.0.keys.iter().find(|(host, _)| *host == name.host) {
            Some((_, key)) if self.0.trusted.load(Relaxed) => {
                TrustDecision::Terminate { key: key.clone(), roots: self.0.roots.clone() }
            }
            _ => TrustDecision::Splice(Reason::Untrusted),
        }
    }

    fn admits_plain(&self, _: &Caught, _: &RegistryName) -> Result<(), Reason> {
        if self.0.trusted.load(Relaxed) { Ok(()) } else { Err(Reason::CallerUnknown) }
    }
}
