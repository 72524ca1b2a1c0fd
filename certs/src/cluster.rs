//! The secret that makes a node a member, and the key of each node that follows from it.
//!
//! A node's iroh key is derived from the secret and the address it advertises, so that a list of addresses is a list of
//! identities. Whoever holds the secret can be any member; eviction is rotation to the next generation.

mod token;

use std::fmt;
use std::net::SocketAddr;

use aws_lc_rs::error::Unspecified;
use iroh_base::SecretKey;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

pub use token::{JoinToken, TokenError};

/// What all members of a cluster share. Wiped from memory when dropped, never shown.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ClusterSecret {
    bytes: [u8; 32],
    #[zeroize(skip)]
    generation: u32,
}

impl ClusterSecret {
    /// The secret with these bytes, of this generation (0 for the first).
    pub fn new(bytes: [u8; 32], generation: u32) -> Self {
        Self { bytes, generation }
    }

    /// A new random secret. Fails only when the system has no randomness to give.
    pub fn generate(generation: u32) -> Result<Self, NoRandomness> {
        let mut bytes = [0; 32];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|Unspecified| NoRandomness)?;
        Ok(Self { bytes, generation })
    }

    /// Which generation of the cluster's secret this is; two are valid while one replaces the other.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The key of the member that advertises `addr`: see [`node_key`].
    pub fn node_key(&self, addr: SocketAddr) -> SecretKey {
        node_key(self, addr)
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.bytes
    }
}

/// The system's random number generator failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gave no random numbers")]
pub struct NoRandomness;

/// Equal when bytes and generation are, in a time that does not tell where they differ.
impl PartialEq for ClusterSecret {
    fn eq(&self, other: &Self) -> bool {
        (self.bytes.ct_eq(&other.bytes) & self.generation.ct_eq(&other.generation)).into()
    }
}

impl Eq for ClusterSecret {}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterSecret(generation {}, redacted)", self.generation)
    }
}

/// The iroh key of the member that advertises `addr`: BLAKE3 keyed with the secret over `waylay node v1 ip:port`.
/// An IPv4 address inside IPv6 counts as IPv4, and a scope id does not count.
pub fn node_key(secret: &ClusterSecret, addr: SocketAddr) -> SecretKey {
    let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
    let mut seed: [u8; 32] = blake3::keyed_hash(&secret.bytes, format!("waylay node v1 {addr}").as_bytes()).into();
    let key = SecretKey::from_bytes(&seed);
    seed.zeroize();
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_follow_from_secret_and_address() {
        let secret = ClusterSecret::new([7; 32], 0);
        let a: SocketAddr = "10.0.0.1:4500".parse().unwrap();
        assert_eq!(secret.node_key(a).public(), node_key(&secret, a).public());
        let mapped: SocketAddr = "[::ffff:10.0.0.1]:4500".parse().unwrap();
        assert_eq!(secret.node_key(a).public(), secret.node_key(mapped).public());
        for other in ["10.0.0.1:4501", "10.0.0.2:4500", "[fd00::1]:4500"] {
            assert_ne!(secret.node_key(a).public(), secret.node_key(other.parse().unwrap()).public());
        }
        assert_ne!(secret.node_key(a).public(), ClusterSecret::new([8; 32], 0).node_key(a).public());
    }

    #[test]
    fn the_derivation_does_not_change_between_versions() {
        // A node of another version must find the same identities; see the doc of `node_key`.
        let seed = blake3::keyed_hash(&[7; 32], b"waylay node v1 10.0.0.1:4500");
        let key = ClusterSecret::new([7; 32], 3).node_key("10.0.0.1:4500".parse().unwrap());
        assert_eq!(&key.to_bytes(), seed.as_bytes());
    }

    #[test]
    fn the_secret_is_not_shown_and_compares_by_value() {
        let secret = ClusterSecret::new([0xab; 32], 2);
        assert_eq!(format!("{secret:?}"), "ClusterSecret(generation 2, redacted)");
        assert_eq!(secret, secret.clone());
        assert_ne!(secret, ClusterSecret::new([0xab; 32], 3));
        assert_ne!(secret, ClusterSecret::new([0xaa; 32], 2));
        assert_ne!(ClusterSecret::generate(0).unwrap(), ClusterSecret::generate(0).unwrap());
    }
}
