//! Terminate or splice: the whole decision for one connection, and its execution. Names and bytes only; requests
//! belong to `http`, keys and the reading of processes to `certs`, the kernel's answer to `intercept`.

pub mod hello;
pub mod identity;
mod listed;
pub mod outcome;
pub mod plain;
pub mod splice;
pub mod verdict;

use std::{fs, sync::Arc};

use bytes::Bytes;
use hello::{Opening, Rewind};
use identity::{Answers, NotAnswered};
pub use listed::{Listed, Listing};
pub use outcome::{ConnectionOutcome, Decision, Reason};
use rustls::{RootCertStore, sign::CertifiedKey};
pub use splice::Abort;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::spawn_blocking,
};
use verdict::{Judgement, Verdicts};
use waylay_certs::RegistryName;

use crate::{
    dial::{ClientAddr, OrigDst},
    upstream,
};

/// What the kernel told about a caught connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caught {
    /// The true destination.
    pub dst: OrigDst,
    /// The calling process in our pid namespace. `None`: not known, for instance one in a nested namespace.
    pub pid: Option<u32>,
    /// What the kernel calls the calling thread (at most 15 bytes). A hint: anyone can choose it.
    pub comm: String,
}

/// Whether the caller trusts our certificates. Implemented over `certs`.
pub trait Trust: Send + Sync + 'static {
    /// Whether this caller is known to trust us for `name`, and with what. Called off the async threads, so it may
    /// read files. Return the same `Arc` of roots while they are the same: comparing them is then free.
    fn decide(&self, caught: &Caught, name: &RegistryName) -> TrustDecision;

    /// Whether this caller may be answered over plain HTTP, where there is nothing to trust. A pod may not, nor may
    /// an unknown caller. The error says why.
    fn admits_plain(&self, caught: &Caught, name: &RegistryName) -> Result<(), Reason>;
}

/// What [`Trust`] knows of a caller.
#[derive(Debug, Clone)]
pub enum TrustDecision {
    /// The caller trusts this certificate for this name.
    Terminate {
        /// The certificate that the caller knows, and its key.
        key: Arc<CertifiedKey>,
        /// What upstream is verified against: all that the caller would trust, without our own certificates.
        roots: Arc<RootCertStore>,
    },
    /// Nothing shows that it does.
    Splice(Reason),
}

/// Serves HTTP on a connection that we answer.
pub trait Serve: Send + Sync + 'static {
    /// Serves `io` until it ends. Errors stay inside; they are counted there.
    fn serve<IO>(&self, io: IO, session: Session) -> impl Future<Output = ()> + Send
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Whether it has something to serve of a registry that is away and was never seen.
    fn stands_in_for(&self, _: &RegistryName) -> bool {
        false
    }
}

/// Who asks on a connection that we answer, and whom we stand in for.
#[derive(Debug)]
pub struct Session {
    /// Where the client comes from.
    pub client: ClientAddr,
    /// Where it wanted to go; upstream is dialled there.
    pub dst: OrigDst,
    /// The registry it named.
    pub registry: RegistryName,
    /// The calling program, for people to read.
    pub program: String,
    /// Plain HTTP, to the client and to upstream.
    pub plain: bool,
    /// What upstream is verified against. `None` when `plain`.
    pub roots: Option<Arc<RootCertStore>>,
    /// A connection to upstream that was just made and verified. `None`: make one when needed.
    pub first: Option<upstream::Verified>,
}

/// Decides on connections and carries the decisions out. One for the whole process: it remembers.
pub struct Tls<T, S> {
    listing: Listing,
    trust: Arc<T>,
    serve: S,
    answers: Answers,
    verdicts: Verdicts,
}

/// What to do, with everything needed for doing it. `raw` is what was read from the client so far.
enum Path {
    Close,
    Splice { raw: Bytes },
    Plain { name: RegistryName, raw: Bytes },
    Terminate(Termination),
}

struct Termination {
    name: RegistryName,
    /// The executable, or what the kernel calls the thread: who is remembered when it refuses us.
    program: String,
    raw: Bytes,
    key: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
    first: Option<upstream::Verified>,
}

impl<T: Trust, S: Serve> Tls<T, S> {
    /// Answers for the listed registries to callers that `trust` knows to trust us, by means of `serve`.
    pub fn new(listing: Listing, trust: Arc<T>, serve: S) -> Self {
        Self { listing, trust, serve, answers: Answers::new(), verdicts: Verdicts::new() }
    }

    /// Takes one caught connection to its end. What became of it is in `outcome`, also when this is dropped.
    pub async fn connection<IO>(&self, mut io: IO, caught: &Caught, outcome: &mut ConnectionOutcome)
    where
        IO: AsyncRead + AsyncWrite + Abort + Unpin + Send + 'static,
    {
        outcome.dst = Some(caught.dst);
        outcome.pid = caught.pid;
        outcome.program.clone_from(&caught.comm);
        let (reason, path) = self.decide(&mut io, caught, outcome).await;
        outcome.reason = reason;
        tracing::debug!(%reason, decision = %reason.decision(), host = outcome.host, "decided");
        match path {
            Path::Close => {}
            Path::Splice { raw } => {
                let ConnectionOutcome { sent, received, .. } = outcome;
                let spliced = splice::run(Rewind::new(raw, io), caught.dst, sent, received).await;
                if let Err(error) = spliced {
                    outcome.error = Some(error.to_string());
                }
            }
            Path::Plain { name, raw } => {
                let session = Session {
                    client: outcome.client,
                    dst: caught.dst,
                    registry: name,
                    program: outcome.program.clone(),
                    plain: true,
                    roots: None,
                    first: None,
                };
                Box::pin(self.serve.serve(Rewind::new(raw, io), session)).await;
            }
            Path::Terminate(termination) => Box::pin(self.terminate(io, termination, caught.dst, outcome)).await,
        }
    }

    /// The decision, in the order of cost: what the client said, who it is, what upstream says.
    async fn decide<IO>(&self, io: &mut IO, caught: &Caught, outcome: &mut ConnectionOutcome) -> (Reason, Path)
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let splice = |reason, raw| (reason, Path::Splice { raw });
        let (sni, alpn, raw) = match hello::read(io).await {
            Ok(Opening::Hello { sni: Some(sni), alpn, raw }) => (sni, alpn, raw),
            Ok(Opening::Hello { sni: None, raw, .. }) => return splice(Reason::NoName, raw),
            Ok(Opening::NotTls(raw)) => return self.decide_plain(io, raw, caught, outcome).await,
            Ok(Opening::Odd(raw)) => return splice(Reason::HelloOdd, raw),
            Ok(Opening::TooLong(raw)) => return splice(Reason::HelloTooLong, raw),
            Ok(Opening::Unfinished(raw)) => return splice(Reason::HelloUnfinished, raw),
            Ok(Opening::Silent) => return splice(Reason::Silent, Bytes::new()),
            Ok(Opening::Closed) => return (Reason::ClientGone, Path::Close),
            Err(error) => {
                outcome.error = Some(error.to_string());
                return (Reason::ClientGone, Path::Close);
            }
        };
        let name = RegistryName { host: sni, port: caught.dst.0.port() };
        outcome.host = Some(name.host.clone());
        if !self.listing.now().tls.contains(&name) {
            return splice(Reason::Unlisted, raw);
        }
        if self.listing.is_bypassed(&name) {
            return splice(Reason::Bypassed, raw);
        }
        if !alpn.is_empty() && !alpn.iter().any(|offer| identity::PROTOCOLS.contains(&offer.as_slice())) {
            return splice(Reason::OtherProtocol, raw);
        }
        let (program, decision) = self.ask_trust(caught, &name, |trust, caught, name| trust.decide(caught, name)).await;
        outcome.program = readable(&program).to_owned();
        let (key, roots) = match decision {
            Some(TrustDecision::Terminate { key, roots }) => (key, roots),
            Some(TrustDecision::Splice(reason)) => return splice(reason, raw),
            None => return splice(Reason::TrustFailed, raw),
        };
        if self.verdicts.refused(&program, &name) {
            return splice(Reason::RefusedBefore, raw);
        }
        match self.verdicts.judge(&name, caught.dst, &roots).await {
            Judgement::Terminate(reason, first) => {
                (reason, Path::Terminate(Termination { name, program, raw, key, roots, first }))
            }
            Judgement::Splice(Reason::UpstreamUnreachable, _) if self.serve.stands_in_for(&name) => {
                (Reason::Imported, Path::Terminate(Termination { name, program, raw, key, roots, first: None }))
            }
            Judgement::Splice(reason, problem) => {
                outcome.error = problem;
                splice(reason, raw)
            }
        }
    }

    /// The decision for what is not TLS: a request to a listed plain-HTTP registry, or anything else.
    async fn decide_plain<IO>(
        &self,
        io: &mut IO,
        raw: Bytes,
        caught: &Caught,
        outcome: &mut ConnectionOutcome,
    ) -> (Reason, Path)
    where
        IO: AsyncRead + Unpin,
    {
        let port = caught.dst.0.port();
        if !self.listing.now().plain.iter().any(|name| name.port == port) {
            return (Reason::NotTls, Path::Splice { raw });
        }
        let (host, raw) = match plain::host(io, raw).await {
            Ok((Some(host), raw)) => (host, raw),
            Ok((None, raw)) => return (Reason::NotTls, Path::Splice { raw }),
            Err(error) => {
                outcome.error = Some(error.to_string());
                return (Reason::ClientGone, Path::Close);
            }
        };
        let name = RegistryName { host, port };
        outcome.host = Some(name.host.clone());
        if !self.listing.now().plain.contains(&name) {
            return (Reason::Unlisted, Path::Splice { raw });
        }
        if self.listing.is_bypassed(&name) {
            return (Reason::Bypassed, Path::Splice { raw });
        }
        let (program, admitted) =
            self.ask_trust(caught, &name, |trust, caught, name| trust.admits_plain(caught, name)).await;
        outcome.program = readable(&program).to_owned();
        match admitted {
            Some(Ok(())) => (Reason::PlainHttp, Path::Plain { name, raw }),
            Some(Err(reason)) => (reason, Path::Splice { raw }),
            None => (Reason::TrustFailed, Path::Splice { raw }),
        }
    }

    /// Answers the handshake and hands the connection on. A client that does not want us is left alone for a while.
    async fn terminate<IO>(&self, io: IO, how: Termination, dst: OrigDst, outcome: &mut ConnectionOutcome)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Termination { name, program, raw, key, roots, first } = how;
        match self.answers.answer(Rewind::new(raw, io), key).await {
            Ok(stream) => {
                let session = Session {
                    client: outcome.client,
                    dst,
                    registry: name,
                    program: outcome.program.clone(),
                    plain: false,
                    roots: Some(roots),
                    first,
                };
                self.serve.serve(stream, session).await;
            }
            Err(error) => {
                outcome.reason = match &error {
                    NotAnswered::Refused(_) => Reason::ClientRefused,
                    NotAnswered::Incompatible(_) | NotAnswered::Ours(_) => Reason::ClientIncompatible,
                    NotAnswered::Stalled => Reason::ClientStalled,
                };
                if !matches!(error, NotAnswered::Stalled) {
                    self.verdicts.refuse(&program, &name);
                    tracing::warn!(%error, program, registry = %name, "left alone for ten minutes");
                }
                outcome.error = Some(error.to_string());
            }
        }
    }

    /// Asks who the caller is and what it trusts. This reads /proc and files, so it is done where blocking is
    /// allowed. `None`: `ask` panicked.
    async fn ask_trust<A: Send + 'static>(
        &self,
        caught: &Caught,
        name: &RegistryName,
        ask: impl FnOnce(&T, &Caught, &RegistryName) -> A + Send + 'static,
    ) -> (String, Option<A>) {
        let (trust, caught, name) = (self.trust.clone(), caught.clone(), name.clone());
        let comm = caught.comm.clone();
        let asked = spawn_blocking(move || (executable(&caught), ask(&trust, &caught, &name))).await;
        match asked {
            Ok((executable, answer)) => (executable.unwrap_or(comm), Some(answer)),
            Err(error) => {
                tracing::error!(%error, "asking for a caller's trust failed");
                (comm, None)
            }
        }
    }
}

/// The path of the caller's executable. `None`: not known, gone, or not ours to see.
fn executable(caught: &Caught) -> Option<String> {
    let target = fs::read_link(format!("/proc/{}/exe", caught.pid?)).ok()?;
    Some(target.to_string_lossy().into_owned())
}

/// The last part of an executable's path. The kernel marks one that was replaced since it started.
fn readable(program: &str) -> &str {
    let path = program.strip_suffix(" (deleted)").unwrap_or(program);
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests;
