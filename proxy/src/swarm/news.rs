//! What members say of themselves and of one another, signed, so that whoever passes it on cannot change it.
//!
//! An identity follows from the cluster secret and an address, so everybody knows whose signature belongs under what is
//! said of an address. Of two cards of one member the later counts: a restart begins above what it said before (its count
//! is the time of its start), and one that is called gone says the next.

use std::net::SocketAddr;

use iroh::{EndpointId, SecretKey};
use iroh_base::Signature;
use serde::{Deserialize, Serialize};

use super::{
    frame::{Bounded, MAX_ZONE},
    members::canonical,
};

/// What a member says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// Where others reach it.
    pub(crate) addr: SocketAddr,
    /// Which card of its this is; a later one has more.
    pub(crate) count: u64,
    /// Different after each start: what it knew of others is gone.
    pub(crate) boot: u64,
    /// Its zone; empty where there are none.
    pub(crate) zone: String,
    /// It says goodbye.
    pub(crate) leaving: bool,
    signature: Signature,
}

/// What others say of a member: it does not answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// The card that is void by this.
    pub(crate) card: Card,
    /// Who says so.
    pub(crate) by: SocketAddr,
    signature: Signature,
}

/// Something that everybody should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum News {
    /// It is there, or leaves.
    Is(Card),
    /// It is gone.
    Gone(Gone),
}

impl Card {
    /// The card of the member at `addr`, whose key this is.
    pub fn sign(key: &SecretKey, addr: SocketAddr, boot: u64, count: u64, zone: &str, leaving: bool) -> Self {
        let signature = key.sign(&said(addr, boot, count, zone, leaving));
        Self { addr, count, boot, zone: zone.to_owned(), leaving, signature }
    }

    /// What decides between two cards of one member.
    pub(crate) fn version(&self) -> (u64, u64) {
        (self.count, self.boot)
    }

    /// Whether it is signed by one of the identities that belong to its address.
    pub(crate) fn is_signed_by(&self, ids: &[EndpointId]) -> bool {
        let said = said(self.addr, self.boot, self.count, &self.zone, self.leaving);
        ids.iter().any(|id| id.verify(&said, &self.signature).is_ok())
    }
}

impl Gone {
    /// The member at `by`, whose key this is, says that `card` is void.
    pub(crate) fn sign(key: &SecretKey, by: SocketAddr, card: Card) -> Self {
        let signature = key.sign(&void(by, &card));
        Self { card, by, signature }
    }

    /// Whether it is signed by one of the identities that belong to who says it. The card has a signature of its own.
    pub(crate) fn is_signed_by(&self, ids: &[EndpointId]) -> bool {
        let void = void(self.by, &self.card);
        ids.iter().any(|id| id.verify(&void, &self.signature).is_ok())
    }
}

impl News {
    /// Of whom.
    pub(crate) fn card(&self) -> &Card {
        match self {
            Self::Is(card) | Self::Gone(Gone { card, .. }) => card,
        }
    }

    /// Whether everybody named in it has signed; `ids` are the identities that belong to an address.
    pub(crate) fn is_signed(&self, ids: impl Fn(SocketAddr) -> Vec<EndpointId>) -> bool {
        let card = self.card();
        card.is_signed_by(&ids(card.addr))
            && match self {
                Self::Is(_) => true,
                Self::Gone(gone) => gone.is_signed_by(&ids(gone.by)),
            }
    }
}

impl Bounded for News {
    fn is_bounded(&self) -> bool {
        // One member, one way to write its address.
        let is_plain = |addr: SocketAddr| canonical(addr) == addr && addr.port() != 0;
        self.card().zone.len() <= MAX_ZONE && is_plain(self.card().addr)
    }
}

fn said(addr: SocketAddr, boot: u64, count: u64, zone: &str, leaving: bool) -> Vec<u8> {
    // The zone comes last, so nothing can be moved from one part into another.
    format!("waylay card v1 {addr} {boot} {count} {leaving} {zone}").into_bytes()
}

fn void(by: SocketAddr, card: &Card) -> Vec<u8> {
    format!("waylay gone v1 {by} {} {} {}", card.addr, card.boot, card.count).into_bytes()
}

#[cfg(test)]
mod tests {
    use waylay_certs::cluster::ClusterSecret;

    use super::*;

    fn addr(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 4500))
    }

    fn key(n: u8) -> SecretKey {
        ClusterSecret::new([1; 32], 0).node_key(addr(n))
    }

    fn ids(addr: SocketAddr) -> Vec<EndpointId> {
        vec![ClusterSecret::new([1; 32], 0).node_key(addr).public()]
    }

    #[test]
    fn only_what_is_signed_by_whom_it_names_is_believed() {
        let card = Card::sign(&key(1), addr(1), 7, 8, "rack", false);
        let gone = Gone::sign(&key(2), addr(2), card.clone());
        assert!(News::Is(card.clone()).is_signed(ids) && News::Gone(gone.clone()).is_signed(ids));
        assert!(!News::Is(Card::sign(&key(2), addr(1), 7, 8, "rack", false)).is_signed(ids), "another's key");
        let changed = [
            Card { addr: addr(3), ..card.clone() },
            Card { boot: 9, ..card.clone() },
            Card { count: 9, ..card.clone() },
            Card { zone: "rick".into(), ..card.clone() },
            Card { leaving: true, ..card.clone() },
        ];
        for card in changed {
            assert!(!News::Is(card.clone()).is_signed(ids), "{card:?}");
            assert!(!News::Gone(Gone { card, ..gone.clone() }).is_signed(ids));
        }
        assert!(!News::Gone(Gone { by: addr(3), ..gone.clone() }).is_signed(ids));
        let later = Card::sign(&key(1), addr(1), 7, 9, "rack", false);
        assert!(!News::Gone(Gone { card: later, ..gone }).is_signed(ids), "said of another card");
        let mapped = "[::ffff:10.0.0.1]:4500".parse().unwrap();
        assert!(!News::Is(Card::sign(&key(1), mapped, 1, 1, "", false)).is_bounded(), "a second name for one member");
    }
}
