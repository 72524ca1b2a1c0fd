//! An identity as it lies on the disk: one PEM file with certificate and key, and beside it the record of where and when
//! the certificate was published. Whatever is wrong with a file makes it unusable, never lost: it stays where it is.

use std::fs::{self, DirEntry};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use zeroize::Zeroizing;

use super::{Identity, make};
use crate::durable;

/// The end of the name of an identity's file, and of the record beside it.
const IDENTITY: &str = "pem";
pub(super) const PUBLISHED: &str = "published.json";

/// Why a file in the directory of identities is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("cannot read it: {0}")]
    Read(#[from] io::Error),
    #[error("it belongs to user {0}, not to us")]
    Owner(u32),
    #[error("its permissions {0:o} let others read the key; a key is 0600")]
    Permissions(u32),
    #[error("it is no PEM of a certificate and a key: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    #[error("its certificate cannot be parsed")]
    Certificate,
    #[error("its certificate is not for exactly {0}")]
    Name(String),
    #[error("its certificate may sign others")]
    Authority,
    #[error("its key does not belong to its certificate, or cannot be used: {0}")]
    Key(#[from] rustls::Error),
}

/// All usable identities in `dir`, newest first; each unusable file is told once to `tracing`.
pub(super) fn load_all(dir: &Path, host: &str) -> io::Result<Vec<Arc<Identity>>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut found = Vec::new();
    for path in entries.filter_map(|entry| identity_path(entry.ok()?)) {
        match load(&path, host) {
            Ok(identity) => found.push(Arc::new(identity)),
            Err(why) => tracing::warn!(file = %path.display(), %why, "an identity's file is not used"),
        }
    }
    found.sort_by_key(|identity| std::cmp::Reverse((identity.not_before(), *identity.fingerprint())));
    Ok(found)
}

fn identity_path(entry: DirEntry) -> Option<PathBuf> {
    let path = entry.path();
    let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
    (!hidden && path.extension()? == IDENTITY).then_some(path)
}

/// Deletes the file of every identity in `dir` but `kept`, usable or not, and what is recorded of it.
pub(super) fn delete_others(dir: &Path, kept: &Identity) -> io::Result<()> {
    let kept = kept.record.with_extension("").with_extension(IDENTITY);
    for path in fs::read_dir(dir)?.filter_map(|entry| identity_path(entry.ok()?)).filter(|path| *path != kept) {
        fs::remove_file(&path)?;
        match fs::remove_file(path.with_extension(PUBLISHED)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    durable::sync_dir(dir)
}

/// Writes a new identity's file (0600) into `dir`.
pub(super) fn store(dir: &Path, host: &str, made: &make::Made) -> Result<Identity, Unusable> {
    let name = hex::encode(&super::fingerprint(&made.certificate)[..8]);
    let path = dir.join(format!("{name}.{IDENTITY}"));
    durable::write(&path, made.pem.as_bytes(), 0o600)?;
    // Read back rather than assumed: what we serve is what is on the disk.
    load(&path, host)
}

fn load(path: &Path, host: &str) -> Result<Identity, Unusable> {
    let metadata = fs::symlink_metadata(path)?;
    let us = nix::unistd::geteuid().as_raw();
    if metadata.uid() != us {
        return Err(Unusable::Owner(metadata.uid()));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(Unusable::Permissions(metadata.mode() & 0o7777));
    }
    let pem = Zeroizing::new(fs::read(path)?);
    let certificate = CertificateDer::from_pem_slice(&pem)?;
    let facts = read_facts(&certificate, host)?;
    let key = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&PrivateKeyDer::from_pem_slice(&pem)?)?;
    let key = CertifiedKey::new(vec![certificate.clone()], key);
    key.keys_match()?;
    let file = path.with_extension(PUBLISHED);
    Ok(Identity::new(certificate, facts, Arc::new(key), file))
}

/// What a certificate says about itself, checked.
pub(super) struct Facts {
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    pub(super) subject_hash: String,
}

fn read_facts(certificate: &CertificateDer<'_>, host: &str) -> Result<Facts, Unusable> {
    let (rest, parsed) = X509Certificate::from_der(certificate).map_err(|_| Unusable::Certificate)?;
    if !rest.is_empty() {
        return Err(Unusable::Certificate);
    }
    if sole_name(&parsed) != Some(host) {
        return Err(Unusable::Name(host.to_string()));
    }
    if parsed.is_ca() {
        return Err(Unusable::Authority);
    }
    let time = |stamp: i64| {
        let seconds = u64::try_from(stamp).map_err(|_| Unusable::Certificate)?;
        Ok::<_, Unusable>(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    };
    Ok(Facts {
        not_before: time(parsed.validity().not_before.timestamp())?,
        not_after: time(parsed.validity().not_after.timestamp())?,
        subject_hash: make::subject_hash(host, parsed.raw_serial()),
    })
}

/// The DNS name of a certificate that is for exactly one.
pub(super) fn only_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    sole_name(&parsed).map(str::to_string)
}

fn sole_name<'a>(parsed: &X509Certificate<'a>) -> Option<&'a str> {
    let names = parsed.subject_alternative_name().ok()??;
    match names.value.general_names.as_slice() {
        [GeneralName::DNSName(name)] => Some(name),
        _ => None,
    }
}
