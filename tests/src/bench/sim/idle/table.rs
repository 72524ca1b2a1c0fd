//! Members ask one another whether they live: the rosters of some nodes, each with everybody in it.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use rand::{RngExt as _, rngs::StdRng};
use waylay::swarm::pure::{Act, Card, Heard, News, Pace, Roster};
use waylay_certs::cluster::ClusterSecret;

use super::Preset;

/// How many questions a node asks in a second, in the mean. Everybody answers, and all tables are alike.
pub(super) fn pings(preset: &Preset, addrs: &[SocketAddr], began: Instant, random: &mut StdRng) -> Result<f64> {
    let secret = ClusterSecret::new([1; 32], 0);
    let cards: Vec<Card> =
        addrs.iter().map(|addr| Card::sign(&secret.node_key(*addr), *addr, 1, 1, "", false)).collect();
    let (pace, round_trip) = (Pace::default(), Duration::from_secs_f64(preset.round_trip_ms / 1e3));
    let tables = preset.tables.min(addrs.len());
    let mut asked = 0_u64;
    for me in rand::seq::index::sample(random, addrs.len(), tables) {
        let mut roster = Roster::new(secret.node_key(addrs[me]), addrs[me], 1, 1, "", pace, began);
        for (_, card) in cards.iter().enumerate().filter(|(other, _)| *other != me) {
            roster.learn(News::Is(card.clone()), Heard::Gossip, began);
        }
        let mut now = began + pace.tick().mul_f64(random.random());
        let mut open: Vec<(Instant, SocketAddr)> = Vec::new();
        while now < began + Duration::from_secs(preset.tables_s.into()) {
            open.retain(|(answer, of)| {
                let waits = *answer > now;
                if !waits {
                    roster.agreed(*of, true);
                }
                waits
            });
            for act in roster.tick(now) {
                let Act::Ping { to, .. } = act else { bail!("a cluster at rest does not {act:?}") };
                asked += 1;
                open.push((now + round_trip, to));
            }
            now += pace.tick();
        }
    }
    Ok(asked as f64 / tables as f64 / f64::from(preset.tables_s))
}
