//! Certificates for tests: an authority made anew each time, and what it signs. Nothing is written to disk.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
};
use rustls::{
    RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::CertifiedKey,
};

/// An authority that nothing but the test at hand trusts.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its chain and key, for either end of a connection.
pub struct Identity {
    /// The certificate first, then what signed it.
    pub chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Authority {
    /// A new authority with a key of its own.
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names are valid names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "test authority");
        let issuer = CertifiedIssuer::self_signed(params, key()).expect("an authority signs itself");
        Self { issuer }
    }

    /// Its own certificate.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// A store that trusts this authority and nothing else.
    pub fn roots(&self) -> Arc<RootCertStore> {
        trusting([self.certificate()])
    }

    /// A good certificate of a server with these names, DNS names or addresses.
    pub fn server(&self, names: &[&str]) -> Identity {
        self.sign(params(names, ExtendedKeyUsagePurpose::ServerAuth))
    }

    /// A certificate that was good until 2020.
    pub fn expired(&self, names: &[&str]) -> Identity {
        let mut params = params(names, ExtendedKeyUsagePurpose::ServerAuth);
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
        self.sign(params)
    }

    /// A good certificate of a client, for servers that want one.
    pub fn client(&self, name: &str) -> Identity {
        self.sign(params(&[name], ExtendedKeyUsagePurpose::ClientAuth))
    }

    fn sign(&self, params: CertificateParams) -> Identity {
        let key = key();
        let certificate = params.signed_by(&key, &self.issuer).expect("the authority signs");
        Identity {
            chain: vec![certificate.der().clone(), self.certificate()],
            key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        }
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Identity {
    /// An end-entity certificate that signs itself: nobody trusts it who was not given it.
    pub fn self_signed(names: &[&str]) -> Self {
        let mut params = params(names, ExtendedKeyUsagePurpose::ServerAuth);
        params.is_ca = IsCa::ExplicitNoCa;
        let key = key();
        let certificate = params.self_signed(&key).expect("a key signs itself");
        Self { chain: vec![certificate.der().clone()], key: PrivateKeyDer::Pkcs8(key.serialize_der().into()) }
    }

    /// The certificate itself.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.chain[0].clone()
    }

    /// As rustls wants it on either end.
    pub fn certified_key(&self) -> Arc<CertifiedKey> {
        let key = provider().key_provider.load_private_key(self.key.clone_key()).expect("our own key loads");
        Arc::new(CertifiedKey::new(self.chain.clone(), key))
    }
}

/// A store that trusts these certificates and nothing else.
pub fn trusting(certificates: impl IntoIterator<Item = CertificateDer<'static>>) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).expect("a certificate made here is one");
    }
    Arc::new(roots)
}

/// The cryptography that the product uses as well.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn key() -> KeyPair {
    KeyPair::generate().expect("keys can be made")
}

fn params(names: &[&str], usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("the names of a test are valid");
    params.extended_key_usages.push(usage);
    params
}
