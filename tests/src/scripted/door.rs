//! How a scripted server meets its clients: with which certificate, or none, and what it wants of theirs.

use std::sync::Arc;

use rustls::{ServerConfig, server::WebPkiClientVerifier, sign::SingleCertAndKey};

use super::{
    authority::{Authority, Identity, provider},
    server::Door,
};

/// What a door is built from.
#[derive(Clone)]
pub(super) struct Doorway {
    pub(super) host: String,
    pub(super) plain: bool,
    pub(super) expired: bool,
    pub(super) self_signed: bool,
    pub(super) client_certificate: bool,
    pub(super) http1_only: bool,
}

impl Doorway {
    pub(super) fn new(host: &str) -> Self {
        Self {
            host: host.to_owned(),
            plain: false,
            expired: false,
            self_signed: false,
            client_certificate: false,
            http1_only: false,
        }
    }

    pub(super) fn identity(&self, authority: &Authority) -> Identity {
        let names = [&*self.host];
        match (self.self_signed, self.expired) {
            (true, _) => Identity::self_signed(&names),
            (false, true) => authority.expired(&names),
            (false, false) => authority.server(&names),
        }
    }

    pub(super) fn door(&self, authority: &Authority) -> Door {
        if self.plain {
            return Door::Http;
        }
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider knows TLS 1.2 and 1.3");
        let builder = if self.client_certificate {
            let verifier = WebPkiClientVerifier::builder_with_provider(authority.roots(), provider()).build();
            builder.with_client_cert_verifier(verifier.expect("there is an authority"))
        } else {
            builder.with_no_client_auth()
        };
        let key = self.identity(authority).certified_key();
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        if !self.http1_only {
            config.alpn_protocols.insert(0, b"h2".to_vec());
        }
        Door::Https(Arc::new(config))
    }
}
