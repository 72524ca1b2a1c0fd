//! Answers a client's TLS handshake as the registry it named. The key comes from `certs` and is only passed on
//! here; whether we may answer at all was decided before.

use std::{io, sync::Arc, time::Duration};

use moka::sync::Cache;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs::{self, Ticketer},
    pki_types::CertificateDer,
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// What we speak once the handshake is done, best first. Clients that offer nothing get HTTP/1.1.
pub const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// As long as container runtimes give a handshake.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// Server configurations kept: one for each certificate in use.
const CONFIGS: u64 = 256;

/// Why a client and we have no TLS connection.
#[derive(Debug, thiserror::Error)]
pub enum NotAnswered {
    /// The client sent an alert or closed: it does not want our certificate, as far as anyone can tell.
    #[error("the client refused our certificate: {0}")]
    Refused(io::Error),
    /// Nothing in common with the client, or it broke the protocol.
    #[error("no TLS in common with the client: {0}")]
    Incompatible(rustls::Error),
    /// The handshake did not end in time.
    #[error("the client did not finish the handshake within {HANDSHAKE_DEADLINE:?}")]
    Stalled,
    /// We have no randomness or no cipher.
    #[error("cannot answer TLS: {0}")]
    Ours(rustls::Error),
}

/// Answers handshakes. Session tickets live as long as the certificate is in use.
pub struct Answers(Cache<CertificateDer<'static>, Arc<ServerConfig>>);

impl Default for Answers {
    fn default() -> Self {
        Self::new()
    }
}

impl Answers {
    /// Without any configuration yet.
    pub fn new() -> Self {
        Self(Cache::new(CONFIGS))
    }

    /// Does the server's side of the handshake on `io` with this certificate and key.
    pub async fn answer<IO>(&self, io: IO, identity: Arc<CertifiedKey>) -> Result<TlsStream<IO>, NotAnswered>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let acceptor = TlsAcceptor::from(self.config(identity).map_err(NotAnswered::Ours)?);
        match timeout(HANDSHAKE_DEADLINE, acceptor.accept(io)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(classify(error)),
            Err(_) => Err(NotAnswered::Stalled),
        }
    }

    fn config(&self, identity: Arc<CertifiedKey>) -> Result<Arc<ServerConfig>, rustls::Error> {
        let certificate = identity.end_entity_cert()?.clone().into_owned();
        if let Some(config) = self.0.get(&certificate) {
            return Ok(config);
        }
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        config.ticketer = Ticketer::new()?;
        let config = Arc::new(config);
        self.0.insert(certificate, config.clone());
        Ok(config)
    }
}

/// Whose fault a failed handshake is. A close counts as a refusal: some clients send no alert.
fn classify(error: io::Error) -> NotAnswered {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        None | Some(rustls::Error::AlertReceived(_)) => NotAnswered::Refused(error),
        Some(tls) => NotAnswered::Incompatible(tls.clone()),
    }
}
