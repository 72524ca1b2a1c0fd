//! A blocking HTTPS connection that reads TLS record by record, so that it can stop deciphering and only count.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use sha2::{Digest as _, Sha256};

use crate::fleet::registry;

/// How much is taken from the kernel at once.
const BUFFER: usize = 256 << 10;
/// A TLS record's head: kind, version, length (RFC 8446, section 5.1).
const RECORD_HEAD: usize = 5;
/// What a TLS 1.3 record has beyond its plaintext: the inner kind and the tag.
const RECORD_MORE: u64 = 17;
/// What a runtime sends with a request for a manifest.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, */*";

/// Whom a client trusts, and its one cipher.
pub(super) struct Trust(Arc<ClientConfig>);

impl Trust {
    /// Trusts what is in the directories of `SSL_CERT_DIR` but the system's own.
    pub(super) fn of_environment() -> Result<Self> {
        let mut roots = RootCertStore::empty();
        let dirs = env::var("SSL_CERT_DIR").unwrap_or_default();
        for dir in dirs.split(':').filter(|dir| !dir.is_empty() && *dir != "/etc/ssl/certs") {
            for file in fs::read_dir(dir).with_context(|| format!("cannot list {dir}"))?.flatten() {
                let certificates = CertificateDer::pem_file_iter(file.path()).map(|found| found.flatten().collect());
                let certificates: Vec<_> = certificates.unwrap_or_default();
                roots.add_parsable_certificates(certificates);
            }
        }
        // The same for both sides of every comparison: the cipher's speed is not what is compared.
        let cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
        let provider = CryptoProvider { cipher_suites, ..aws_lc_rs::default_provider() };
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Go's clients resume no sessions unless they are told to, and runtimes don't tell them.
        config.resumption = Resumption::disabled();
        Ok(Self(Arc::new(config)))
    }
}

/// A connection, and how much of the last answer's body is still to be read.
pub(super) struct Https {
    tls: ClientConnection,
    stream: BufReader<TcpStream>,
    record: Vec<u8>,
    /// Plaintext that was read with the head.
    early: Vec<u8>,
    left: u64,
}

impl Https {
    /// Connects to `at` (`HOST:PORT`) in the belief that it is the registry.
    pub(super) fn connect(at: &str, trust: &Trust) -> Result<Self> {
        let stream = TcpStream::connect(at).with_context(|| format!("cannot connect to {at}"))?;
        stream.set_nodelay(true)?;
        let tls = ClientConnection::new(trust.0.clone(), ServerName::try_from(registry::HOST)?)?;
        let stream = BufReader::with_capacity(BUFFER, stream);
        let mut connection = Self { tls, stream, record: Vec::new(), early: Vec::new(), left: 0 };
        while connection.tls.is_handshaking() {
            connection.flush()?;
            if connection.tls.is_handshaking() {
                connection.take_record()?;
            }
        }
        connection.flush()?;
        Ok(connection)
    }

    /// Asks for `path`; the length of the body, which must be told and of an answer of 200.
    pub(super) fn get(&mut self, path: &str) -> Result<u64> {
        ensure!(self.left == 0, "the last answer was not read");
        let authority = format!("{}:{}", registry::HOST, registry::PORT);
        let request = format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nAccept: {ACCEPT}\r\n\r\n");
        self.tls.writer().write_all(request.as_bytes())?;
        self.flush()?;
        let mut head = Vec::new();
        let end = loop {
            if let Some(at) = head.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            self.take_record()?;
            self.take_plaintext(&mut head)?;
        };
        self.early = head.split_off(end);
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        ensure!(head.starts_with("http/1.1 200 "), "GET {path}: {head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: u64 = length.with_context(|| format!("no length in {head}"))?.trim().parse()?;
        self.left = length.checked_sub(self.early.len() as u64).context("more than was told")?;
        Ok(length)
    }

    /// Reads the body as usual and drops it; the connection can be used again.
    pub(super) fn read(&mut self) -> Result<()> {
        self.each(|_| {})
    }

    /// Reads the body as usual and keeps it.
    pub(super) fn body(&mut self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        self.each(|bytes| body.extend_from_slice(bytes))?;
        Ok(body)
    }

    /// Reads the body as usual, and checks its sha256.
    pub(super) fn verify(&mut self, hex: &str) -> Result<()> {
        let mut sha256 = Sha256::new();
        self.each(|bytes| sha256.update(bytes))?;
        ensure!(hex::encode(sha256.finalize()) == hex, "the bytes are not those of {hex}");
        Ok(())
    }

    /// Counts the body by its records and deciphers nothing. The connection is of no use afterwards.
    pub(super) fn discard(mut self) -> Result<()> {
        while self.left > 0 {
            let length = self.record_head()?.1;
            let body = length.checked_sub(RECORD_MORE).context("a record too short for TLS 1.3")?;
            self.left = self.left.checked_sub(body).context("more than was told")?;
            let mut skip = length;
            while skip > 0 {
                let there = self.stream.fill_buf()?.len();
                ensure!(there > 0, "the connection ended early");
                let step = skip.min(there as u64);
                self.stream.consume(step as usize);
                skip -= step;
            }
        }
        Ok(())
    }

    fn each(&mut self, mut take: impl FnMut(&[u8])) -> Result<()> {
        take(&std::mem::take(&mut self.early));
        let mut plaintext = Vec::new();
        while self.left > 0 {
            self.take_record()?;
            plaintext.clear();
            self.take_plaintext(&mut plaintext)?;
            self.left = self.left.checked_sub(plaintext.len() as u64).context("more than was told")?;
            take(&plaintext);
        }
        Ok(())
    }

    fn record_head(&mut self) -> Result<([u8; RECORD_HEAD], u64)> {
        let mut head = [0; RECORD_HEAD];
        self.stream.read_exact(&mut head).context("the connection ended early")?;
        Ok((head, u64::from(u16::from_be_bytes([head[3], head[4]]))))
    }

    /// Gives rustls exactly one record, so that it never holds part of the next.
    fn take_record(&mut self) -> Result<()> {
        let (head, length) = self.record_head()?;
        self.record.clear();
        self.record.extend_from_slice(&head);
        (&mut self.stream).take(length).read_to_end(&mut self.record)?;
        let mut rest = self.record.as_slice();
        while !rest.is_empty() {
            if self.tls.read_tls(&mut rest)? == 0 {
                bail!("the connection ended early");
            }
            self.tls.process_new_packets()?;
        }
        Ok(())
    }

    fn take_plaintext(&mut self, into: &mut Vec<u8>) -> Result<()> {
        match self.tls.reader().read_to_end(into) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(self.stream.get_mut())?;
        }
        Ok(())
    }
}
