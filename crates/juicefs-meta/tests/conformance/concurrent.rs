//! Two clients that work on one small tree at the same time, truly in parallel. In rounds of a few calls each: every
//! round must be explained by some serial order of its calls that respects time, for the independent model of POSIX.
//!
//! `JUICEFS_TEST_SEED` repeats the choice of calls, though not their timing; `JUICEFS_TEST_FULL=1` makes it long.

mod arena;
mod observe;
mod op;
mod process;
mod search;
mod state;
#[cfg(test)]
mod tests;

use std::{
    env,
    sync::Arc,
    time::{Duration, Instant},
};

use juicefs_meta::{Engine, engine::mem::MemEngine};
use tokio::runtime::{Builder, Handle, Runtime};

pub(crate) use arena::{Arena, Options};

use crate::{
    interleaving::Optimistic,
    volume::{Home, Kind},
};

/// Whether the long mode is asked for.
pub(crate) fn full() -> bool {
    env::var_os("JUICEFS_TEST_FULL").is_some_and(|value| value == "1")
}

/// The seed that is asked for, or a new one; printed.
pub(crate) fn seed() -> u64 {
    let seed = match env::var("JUICEFS_TEST_SEED") {
        Ok(text) => text.parse().expect("JUICEFS_TEST_SEED is a number"),
        Err(_) => rand::random(),
    };
    println!("JUICEFS_TEST_SEED={seed}");
    seed
}

/// Each client has threads of its own, as two mounts have.
pub(crate) struct Runtimes([Runtime; 2]);

impl Runtimes {
    pub(crate) fn new(threads: usize) -> Self {
        let runtime = || Builder::new_multi_thread().worker_threads(threads).enable_all().build().expect("a runtime");
        Self([runtime(), runtime()])
    }

    pub(crate) fn handles(&self) -> [Handle; 2] {
        self.0.each_ref().map(|runtime| runtime.handle().clone())
    }

    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.0[0].block_on(future)
    }
}

/// Plays rounds on an engine for as long as the mode says.
fn play(kind: Kind) {
    let options = Options { seed: seed(), ..Options::default() };
    let runtimes = Runtimes::new(2);
    runtimes.block_on(async {
        let mut arena = Arena::new(Home::new(kind), runtimes.handles(), |home, _| engine(home), options).await;
        let until = Instant::now() + Duration::from_secs(if full() { 120 } else { 6 });
        while Instant::now() < until {
            for _ in 0..64 {
                arena.round().await;
            }
            arena.check_records().await;
        }
        let told = arena.finish().await;
        println!("{kind:?}: {told:?}");
        // On a busy machine one thread may do most of the work.
        assert!(told.overlaps > 100, "calls hardly ever overlap: {told:?}");
    });
}

/// The engine of one client. The one in memory is so fast that calls would hardly overlap; it gets pauses.
fn engine(home: &Home) -> Arc<dyn Engine> {
    match home {
        Home::Mem(engine) => Optimistic::new(Arc::clone(engine)),
        home => home.engine(),
    }
}

#[test]
fn concurrent_calls_on_memory_have_a_serial_order() {
    play(Kind::Mem);
}

#[test]
fn concurrent_calls_on_sqlite_have_a_serial_order() {
    play(Kind::Sqlite);
}

#[test]
fn concurrent_calls_on_redis_have_a_serial_order() {
    play(Kind::Redis);
}

#[test]
fn concurrent_calls_on_a_cluster_have_a_serial_order() {
    play(Kind::RedisCluster);
}

/// Calls that end with "unavailable" happened, or did not; all the rest is as exact as ever.
#[test]
fn calls_without_an_answer_happen_once_or_never() {
    let options = Options { seed: seed(), may_fail: true, ..Options::default() };
    // One thread each: between an effect and the news that it cannot be told, nobody of the same client comes in.
    let runtimes = Runtimes::new(1);
    runtimes.block_on(async {
        let mem = Arc::new(MemEngine::new());
        let engines = [Optimistic::losing(Arc::clone(&mem)), Optimistic::losing(Arc::clone(&mem))];
        let engine = |_: &Home, client: usize| Arc::clone(&engines[client]) as Arc<dyn Engine>;
        let mut arena = Arena::new(Home::Mem(mem), runtimes.handles(), engine, options).await;
        engines.iter().for_each(|engine| engine.lose(3));
        for _ in 0..if full() { 500 } else { 30 } {
            for _ in 0..20 {
                arena.round().await;
            }
            arena.check_records().await;
        }
        let told = arena.finish().await;
        println!("{told:?}");
        assert!(told.unanswered > 20, "too little was lost: {told:?}");
    });
}
