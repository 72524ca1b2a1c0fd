//! A number of bytes per second that is not exceeded, for operators who want the rest of a link for others.

use std::{num::NonZeroU32, sync::Arc};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// The lowest rate, in bytes per second: below it the transfers that share it are each so slow that their other ends give up.
pub const LEAST: u64 = 4 << 20;
/// The highest rate, in bytes per second: what is more is no limit.
pub const MOST: u64 = u32::MAX as u64;

/// Lets so many bytes per second pass; without a rate, all at once. Clones share the rate.
#[derive(Debug, Clone, Default)]
pub struct Throttle(Option<Arc<Limit>>);

#[derive(Debug)]
struct Limit {
    limiter: DefaultDirectRateLimiter,
    burst: NonZeroU32,
}

impl Throttle {
    /// At most `rate` bytes per second; it is brought between [`LEAST`] and [`MOST`]. What was not used can be made up for
    /// within a quarter of a second.
    pub fn new(rate: Option<u64>) -> Self {
        Self(rate.map(|rate| {
            let rate = u32::try_from(rate.max(LEAST)).unwrap_or(u32::MAX);
            let (rate, burst) = (at_least_one(rate), at_least_one(rate / 4));
            Arc::new(Limit { limiter: RateLimiter::direct(Quota::per_second(rate).allow_burst(burst)), burst })
        }))
    }

    /// Waits until so many bytes may pass. Waiters pass in no particular order, but in portions.
    pub async fn pass(&self, bytes: u64) {
        let Some(Limit { limiter, burst }) = self.0.as_deref() else { return };
        let mut left = bytes;
        while left > 0 {
            let part = u32::try_from(left).unwrap_or(u32::MAX).min(burst.get());
            // Never more than a burst, so there is capacity for it.
            let _ = limiter.until_n_ready(at_least_one(part)).await;
            left -= u64::from(part);
        }
    }
}

fn at_least_one(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn no_more_than_the_rate_passes_whoever_waits() {
        let throttle = Throttle::new(Some(LEAST));
        let begun = Instant::now();
        let all = (0..4).map(|_| {
            let throttle = throttle.clone();
            async move {
                for _ in 0..8 {
                    throttle.pass(LEAST / 32).await;
                }
            }
        });
        futures_util::future::join_all(all).await;
        // A second's worth, of which a quarter may pass at once.
        assert!(begun.elapsed().as_millis() >= 700, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn more_than_a_burst_passes_in_parts_and_without_a_rate_all_passes() {
        let begun = Instant::now();
        Throttle::new(Some(LEAST)).pass(LEAST / 2).await;
        assert!(begun.elapsed().as_millis() >= 200, "{:?}", begun.elapsed());
        Throttle::default().pass(u64::MAX).await;
    }
}
