//! Reads the first bytes of a connection, just enough to know what it is, and keeps every one of them: whoever
//! goes on gets them again. It answers nothing and decides nothing.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use rustls::server::Acceptor;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    time::{Instant, timeout_at},
};

use super::splice::Abort;

/// The largest ClientHello we look at: one full TLS record (RFC 8446 5.1). Those of today are 300 to 1,800 bytes.
pub const MAX_HELLO: usize = 16 * 1024 + 5;
/// How long a client may take for its whole ClientHello.
pub const HELLO_DEADLINE: Duration = Duration::from_secs(5);
/// A client silent for this long waits for the server to speak first.
pub const SILENCE: Duration = Duration::from_secs(1);

/// The first byte of a TLS record that carries a handshake, and the major version that follows it in all versions.
const HANDSHAKE_RECORD: [u8; 2] = [0x16, 0x03];

/// What a client began with. `raw` is all that was read: nothing of it may be lost.
#[derive(Debug)]
pub enum Opening {
    /// A whole ClientHello, perhaps with bytes after it.
    Hello {
        /// The DNS name asked for, lower-case. `None`: no SNI, or not a DNS name (an address).
        sni: Option<String>,
        /// The protocols offered, in the client's order; empty when it offered none.
        alpn: Vec<Vec<u8>>,
        /// All bytes read.
        raw: Bytes,
    },
    /// Begins with something else than a TLS handshake.
    NotTls(Bytes),
    /// Begins as TLS, but no ClientHello can be read out of it.
    Odd(Bytes),
    /// No end of the ClientHello within [`MAX_HELLO`].
    TooLong(Bytes),
    /// No end of the ClientHello within [`HELLO_DEADLINE`], or the client stopped sending in the middle of it.
    Unfinished(Bytes),
    /// Not a byte for [`SILENCE`].
    Silent,
    /// Closed without a byte.
    Closed,
}

/// Reads from `io` until it is known what the client began with.
pub async fn read<IO: AsyncRead + Unpin>(io: &mut IO) -> io::Result<Opening> {
    let begin = Instant::now();
    let mut raw = Vec::with_capacity(2048);
    let mut acceptor = Acceptor::default();
    loop {
        let fed = raw.len();
        let end = begin + if fed == 0 { SILENCE } else { HELLO_DEADLINE };
        let room = (MAX_HELLO - fed) as u64;
        match timeout_at(end, (&mut *io).take(room).read_buf(&mut raw)).await {
            Err(_) if fed == 0 => return Ok(Opening::Silent),
            Err(_) => return Ok(Opening::Unfinished(raw.into())),
            Ok(Ok(0)) if fed == 0 => return Ok(Opening::Closed),
            Ok(Ok(0)) => return Ok(Opening::Unfinished(raw.into())),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
        }
        let known = raw.len().min(HANDSHAKE_RECORD.len());
        if raw[..known] != HANDSHAKE_RECORD[..known] {
            return Ok(Opening::NotTls(raw.into()));
        }
        match feed(&mut acceptor, &raw[fed..]) {
            Fed::Hello { sni, alpn } => return Ok(Opening::Hello { sni, alpn, raw: raw.into() }),
            Fed::Odd => return Ok(Opening::Odd(raw.into())),
            Fed::Incomplete if raw.len() >= MAX_HELLO => return Ok(Opening::TooLong(raw.into())),
            Fed::Incomplete => {}
        }
    }
}

enum Fed {
    Incomplete,
    Hello { sni: Option<String>, alpn: Vec<Vec<u8>> },
    Odd,
}

/// Gives the parser what has come in. It takes a handshake message in as many records as the client likes.
fn feed(acceptor: &mut Acceptor, mut bytes: &[u8]) -> Fed {
    while !bytes.is_empty() {
        // Zero bytes taken, or an error, is a parser that wants no more and has no answer.
        if !matches!(acceptor.read_tls(&mut bytes), Ok(1..)) {
            return Fed::Odd;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let sni = hello.server_name().map(str::to_ascii_lowercase);
                let alpn = hello.alpn().map(|offers| offers.map(<[u8]>::to_vec).collect()).unwrap_or_default();
                return Fed::Hello { sni, alpn };
            }
            // The alert that rustls would send is dropped: the true destination answers, not we.
            Err(_) => return Fed::Odd,
        }
    }
    Fed::Incomplete
}

/// A connection whose first bytes were read once and are read again.
#[derive(Debug)]
pub struct Rewind<IO> {
    first: Bytes,
    io: IO,
}

impl<IO> Rewind<IO> {
    /// `io` with `first` before what is still to come from it.
    pub fn new(first: Bytes, io: IO) -> Self {
        Self { first, io }
    }
}

impl<IO: Abort> Abort for Rewind<IO> {
    fn abort(&self) {
        self.io.abort();
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Rewind<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let count = self.first.len().min(buf.remaining());
        buf.put_slice(&self.first[..count]);
        self.first.advance(count);
        if self.first.is_empty() {
            // Otherwise an idle connection holds its ClientHello for hours.
            self.first = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Rewind<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
