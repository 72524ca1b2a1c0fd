//! The gossip mixes members now and then: iroh-gossip's own state machine, one for each node.

use std::time::Duration;

use iroh_gossip::proto::{Command, Config, InEvent, OutEvent, State, TopicId};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use waylay::swarm::pure::overlay;

use super::Preset;
use crate::bench::sim::{queue::Queue, world::ms};

/// Nodes join one after the other within this; then everything settles, and then it is counted.
const JOINED_S: u64 = 300;
const COUNTED: (u64, u64) = (900, 1500);

/// Messages that a node sends in a second.
pub(super) struct Sent {
    pub(super) mean: f64,
    /// By the one that sends the most.
    pub(super) most: f64,
}

/// Lets all nodes join and mix.
pub(super) fn messages(preset: &Preset, seed: u64) -> Sent {
    let mut random = StdRng::seed_from_u64(seed);
    let topic = TopicId::from_bytes([1; 32]);
    let config = Config { membership: overlay(), ..Config::default() };
    let mut nodes: Vec<State<u32, StdRng>> = (0..preset.nodes)
        .map(|node| State::new(node, Default::default(), config.clone(), StdRng::seed_from_u64(random.random())))
        .collect();
    let mut queue = Queue::default();
    for node in 0..preset.nodes {
        let others = if node == 0 { Vec::new() } else { vec![random.random_range(0..node)] };
        let at = JOINED_S * 1_000_000_000 * u64::from(node) / u64::from(preset.nodes);
        queue.push(at, (node, InEvent::Command(topic, Command::Join(others))));
    }
    let (began, way) = (tokio::time::Instant::now(), ms(preset.round_trip_ms / 2.0));
    let mut sent = vec![0_u64; nodes.len()];
    while let Some((at, (node, event))) = queue.pop() {
        if at >= COUNTED.1 * 1_000_000_000 {
            break;
        }
        for out in nodes[node as usize].handle(event, began + Duration::from_nanos(at), None) {
            match out {
                OutEvent::SendMessage(to, message) => {
                    sent[node as usize] += u64::from(at >= COUNTED.0 * 1_000_000_000);
                    queue.push(at + way, (to, InEvent::RecvMessage(node, message)));
                }
                OutEvent::ScheduleTimer(after, timer) => {
                    queue.push(at + after.as_nanos() as u64, (node, InEvent::TimerExpired(timer)));
                }
                OutEvent::DisconnectPeer(peer) => queue.push(at + way, (peer, InEvent::PeerDisconnected(node))),
                OutEvent::EmitEvent(..) | OutEvent::PeerData(..) => {}
            }
        }
    }
    let counted = (COUNTED.1 - COUNTED.0) as f64;
    let most = sent.iter().copied().max().unwrap_or_default() as f64;
    Sent { mean: sent.iter().sum::<u64>() as f64 / nodes.len() as f64 / counted, most: most / counted }
}
