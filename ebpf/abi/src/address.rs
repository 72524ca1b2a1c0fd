//! Addresses as the hooks see them: sixteen bytes in network order, IPv4 in its IPv6-mapped form (RFC 4291, 2.5.5.2),
//! so that `192.0.2.1` and `::ffff:192.0.2.1` are one key.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An IP address: four words whose bytes in memory are in network order.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Address(pub [u32; 4]);

/// An address and a port.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Endpoint {
    /// The address.
    pub address: Address,
    /// The port, in host order.
    pub port: u16,
    /// Always 0: a key has no undefined bytes.
    pub pad: u16,
}

/// The third word of a v4-mapped address.
const MAPPED: u32 = 0x0000_ffff_u32.to_be();

impl Address {
    /// The IPv4 address whose bytes in memory are `word` (`user_ip4`, `local_ip4`).
    #[inline(always)]
    pub const fn v4(word: u32) -> Self {
        Self([0, 0, MAPPED, word])
    }

    /// `127.0.0.1`, where our IPv4 listener is.
    pub const LOOPBACK4: Self = Self::v4(0x7f00_0001_u32.to_be());

    /// `::1`, where our IPv6 listener is.
    pub const LOOPBACK6: Self = Self([0, 0, 0, 1_u32.to_be()]);

    /// Whether this is an IPv4 address, mapped or not.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == MAPPED
    }

    /// Whether traffic to it stays on the node or the link: loopback, link-local or unspecified (which Linux takes
    /// for loopback). No registry that we could speed up lives there, and cloud metadata does.
    #[inline(always)]
    pub const fn is_local(&self) -> bool {
        let word = u32::from_be(self.0[3]);
        if self.is_v4() {
            return word >> 24 == 127 || word >> 16 == 0xa9fe || word == 0;
        }
        let first = u32::from_be(self.0[0]);
        // fe80::/10
        if first >> 22 == 0xfe80 >> 6 {
            return true;
        }
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0 && word <= 1
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        let octets = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let word = |at: usize| u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]]);
        Self([word(0), word(4), word(8), word(12)])
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        if address.is_v4() {
            return Self::V4(Ipv4Addr::from(address.0[3].to_ne_bytes()));
        }
        let mut octets = [0; 16];
        for (four, word) in octets.chunks_exact_mut(4).zip(address.0) {
            four.copy_from_slice(&word.to_ne_bytes());
        }
        Self::V6(Ipv6Addr::from(octets))
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self { address: address.ip().into(), port: address.port(), pad: 0 }
    }
}

impl From<Endpoint> for SocketAddr {
    fn from(endpoint: Endpoint) -> Self {
        Self::new(endpoint.address.into(), endpoint.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().expect("an address").into()
    }

    #[test]
    fn mapped_and_plain_are_one_key_and_come_back_as_ipv4() {
        let plain = address("192.0.2.1");
        assert_eq!(plain, address("::ffff:192.0.2.1"));
        assert_eq!(plain, Address::v4(u32::from_ne_bytes([192, 0, 2, 1])));
        assert_eq!(IpAddr::from(plain), IpAddr::from([192, 0, 2, 1]));
        assert_eq!(address("127.0.0.1"), Address::LOOPBACK4);
        assert_eq!(address("::1"), Address::LOOPBACK6);
        assert_eq!(IpAddr::from(address("2001:db8::7")), "2001:db8::7".parse::<IpAddr>().expect("an address"));
    }

    #[test]
    fn tells_what_stays_on_the_node() {
        for local in ["127.0.0.1", "127.255.0.9", "169.254.169.254", "0.0.0.0", "::1", "::", "fe80::1", "febf::1", "::ffff:127.0.0.1"] {
            assert!(address(local).is_local(), "{local}");
        }
        for far in ["10.0.0.1", "169.253.0.1", "192.0.2.1", "2001:db8::1", "fec0::1", "::2", "fd00::1", "::ffff:192.0.2.1"] {
            assert!(!address(far).is_local(), "{far}");
        }
    }
}
