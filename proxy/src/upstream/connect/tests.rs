//! Each way in which a registry can be wrong has its own answer.

use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    testing::{Kind, NAME, Refusing, Upstream},
    *,
};

const DEADLINE: Duration = Duration::from_secs(3);

async fn to(kind: Kind) -> Connected {
    let upstream = Upstream::start(kind).await;
    connect(OrigDst(upstream.addr), NAME, upstream.roots.clone(), DEADLINE).await
}

#[tokio::test]
async fn a_good_registry_is_verified_and_usable() {
    let upstream = Upstream::start(Kind::Good).await;
    let connected = connect(OrigDst(upstream.addr), NAME, upstream.roots.clone(), DEADLINE).await;
    let Connected::Verified(mut verified) = connected else { panic!("{connected:?}") };
    assert_eq!(verified.remote(), upstream.addr);
    verified.write_all(b"hello").await.unwrap();
    verified.shutdown().await.unwrap();
    let mut echo = Vec::new();
    verified.read_to_end(&mut echo).await.unwrap();
    assert_eq!(echo, b"hello");
}

#[tokio::test]
async fn a_request_for_a_client_certificate_is_noticed() {
    for version in [&TLS12, &TLS13] {
        for insists in [true, false] {
            let connected = to(Kind::AsksForCertificate(version, insists)).await;
            assert!(matches!(connected, Connected::WantsClientCert), "{:?} {insists}: {connected:?}", version.version);
        }
    }
}

#[tokio::test]
async fn wrong_certificates_do_not_verify() {
    for kind in [Kind::Expired, Kind::SelfSigned, Kind::OtherName] {
        let connected = to(kind).await;
        let Connected::Unverified(rustls::Error::InvalidCertificate(_)) = connected else {
            panic!("{kind:?}: {connected:?}")
        };
    }
}

#[tokio::test]
async fn what_does_not_speak_tls_is_not_tls() {
    for kind in [Kind::PlainHttp, Kind::Closes] {
        let connected = to(kind).await;
        assert!(matches!(connected, Connected::NotTls), "{kind:?}: {connected:?}");
    }
}

#[tokio::test]
async fn a_refused_connection_is_unreachable() {
    let nobody = Refusing::new();
    let connected = connect(OrigDst(nobody.addr()), NAME, Arc::new(RootCertStore::empty()), DEADLINE).await;
    let Connected::Unreachable(error) = connected else { panic!("{connected:?}") };
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_registry_that_breaks_off_is_unreachable() {
    let connected = to(Kind::Resets).await;
    assert!(matches!(connected, Connected::Unreachable(_)), "{connected:?}");
}

#[tokio::test(start_paused = true)]
async fn silence_is_unreachable_after_the_deadline() {
    let upstream = Upstream::start(Kind::Silent).await;
    let begin = Instant::now();
    let connected = connect(OrigDst(upstream.addr), NAME, upstream.roots.clone(), DEADLINE).await;
    let Connected::Unreachable(error) = connected else { panic!("{connected:?}") };
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(begin.elapsed() >= DEADLINE && begin.elapsed() < DEADLINE * 2);
}
