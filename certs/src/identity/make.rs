//! How an identity's certificate is made, and the name OpenSSL looks it up by.

use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use zeroize::{Zeroize, Zeroizing};

/// How long a certificate is valid. Long, because a Go program reads its roots once in its life: a runtime knows only
/// the certificates that were there when it started.
pub const LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// How far back the validity begins, for clients whose clock is behind.
pub const BACKDATE: Duration = Duration::from_secs(3600);
/// `ub-common-name` of X.520: a longer host is named by its subjectAltName alone.
const COMMON_NAME_MAX: usize = 64;

/// A fresh certificate and key.
pub(super) struct Made {
    pub(super) certificate: CertificateDer<'static>,
    /// PEM: the certificate, then the key as PKCS #8.
    pub(super) pem: Zeroizing<String>,
}

/// Makes a P-256 key and its self-signed end-entity certificate for exactly `host` (RFC 5280: basicConstraints critical
/// with CA false, digitalSignature, serverAuth, one dNSName).
pub(super) fn make(host: &str, now: SystemTime) -> Result<Made, rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let serial = serial()?;
    let mut params = CertificateParams::new(vec![host.to_string()])?;
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + LIFE).into();
    params.distinguished_name = DistinguishedName::new();
    for (oid, value) in subject(host, &serial) {
        params.distinguished_name.push(dn_type(oid), value);
    }
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.self_signed(&key)?;
    let mut pem = Zeroizing::new(certificate.pem());
    pem.push_str(&Zeroizing::new(key.serialize_pem()));
    // rcgen does not wipe the key that it holds.
    PrivatePkcs8KeyDer::from(key).zeroize();
    Ok(Made { certificate: certificate.der().clone(), pem })
}

/// 127 random bits: positive in DER, and without a leading zero byte.
fn serial() -> Result<[u8; 16], rcgen::Error> {
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| rcgen::Error::RingUnspecified)?;
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(serial)
}

/// The subject's attributes. The serial number makes each subject unique, so that no verifier that looks up issuers by
/// name ever confuses an identity with its successor.
fn subject(host: &str, serial: &[u8]) -> Vec<(Oid, String)> {
    let mut attributes = Vec::new();
    if host.len() <= COMMON_NAME_MAX {
        attributes.push((Oid::CommonName, host.to_string()));
    }
    attributes.push((Oid::SerialNumber, hex::encode(serial)));
    attributes
}

#[derive(Clone, Copy)]
enum Oid {
    CommonName,
    SerialNumber,
}

fn dn_type(oid: Oid) -> DnType {
    match oid {
        Oid::CommonName => DnType::CommonName,
        Oid::SerialNumber => DnType::CustomDnType(vec![2, 5, 4, 5]),
    }
}

/// OpenSSL's name for a certificate in a directory of roots is the hash of its subject (`openssl x509 -subject_hash`):
/// the first four bytes, little endian, of the SHA-1 of the canonical form: each attribute a SET of a SEQUENCE of its
/// type and its value as lower-case UTF8String. For our subjects only: ASCII, lower case, short.
pub(super) fn subject_hash(host: &str, serial: &[u8]) -> String {
    let mut canonical = Vec::new();
    for (oid, value) in subject(host, serial) {
        let last_arc = match oid {
            Oid::CommonName => 3,
            Oid::SerialNumber => 5,
        };
        let length = value.len() as u8;
        canonical.extend_from_slice(&[0x31, length + 9, 0x30, length + 7, 0x06, 3, 0x55, 0x04, last_arc, 0x0c, length]);
        canonical.extend_from_slice(value.as_bytes());
    }
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &canonical);
    let mut first = [0; 4];
    first.copy_from_slice(&hash.as_ref()[..4]);
    format!("{:08x}", u32::from_le_bytes(first))
}
