//! Progressive filling: the rates of all flows grow together by weight; whoever meets a full link, or its own limit, stays
//! (Bertsekas and Gallager, Data Networks, 6.5.2). Too slow for thousands of nodes.

use super::{Flow, Net};

impl Net {
    /// Shares everything anew.
    pub(super) fn fill(&mut self, now: u64) {
        for link in std::mem::take(&mut self.dirty) {
            self.links[link as usize].dirty = false;
        }
        for (flow, rate) in self.filled() {
            self.set(flow, rate, now);
        }
    }

    /// The rate that each flow has when all links are filled progressively.
    pub(super) fn filled(&self) -> Vec<(Flow, f64)> {
        let mut left: Vec<f64> = self.links.iter().map(|wire| wire.capacity).collect();
        let mut weights = vec![0.0; self.links.len()];
        let mut open: Vec<Flow> = Vec::new();
        for (at, wire) in self.links.iter().enumerate() {
            for &flow in &wire.flows {
                let stream = &self.flows[flow as usize];
                weights[at] += f64::from(stream.weight);
                if stream.links[0] as usize == at {
                    open.push(flow);
                }
            }
        }
        let mut rates = Vec::with_capacity(open.len());
        while !open.is_empty() {
            let of = |flow: Flow| {
                let stream = &self.flows[flow as usize];
                (&stream.links[..usize::from(stream.count)], f64::from(stream.weight), f64::from(stream.most))
            };
            let full =
                (0..left.len()).filter(|link| weights[*link] > 1e-9).map(|link| left[link].max(0.0) / weights[link]);
            let limits = open.iter().map(|flow| of(*flow)).map(|(_, weight, most)| most / weight);
            let level = full.chain(limits).fold(f64::INFINITY, f64::min);
            let stays = |flow: Flow| {
                let (links, weight, most) = of(flow);
                let is_full =
                    |link: &u32| left[*link as usize].max(0.0) / weights[*link as usize] <= level * (1.0 + 1e-9);
                most / weight <= level || links.iter().any(is_full)
            };
            let (staying, going): (Vec<Flow>, Vec<Flow>) = open.iter().partition(|flow| stays(**flow));
            for flow in staying {
                let (links, weight, _) = of(flow);
                for link in links {
                    left[*link as usize] -= weight * level;
                    weights[*link as usize] -= weight;
                }
                rates.push((flow, weight * level));
            }
            open = going;
        }
        rates
    }
}
