//! Large random writes, most of them not synced, against a plain vector of bytes: up to every limit that a file has.
//!
//! `JUICEFS_TEST_SEED` replays one seed.

use std::{
    env,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use futures_util::future::join_all;
use juicefs_core::Ino;
use juicefs_vfs::{VfsConfig, WriteLimits};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::mount::{CHUNK, Mount, pattern};

const SEEDS: u64 = 200;
const STEPS: usize = 60;
/// Largest write.
const WRITE_MAX: usize = 8 << 20;
/// Where writes begin, from the beginning of the part of the file that is used.
const SPREAD: u64 = 12 << 20;

/// How often the limits were met, over all seeds.
#[derive(Default)]
struct Crossed {
    left_behind: AtomicU64,
    pending: AtomicU64,
    memory: AtomicU64,
}

struct Run {
    m: Mount,
    rng: StdRng,
    ino: Ino,
    fhs: Vec<u64>,
    /// Where the part of the file begins that is used; before it is a hole.
    base: u64,
    model: Vec<u8>,
    written: u64,
}

impl Run {
    async fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let pending_slices = [6, 25, 1000][rng.random_range(0..3)];
        let open_behind = [0, 1, 4][rng.random_range(0..3)];
        let config = VfsConfig { write_limits: WriteLimits { pending_slices, open_behind }, ..VfsConfig::standard() };
        let block = [64 << 10, 256 << 10, 4 << 20][rng.random_range(0..3)];
        let budget = [WRITE_MAX / 4, WRITE_MAX * 2, WRITE_MAX * 64][rng.random_range(0..3)];
        let base = [0, CHUNK - SPREAD / 2][rng.random_range(0..2)];
        let m = Mount::sized(config, block, budget);
        m.vfs.start(&tokio::runtime::Handle::current());
        let (ino, fh) = m.create("file").await;
        m.truncate(ino, fh, base).await.expect("truncate");
        let fhs = vec![fh, m.open(ino, libc::O_RDWR).await.fh, m.open(ino, libc::O_RDWR).await.fh];
        Self { m, rng, ino, fhs, base, model: Vec::new(), written: 0 }
    }

    /// From one byte to `most`, each order of magnitude as often as the others.
    fn size(&mut self, most: usize) -> usize {
        let bits = self.rng.random_range(0..=most.ilog2());
        self.rng.random_range(1..=(2_usize << bits).min(most))
    }

    /// Relative to the beginning of what is used.
    fn place(&mut self) -> usize {
        self.rng.random_range(0..SPREAD as usize)
    }

    fn handle(&mut self) -> u64 {
        self.fhs[self.rng.random_range(0..self.fhs.len())]
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        self.written += 1;
        let mut unit = pattern(self.written, len.min(4099));
        unit.truncate(len);
        unit.iter().copied().cycle().take(len).collect()
    }

    fn store(&mut self, at: usize, data: &[u8]) {
        self.model.resize(self.model.len().max(at + data.len()), 0);
        self.model[at..at + data.len()].copy_from_slice(data);
    }

    async fn write(&mut self) {
        let (at, len, fh) = (self.place(), self.size(WRITE_MAX), self.handle());
        let data = self.bytes(len);
        self.store(at, &data);
        let wrote = self.m.write(self.ino, fh, self.base + at as u64, &data).await;
        assert_eq!(wrote, Ok(len as u32), "write of {len} at {at}");
    }

    /// Several at once, which do not touch each other.
    async fn write_together(&mut self) {
        let lane = SPREAD as usize / 6;
        let mut writes = Vec::new();
        for nth in 0..6 {
            let len = self.size(lane);
            let at = nth * lane + self.rng.random_range(0..=lane - len);
            let data = self.bytes(len);
            self.store(at, &data);
            writes.push((self.handle(), self.base + at as u64, data));
        }
        let (m, ino) = (&self.m, self.ino);
        let all = join_all(writes.iter().map(|(fh, off, data)| m.write(ino, *fh, *off, data))).await;
        for (wrote, (_, off, data)) in all.into_iter().zip(&writes) {
            assert_eq!(wrote, Ok(data.len() as u32), "one of several writes, at {off}");
        }
    }

    async fn append(&mut self) {
        let (len, fh, end) = (self.size(WRITE_MAX / 8), self.handle(), self.model.len());
        let data = self.bytes(len);
        let wrote = self.m.append(self.ino, fh, self.base + end as u64, &data).await;
        assert_eq!(wrote, Ok(len as u32), "append of {len}");
        self.model.extend(data);
    }

    async fn read(&mut self) {
        let (at, len, fh) = (self.place(), self.size(WRITE_MAX), self.handle());
        let got = self.m.read(self.ino, fh, self.base + at as u64, len).await.expect("read");
        let to = (at + len).min(self.model.len());
        assert!(got == self.model[at.min(to)..to], "read of {len} at {at}");
    }

    async fn truncate(&mut self) {
        let (size, fh) = (self.place(), self.handle());
        self.m.truncate(self.ino, fh, self.base + size as u64).await.expect("truncate");
        self.model.resize(size, 0);
    }

    /// A part of what is used, within the file.
    fn range(&mut self) -> Range<usize> {
        let (at, len) = (self.place(), self.size(WRITE_MAX));
        at.min(self.model.len())..(at + len).min(self.model.len())
    }

    async fn punch(&mut self) {
        let (range, fh) = (self.range(), self.handle());
        if !range.is_empty() {
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            let (off, len) = (self.base + range.start as u64, range.len() as u64);
            self.m.vfs.fallocate(&self.m.cx, self.ino, fh, mode, off, len).await.expect("punch");
            self.model[range].fill(0);
        }
    }

    async fn copy(&mut self) {
        let (from, to) = (self.range(), self.place());
        let (fh_in, fh_out) = (self.handle(), self.handle());
        if from.is_empty() || (from.start < to + from.len() && to < from.end) {
            return;
        }
        let (off_in, off_out, len) = (self.base + from.start as u64, self.base + to as u64, from.len() as u64);
        let (m, ino) = (&self.m, self.ino);
        let copied = m.vfs.copy_file_range(&m.cx, ino, fh_in, off_in, ino, fh_out, off_out, len, 0).await;
        assert_eq!(copied, Ok(len), "copy");
        let part = self.model[from].to_vec();
        self.store(to, &part);
    }

    async fn reopen(&mut self) {
        let nth = self.rng.random_range(0..self.fhs.len());
        self.m.close(self.ino, self.fhs[nth]).await.expect("close");
        self.fhs[nth] = self.m.open(self.ino, libc::O_RDWR).await.fh;
    }

    async fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..62 => self.write().await,
            62..66 => self.write_together().await,
            66..74 => self.append().await,
            74..82 => self.read().await,
            82..85 => self.truncate().await,
            85..88 => self.punch().await,
            88..91 => self.copy().await,
            91..93 => {
                let fh = self.handle();
                self.m.flush(self.ino, fh).await.expect("flush");
            }
            93..96 => self.reopen().await,
            96..98 => assert_eq!(self.m.length(self.ino).await, self.base + self.model.len() as u64),
            _ => {
                let micros = self.rng.random_range(0..400_u64);
                self.m.chunks.set_put_latency(Duration::from_micros(micros.saturating_sub(100)));
            }
        }
    }

    /// Closes all handles, and reads everything through another client.
    async fn check_all(&mut self) {
        for fh in std::mem::take(&mut self.fhs) {
            self.m.close(self.ino, fh).await.expect("close");
        }
        let other = self.m.beside();
        let fh = other.open(self.ino, libc::O_RDONLY).await.fh;
        assert_eq!(other.length(self.ino).await, self.base + self.model.len() as u64);
        let mut at = 0;
        while at < self.model.len() {
            let part = other.read(self.ino, fh, self.base + at as u64, 4 << 20).await.expect("read");
            assert!(!part.is_empty(), "short at {at}");
            assert!(part == self.model[at..at + part.len()], "the content differs after {at}");
            at += part.len();
        }
    }
}

async fn run(seed: u64, crossed: &Crossed) {
    let mut run = Run::new(seed).await;
    for _ in 0..STEPS {
        run.step().await;
    }
    run.check_all().await;
    crossed.left_behind.fetch_add(run.m.counter("write_left_behind").await, Relaxed);
    crossed.pending.fetch_add(run.m.counter("write_waits_pending").await, Relaxed);
    crossed.memory.fetch_add(run.m.counter("write_waits_memory").await, Relaxed);
}

#[test]
fn large_random_writes_are_what_is_read() {
    let replayed = env::var("JUICEFS_TEST_SEED").ok().map(|text| text.parse().expect("JUICEFS_TEST_SEED is a number"));
    let (next, last) = replayed.map_or((1, SEEDS), |seed: u64| (seed, seed));
    let (next, crossed) = (AtomicU64::new(next), Crossed::default());
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed > last {
                        break;
                    }
                    let printed = Printed(seed);
                    runtime.block_on(run(seed, &crossed));
                    std::mem::forget(printed);
                }
            });
        }
    });
    if replayed.is_none() {
        for (limit, count) in
            [("left behind", &crossed.left_behind), ("pending", &crossed.pending), ("memory", &crossed.memory)]
        {
            assert!(count.load(Relaxed) > SEEDS, "no seed went up to a limit: {limit}");
        }
    }
}

/// Says on the way out of a panic which seed replays it.
struct Printed(u64);

impl Drop for Printed {
    fn drop(&mut self) {
        eprintln!("JUICEFS_TEST_SEED={} replays this", self.0);
    }
}
