//! One identity per registry name: a private key and a self-signed certificate that is valid for exactly that name, can
//! sign nothing, and lives a year. There is no authority.
//!
//! Several valid identities of a host exist side by side: a successor is made long before its predecessor ends, because
//! a runtime may know only what was published before it started. Who knows which is decided in [`crate::trust`].

mod disk;
mod make;
#[cfg(test)]
mod tests;

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use std::{fs, io};

use aws_lc_rs::digest;
use moka::sync::Cache;
use rustls::pki_types::{CertificateDer, DnsName};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::moment::Moment;

pub use make::{BACKDATE, LIFE};

/// How long a host's identities are remembered before the disk is asked again, so that what another process of ours
/// (an installer) made or published is seen.
const REMEMBER: Duration = Duration::from_secs(60);
const REMEMBER_HOSTS: u64 = 1024;

/// Where the certificate was made known, and when: the fact that decides which processes can know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The file in the trust directory.
    pub file: PathBuf,
    /// When it was last found absent and written, or found there for the first time.
    pub at: Moment,
}

/// A certificate for one registry name and its key. The key can be used, not read.
pub struct Identity {
    certificate: CertificateDer<'static>,
    fingerprint: [u8; 32],
    not_before: SystemTime,
    not_after: SystemTime,
    subject_hash: String,
    key: Arc<CertifiedKey>,
    record: PathBuf,
}

impl Identity {
    fn new(
        certificate: CertificateDer<'static>,
        facts: disk::Facts,
        key: Arc<CertifiedKey>,
        record: PathBuf,
    ) -> Identity {
        let disk::Facts { not_before, not_after, subject_hash } = facts;
        let fingerprint = fingerprint(&certificate);
        Identity { certificate, fingerprint, not_before, not_after, subject_hash, key, record }
    }

    /// The certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// SHA-256 of the certificate, as `openssl x509 -fingerprint -sha256` shows it.
    pub fn fingerprint(&self) -> &[u8; 32] {
        &self.fingerprint
    }

    /// Begin of the validity.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// End of the validity.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether a client whose clock agrees with ours finds it valid.
    pub fn is_valid(&self, now: SystemTime) -> bool {
        self.not_before <= now && now < self.not_after
    }

    /// Whether its last third has begun, so that a successor should be published.
    pub fn wants_successor(&self, now: SystemTime) -> bool {
        now + LIFE / 3 >= self.not_after
    }

    /// Certificate and key for rustls.
    pub fn certified_key(&self) -> Arc<CertifiedKey> {
        self.key.clone()
    }

    /// Where and when the certificate was published in a trust directory; `None` when never, or when the record
    /// cannot be read.
    pub fn published_at(&self) -> Option<Published> {
        serde_json::from_slice(&fs::read(&self.record).ok()?).ok()
    }

    /// The hash of its subject: the file name that OpenSSL looks for, without its number.
    pub fn subject_hash(&self) -> &str {
        &self.subject_hash
    }

    /// The certificate as PEM.
    pub fn pem(&self) -> String {
        use base64::Engine;
        let body = base64::prelude::BASE64_STANDARD.encode(&self.certificate);
        let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
        for line in body.as_bytes().chunks(64) {
            pem.extend(line.iter().map(|&b| char::from(b)));
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
        pem
    }

    /// Forgets the publication, before its file is written again.
    pub(crate) fn clear_published(&self) -> io::Result<()> {
        match fs::remove_file(&self.record) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    pub(crate) fn set_published(&self, published: &Published) -> io::Result<()> {
        durable::write(&self.record, &serde_json::to_vec(published)?, 0o600)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", hex::encode(&self.fingerprint[..8]))
    }
}

fn fingerprint(certificate: &CertificateDer<'_>) -> [u8; 32] {
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest::digest(&digest::SHA256, certificate).as_ref());
    fingerprint
}

/// Why there is no identity for a host.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Not a DNS name in lower case.
    #[error("{0:?} is not a lower-case DNS name, so no certificate can be made for it")]
    Host(String),
    /// The directory of identities belongs to somebody else, who could replace keys in it.
    #[error(
        "{path}: this directory of private keys belongs to user {owner}, not to us: chown it, or name another state_dir"
    )]
    Owner {
        /// The directory.
        path: PathBuf,
        /// The user it belongs to.
        owner: u32,
    },
    /// The directory cannot be made, read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No key or certificate could be made.
    #[error("cannot make a certificate for {host}: {source}")]
    Make {
        /// The name it was for.
        host: String,
        /// What went wrong.
        source: rcgen::Error,
    },
    /// A new identity was written but does not read back.
    #[error("the new identity of {host} cannot be used: {why}")]
    ReadBack {
        /// The name it was for.
        host: String,
        /// What is wrong with the file.
        why: String,
    },
}

/// The identities of this node, in a directory that only we can read: one directory per host in it.
pub struct Identities {
    dir: PathBuf,
    cache: Cache<String, Arc<[Arc<Identity>]>>,
    /// Held while an identity is made, so that two callers do not make two.
    making: Mutex<()>,
}

impl Identities {
    /// Opens the directory, making it (0700) when it is missing. One that others may enter is closed to them; one that
    /// belongs to somebody else is an error.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, IdentityError> {
        let dir = dir.into();
        own_dir(&dir)?;
        let cache = Cache::builder().max_capacity(REMEMBER_HOSTS).time_to_live(REMEMBER).build();
        Ok(Self { dir, cache, making: Mutex::new(()) })
    }

    /// The newest valid identity of `host`, made when there is none and when the newest is in its last third. The
    /// newest is what to publish; what to serve is what the caller's process can know ([`crate::evidence`]).
    pub fn ensure(&self, host: &str, now: SystemTime) -> Result<Arc<Identity>, IdentityError> {
        check_host(host)?;
        if let Some(identity) = newest(&self.all(host), now).filter(|i| !i.wants_successor(now)) {
            return Ok(identity);
        }
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        // Another caller, or another process, may have made it meanwhile.
        self.cache.invalidate(host);
        if let Some(identity) = newest(&self.load(host)?, now).filter(|i| !i.wants_successor(now)) {
            return Ok(identity);
        }
        self.make(host, now)
    }

    /// A further identity of `host`, whether or not one is due: the newest from now on. Those before it stay valid, for
    /// processes that know no other.
    pub fn renew(&self, host: &str, now: SystemTime) -> Result<Arc<Identity>, IdentityError> {
        check_host(host)?;
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        self.make(host, now)
    }

    /// A further identity of `host`, and no other: the keys before it are deleted, readable or not, since somebody else may
    /// know them. A process that knows none but their certificates is no longer answered. Publish afterwards: that takes the
    /// certificates back.
    ///
    /// # Errors
    /// When the new one cannot be made: then the others are still there; or one of them cannot be deleted.
    pub fn replace(&self, host: &str, now: SystemTime) -> Result<Arc<Identity>, IdentityError> {
        check_host(host)?;
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let made = self.make(host, now)?;
        let path = self.dir.join(host);
        let deleted = disk::delete_others(&path, &made);
        self.cache.invalidate(host);
        deleted.map_err(|source| IdentityError::Io { path, source })?;
        Ok(made)
    }

    fn make(&self, host: &str, now: SystemTime) -> Result<Arc<Identity>, IdentityError> {
        let made = make::make(host, now).map_err(|source| IdentityError::Make { host: host.to_string(), source })?;
        let dir = self.dir.join(host);
        own_dir(&dir)?;
        let identity = disk::store(&dir, host, &made)
            .map_err(|why| IdentityError::ReadBack { host: host.to_string(), why: why.to_string() })?;
        self.cache.invalidate(host);
        Ok(Arc::new(identity))
    }

    /// All usable identities of `host`, newest first, expired ones among them; empty when there are none or they cannot
    /// be read (which is told to `tracing`).
    pub fn all(&self, host: &str) -> Arc<[Arc<Identity>]> {
        if let Some(known) = self.cache.get(host) {
            return known;
        }
        let loaded: Arc<[Arc<Identity>]> = self
            .load(host)
            .unwrap_or_else(|error| {
                tracing::warn!(%error, "the identities of a host cannot be read");
                Vec::new()
            })
            .into();
        self.cache.insert(host.to_string(), loaded.clone());
        loaded
    }

    /// Whether `certificate` is one of ours, for whatever host, valid or not.
    pub fn is_ours(&self, certificate: &CertificateDer<'_>) -> bool {
        let Some(host) = disk::only_name(certificate) else { return false };
        check_host(&host).is_ok() && self.all(&host).iter().any(|identity| identity.certificate() == certificate)
    }

    fn load(&self, host: &str) -> Result<Vec<Arc<Identity>>, IdentityError> {
        check_host(host)?;
        let path = self.dir.join(host);
        disk::load_all(&path, host).map_err(|source| IdentityError::Io { path, source })
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identities({})", self.dir.display())
    }
}

fn newest(identities: &[Arc<Identity>], now: SystemTime) -> Option<Arc<Identity>> {
    identities.iter().find(|identity| identity.is_valid(now)).cloned()
}

fn check_host(host: &str) -> Result<(), IdentityError> {
    // The host becomes a directory's name: a DnsName has no slash and no empty label, so it cannot lead elsewhere.
    match DnsName::try_from(host) {
        Ok(_) if !host.ends_with('.') && host == host.to_ascii_lowercase() => Ok(()),
        _ => Err(IdentityError::Host(host.to_string())),
    }
}

/// Makes or checks a directory that holds keys: ours, 0700. Its parents are made as usual.
fn own_dir(path: &Path) -> Result<(), IdentityError> {
    let io = |source| IdentityError::Io { path: path.to_path_buf(), source };
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(io)?;
    }
    if durable::make_dir(path, 0o700).map_err(io)? {
        return Ok(());
    }
    let metadata = fs::metadata(path).map_err(io)?;
    if metadata.uid() != nix::unistd::geteuid().as_raw() {
        return Err(IdentityError::Owner { path: path.to_path_buf(), owner: metadata.uid() });
    }
    if metadata.mode() & 0o077 != 0 {
        tracing::warn!(directory = %path.display(), "a directory of private keys was open to others; closing it");
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(io)?;
    }
    Ok(())
}
