//! A server that is no registry and speaks no HTTP: it shows whether bytes pass untouched in both directions.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// A listener on a free port of loopback that says its greeting first and then gives every byte back, until it is
/// dropped.
pub struct Wire {
    addr: SocketAddr,
    received: Arc<Mutex<Vec<u8>>>,
    arrived: watch::Sender<usize>,
    task: JoinHandle<()>,
}

impl Wire {
    /// Gives every byte back.
    pub async fn echo() -> Self {
        Self::greeting("").await
    }

    /// Says this at once, as servers of mail and databases do, and then gives every byte back.
    pub async fn greeting(greeting: impl Into<Bytes>) -> Self {
        let greeting = greeting.into();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let received = Arc::new(Mutex::new(Vec::new()));
        let arrived = watch::Sender::new(0);
        let (log, count) = (received.clone(), arrived.clone());
        let task = tokio::spawn(async move {
            let mut lines = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                lines.spawn(line(stream, greeting.clone(), log.clone(), count.clone()));
            }
        });
        Self { addr, received, arrived, task }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// All bytes that arrived so far.
    pub fn received(&self) -> Vec<u8> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until this many bytes have arrived in all.
    pub async fn arrived(&self, bytes: usize) {
        let mut arrived = self.arrived.subscribe();
        let enough =
            tokio::time::timeout(std::time::Duration::from_secs(20), arrived.wait_for(|&count| count >= bytes));
        assert!(matches!(enough.await, Ok(Ok(_))), "{} of {bytes} bytes arrived", self.received().len());
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn line(mut stream: TcpStream, greeting: Bytes, log: Arc<Mutex<Vec<u8>>>, count: watch::Sender<usize>) {
    let mut buffer = vec![0; 16 << 10];
    if stream.write_all(&greeting).await.is_err() {
        return;
    }
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        log.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..length]);
        count.send_modify(|count| *count += length);
        if stream.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    // The other side has said all; what it still reads was said before this.
    let _ = stream.shutdown().await;
}
