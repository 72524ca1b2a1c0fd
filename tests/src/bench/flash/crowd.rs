//! A crowd: clients on many nodes that are started together, or one after the other, and when each of them ended.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use crate::bench::measure::median;

/// When clients start and how long they may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// From one start to the next.
    pub(super) apart: Duration,
    /// A client that takes longer has failed.
    pub(super) limit: Duration,
}

/// What became of a client that did not fail.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pulled {
    /// It has everything, and was busy for so long after its last byte came: it unpacked.
    Whole(Duration),
    /// It was killed, as the case wants it.
    Killed,
}

/// How a crowd fared. All times are in seconds; those of [`Ended`] count from the start of the first client.
#[derive(Debug)]
pub(super) struct Crowd {
    /// Of those that have everything.
    pub(super) whole: Vec<Ended>,
    pub(super) failed: usize,
}

/// One client's times.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    pub(super) started: f64,
    pub(super) fetched: f64,
    pub(super) ended: f64,
}

impl Crowd {
    /// Starts `count` clients. `pull` is told which one, and what the crowd's clock says is its beginning.
    pub(super) async fn gather(count: usize, pace: Pace, pull: impl AsyncFn(usize, Instant) -> Result<Pulled>) -> Self {
        let begun = Instant::now();
        let one = async |n: usize| {
            sleep(pace.apart * u32::try_from(n).unwrap_or(u32::MAX)).await;
            let started = begun.elapsed().as_secs_f64();
            let pulled = timeout(pace.limit, pull(n, begun)).await;
            let ended = begun.elapsed().as_secs_f64();
            Ok(match pulled.unwrap_or_else(|_| Err(anyhow!("not within {:?}", pace.limit)))? {
                Pulled::Whole(busy) => Some(Ended { started, fetched: ended - busy.as_secs_f64(), ended }),
                Pulled::Killed => None,
            })
        };
        let mut crowd = Self { whole: Vec::new(), failed: 0 };
        for (n, ended) in join_all((0..count).map(one)).await.into_iter().enumerate() {
            match ended {
                Ok(ended) => crowd.whole.extend(ended),
                Err::<_, anyhow::Error>(error) => {
                    eprintln!("node{} failed: {error:#}", n + 1);
                    crowd.failed += 1;
                }
            }
        }
        crowd
    }

    /// When the last one had everything. Infinite when one failed: such a crowd never ends.
    pub(super) fn last(&self) -> f64 {
        self.last_of(|one| one.ended)
    }

    /// When the last one had every byte, unpacked or not.
    pub(super) fn last_fetched(&self) -> f64 {
        self.last_of(|one| one.fetched)
    }

    /// When half of those that ended had everything.
    pub(super) fn p50(&self) -> f64 {
        median(self.whole.iter().map(|one| one.ended))
    }

    /// How long the one that came last took itself.
    pub(super) fn last_own(&self) -> f64 {
        let last = self.whole.iter().max_by(|a, b| a.started.total_cmp(&b.started));
        last.map_or(f64::INFINITY, |one| one.ended - one.started)
    }

    fn last_of(&self, time: fn(&Ended) -> f64) -> f64 {
        if self.failed > 0 { f64::INFINITY } else { self.whole.iter().map(time).fold(0.0, f64::max) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_crowd_with_a_failure_never_ends() {
        let pace = Pace { apart: Duration::ZERO, limit: Duration::from_secs(9) };
        let crowd = Crowd::gather(3, pace, async |n, _| match n {
            0 => Ok(Pulled::Whole(Duration::ZERO)),
            1 => Ok(Pulled::Killed),
            _ => Err(anyhow!("refused")),
        })
        .await;
        assert_eq!((crowd.whole.len(), crowd.failed), (1, 1));
        assert!(crowd.last().is_infinite());
    }

    #[tokio::test]
    async fn the_last_arrival_is_timed_from_its_own_start() {
        let pace = Pace { apart: Duration::from_millis(30), limit: Duration::from_secs(9) };
        let crowd = Crowd::gather(2, pace, async |_, _| {
            sleep(Duration::from_millis(20)).await;
            Ok(Pulled::Whole(Duration::ZERO))
        })
        .await;
        assert!(crowd.last() >= 0.05, "{crowd:?}");
        assert!(crowd.last_own() < crowd.last() - 0.025, "{crowd:?}");
    }
}
