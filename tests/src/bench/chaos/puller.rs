//! One node's runtime, which pulls a random image, throws it away and pulls another, until it is told to stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::inject::Outages;
use crate::fleet::Runtime;
use crate::image::Image;

/// A pull that takes longer has failed: several times what the slowest wire needs.
const LIMIT: Duration = Duration::from_secs(180);
/// A runtime that was refused is not asked again at once.
const PAUSE: Duration = Duration::from_millis(500);

/// What a node's pulls came to.
#[derive(Debug)]
pub(super) struct Pulled {
    pub(super) who: String,
    pub(super) pulls: u64,
    /// Failed while the registry, or the way to it, was out of order.
    pub(super) excused: u64,
    pub(super) failures: Vec<Failure>,
    pub(super) slowest: Duration,
}

/// A pull that failed although it would have worked without us.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) text: String,
    /// The runtime got other bytes than the image has.
    pub(super) wrong_bytes: bool,
}

/// Pulls on the `n`-th node.
pub(super) async fn pull(
    n: usize,
    runtime: &Runtime,
    (images, references): (&[Image], &[String]),
    mut random: StdRng,
    outages: &Outages,
    over: &AtomicBool,
) -> Result<Pulled> {
    let who = format!("node{} ({})", n + 1, runtime.kind());
    let mut pulled = Pulled { who, pulls: 0, excused: 0, failures: Vec::new(), slowest: Duration::ZERO };
    while !over.load(Ordering::Relaxed) {
        let which = random.random_range(0..images.len());
        let (image, reference) = (&images[which], references[which].as_str());
        let begun = Instant::now();
        let ended = match tokio::time::timeout(LIMIT, runtime.pull(reference)).await {
            Ok(Ok(_)) => runtime.holds(image, reference).await,
            Ok(Err(error)) => Err(error),
            Err(_) => Err(anyhow::anyhow!("not within {LIMIT:?}")),
        };
        pulled.pulls += 1;
        pulled.slowest = pulled.slowest.max(begun.elapsed());
        match ended {
            Ok(()) => runtime.forget(reference).await?,
            Err(_) if outages.met(n, begun) => {
                pulled.excused += 1;
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => {
                let text = format!("{} after {:.1} s: {error:#}", pulled.who, begun.elapsed().as_secs_f64());
                eprintln!("FAILED {text}");
                let wrong = ["digest", "mismatch", "unexpected commit", "layers are"];
                let wrong_bytes = wrong.iter().any(|word| text.contains(word));
                pulled.failures.push(Failure { text, wrong_bytes });
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    Ok(pulled)
}
