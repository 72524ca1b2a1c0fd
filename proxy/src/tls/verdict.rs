//! What is known of a registry as it stands at the other end, and of programs that refused us. Upstream is asked
//! first, so that a client never gets an answer from us where it would have got an error without us.
//!
//! All of it is kept in memory only, with bounds; forgetting costs one more handshake.

use std::{sync::Arc, time::Duration};

use moka::sync::Cache;
use rustls::RootCertStore;
use tokio::time::Instant;
use waylay_certs::RegistryName;

use super::outcome::Reason;
use crate::{
    dial::OrigDst,
    upstream::{Connected, Verified, connect},
};

/// How long upstream may take for TCP and TLS together before it counts as unreachable.
const UPSTREAM_DEADLINE: Duration = Duration::from_secs(3);
/// How long an answer of upstream holds for one name at one address.
const FRESH: Duration = Duration::from_secs(60);
/// How long an unreachable upstream is not tried again. Short: it delays only the return to normal.
const UNREACHABLE: Duration = Duration::from_secs(5);
/// How long a verified name may be terminated while its registry is away.
const LAST_GOOD: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long a program that refused our certificate for a name is left alone with it.
const REFUSED: Duration = Duration::from_secs(10 * 60);
/// Entries in each of the caches: names are few, but a round-robin registry has many addresses.
const ENTRIES: u64 = 4096;

/// What upstream said when it was last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Verified,
    WantsCertificate,
    Unverified,
    NotTls,
    Unreachable,
}

/// Something known until an instant, and for certain roots: another process may trust less.
#[derive(Clone)]
struct Known<V> {
    value: V,
    roots: Arc<RootCertStore>,
    until: Instant,
}

/// May we answer for upstream?
#[derive(Debug)]
pub enum Judgement {
    /// Yes; with the verified connection when one was just made.
    Terminate(Reason, Option<Verified>),
    /// No: the client must see upstream itself. With what is wrong with upstream, when that is news.
    Splice(Reason, Option<String>),
}

/// The caches. Time is tokio's, so tests can move it.
pub struct Verdicts {
    said: Cache<(RegistryName, OrigDst), Known<Said>>,
    good: Cache<RegistryName, Known<()>>,
    refused: Cache<(String, RegistryName), Instant>,
}

impl Default for Verdicts {
    fn default() -> Self {
        Self::new()
    }
}

impl Verdicts {
    /// Knows nothing.
    pub fn new() -> Self {
        Self { said: Cache::new(ENTRIES), good: Cache::new(ENTRIES), refused: Cache::new(ENTRIES) }
    }

    /// Judges the registry `name` at `dst`, verified against `roots`, asking it unless it was asked just now.
    pub async fn judge(&self, name: &RegistryName, dst: OrigDst, roots: &Arc<RootCertStore>) -> Judgement {
        let key = (name.clone(), dst);
        if let Some(known) = self.said.get(&key).filter(|known| known.holds_for(roots)) {
            return self.conclude(name, roots, known.value, None, None);
        }
        let (said, first, problem) = match connect(dst, &name.host, roots.clone(), UPSTREAM_DEADLINE).await {
            Connected::Verified(first) => (Said::Verified, Some(first), None),
            Connected::WantsClientCert => (Said::WantsCertificate, None, None),
            Connected::Unverified(error) => (Said::Unverified, None, Some(error.to_string())),
            Connected::NotTls => (Said::NotTls, None, None),
            Connected::Unreachable(error) => (Said::Unreachable, None, Some(error.to_string())),
        };
        let now = Instant::now();
        let holds = if said == Said::Unreachable { UNREACHABLE } else { FRESH };
        self.said.insert(key, Known { value: said, roots: roots.clone(), until: now + holds });
        match said {
            Said::Verified => {
                self.good.insert(name.clone(), Known { value: (), roots: roots.clone(), until: now + LAST_GOOD });
            }
            Said::Unreachable => {}
            // The registry is there and has changed: what was good is no longer.
            Said::WantsCertificate | Said::Unverified | Said::NotTls => self.good.invalidate(name),
        }
        self.conclude(name, roots, said, first, problem)
    }

    fn conclude(
        &self,
        name: &RegistryName,
        roots: &Arc<RootCertStore>,
        said: Said,
        first: Option<Verified>,
        problem: Option<String>,
    ) -> Judgement {
        match said {
            Said::Verified if first.is_some() => Judgement::Terminate(Reason::Verified, first),
            Said::Verified => Judgement::Terminate(Reason::VerifiedBefore, None),
            Said::WantsCertificate => Judgement::Splice(Reason::UpstreamWantsCertificate, problem),
            Said::Unverified => Judgement::Splice(Reason::UpstreamUnverified, problem),
            Said::NotTls => Judgement::Splice(Reason::UpstreamNotTls, problem),
            Said::Unreachable if self.good.get(name).is_some_and(|known| known.holds_for(roots)) => {
                Judgement::Terminate(Reason::LastGood, None)
            }
            Said::Unreachable => Judgement::Splice(Reason::UpstreamUnreachable, problem),
        }
    }

    /// Remembers that `program` refused our certificate for `name`.
    pub fn refuse(&self, program: &str, name: &RegistryName) {
        self.refused.insert((program.to_owned(), name.clone()), Instant::now() + REFUSED);
    }

    /// Whether `program` refused our certificate for `name` a short while ago.
    pub fn refused(&self, program: &str, name: &RegistryName) -> bool {
        let key = (program.to_owned(), name.clone());
        self.refused.get(&key).is_some_and(|until| Instant::now() < until)
    }
}

impl<V> Known<V> {
    fn holds_for(&self, roots: &Arc<RootCertStore>) -> bool {
        let same = Arc::ptr_eq(&self.roots, roots) || self.roots.roots == roots.roots;
        same && Instant::now() < self.until
    }
}

#[cfg(test)]
mod tests;
