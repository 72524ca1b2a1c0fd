//! An announcement is cut into parts that fit a frame.

use crate::swarm::frame::{Announce, MAX_HOLDINGS};

/// What the provenance in one announcement may take, so that it fits a frame.
const MAX_BYTES: usize = 48 << 10;

/// Cuts an announcement so that each part fits a frame.
pub fn batches(announce: Announce) -> Vec<Announce> {
    let mut out: Vec<_> =
        announce.gone.chunks(MAX_HOLDINGS).map(|gone| Announce { gone: gone.to_vec(), held: Vec::new() }).collect();
    let mut batch = Announce::default();
    let mut bytes = 0;
    for holding in announce.held {
        let length: usize =
            64 + holding.provenance.iter().map(|pair| 8 + pair.registry.len() + pair.repository.len()).sum::<usize>();
        if batch.held.len() >= MAX_HOLDINGS || bytes + length > MAX_BYTES {
            out.push(std::mem::take(&mut batch));
            bytes = 0;
        }
        bytes += length;
        batch.held.push(holding);
    }
    if !batch.held.is_empty() {
        out.push(batch);
    }
    out
}
