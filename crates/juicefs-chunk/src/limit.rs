//! Limits of bandwidth: `--upload-limit` and `--download-limit` (format: data.md §3.3).

use std::{num::NonZeroU32, time::Duration};

use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed},
};
use tokio::{sync::Semaphore, time::Instant};

/// What is counted: a cell of the limiter is this many bytes.
const CELL_BYTES: u64 = 1 << 10;
const CELL: usize = CELL_BYTES as usize;
/// Part of the limit that bodies may take; the rest is for what is around them.
const BODIES_PERCENT: u64 = 85;
/// A limit above this (800 Gbps) is none: nothing is that fast, and the limiter counts in whole nanoseconds per cell.
const HIGHEST_BYTES: u64 = 100_000_000_000;

/// Bytes that may pass in a time: 85 % of the limit for long, a tenth of a second's worth at once.
#[derive(Debug)]
pub(crate) struct Limit {
    bucket: Option<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    limiter: RateLimiter<NotKeyed, InMemoryState, RuntimeClock, NoOpMiddleware<Duration>>,
    clock: RuntimeClock,
    burst_cells: NonZeroU32,
    /// Whoever came first goes first, however much it wants.
    turn: Semaphore,
}

impl Limit {
    /// A limit in megabits a second; 0 is none. Needs a tokio runtime with time.
    pub(crate) fn of_mbps(mbps: u64) -> Self {
        let cells = |bytes: u64| NonZeroU32::new(u32::try_from(bytes / CELL_BYTES).unwrap_or(u32::MAX));
        let bytes = mbps.saturating_mul(1_000_000 / 8);
        if bytes == 0 || bytes > HIGHEST_BYTES {
            return Self { bucket: None };
        }
        let rate = cells(bytes / 100 * BODIES_PERCENT).unwrap_or(NonZeroU32::MIN);
        let burst_cells = cells(bytes / 10).unwrap_or(NonZeroU32::MIN);
        let clock = RuntimeClock { start: Instant::now() };
        let quota = Quota::per_second(rate).allow_burst(burst_cells);
        let limiter = RateLimiter::direct_with_clock(quota, clock.clone());
        Self { bucket: Some(Bucket { limiter, clock, burst_cells, turn: Semaphore::new(1) }) }
    }

    /// Waits until `bytes` may pass. When dropped, what was waited for is taken all the same.
    pub(crate) async fn take(&self, bytes: usize) {
        let Some(bucket) = &self.bucket else { return };
        // The semaphore is never closed.
        let _turn = bucket.turn.acquire().await;
        let mut left = bytes.div_ceil(CELL);
        while left > 0 {
            let cells = u32::try_from(left).unwrap_or(u32::MAX).min(bucket.burst_cells.get());
            bucket.take(cells).await;
            left -= cells as usize;
        }
    }
}

impl Bucket {
    async fn take(&self, cells: u32) {
        let Some(cells) = NonZeroU32::new(cells) else { return };
        // More than the burst never passes, and is never asked for.
        while let Ok(Err(not_yet)) = self.limiter.check_n(cells) {
            tokio::time::sleep(not_yet.wait_time_from(self.clock.now())).await;
        }
    }
}

/// The runtime's time, which its sleeps are measured by.
#[derive(Clone, Debug)]
struct RuntimeClock {
    start: Instant,
}

impl Clock for RuntimeClock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn seconds_of(limit: &Limit, bytes: usize, times: usize) -> f64 {
        let started = Instant::now();
        for _ in 0..times {
            limit.take(bytes).await;
        }
        started.elapsed().as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_pass_at_the_limit() {
        // 85 % of 10^7 bytes a second.
        let limit = Limit::of_mbps(80);
        for (bytes, times) in [(4 << 20, 25), (64 << 10, 1600)] {
            let seconds = seconds_of(&limit, bytes, times).await;
            let wanted = (bytes * times) as f64 / 8.5e6;
            assert!((wanted * 0.97..wanted * 1.03).contains(&seconds), "{bytes} bytes {times} times: {seconds} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenth_of_a_second_passes_at_once_and_no_limit_is_none() {
        assert!(seconds_of(&Limit::of_mbps(80), 900_000, 1).await < 0.001);
        assert!(seconds_of(&Limit::of_mbps(0), 1 << 40, 10).await < 0.001);
        // Beyond what any network has, nothing is in the way.
        assert!(seconds_of(&Limit::of_mbps(u64::MAX), 1 << 30, 10).await < 0.01);
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_first_goes_first() {
        let limit = Limit::of_mbps(8);
        let order = parking_lot::Mutex::new(Vec::new());
        let taker = |n: usize, bytes: usize| {
            let (limit, order) = (&limit, &order);
            async move {
                limit.take(bytes).await;
                order.lock().push(n);
            }
        };
        tokio::join!(taker(0, 8 << 20), taker(1, 100), taker(2, 4 << 20), taker(3, 100));
        assert_eq!(*order.lock(), [0, 1, 2, 3]);
    }
}
