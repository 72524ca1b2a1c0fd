//! Whole connections: what the client sees, what is served, and what is told of it.

#![expect(clippy::disallowed_methods, reason = "these are the clients, on loopback")]

use std::{net::SocketAddr, sync::Mutex};

use rustls::{pki_types::ServerName, version::TLS13};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{Duration, advance, pause, resume},
};
use tokio_rustls::TlsConnector;

use super::*;
use crate::upstream::connect::testing::{self, Kind, NAME, Upstream, roots, self_signed};

/// Trusts or not, as told.
struct Told(Mutex<Result<Trusted, Reason>>);

type Trusted = (Arc<CertifiedKey>, Arc<RootCertStore>);

impl Trust for Told {
    fn decide(&self, _: &Caught, _: &RegistryName) -> TrustDecision {
        match &*self.0.lock().unwrap() {
            Ok((key, roots)) => TrustDecision::Terminate { key: key.clone(), roots: roots.clone() },
            Err(reason) => TrustDecision::Splice(*reason),
        }
    }

    fn admits_plain(&self, _: &Caught, _: &RegistryName) -> Result<(), Reason> {
        self.0.lock().unwrap().as_ref().map(drop).map_err(|reason| *reason)
    }
}

/// Echoes everything after its own greeting, and tells of its sessions.
struct Echo(mpsc::UnboundedSender<Session>);

impl Serve for Echo {
    async fn serve<IO>(&self, mut io: IO, session: Session)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.0.send(session).unwrap();
        let mut all = Vec::from(b"waylay:");
        io.read_to_end(&mut all).await.unwrap();
        io.write_all(&all).await.unwrap();
        io.shutdown().await.unwrap();
    }
}

/// A way in to one destination.
struct Front {
    tls: Arc<Tls<Told, Echo>>,
    sessions: mpsc::UnboundedReceiver<Session>,
    dst: OrigDst,
    /// Our certificate, which the client is supposed to trust.
    identity: Arc<CertifiedKey>,
}

impl Front {
    fn new(dst: SocketAddr, upstream_roots: Arc<RootCertStore>) -> Self {
        let identity = self_signed();
        let (tell, sessions) = mpsc::unbounded_channel();
        let here = RegistryName { host: NAME.into(), port: dst.port() };
        let listed = Listing::new(Listed { tls: [here.clone()].into(), plain: [here].into() });
        let trust = Told(Mutex::new(Ok((identity.clone(), upstream_roots))));
        let tls = Arc::new(Tls::new(listed, Arc::new(trust), Echo(tell)));
        Self { tls, sessions, dst: OrigDst(dst), identity }
    }

    fn to(upstream: &Upstream) -> Self {
        Self::new(upstream.addr, upstream.roots.clone())
    }

    fn distrusts(&self, reason: Reason) {
        *self.tls.trust.0.lock().unwrap() = Err(reason);
    }

    /// Takes a connection through, with `client` at its other end.
    async fn connection<A>(&self, client: impl AsyncFnOnce(DuplexStream) -> A) -> (A, ConnectionOutcome) {
        let (theirs, ours) = duplex(64 * 1024);
        let mut outcome = ConnectionOutcome::new(ClientAddr(([127, 0, 0, 1], 9).into()));
        let caught = Caught { dst: self.dst, pid: Some(std::process::id()), comm: "a-thread".into() };
        let (seen, ()) = tokio::join!(client(theirs), self.tls.connection(ours, &caught, &mut outcome));
        (seen, outcome)
    }

    /// What a TLS client that trusts us, and `also` these, sees.
    async fn visit(&self, also: &RootCertStore) -> (Result<Seen, String>, ConnectionOutcome) {
        let mut trusted = also.clone();
        trusted.add(self.identity.cert[0].clone()).unwrap();
        self.connection(async |io| visit(io, trusted.into(), &["http/1.1"]).await).await
    }
}

/// What a client saw.
#[derive(Debug, PartialEq)]
struct Seen {
    certificate: Vec<u8>,
    alpn: Option<Vec<u8>>,
    echo: Vec<u8>,
}

/// A TLS client's whole life on `io`: says "hello" and reads to the end.
async fn visit<IO>(io: IO, roots: Arc<RootCertStore>, alpn: &[&str]) -> Result<Seen, String>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let connector = TlsConnector::from(testing::client(roots, alpn));
    let name = ServerName::try_from(NAME).unwrap();
    let mut stream = connector.connect(name, io).await.map_err(|error| error.to_string())?;
    let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    let alpn = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
    let mut echo = Vec::new();
    async {
        stream.write_all(b"hello").await?;
        stream.shutdown().await?;
        stream.read_to_end(&mut echo).await
    }
    .await
    .map_err(|error| error.to_string())?;
    Ok(Seen { certificate, alpn, echo })
}

#[tokio::test]
async fn a_trusting_client_of_a_good_registry_is_answered_by_us() {
    let upstream = Upstream::start(Kind::Good).await;
    let mut front = Front::to(&upstream);
    let (seen, outcome) = front.visit(&RootCertStore::empty()).await;
    let ours = Seen {
        certificate: front.identity.cert[0].to_vec(),
        alpn: Some(b"http/1.1".to_vec()),
        echo: b"waylay:hello".to_vec(),
    };
    assert_eq!(seen.unwrap(), ours);
    assert_eq!(
        (outcome.reason, outcome.registry()),
        (Reason::Verified, Some(format!("{NAME}:{}", upstream.addr.port()).parse().unwrap()))
    );
    let session = front.sessions.recv().await.unwrap();
    assert_eq!((session.dst, session.plain, session.first.is_some()), (front.dst, false, true));
    assert_eq!(session.program, std::env::current_exe().unwrap().file_name().unwrap().to_str().unwrap());

    let (seen, outcome) = front.visit(&RootCertStore::empty()).await;
    assert_eq!((seen.unwrap(), outcome.reason), (ours, Reason::VerifiedBefore));
    assert!(front.sessions.recv().await.unwrap().first.is_none());
}

#[tokio::test]
async fn http2_is_spoken_with_those_who_offer_it_and_others_pass() {
    let upstream = Upstream::start(Kind::Good).await;
    let front = Front::to(&upstream);
    for (offer, agreed) in [(&["h2", "http/1.1"][..], Some(b"h2".to_vec())), (&[], None)] {
        let trusted = roots(&front.identity.cert[0]);
        let (seen, _) = front.connection(async |io| visit(io, trusted, offer).await).await;
        assert_eq!(seen.unwrap().alpn, agreed);
    }
    let (seen, outcome) = front.connection(async |io| visit(io, upstream.roots.clone(), &["acme-tls/1"]).await).await;
    assert_eq!((seen.unwrap().echo, outcome.reason), (b"hello".to_vec(), Reason::OtherProtocol));
}

#[tokio::test]
async fn a_registry_that_is_wrong_looks_as_it_does_without_us() {
    for (kind, reason) in [
        (Kind::Expired, Reason::UpstreamUnverified),
        (Kind::SelfSigned, Reason::UpstreamUnverified),
        (Kind::OtherName, Reason::UpstreamUnverified),
        (Kind::AsksForCertificate(&TLS13, true), Reason::UpstreamWantsCertificate),
        (Kind::AsksForCertificate(&TLS13, false), Reason::UpstreamWantsCertificate),
        (Kind::PlainHttp, Reason::UpstreamNotTls),
        (Kind::Closes, Reason::UpstreamNotTls),
    ] {
        let upstream = Upstream::start(kind).await;
        let front = Front::to(&upstream);
        let direct = TcpStream::connect(upstream.addr).await.unwrap();
        let direct = visit(direct, upstream.roots.clone(), &["http/1.1"]).await;
        let (through, outcome) = front.visit(&upstream.roots).await;
        assert_eq!(through, direct, "{kind:?}");
        assert_eq!(outcome.reason, reason, "{kind:?}");
    }
}

#[tokio::test]
async fn a_client_that_may_not_trust_us_talks_to_the_registry_itself() {
    let upstream = Upstream::start(Kind::Good).await;
    let front = Front::to(&upstream);
    front.distrusts(Reason::CallerInPod);
    let (seen, outcome) = front.visit(&upstream.roots).await;
    let seen = seen.unwrap();
    assert_eq!((seen.certificate, seen.echo), (upstream.certificate().to_vec(), b"hello".to_vec()));
    assert_eq!(outcome.reason, Reason::CallerInPod);
    assert!(outcome.sent > 100 && outcome.received > 100);
}

#[tokio::test]
async fn a_client_that_refuses_us_is_left_alone_for_ten_minutes() {
    let upstream = Upstream::start(Kind::Good).await;
    let front = Front::to(&upstream);
    let distrusting = async || front.connection(async |io| visit(io, upstream.roots.clone(), &[]).await).await;
    for _ in 0..2 {
        let (seen, outcome) = distrusting().await;
        assert!(seen.is_err());
        assert_eq!((outcome.reason, outcome.reason.decision()), (Reason::ClientRefused, Decision::Terminate));
        let (seen, outcome) = distrusting().await;
        assert_eq!((seen.unwrap().echo, outcome.reason), (b"hello".to_vec(), Reason::RefusedBefore));
        pause();
        advance(Duration::from_secs(600)).await;
        resume();
    }
}

#[tokio::test]
async fn closing_in_the_handshake_is_a_refusal_too() {
    let upstream = Upstream::start(Kind::Good).await;
    let front = Front::to(&upstream);
    let (_, outcome) = front
        .connection(async |mut io| {
            io.write_all(&hello()).await.unwrap();
            io.read_exact(&mut [0; 100]).await.unwrap();
        })
        .await;
    assert_eq!(outcome.reason, Reason::ClientRefused);
    let (seen, _) = front.visit(&upstream.roots).await;
    assert_eq!(seen.unwrap().echo, b"hello");
}

#[tokio::test]
async fn a_client_that_stalls_in_the_handshake_is_given_up_after_ten_seconds_without_blame() {
    let upstream = Upstream::start(Kind::Good).await;
    let mut front = Front::to(&upstream);
    let (_, _) = front.visit(&RootCertStore::empty()).await;
    pause();
    let (_, outcome) = front
        .connection(async |mut io| {
            io.write_all(&hello()).await.unwrap();
            io.read_to_end(&mut Vec::new()).await.unwrap();
        })
        .await;
    assert_eq!(outcome.reason, Reason::ClientStalled);
    assert!((10..15).contains(&outcome.age().as_secs()));
    resume();
    front.sessions.recv().await.unwrap();
    let (_, outcome) = front.visit(&RootCertStore::empty()).await;
    assert!(matches!(outcome.reason, Reason::Verified | Reason::VerifiedBefore));
}

#[tokio::test]
async fn a_registry_that_is_away_is_stood_in_for_when_it_was_good() {
    let upstream = Upstream::start(Kind::Good).await;
    let front = Front::to(&upstream);
    let (_, outcome) = front.visit(&RootCertStore::empty()).await;
    assert_eq!(outcome.reason, Reason::Verified);
    upstream.turn(Kind::Resets);
    pause();
    advance(Duration::from_secs(60)).await;
    resume();
    let (seen, outcome) = front.visit(&RootCertStore::empty()).await;
    assert_eq!((seen.unwrap().echo, outcome.reason), (b"waylay:hello".to_vec(), Reason::LastGood));

    let never_seen = Upstream::start(Kind::Resets).await;
    let (seen, outcome) = Front::to(&never_seen).visit(&RootCertStore::empty()).await;
    assert!(seen.is_err());
    assert_eq!(outcome.reason, Reason::UpstreamUnreachable);
}

/// A destination that says `banner`, reads to the end, and returns what it got.
async fn recorder(banner: &'static [u8]) -> (SocketAddr, tokio::task::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(banner).await.unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        stream.write_all(b"bye").await.unwrap();
        got
    });
    (addr, task)
}

/// The ClientHello of a client that wants [`NAME`].
fn hello() -> Vec<u8> {
    let name = ServerName::try_from(NAME).unwrap();
    let config = testing::client(Arc::new(RootCertStore::empty()), &[]);
    let mut client = rustls::ClientConnection::new(config, name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn what_is_not_for_us_passes_byte_for_byte() {
    let mut unlisted = hello();
    let at = unlisted.windows(NAME.len()).position(|window| window == NAME.as_bytes()).unwrap();
    unlisted[at] = b'x';
    let too_long = [&b"\x16\x03\x01\x40\x00\x01\x00\x60\x00"[..], &[0; 20_000]].concat();
    for (bytes, reason) in [
        (&unlisted[..], Reason::Unlisted),
        (b"SSH-2.0-client\r\n", Reason::NotTls),
        (b"\x16\x03\x01\0\x04\x02\0\0\0", Reason::HelloOdd),
        (&hello()[..50], Reason::HelloUnfinished),
        (&too_long, Reason::HelloTooLong),
        (b"GET /v2/ HTTP/1.1\r\nHost: elsewhere.test\r\n\r\n", Reason::Unlisted),
    ] {
        let (addr, got) = recorder(b"hi ").await;
        let front = Front::new(addr, Arc::new(RootCertStore::empty()));
        let (seen, outcome) = front
            .connection(async |mut io| {
                io.write_all(bytes).await.unwrap();
                io.shutdown().await.unwrap();
                let mut seen = Vec::new();
                io.read_to_end(&mut seen).await.unwrap();
                seen
            })
            .await;
        assert_eq!((outcome.reason, outcome.reason.decision()), (reason, Decision::Splice));
        assert!(got.await.unwrap() == bytes, "{reason}");
        assert_eq!((&seen[..], outcome.sent, outcome.received), (&b"hi bye"[..], bytes.len() as u64, 6), "{reason}");
    }
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_after_a_second() {
    let (addr, got) = recorder(b"220 ready\r\n").await;
    let front = Front::new(addr, Arc::new(RootCertStore::empty()));
    let (_, outcome) = front
        .connection(async |mut io| {
            let mut banner = [0; 11];
            io.read_exact(&mut banner).await.unwrap();
            assert_eq!(&banner, b"220 ready\r\n");
            io.write_all(b"QUIT\r\n").await.unwrap();
        })
        .await;
    assert_eq!(outcome.reason, Reason::Silent);
    assert_eq!(got.await.unwrap(), b"QUIT\r\n");
}

#[tokio::test]
async fn a_plain_registry_is_served_with_every_byte() {
    let mut front = Front::new(([127, 0, 0, 1], 5001).into(), Arc::new(RootCertStore::empty()));
    let request = format!("GET /v2/ HTTP/1.1\r\nHost: {NAME}:5001\r\n\r\n");
    let (seen, outcome) = front
        .connection(async |mut io| {
            io.write_all(request.as_bytes()).await.unwrap();
            io.shutdown().await.unwrap();
            let mut seen = String::new();
            io.read_to_string(&mut seen).await.unwrap();
            seen
        })
        .await;
    assert_eq!((seen, outcome.reason), (format!("waylay:{request}"), Reason::PlainHttp));
    let session = front.sessions.recv().await.unwrap();
    assert!(session.plain && session.roots.is_none() && session.registry.port == 5001);
}

#[tokio::test]
async fn a_client_that_leaves_at_once_costs_nothing() {
    let front = Front::new(([127, 0, 0, 1], 1).into(), Arc::new(RootCertStore::empty()));
    let ((), outcome) = front.connection(async |io| drop(io)).await;
    assert_eq!((outcome.reason, outcome.reason.decision()), (Reason::ClientGone, Decision::Close));
}

#[test]
fn programs_are_named_by_their_file() {
    assert_eq!(readable("/usr/bin/containerd (deleted)"), "containerd");
    assert_eq!(readable("containerd"), "containerd");
}
