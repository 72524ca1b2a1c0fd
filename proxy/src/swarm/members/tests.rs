//! What is remembered of members that do not answer.

use super::*;
use crate::swarm::news::{Card, Gone};

fn addr(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 4500))
}

#[test]
fn who_does_not_answer_is_left_alone_for_a_while() {
    let secret = ClusterSecret::new([1; 32], 0);
    let members = Members::new(addr(1), secret.node_key(addr(1)), "", vec![secret], &[addr(2)], Pace::default());
    assert!(members.is_awake(addr(2)) && !members.is_awake(addr(3)) && members.any_awake());
    assert_eq!(members.status()[0].reachable, None);
    members.missed(addr(2));
    assert!(!members.is_awake(addr(2)) && !members.any_awake());
    members.heard(addr(2));
    assert!(members.is_awake(addr(2)));
}

#[test]
fn who_was_gone_and_is_back_is_not_left_alone() {
    let secret = ClusterSecret::new([1; 32], 0);
    let key = |n| secret.node_key(addr(n));
    let members = Members::new(addr(1), key(1), "", vec![secret.clone()], &[addr(2)], Pace::default());
    let card = |count| Card::sign(&key(2), addr(2), count, count, "", false);
    members.learn(vec![News::Is(card(1))], Heard::Told);
    members.missed(addr(2));
    members.learn(vec![News::Gone(Gone::sign(&key(1), addr(1), card(1)))], Heard::Gossip);
    assert!(!members.is_awake(addr(2)));
    members.learn(vec![News::Is(card(2))], Heard::Gossip);
    assert!(members.is_awake(addr(2)));
}
