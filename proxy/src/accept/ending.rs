//! How a client sees the end of a connection that was not ended in order: a crash of ours, or a response cut short.
//!
//! Clients differ in what they try again. containerd goes on after an unexpected end of the stream, but not after a reset.
//! The library of podman, skopeo, buildah and CRI-O did not before its version 5.24, while it tries a whole pull again
//! after a reset. So each is given the end that it can live with.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::tls::Abort;

/// Programs that are built on containers/image, by `comm`.
const LIKE_A_RESET: [&str; 4] = ["podman", "skopeo", "buildah", "crio"];

/// A client's socket. Shut down, it ends in order; dropped without, or by the death of this process, as suits the client.
pub(super) struct Ending(TcpStream);

impl Ending {
    /// Prepares the end of a connection to the program called `comm`.
    pub(super) fn for_program(stream: TcpStream, comm: &str) -> Self {
        if LIKE_A_RESET.contains(&comm) {
            // Refused, it ends as any other.
            let _ = stream.set_zero_linger();
        }
        Self(stream)
    }
}

impl Abort for Ending {
    fn abort(&self) {
        self.0.abort();
    }
}

impl AsyncRead for Ending {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Ending {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What was written last must arrive; a reset would throw it away.
        let _ = SockRef::from(&self.0).set_linger(None);
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// What the client reads at the end of a connection to `comm`: bytes before it, and how it ends.
    async fn end(comm: &str, in_order: bool) -> (Vec<u8>, io::Result<usize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut server = Ending::for_program(listener.accept().await.unwrap().0, comm);
        server.write_all(b"body").await.unwrap();
        if in_order {
            server.shutdown().await.unwrap();
        }
        let mut got = [0; 4];
        client.read_exact(&mut got).await.unwrap();
        drop(server);
        (got.to_vec(), client.read(&mut [0; 1]).await)
    }

    #[tokio::test]
    async fn ends_as_each_client_tries_again() {
        let (body, end_of_podman) = end("podman", false).await;
        assert_eq!(body, b"body");
        assert_eq!(end_of_podman.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(end("containerd", false).await.1.unwrap(), 0);
    }

    #[tokio::test]
    async fn an_orderly_end_is_the_same_for_all() {
        assert_eq!(end("podman", true).await.1.unwrap(), 0);
        assert_eq!(end("containerd", true).await.1.unwrap(), 0);
    }
}
