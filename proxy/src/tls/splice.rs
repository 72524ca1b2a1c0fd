//! Carries bytes between a client and the destination it wanted, untouched. The worst case of everything else.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes},
    net::TcpStream,
};

use crate::dial::{self, OrigDst};

/// As long as container runtimes wait for a connection themselves: we must not be the one who gives up.
const DIAL_DEADLINE: Duration = Duration::from_secs(30);
/// A buffer for each direction. Thousands of idle tunnels must not cost hundreds of megabytes.
const BUFFER: usize = 32 * 1024;

/// Connects to `dst` and carries bytes both ways until both sides have ended. The end of one direction is passed
/// on while the other goes on. There is no idle timeout: dead peers are found by TCP's keepalive.
///
/// `sent` and `received` count what reached the destination and what came from it, also when this is dropped or
/// fails.
pub async fn run<IO>(mut client: IO, dst: OrigDst, sent: &mut u64, received: &mut u64) -> io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Abort + Unpin,
{
    let stream = match dial::tcp(dst.0, DIAL_DEADLINE).await {
        Ok(stream) => stream,
        Err(error) => {
            client.abort();
            return Err(error);
        }
    };
    let mut server = Counted { stream, sent, received };
    let copied = copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER).await;
    if copied.is_err() {
        // One side broke: the other must not take what it got so far for the whole.
        client.abort();
        server.stream.abort();
    }
    copied.map(drop)
}

/// A connection that can be broken off, so that the other end sees a failure and not an end.
pub trait Abort {
    /// Makes the coming drop a reset. Where that cannot be had, the drop is an ordinary close.
    fn abort(&self);
}

impl Abort for TcpStream {
    fn abort(&self) {
        // Fails only on a socket that is no longer connected, which needs no reset.
        let _ = self.set_zero_linger();
    }
}

#[cfg(test)]
impl Abort for tokio::io::DuplexStream {
    fn abort(&self) {}
}

/// The destination's side of the tunnel, with its bytes counted.
struct Counted<'a> {
    stream: TcpStream,
    sent: &'a mut u64,
    received: &'a mut u64,
}

impl AsyncRead for Counted<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        *self.received += (buf.filled().len() - before) as u64;
        polled
    }
}

impl AsyncWrite for Counted<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(count)) = polled {
            *self.sent += count as u64;
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
