//! What became of one caught connection, and why. This is the one list of reasons: the metric's label, the trace
//! and the log line all take their words from here.

use std::{fmt, time::Duration};

use tokio::time::Instant;
use waylay_certs::RegistryName;

use crate::dial::{ClientAddr, OrigDst};

/// What is done with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decision {
    /// We answer as the registry.
    Terminate,
    /// Bytes go to the true destination and back, untouched.
    Splice,
    /// Closed without a byte.
    Close,
}

impl Decision {
    /// The stable name, used as the label `decision`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Terminate => "terminate",
            Self::Splice => "splice",
            Self::Close => "close",
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Declares the reasons, each with its stable name and the decision that it stands for.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal => $decision:ident,)+) => {
        /// Why a connection was terminated, spliced or closed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[doc = $doc])+ $variant,)+ }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The stable name, used as the label `reason`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// The decision that this reason leads to.
            pub const fn decision(self) -> Decision {
                match self { $(Self::$variant => Decision::$decision,)+ }
            }
        }
    };
}

reasons! {
    /// The registry was verified for this connection.
    Verified = "verified" => Terminate,
    /// The registry was verified a moment ago.
    VerifiedBefore = "verified_before" => Terminate,
    /// The registry is unreachable, but was verified when last seen.
    LastGood = "last_good" => Terminate,
    /// The registry is unreachable and was never seen, but an operator imported images of it.
    Imported = "imported" => Terminate,
    /// A listed registry that speaks plain HTTP.
    PlainHttp = "plain_http" => Terminate,
    /// The client refused our certificate: a defect.
    ClientRefused = "client_refused" => Terminate,
    /// The client and we have no TLS version or cipher in common, or it broke the protocol: a defect.
    ClientIncompatible = "client_incompatible" => Terminate,
    /// The client did not finish the TLS handshake in time.
    ClientStalled = "client_stalled" => Terminate,

    /// The client does not speak TLS.
    NotTls = "not_tls" => Splice,
    /// The client waits for the server to speak first.
    Silent = "silent" => Splice,
    /// The ClientHello is longer than we read.
    HelloTooLong = "hello_too_long" => Splice,
    /// The ClientHello did not end in time.
    HelloUnfinished = "hello_unfinished" => Splice,
    /// The ClientHello cannot be read.
    HelloOdd = "hello_odd" => Splice,
    /// The ClientHello names no DNS host.
    NoName = "no_name" => Splice,
    /// The client offers only application protocols (ALPN) that are not HTTP.
    OtherProtocol = "other_protocol" => Splice,
    /// The name is not a listed registry.
    Unlisted = "unlisted" => Splice,
    /// The operator wants this registry left alone.
    Bypassed = "bypassed" => Splice,
    /// It is not known which process called.
    CallerUnknown = "caller_unknown" => Splice,
    /// The caller belongs to a pod.
    CallerInPod = "caller_in_pod" => Splice,
    /// Nothing shows that the caller trusts our certificate for this name.
    Untrusted = "untrusted" => Splice,
    /// Our own identity for this name, or the evidence, could not be read.
    TrustFailed = "trust_failed" => Splice,
    /// This program refused our certificate for this name less than ten minutes ago.
    RefusedBefore = "refused_before" => Splice,
    /// The registry asks for a client certificate.
    UpstreamWantsCertificate = "upstream_wants_certificate" => Splice,
    /// The registry's certificate does not verify.
    UpstreamUnverified = "upstream_unverified" => Splice,
    /// The registry does not speak TLS.
    UpstreamNotTls = "upstream_not_tls" => Splice,
    /// The registry is unreachable and was never seen verified.
    UpstreamUnreachable = "upstream_unreachable" => Splice,

    /// The kernel knows nothing of this connection: somebody connected to our port directly.
    NotCaught = "not_caught" => Close,
    /// The kernel could not be asked.
    OriginFailed = "origin_failed" => Close,
    /// The true destination is our own listener.
    OwnListener = "own_listener" => Close,
    /// The client closed, or broke, before it said anything.
    ClientGone = "client_gone" => Close,
    /// Cut by our shutdown, or by a defect of ours, before anything was decided.
    Interrupted = "interrupted" => Close,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is known of one connection. It grows while the connection lives and is reported once, when it ends.
#[derive(Debug, Clone)]
pub struct ConnectionOutcome {
    /// Where the client comes from.
    pub client: ClientAddr,
    /// Where it wanted to go. `None`: the kernel did not tell.
    pub dst: Option<OrigDst>,
    /// The calling process in our pid namespace. `None`: not known.
    pub pid: Option<u32>,
    /// The calling program: the file name of its executable, or what the kernel calls the thread. May be empty.
    pub program: String,
    /// The host that the client named. `None`: it named none, or we did not look.
    pub host: Option<String>,
    /// Why it went as it went; [`Reason::decision`] says how.
    pub reason: Reason,
    /// Bytes from the client to the destination; only for spliced connections.
    pub sent: u64,
    /// Bytes from the destination to the client; only for spliced connections.
    pub received: u64,
    /// How it broke. `None`: it ended well, as far as we know.
    pub error: Option<String>,
    begun: Instant,
}

impl ConnectionOutcome {
    /// A connection that was just accepted; nothing is decided.
    pub fn new(client: ClientAddr) -> Self {
        Self {
            client,
            dst: None,
            pid: None,
            program: String::new(),
            host: None,
            reason: Reason::Interrupted,
            sent: 0,
            received: 0,
            error: None,
            begun: Instant::now(),
        }
    }

    /// The registry that the client named, with the port it wanted.
    pub fn registry(&self) -> Option<RegistryName> {
        Some(RegistryName { host: self.host.clone()?, port: self.dst?.0.port() })
    }

    /// Time since it was accepted.
    pub fn age(&self) -> Duration {
        self.begun.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_distinct_labels() {
        let names: HashSet<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        assert!(names.iter().all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
    }
}
