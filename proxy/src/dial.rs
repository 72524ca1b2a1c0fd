//! The only place that opens outgoing TCP. Every socket carries our mark, so that the kernel program never
//! catches our own traffic. It knows addresses only: what is said over the connection is not its business.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpSocket, TcpStream, lookup_host},
    time::timeout,
};

/// Half-open connections (a peer that lost power) are found after about three minutes: they hold a permit.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Where a client comes from. IPv4 is always written as IPv4, never mapped into IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientAddr(pub SocketAddr);

/// Where a client wanted to go before the kernel sent it to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OrigDst(pub SocketAddr);

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for OrigDst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Connects to `addr` within `deadline`; later it is [`io::ErrorKind::TimedOut`].
///
/// The socket is marked with [`waylay_abi::OWN_MARK`] where we may do so (CAP_NET_ADMIN; without it the kernel
/// program is not loaded either), sends without delay and probes a silent peer.
pub async fn tcp(addr: SocketAddr, deadline: Duration) -> io::Result<TcpStream> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    match setsockopt(&socket, sockopt::Mark, &waylay_abi::OWN_MARK) {
        Ok(()) | Err(nix::errno::Errno::EPERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    #[expect(clippy::disallowed_methods, reason = "the one place that may: the socket is marked")]
    let connecting = socket.connect(addr);
    match timeout(deadline, connecting).await {
        Ok(connected) => {
            let stream = connected?;
            prepare(&stream)?;
            Ok(stream)
        }
        Err(_) => Err(timed_out(format_args!("no connection to {addr} within {deadline:?}"))),
    }
}

/// What every connection of ours has, accepted or opened: no delay, and probes that find a dead peer.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let probes = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    SockRef::from(stream).set_tcp_keepalive(&probes)
}

/// Resolves a host that somebody else named (a registry's redirect) and leaves out what `refused` says, usually
/// [`forbidden`]. All addresses refused is [`io::ErrorKind::PermissionDenied`]: a redirect not to be followed.
///
/// Connect to what this returns and never resolve again: a second answer could be another address.
pub async fn resolve(
    host: &str,
    port: u16,
    refused: impl Fn(IpAddr) -> bool,
    deadline: Duration,
) -> io::Result<Vec<SocketAddr>> {
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    let all: Vec<SocketAddr> = timeout(deadline, lookup_host((host, port)))
        .await
        .map_err(|_| timed_out(format_args!("no address for {host} within {deadline:?}")))??
        .collect();
    if all.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address")));
    }
    let allowed: Vec<_> = all.into_iter().filter(|addr| !refused(addr.ip())).collect();
    if allowed.is_empty() {
        let why = format!("{host} resolves only to addresses that a redirect may not lead to");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    Ok(allowed)
}

/// Whether a redirect may not lead to `addr`: this host itself, its link, and where clouds keep a machine's
/// credentials. IPv4 inside IPv6 (mapped, compatible, translated, NAT64 of RFC 6052 and 8215, 6to4) counts as what it leads to.
///
/// Private networks are allowed: a company's blob storage lives there.
pub fn forbidden(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(v4) => forbidden_v4(v4),
        IpAddr::V6(v6) => forbidden_v6(v6),
    }
}

fn forbidden_v4(addr: Ipv4Addr) -> bool {
    /// Metadata services outside 169.254/16: Azure's wire server, Alibaba Cloud.
    const METADATA: [Ipv4Addr; 2] = [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200)];
    addr.is_loopback()
        || addr.is_link_local()
        || addr.is_multicast()
        || addr.is_broadcast()
        || addr.octets()[0] == 0
        || METADATA.contains(&addr)
}

fn forbidden_v6(addr: Ipv6Addr) -> bool {
    /// Metadata services on IPv6: EC2 and Google Compute Engine.
    const METADATA: [Ipv6Addr; 2] =
        [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];
    if addr.is_loopback() || addr.is_unspecified() || addr.is_multicast() || addr.is_unicast_link_local() {
        return true;
    }
    let embedded = match addr.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0 | 1, _, _, _, high, low]
        | [0x2002, high, low, _, _, _, _, _] => Some((high, low)),
        _ => None,
    };
    match embedded {
        Some((high, low)) => forbidden_v4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))),
        None => METADATA.contains(&addr),
    }
}

fn timed_out(what: fmt::Arguments<'_>) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what.to_string())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn redirects_do_not_lead_home_or_to_metadata() {
        for text in [
            "127.0.0.1",
            "127.8.8.8",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
            "100.100.100.200",
            "::",
            "::1",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::a9fe:a9fe",
            "::ffff:0:169.254.169.254",
            "2002:a9fe:a9fe::1",
            "2002:7f00:1::1",
        ] {
            assert!(forbidden(text.parse().unwrap()), "{text}");
        }
        for text in ["10.0.0.5", "192.168.1.1", "104.18.0.1", "fd00:ec2::253", "2606:4700::1", "::ffff:104.18.0.1"] {
            assert!(!forbidden(text.parse().unwrap()), "{text}");
        }
    }

    #[tokio::test]
    async fn resolve_leaves_out_what_is_refused() {
        let open = resolve("[::1]", 443, |_| false, Duration::from_secs(5)).await.unwrap();
        assert_eq!(open, ["[::1]:443".parse().unwrap()]);
        let refused = resolve("127.0.0.1", 443, forbidden, Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    }

    #[tokio::test]
    async fn a_dialled_socket_sends_at_once_and_probes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = tcp(listener.local_addr().unwrap(), Duration::from_secs(5)).await.unwrap();
        assert!(stream.nodelay().unwrap());
        assert!(SockRef::from(&stream).keepalive().unwrap());
    }

    #[tokio::test]
    async fn a_refused_connection_says_so() {
        // Bound but not listening: nobody else can answer there.
        let nobody = TcpSocket::new_v4().unwrap();
        nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = nobody.local_addr().unwrap();
        assert_eq!(tcp(addr, Duration::from_secs(5)).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
