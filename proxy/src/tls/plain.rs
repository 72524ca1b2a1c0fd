//! Which host a plain-HTTP request is for. It reads the head of the first request and keeps every byte; requests
//! as such belong to `http`.

use std::{io, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout,
};

/// The largest request head we look at.
const MAX_HEAD: usize = 16 * 1024;
/// How long a client may take for the head of its first request.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);
/// More headers than any runtime sends; a request with more is not for us.
const MAX_HEADERS: usize = 64;

/// Reads on from `raw` until the head of the first request has ended. Returns the host of its `Host` header,
/// lower-case and without the port, and all bytes read. No host: not HTTP/1, too long, too slow, or without one.
pub async fn host<IO: AsyncRead + Unpin>(io: &mut IO, raw: Bytes) -> io::Result<(Option<String>, Bytes)> {
    let mut raw = Vec::from(raw);
    let read = timeout(HEAD_DEADLINE, async {
        loop {
            match parse(&raw) {
                Head::Host(host) => return io::Result::Ok(Some(host)),
                Head::None => return Ok(None),
                Head::Partial if raw.len() >= MAX_HEAD => return Ok(None),
                Head::Partial => {}
            }
            let room = (MAX_HEAD - raw.len()) as u64;
            if (&mut *io).take(room).read_buf(&mut raw).await? == 0 {
                return Ok(None);
            }
        }
    })
    .await;
    let host = read.unwrap_or(Ok(None))?;
    Ok((host, raw.into()))
}

enum Head {
    Partial,
    Host(String),
    None,
}

fn parse(raw: &[u8]) -> Head {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(raw) {
        Ok(httparse::Status::Partial) => Head::Partial,
        Ok(httparse::Status::Complete(_)) => {
            let mut hosts = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("host"));
            match (hosts.next().map(|header| str::from_utf8(header.value)), hosts.next()) {
                (Some(Ok(host)), None) => {
                    let name = host.split_once(':').map_or(host, |(name, _)| name);
                    Head::Host(name.to_ascii_lowercase())
                }
                _ => Head::None,
            }
        }
        Err(_) => Head::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn finds_the_host_and_keeps_every_byte() {
        let request = b"GET /v2/ HTTP/1.1\r\nAccept: */*\r\nhOSt: Registry.Test:5001\r\n\r\nrest";
        for split in 1..request.len() - 4 {
            let (mut head, tail) = (Bytes::copy_from_slice(&request[..split]), &request[split..]);
            let mut io = tail;
            let (host, raw) = host(&mut io, head.split_off(0)).await.unwrap();
            assert_eq!(host.as_deref(), Some("registry.test"), "split at {split}");
            assert_eq!([&raw[..], io].concat(), request);
        }
    }

    #[tokio::test]
    async fn what_is_not_one_clear_host_has_none() {
        for request in [
            &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET / HTTP/1.0\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a.te",
        ] {
            let mut nothing_more = &b""[..];
            let (host, raw) = host(&mut nothing_more, Bytes::from_static(request)).await.unwrap();
            assert_eq!((host, &raw[..]), (None, request));
        }
    }

    #[tokio::test]
    async fn an_endless_head_is_given_up() {
        let endless = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'x'; MAX_HEAD]].concat();
        let (host, raw) = host(&mut &endless[4..], Bytes::copy_from_slice(&endless[..4])).await.unwrap();
        assert_eq!((host, raw.len()), (None, MAX_HEAD));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_head_is_given_up() {
        let (mut ours, _theirs) = tokio::io::duplex(64);
        let (host, raw) = host(&mut ours, Bytes::from_static(b"GET /")).await.unwrap();
        assert_eq!((host, &raw[..]), (None, &b"GET /"[..]));
    }
}
