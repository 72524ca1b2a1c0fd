//! The node's network as the peers' traffic meets it: datagrams in numbers, and of a certain size.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
};

use bytesize::ByteSize;
use rustix::net::sockopt::{ip_mtu, ipv6_mtu};

use super::Check;
use crate::install::host::Host;

/// What the peer network asks the kernel for; with less, fast links lose packets.
const BUFFER: u64 = 2 << 20;
/// QUIC's datagrams have 1200 bytes at least (RFC 9000, section 14), and IPv6 and UDP put 48 before them.
const LEAST: u32 = 1248;

/// `None` where the kernel does not say, as inside some containers.
pub(super) fn buffers(host: &Host) -> Option<Check> {
    const NAME: &str = "UDP buffers";
    let limit =
        |name: &str| host.read(format!("/proc/sys/net/core/{name}")).and_then(|text| text.trim().parse::<u64>().ok());
    let least = limit("rmem_max")?.min(limit("wmem_max")?);
    let shown = ByteSize(least).display().iec();
    Some(if least >= BUFFER {
        Check::pass(NAME, format!("up to {shown}"))
    } else {
        let fix = "`sysctl -w net.core.rmem_max=8388608 net.core.wmem_max=8388608`, and the same in /etc/sysctl.d";
        Check::warn(NAME, format!("at most {shown}; beyond 1 Gbit/s peers will lose packets"), fix)
    })
}

/// Whether a datagram fits the way to each of `peers`, as far as this node knows that way; `None` where there is no peer.
pub(super) fn mtu(own: IpAddr, peers: &[SocketAddr]) -> Option<Check> {
    const NAME: &str = "MTU";
    let (least, peer) = peers.iter().filter_map(|peer| Some((path_mtu(own, *peer).ok()?, peer))).min()?;
    Some(if least >= LEAST {
        Check::pass(NAME, format!("at least {least} bytes to each of {} members", peers.len()))
    } else {
        let saw = format!("{least} bytes to {peer}: no datagram of the peers fits");
        let fix = format!("raise that of the interface that `ip route get {}` names, to {LEAST} or more", peer.ip());
        Check::fail(NAME, saw, fix)
    })
}

/// What the kernel believes to fit. Connecting a UDP socket sends nothing.
fn path_mtu(own: IpAddr, peer: SocketAddr) -> io::Result<u32> {
    let socket = UdpSocket::bind((own, 0))?;
    socket.connect(peer)?;
    Ok(if peer.is_ipv4() { ip_mtu(&socket)? } else { ipv6_mtu(&socket)? })
}

#[cfg(test)]
mod tests {
    use super::{super::Outcome, *};

    #[test]
    fn small_buffers_are_told_with_the_line_that_mends_them() {
        let dir = tempfile::tempdir().unwrap();
        let host = Host::at(dir.path());
        assert!(buffers(&host).is_none());
        std::fs::create_dir_all(host.path("/proc/sys/net/core")).unwrap();
        std::fs::write(host.path("/proc/sys/net/core/rmem_max"), "212992\n").unwrap();
        std::fs::write(host.path("/proc/sys/net/core/wmem_max"), "8388608\n").unwrap();
        let check = buffers(&host).unwrap();
        assert_eq!(check.outcome, Outcome::Warn);
        assert!(check.fix.unwrap().contains("sysctl -w net.core.rmem_max"));
    }

    #[test]
    fn what_fits_the_way_to_a_peer_is_known() {
        let own = IpAddr::from([127, 0, 0, 1]);
        let loopback = mtu(own, &[([127, 0, 0, 2], 4500).into()]).unwrap();
        assert!(loopback.outcome == Outcome::Pass && loopback.saw.contains("to each of 1 members"), "{loopback:?}");
        assert_eq!(mtu(own, &[]), None);
    }
}
