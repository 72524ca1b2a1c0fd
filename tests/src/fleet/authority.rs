//! The certificate authority of a fleet: what an operator's own registry is signed by. It is nothing of waylay's.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// An authority made for one fleet; its key is never written anywhere.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A server's certificate and key, both PEM.
#[derive(Clone)]
pub struct Leaf {
    /// The certificate.
    pub certificate: String,
    /// Its key, PKCS #8.
    pub key: String,
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Leaf")
    }
}

impl Authority {
    /// Makes one.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn create() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "The operator's own authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().context("cannot make the authority's key")?;
        let certificate = params.self_signed(&key).context("cannot sign the authority")?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// Its certificate, PEM: what clients are told to trust.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// A certificate for a server called `host`.
    ///
    /// # Errors
    /// When no key can be made or the name cannot stand in a certificate.
    pub fn issue(&self, host: &str) -> Result<Leaf> {
        self.sign(CertificateParams::new([host.to_owned()]).with_context(|| format!("{host} as a DNS name"))?)
    }

    /// The same, but it ended a day ago.
    ///
    /// # Errors
    /// As [`Self::issue`].
    pub fn issue_expired(&self, host: &str) -> Result<Leaf> {
        let mut params = CertificateParams::new([host.to_owned()]).with_context(|| format!("{host} as a DNS name"))?;
        params.not_after = (SystemTime::now() - Duration::from_secs(24 * 3600)).into();
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Result<Leaf> {
        let key = KeyPair::generate().context("cannot make a server's key")?;
        let certificate = params.signed_by(&key, &self.issuer).context("cannot sign a server's certificate")?.pem();
        Ok(Leaf { certificate, key: key.serialize_pem() })
    }

    /// Writes the certificate alone into `dir`, as a directory to name in `SSL_CERT_DIR`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn publish(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        fs::write(dir.join("operator-ca.crt"), &self.certificate)
            .with_context(|| format!("cannot write into {}", dir.display()))
    }
}
