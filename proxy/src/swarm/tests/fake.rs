//! A member that knows the secret and the protocol, and misbehaves in one way.

use std::net::SocketAddr;

use iroh::{
    Endpoint,
    endpoint::{Connection, RecvStream, SendStream},
};
use tokio::task::JoinSet;

use super::{loopback, secret};
use crate::{
    oci::digest::Digest,
    store::piece::{Layout, Statement},
    swarm::{
        endpoint,
        frame::{self, Answer, Ask, Hello, Request, Word},
        members::Members,
        news::Card,
        order::Pulling,
        roster::Pace,
    },
};

/// In which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trick {
    WrongBytes,
    /// Wrong bytes, and a statement that says so.
    OtherBytes,
    Silence,
    StopsMidway,
    DiesMidway,
    BadSignature,
    OtherPiece,
    HugeFrame,
    NotHere,
    Short,
    /// Takes no connection, as one that has too many.
    Refuses,
}

/// Runs until dropped.
pub(super) struct Fake {
    pub(super) addr: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Fake {
    /// Introduces itself to `to` and then serves pieces of `bytes`, or not.
    pub(super) async fn start(to: SocketAddr, trick: Trick, bytes: Vec<u8>) -> Self {
        let addr = endpoint::settle(loopback()).unwrap();
        let key = secret(1).node_key(addr);
        let members = Members::new(addr, key.clone(), "", vec![secret(1)], &[to], Pace::default());
        let endpoint = endpoint::bind(addr, key, &members).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(endpoint.clone(), addr, trick, bytes));
        let connection = endpoint.connect(members.dial(to).remove(0), frame::ALPN).await.unwrap();
        let (mut send, mut receive) = connection.open_bi().await.unwrap();
        frame::send(&mut send, &Request::Member(Ask::Hello(hello(addr)))).await.unwrap();
        let _: Answer = frame::receive(&mut receive, frame::FRAME_DEADLINE).await.unwrap();
        Self { addr, _tasks: tasks }
    }
}

fn hello(addr: SocketAddr) -> Box<Hello> {
    Box::new(Hello { card: Card::sign(&secret(1).node_key(addr), addr, 1, 1, "", false), of_you: None })
}

fn word(addr: SocketAddr, ask: Ask) -> Word {
    match ask {
        Ask::Hello(_) => Word::Hello(hello(addr)),
        Ask::Ping => Word::Pong(0),
        Ask::Reach(_) => Word::Reached(false),
        Ask::Compare(_) | Ask::Tell(_) | Ask::Remind(_) => Word::Noted,
    }
}

async fn serve(endpoint: Endpoint, addr: SocketAddr, trick: Trick, bytes: Vec<u8>) {
    let mut connections = JoinSet::new();
    while let Some(incoming) = endpoint.accept().await {
        if trick == Trick::Refuses {
            incoming.refuse();
            continue;
        }
        let bytes = bytes.clone();
        connections.spawn(async move {
            let Ok(connection) = incoming.accept().unwrap().await else { return };
            if connection.alpn() != frame::ALPN {
                return;
            }
            let mut streams = JoinSet::new();
            while let Ok((send, receive)) = connection.accept_bi().await {
                streams.spawn(stream(connection.clone(), addr, trick, bytes.clone(), send, receive));
            }
        });
    }
}

async fn stream(
    connection: Connection,
    addr: SocketAddr,
    trick: Trick,
    bytes: Vec<u8>,
    mut send: SendStream,
    mut receive: RecvStream,
) {
    let request: Request = frame::receive(&mut receive, frame::FRAME_DEADLINE).await.unwrap();
    let (blob, index) = match request {
        Request::Piece { blob, index } => (blob, index),
        Request::Member(ask) => return answer(send, &Answer::Member(word(addr, ask))).await,
        Request::Announce(_) => return answer(send, &Answer::Noted(1)).await,
        Request::Query(_) => return answer(send, &Answer::Located(None)).await,
        Request::Watch(_) => return answer(send, &Answer::Map(None)).await,
        Request::Join(_) => return answer(send, &Answer::Joined(None)).await,
        Request::Pull(_) => return answer(send, &Answer::Pulling(Pulling::failed("no"))).await,
    };
    assert_eq!(blob, Digest::of(&bytes));
    let layout = Layout::new(bytes.len() as u64).unwrap();
    let range = layout.range(index);
    let mut piece = bytes[range.start as usize..range.end as usize].to_vec();
    let key = secret(1).node_key(addr);
    let half = piece.len() / 2;
    if trick == Trick::OtherBytes {
        piece[half] ^= 1;
    }
    let stated = if trick == Trick::OtherPiece { index + 1 } else { index };
    let mut statement = Statement::sign(&key, blob, layout.size(), stated, blake3::hash(&piece).into());
    match trick {
        Trick::Silence => return std::future::pending().await,
        Trick::HugeFrame => {
            let _ = send.write_all(&[0xff; 64]).await;
            return std::future::pending().await;
        }
        Trick::NotHere => return answer(send, &Answer::Piece(None)).await,
        Trick::BadSignature => statement.signature[0] ^= 1,
        Trick::WrongBytes => piece[half] ^= 1,
        Trick::OtherBytes | Trick::OtherPiece | Trick::StopsMidway | Trick::DiesMidway => {}
        Trick::Short | Trick::Refuses => {}
    }
    if frame::send(&mut send, &Answer::Piece(Some(statement))).await.is_err() {
        return;
    }
    match trick {
        Trick::StopsMidway => {
            let _ = send.write_all(&piece[..half]).await;
            std::future::pending().await
        }
        Trick::DiesMidway => {
            let _ = send.write_all(&piece[..half]).await;
            connection.close(0u32.into(), b"dead");
        }
        Trick::Short => {
            let _ = send.write_all(&piece[..half]).await;
            let _ = send.finish();
        }
        _ => {
            let _ = send.write_all(&piece).await;
            let _ = send.finish();
        }
    }
}

async fn answer(mut send: SendStream, answer: &Answer) {
    let _ = frame::send(&mut send, answer).await;
    let _ = send.finish();
    let _ = send.stopped().await;
}
