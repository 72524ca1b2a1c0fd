//! Who is let in, who answers for what, and who is left alone.

use super::*;

fn addr(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 4500))
}

fn members(me: u8, others: &[u8]) -> Members {
    let others: Vec<_> = others.iter().map(|n| addr(*n)).collect();
    Members::new(addr(me), "", vec![ClusterSecret::new([1; 32], 0)], &others)
}

#[test]
fn everybody_agrees_on_three_owners_and_little_moves_when_one_leaves() {
    let all: Vec<u8> = (1..=20).collect();
    let views: Vec<_> =
        all.iter().map(|me| members(*me, &all.iter().filter(|n| *n != me).copied().collect::<Vec<_>>())).collect();
    let without = members(1, &(2..20).collect::<Vec<_>>());
    let mut moved = 0;
    let mut load = HashMap::<_, u32>::new();
    for shard in 0..=255u8 {
        let mut bytes = [0; 32];
        bytes[0] = shard;
        let digest = Digest::from_bytes(bytes);
        let owners = views[0].owners(&digest);
        assert_eq!(owners.len(), OWNERS);
        assert!(views.iter().all(|view| view.owners(&digest) == owners));
        moved += u32::from(without.owners(&digest) != owners);
        for owner in owners {
            *load.entry(owner).or_default() += 1;
        }
    }
    assert_eq!(moved, load[&addr(20)], "only shards of the one that left have other owners");
    assert!(load.values().all(|shards| (15..70).contains(shards)), "{load:?}");
}

#[test]
fn alone_we_own_everything() {
    assert_eq!(members(1, &[]).owners(&Digest::of(b"x")), [addr(1)]);
    assert_eq!(members(1, &[1, 2]).owners(&Digest::of(b"x")).len(), 2);
}

#[test]
fn a_joiner_fits_its_address_and_a_stranger_never() {
    let members = members(1, &[2]);
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
    assert_eq!(members.others(), [addr(2), addr(3)]);
    assert!(members.admit(key(1, 3), None), "known from now on");
}

#[test]
fn two_secrets_are_valid_during_a_rotation() {
    let secrets = vec![ClusterSecret::new([1; 32], 1), ClusterSecret::new([2; 32], 0)];
    let members = Members::new(addr(1), "", secrets.clone(), &[addr(2)]);
    for secret in &secrets {
        let id = secret.node_key(addr(2)).public();
        assert!(members.admit(id, None));
        let dialled: Vec<_> = members.dial(addr(2)).into_iter().map(|to| to.id).collect();
        assert!(dialled.len() == 2 && dialled[0] == id, "as it was seen last, then as the other");
    }
    assert_eq!(members.others().len(), 1);
}

#[test]
fn who_does_not_answer_is_left_alone_for_a_while() {
    let members = members(1, &[2]);
    assert!(members.is_awake(addr(2)) && !members.is_awake(addr(3)));
    members.heard(addr(2));
    assert_eq!(members.status()[0].reachable, Some(true));
    members.missed(addr(2));
    assert!(!members.is_awake(addr(2)));
    assert_eq!(members.status()[0].reachable, Some(false));
    assert_eq!(members.ungreeted(), []);
    members.heard(addr(2));
    assert!(members.is_awake(addr(2)));
}
