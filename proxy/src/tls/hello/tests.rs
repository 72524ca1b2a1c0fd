//! Openings of all kinds, in all pieces.

use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, RootCertStore, pki_types::ServerName};
use tokio::io::{AsyncWriteExt, duplex};

use super::*;
use crate::upstream::connect::testing;

/// The ClientHello of a real client.
fn hello(name: &str, alpn: &[&str]) -> Vec<u8> {
    let config: Arc<ClientConfig> = testing::client(Arc::new(RootCertStore::empty()), alpn);
    let mut connection = ClientConnection::new(config, ServerName::try_from(name.to_owned()).unwrap()).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

/// The ClientHello of a real client, padded (RFC 7685) so that record and message are `total` bytes.
fn padded(total: usize) -> Vec<u8> {
    let mut bytes = hello("registry.test", &["http/1.1"]);
    let padding = total - bytes.len() - 4;
    bytes.extend([0, 21]);
    bytes.extend((padding as u16).to_be_bytes());
    bytes.resize(total, 0);
    // Record length, message length, and the extensions' length, which stands after version, random, session,
    // ciphers and compression.
    bytes[3..5].copy_from_slice(&((total - 5) as u16).to_be_bytes());
    bytes[6..9].copy_from_slice(&((total - 9) as u32).to_be_bytes()[1..]);
    let mut at = 9 + 2 + 32;
    at += 1 + usize::from(bytes[at]);
    at += 2 + usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    at += 1 + usize::from(bytes[at]);
    bytes[at..at + 2].copy_from_slice(&((total - at - 2) as u16).to_be_bytes());
    bytes
}

async fn opening(bytes: &[u8]) -> Opening {
    read(&mut &bytes[..]).await.unwrap()
}

#[tokio::test]
async fn a_hello_says_its_name_and_protocols() {
    let bytes = hello("Registry.Test", &["h2", "http/1.1"]);
    let Opening::Hello { sni, alpn, raw } = opening(&bytes).await else { panic!() };
    assert_eq!(sni.as_deref(), Some("registry.test"));
    assert_eq!(alpn, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    assert_eq!(raw, bytes);
}

#[tokio::test]
async fn a_hello_may_come_byte_by_byte() {
    let bytes = hello("registry.test", &[]);
    let (mut theirs, mut ours) = duplex(1);
    let sent = bytes.clone();
    let client = tokio::spawn(async move {
        for byte in sent {
            theirs.write_all(&[byte]).await.unwrap();
        }
        theirs
    });
    let Opening::Hello { sni, raw, .. } = read(&mut ours).await.unwrap() else { panic!() };
    assert_eq!((sni.as_deref(), &raw[..]), (Some("registry.test"), &bytes[..]));
    client.await.unwrap();
}

#[tokio::test]
async fn a_hello_may_come_in_many_records() {
    let whole = hello("registry.test", &[]);
    let records: Vec<u8> =
        whole[5..].chunks(7).flat_map(|part| [&[0x16, 3, 1, 0, part.len() as u8], part].concat()).collect();
    let Opening::Hello { sni, raw, .. } = opening(&records).await else { panic!() };
    assert_eq!((sni.as_deref(), &raw[..]), (Some("registry.test"), &records[..]));
}

#[tokio::test]
async fn a_hello_of_sixteen_kibibytes_is_read_and_a_longer_one_is_kept() {
    for total in [4096, MAX_HELLO - 5, MAX_HELLO] {
        let bytes = padded(total);
        let opening = opening(&bytes).await;
        let Opening::Hello { sni, raw, .. } = opening else { panic!("{total}: {opening:?}") };
        assert_eq!((sni.as_deref(), raw.len()), (Some("registry.test"), total));
    }
    // One byte more needs a second record.
    let long = padded(MAX_HELLO + 1);
    let mut records = [&[0x16, 3, 1, 0x40, 0], &long[5..MAX_HELLO]].concat();
    records.extend([0x16, 3, 1, 0, 1, long[MAX_HELLO]]);
    let Opening::TooLong(raw) = opening(&records).await else { panic!() };
    assert_eq!(raw, records[..MAX_HELLO]);
}

#[tokio::test]
async fn bytes_after_the_hello_are_kept() {
    let bytes = [hello("registry.test", &[]), b"more".to_vec()].concat();
    let Opening::Hello { raw, .. } = opening(&bytes).await else { panic!() };
    assert_eq!(raw, bytes);
}

#[tokio::test]
async fn an_address_is_no_name() {
    let Opening::Hello { sni: None, .. } = opening(&hello("192.0.2.1", &[])).await else { panic!() };
}

#[tokio::test]
async fn other_protocols_are_not_tls() {
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"SSH-2.0-x\r\n", b"\x16SSH", b"\x80\x2e\x01\x03\x01", b"\0"] {
        let Opening::NotTls(raw) = opening(bytes).await else { panic!("{bytes:?}") };
        assert_eq!(raw, bytes);
    }
}

#[tokio::test]
async fn nonsense_inside_tls_is_odd() {
    // A handshake message that is no ClientHello; a record of a length that cannot be; a hello without a body.
    for bytes in
        [&b"\x16\x03\x01\0\x04\x02\0\0\0"[..], b"\x16\x03\x01\xff\xff\x01\0\0\0", b"\x16\x03\x01\0\x04\x01\0\0\0"]
    {
        let opening = opening(bytes).await;
        let Opening::Odd(raw) = opening else { panic!("{bytes:?}: {opening:?}") };
        assert_eq!(raw, bytes);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_is_silent() {
    let (_theirs, mut ours) = duplex(64);
    let begin = Instant::now();
    let Opening::Silent = read(&mut ours).await.unwrap() else { panic!() };
    assert_eq!(begin.elapsed(), SILENCE);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_hello_is_unfinished_after_five_seconds() {
    let bytes = hello("registry.test", &[]);
    let (mut theirs, mut ours) = duplex(4096);
    theirs.write_all(&bytes[..100]).await.unwrap();
    let begin = Instant::now();
    let Opening::Unfinished(raw) = read(&mut ours).await.unwrap() else { panic!() };
    assert_eq!((raw.len(), begin.elapsed()), (100, HELLO_DEADLINE));
}

#[tokio::test]
async fn a_client_that_stops_in_the_middle_is_unfinished_and_one_without_a_byte_closed() {
    let Opening::Unfinished(raw) = opening(b"\x16\x03\x01").await else { panic!() };
    assert_eq!(&raw[..], b"\x16\x03\x01");
    let Opening::Closed = opening(b"").await else { panic!() };
}

#[tokio::test]
async fn a_rewound_stream_is_the_same_stream() {
    let mut rewound = Rewind::new(Bytes::from_static(b"first "), &b"then the rest"[..]);
    let mut all = Vec::<u8>::new();
    let mut small = [0; 4];
    loop {
        match rewound.read(&mut small).await.unwrap() {
            0 => break,
            count => all.extend(&small[..count]),
        }
    }
    assert_eq!(all, b"first then the rest");
}
