//! The bandwidths of `--upload-limit` and `--download-limit` are kept here (format: data.md §3.3).

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed},
};
use parking_lot::RwLock;
use tokio::{sync::Semaphore, time::Instant};

/// The limiter counts in cells of this many bytes.
const CELL_BYTES: u64 = 1 << 10;
const CELL: usize = CELL_BYTES as usize;
/// The part of the limit that bodies may take. The rest is for headers and the like.
const BODIES_PERCENT: u64 = 85;
/// A limit above this (800 Gbps) counts as none. Nothing is that fast, and the limiter counts in whole nanoseconds per cell.
const HIGHEST_BYTES: u64 = 100_000_000_000;

/// Lets so many bytes pass in a time: 85 % of the limit in the long run, and a tenth of a second's worth at once.
#[derive(Debug)]
pub(crate) struct Limit {
    rate: RwLock<Option<Arc<Rate>>>,
    /// Whoever came first goes first, however much it wants.
    turn: Semaphore,
}

#[derive(Debug)]
struct Rate {
    mbps: u64,
    limiter: RateLimiter<NotKeyed, InMemoryState, RuntimeClock, NoOpMiddleware<Duration>>,
    clock: RuntimeClock,
    burst_cells: NonZeroU32,
}

impl Limit {
    /// Makes a limit of `mbps` megabits a second, or none for 0. Must be called in a tokio runtime with time.
    pub(crate) fn of_mbps(mbps: u64) -> Self {
        Self { rate: RwLock::new(Rate::of_mbps(mbps)), turn: Semaphore::new(1) }
    }

    /// Sets another limit. Whoever waits goes on with the new limit after a tenth of a second at most.
    pub(crate) fn set_mbps(&self, mbps: u64) {
        let mut rate = self.rate.write();
        // What has passed lately must count: a limit that stays is not begun anew.
        if rate.as_ref().map_or(0, |rate| rate.mbps) != mbps {
            *rate = Rate::of_mbps(mbps);
        }
    }

    /// Whether there is a limit now.
    pub(crate) fn is_limited(&self) -> bool {
        self.rate.read().is_some()
    }

    /// Waits until `bytes` may pass. When this is dropped, the bytes count as passed all the same.
    pub(crate) async fn take(&self, bytes: usize) {
        if !self.is_limited() {
            return;
        }
        // The semaphore is never closed.
        let _turn = self.turn.acquire().await;
        let mut left = bytes.div_ceil(CELL);
        while left > 0 {
            let Some(rate) = self.rate.read().clone() else { return };
            let cells = u32::try_from(left).unwrap_or(u32::MAX).min(rate.burst_cells.get());
            rate.take(cells).await;
            left -= cells as usize;
        }
    }
}

impl Rate {
    /// Returns `None` for 0 and for a rate beyond all networks.
    fn of_mbps(mbps: u64) -> Option<Arc<Self>> {
        let cells = |bytes: u64| NonZeroU32::new(u32::try_from(bytes / CELL_BYTES).unwrap_or(u32::MAX));
        let bytes = mbps.saturating_mul(1_000_000 / 8);
        if bytes == 0 || bytes > HIGHEST_BYTES {
            return None;
        }
        let per_second = cells(bytes / 100 * BODIES_PERCENT).unwrap_or(NonZeroU32::MIN);
        let burst_cells = cells(bytes / 10).unwrap_or(NonZeroU32::MIN);
        let clock = RuntimeClock { start: Instant::now() };
        let quota = Quota::per_second(per_second).allow_burst(burst_cells);
        let limiter = RateLimiter::direct_with_clock(quota, clock.clone());
        Some(Arc::new(Self { mbps, limiter, clock, burst_cells }))
    }

    async fn take(&self, cells: u32) {
        let Some(cells) = NonZeroU32::new(cells) else { return };
        // More than the burst never passes, and is never asked for.
        while let Ok(Err(not_yet)) = self.limiter.check_n(cells) {
            tokio::time::sleep(not_yet.wait_time_from(self.clock.now())).await;
        }
    }
}

/// The clock of the runtime, by which its sleeps are measured.
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

    /// One waits for 1000 s with the old limit, another behind it.
    #[tokio::test(start_paused = true)]
    async fn a_changed_limit_is_for_those_who_wait_too() {
        for mbps in [0, 8000] {
            let limit = Limit::of_mbps(8);
            let begun = Instant::now();
            let change = async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                limit.set_mbps(mbps);
            };
            tokio::join!(limit.take(850_000_000), limit.take(85_000_000), change);
            assert!(begun.elapsed() < Duration::from_millis(2500), "{mbps}: {:?}", begun.elapsed());
            assert_eq!(limit.is_limited(), mbps > 0);
        }
    }

    /// Set again and again as it is, it lets nothing more pass.
    #[tokio::test(start_paused = true)]
    async fn a_limit_that_stays_is_not_begun_anew() {
        let limit = Limit::of_mbps(80);
        let begun = Instant::now();
        for _ in 0..1000 {
            limit.set_mbps(80);
            limit.take(85_000).await;
        }
        assert!((9.5..10.5).contains(&begun.elapsed().as_secs_f64()), "{:?}", begun.elapsed());
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
