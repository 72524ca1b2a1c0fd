//! What one connect() costs: in batches of sockets made beforehand, of which the fastest counts, because whatever else
//! runs on the machine only makes a batch slower.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};

const BATCH: u32 = 20;

/// Nanoseconds of one call in the fastest of `batches`.
pub(super) fn fastest(to: SocketAddr, batches: u32) -> Result<u64> {
    let to = to.into();
    let mut best = u64::MAX;
    for _ in 0..batches {
        let sockets = (0..BATCH).map(|_| Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)));
        let sockets = sockets.collect::<std::io::Result<Vec<_>>>().context("cannot open a socket")?;
        let begun = Instant::now();
        let mut answered = 0;
        for socket in &sockets {
            answered += u32::from(socket.connect(&to).is_ok());
        }
        best = best.min(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX) / u64::from(BATCH));
        ensure!(answered == 0, "somebody listens there");
    }
    Ok(best)
}
