//! The hook that turns strangers away, for every protocol and both directions, before the other side can ask anything; and
//! where members are, for the gossip, which knows them by identity.

use std::net::SocketAddr;

use futures_util::{StreamExt as _, stream, stream::BoxStream};
use iroh::{
    EndpointAddr, EndpointId, TransportAddr,
    address_lookup::{AddressLookup, EndpointInfo, Error, Item},
    endpoint::{AfterHandshakeOutcome, Connection, EndpointHooks},
};

use super::{
    frame::code,
    members::{Members, canonical},
};

impl Members {
    /// Whether an identity that is at `at` belongs to us; one that fits its address joins by that.
    fn admit(&self, id: EndpointId, at: Option<SocketAddr>) -> bool {
        if let Some(addr) = self.addr_of(&id) {
            self.is_as(addr, id);
            return true;
        }
        let Some(at) = at.map(canonical) else { return false };
        if !self.ids(at).any(|own| own == id) {
            return false;
        }
        self.add(&[at], false);
        self.addr_of(&id).is_some()
    }
}

impl EndpointHooks for Members {
    async fn after_handshake<'a>(&'a self, connection: &'a Connection) -> AfterHandshakeOutcome {
        let at = connection.paths().iter().find_map(|path| match path.remote_addr() {
            TransportAddr::Ip(addr) => Some(*addr),
            _ => None,
        });
        let id = connection.remote_id();
        if self.admit(id, at) {
            return AfterHandshakeOutcome::Accept;
        }
        tracing::warn!(peer = %id.fmt_short(), ?at, "a stranger was turned away: another cluster secret, or an address it does not advertise");
        AfterHandshakeOutcome::Reject { error_code: code::STRANGER.into(), reason: b"not a member".to_vec() }
    }
}

impl AddressLookup for Members {
    fn resolve(&self, id: EndpointId) -> Option<BoxStream<'static, Result<Item, Error>>> {
        let addr = EndpointAddr::from_parts(id, [TransportAddr::Ip(self.addr_of(&id)?)]);
        Some(stream::iter([Ok(Item::new(EndpointInfo::from(addr), "members", None))]).boxed())
    }
}

#[cfg(test)]
mod tests {
    use waylay_certs::cluster::ClusterSecret;

    use super::*;
    use crate::swarm::roster::Pace;

    fn addr(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 4500))
    }

    fn members(secrets: Vec<ClusterSecret>) -> Members {
        Members::new(addr(1), secrets[0].node_key(addr(1)), "", secrets, &[addr(2)], Pace::default())
    }

    #[test]
    fn a_joiner_fits_its_address_and_a_stranger_never() {
        let members = members(vec![ClusterSecret::new([1; 32], 0)]);
        let key = |secret: u8, n| ClusterSecret::new([secret; 32], 0).node_key(addr(n)).public();
        assert!(members.admit(key(1, 2), None), "listed");
        assert!(!members.admit(key(1, 3), None), "not listed, no address");
        assert!(!members.admit(key(1, 3), Some(addr(4))), "from another address");
        assert!(!members.admit(key(9, 3), Some(addr(3))), "another secret");
        assert!(!members.admit(key(9, 2), Some(addr(2))), "another secret at a listed address");
        let mut changes = members.changes();
        changes.mark_unchanged();
        assert!(members.admit(key(1, 3), Some(addr(3))));
        assert!(changes.has_changed().unwrap());
        assert_eq!(members.status().iter().map(|member| member.addr).collect::<Vec<_>>(), [addr(2), addr(3)]);
        assert!(members.admit(key(1, 3), None), "known from now on");
    }

    #[test]
    fn two_secrets_are_valid_during_a_rotation() {
        let secrets = vec![ClusterSecret::new([1; 32], 1), ClusterSecret::new([2; 32], 0)];
        let members = members(secrets.clone());
        for secret in &secrets {
            let id = secret.node_key(addr(2)).public();
            assert!(members.admit(id, None));
            let dialled: Vec<_> = members.dial(addr(2)).into_iter().map(|to| to.id).collect();
            assert!(dialled.len() == 2 && dialled[0] == id, "as it was seen last, then as the other");
        }
        assert_eq!(members.status().len(), 1);
    }
}
