//! Bytes arrive as they were sent, and the end of one direction is not the end of the other.

#![expect(clippy::disallowed_methods, reason = "these are the clients, on loopback")]

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    net::TcpListener,
};

use super::*;
use crate::upstream::connect::testing::Refusing;

/// A listener and its address as a destination.
async fn destination() -> (TcpListener, OrigDst) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dst = OrigDst(listener.local_addr().unwrap());
    (listener, dst)
}

/// Bytes without a period, so that nothing can be lost or doubled unseen.
fn noise(len: u32) -> Vec<u8> {
    (0..len).flat_map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()).collect()
}

#[tokio::test]
async fn bytes_pass_exactly_and_each_direction_ends_by_itself() {
    let (listener, dst) = destination().await;
    let (mut client, ours) = duplex(1000);
    let (up, down) = (noise(300_000), noise(500_000));
    let (up_sent, down_sent) = (up.clone(), down.clone());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut got = Vec::new();
        // Sees the client's end, and only then speaks.
        stream.read_to_end(&mut got).await.unwrap();
        stream.write_all(&down_sent).await.unwrap();
        got
    });
    let tunnel = tokio::spawn(async move {
        let (mut sent, mut received) = (0, 0);
        run(ours, dst, &mut sent, &mut received).await.unwrap();
        (sent, received)
    });
    client.write_all(&up_sent).await.unwrap();
    client.shutdown().await.unwrap();
    let mut got = Vec::new();
    client.read_to_end(&mut got).await.unwrap();
    assert!(got == down && server.await.unwrap() == up);
    assert_eq!(tunnel.await.unwrap(), (up.len() as u64, down.len() as u64));
}

#[tokio::test]
async fn the_servers_end_comes_first_and_the_client_goes_on() {
    let (listener, dst) = destination().await;
    let (mut client, ours) = duplex(1000);
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"banner").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        got
    });
    let tunnel = tokio::spawn(async move { run(ours, dst, &mut 0, &mut 0).await });
    let mut banner = Vec::new();
    client.read_to_end(&mut banner).await.unwrap();
    assert_eq!(banner, b"banner");
    client.write_all(b"still here").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(server.await.unwrap(), b"still here");
    tunnel.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_reset_destination_resets_the_client_and_is_counted_so_far() {
    let (listener, dst) = destination().await;
    let (front, front_addr) = destination().await;
    let mut client = TcpStream::connect(front_addr.0).await.unwrap();
    let (ours, _) = front.accept().await.unwrap();
    let (sent, received) = (&mut 0, &mut 0);
    let tunnel = run(ours, dst, sent, received);
    let script = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        client.write_all(b"ask").await.unwrap();
        stream.read_exact(&mut [0; 3]).await.unwrap();
        stream.write_all(b"half").await.unwrap();
        let mut half = [0; 4];
        client.read_exact(&mut half).await.unwrap();
        stream.set_zero_linger().unwrap();
        drop(stream);
        client.read(&mut [0; 1]).await
    };
    let (tunnel, script) = tokio::join!(tunnel, script);
    assert_eq!(tunnel.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(script.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!((*sent, *received), (3, 4));
}

#[tokio::test]
async fn a_refused_destination_resets_the_client() {
    let nobody = Refusing::new();
    let (front, front_addr) = destination().await;
    let mut client = TcpStream::connect(front_addr.0).await.unwrap();
    let (ours, _) = front.accept().await.unwrap();
    assert_eq!(
        run(ours, OrigDst(nobody.addr()), &mut 0, &mut 0).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionRefused
    );
    assert_eq!(client.read(&mut [0; 1]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}
