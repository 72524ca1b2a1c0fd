//! Sharing link by link against progressive filling, on 64 nodes whose flows come and go.

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::*;

const NODES: u32 = 64;
const FLOWS: usize = 16;

/// A net where each node takes from some others; rounds of an ending and a beginning flow.
fn busy(rounds: usize) -> Net {
    let mut random = StdRng::seed_from_u64(1);
    let mut net = Net::new(false);
    let links: Vec<(Link, Link)> = (0..NODES).map(|_| (net.link(300e6), net.link(300e6))).collect();
    let mut flows = Vec::new();
    let mut begin = |net: &mut Net, now: u64| {
        let (to, from) = (random.random_range(0..links.len()), random.random_range(0..links.len()));
        let weight = random.random_range(0.3..3.0);
        net.start(&[links[to].0, links[from].1], 1 << 40, weight, f64::MAX, 0, now)
    };
    for _ in 0..NODES as usize * FLOWS {
        flows.push(begin(&mut net, 0));
        net.settle(0);
    }
    for round in 0..rounds {
        let now = round as u64 * 1000;
        let at = round * 7919 % flows.len();
        net.stop(flows.swap_remove(at));
        net.settle(now);
        flows.push(begin(&mut net, now));
        net.settle(now);
    }
    net
}

#[test]
fn no_link_carries_more_than_it_can_and_little_less_than_it_could() {
    let net = busy(5000);
    for wire in &net.links {
        let carried: f64 = wire.flows.iter().map(|flow| net.flows[*flow as usize].rate).sum();
        assert!(carried <= wire.capacity * (1.0 + 1e-6), "{carried} of {}", wire.capacity);
    }
    let exact = net.filled();
    let should: f64 = exact.iter().map(|(_, rate)| rate).sum();
    let is: f64 = exact.iter().map(|(flow, _)| net.flows[*flow as usize].rate).sum();
    let wrong: f64 = exact.iter().map(|(flow, rate)| (net.flows[*flow as usize].rate - rate).abs()).sum();
    println!("all flows {:.4} of the exact sum, each {:.4} away from its exact rate", is / should, wrong / should);
    assert!((is / should - 1.0).abs() < 0.02, "{}", is / should);
    assert!(wrong / should < 0.15, "{}", wrong / should);
}

#[test]
fn a_flow_takes_what_its_narrowest_link_leaves() {
    let mut net = Net::new(false);
    let (down, one, other) = (net.link(10e9), net.link(2e9), net.link(100e9));
    net.start(&[down, one], 1000, 1.0, f64::MAX, 1, 0);
    net.start(&[down, other], 4000, 1.0, f64::MAX, 2, 0);
    net.settle(0);
    let rates: Vec<f64> = net.flows.iter().map(|flow| flow.rate).collect();
    assert_eq!(rates, [2.0, 8.0]);
    let mut ended = Vec::new();
    // It may be looked too early, and then again.
    while let Some(at) = net.looks.iter().position(|(at, _)| *at <= 500) {
        let (at, link) = net.looks.swap_remove(at);
        assert_eq!(link, down);
        net.look(link, at, &mut ended);
    }
    ended.sort_unstable();
    assert_eq!(ended, [1, 2]);
}
