//! A registry's end of TLS for tests: real servers on loopback with certificates made on the spot, which can be
//! told to be wrong in all the ways that matter.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
    sign::CertifiedKey,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// The name in all certificates made here.
pub(crate) const NAME: &str = "registry.test";

/// What an upstream is like.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// Verified by the authority's roots; echoes what it gets, then closes.
    Good,
    /// A certificate that ended in 2020.
    Expired,
    /// A certificate that nobody signed.
    SelfSigned,
    /// A certificate for another name.
    OtherName,
    /// Asks for a client certificate in this TLS version, and insists or not.
    AsksForCertificate(&'static SupportedProtocolVersion, bool),
    /// Answers everything with an HTTP error.
    PlainHttp,
    /// Closes without a byte once it has got something.
    Closes,
    /// Breaks every connection off.
    Resets,
    /// Accepts and never says anything.
    Silent,
}

/// A port of loopback where nobody listens, and nobody else can while this is held.
pub(crate) struct Refusing(TcpSocket);

impl Refusing {
    pub(crate) fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        Self(socket)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }
}

/// A running upstream. Dropping it stops it.
pub(crate) struct Upstream {
    pub(crate) addr: SocketAddr,
    /// What verifies a good one.
    pub(crate) roots: Arc<RootCertStore>,
    issuer: CertifiedIssuer<'static, KeyPair>,
    face: watch::Sender<Face>,
    _task: JoinSet<()>,
}

/// How an upstream behaves at the moment.
#[derive(Clone)]
struct Face {
    kind: Kind,
    certificate: CertificateDer<'static>,
    config: Arc<ServerConfig>,
}

/// A key with a certificate that it signed itself, for [`NAME`].
pub(crate) fn self_signed() -> Arc<CertifiedKey> {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    Arc::new(CertifiedKey::from_der(vec![made.cert.der().clone()], key, &provider()).unwrap())
}

/// Roots with just this certificate.
pub(crate) fn roots(certificate: &CertificateDer<'static>) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    Arc::new(roots)
}

/// A TLS client that trusts these roots and offers these protocols.
pub(crate) fn client(roots: Arc<RootCertStore>, alpn: &[&str]) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    Arc::new(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

impl Upstream {
    /// Starts one on a free port of loopback.
    pub(crate) async fn start(kind: Kind) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let issuer = authority();
        let (face, faces) = watch::channel(Face::of(kind, &issuer));
        let mut task = JoinSet::new();
        task.spawn(serve(listener, faces));
        Self { addr, roots: roots(issuer.der()), issuer, face, _task: task }
    }

    /// Makes it another kind, for connections to come.
    pub(crate) fn turn(&self, kind: Kind) {
        self.face.send_replace(Face::of(kind, &self.issuer));
    }

    /// The certificate that its clients see.
    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.face.borrow().certificate.clone()
    }
}

impl Face {
    fn of(kind: Kind, issuer: &CertifiedIssuer<'static, KeyPair>) -> Self {
        let key = KeyPair::generate().unwrap();
        let name = if matches!(kind, Kind::OtherName) { "other.test" } else { NAME };
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if matches!(kind, Kind::Expired) {
            params.not_after = date_time_ymd(2020, 1, 1);
        }
        let certificate = match kind {
            Kind::SelfSigned => params.self_signed(&key).unwrap(),
            _ => params.signed_by(&key, issuer).unwrap(),
        };
        let certificate = certificate.der().clone();
        let versions = match kind {
            Kind::AsksForCertificate(version, _) => vec![version],
            _ => rustls::DEFAULT_VERSIONS.to_vec(),
        };
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&versions).unwrap();
        let builder = match kind {
            Kind::AsksForCertificate(_, insists) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(roots(issuer.der()), provider());
                let verifier = if insists { verifier } else { verifier.allow_unauthenticated() };
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
            _ => builder.with_no_client_auth(),
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = Arc::new(builder.with_single_cert(vec![certificate.clone()], key).unwrap());
        Self { kind, certificate, config }
    }
}

async fn serve(listener: TcpListener, faces: watch::Receiver<Face>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let face = faces.borrow().clone();
        connections.spawn(one(stream, face));
    }
}

async fn one(mut stream: TcpStream, face: Face) {
    let mut some = [0; 4096];
    match face.kind {
        Kind::Silent => tokio::time::sleep(Duration::from_secs(3600)).await,
        Kind::Resets => stream.set_zero_linger().unwrap(),
        Kind::Closes => drop(stream.read(&mut some).await),
        Kind::PlainHttp => {
            if stream.read(&mut some).await.is_ok_and(|count| count > 0) {
                let _ = stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\nspeak HTTP here\n").await;
            }
        }
        _ => {
            if let Ok(mut stream) = TlsAcceptor::from(face.config).accept(stream).await {
                let mut all = Vec::new();
                if stream.read_to_end(&mut all).await.is_ok() {
                    let _ = stream.write_all(&all).await;
                    let _ = stream.shutdown().await;
                }
            }
        }
    }
}
