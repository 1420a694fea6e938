//! Random histories against a plain vector of bytes.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use juicefs_core::{ChunkError, StorageError};
use juicefs_vfs::VfsConfig;
use proptest::prelude::*;

use crate::mount::{BLOCK, CHUNK, Mount, pattern};

#[derive(Clone, Debug)]
enum Step {
    Write {
        handle: usize,
        off: u64,
        len: usize,
    },
    /// As the front end says it that knows the end, or knew it.
    Append {
        handle: usize,
        len: usize,
        stale: bool,
    },
    Read {
        handle: usize,
        off: u64,
        len: usize,
    },
    Truncate {
        handle: usize,
        size: u64,
    },
    Punch {
        off: u64,
        len: u64,
    },
    Zero {
        off: u64,
        len: u64,
    },
    Allocate {
        off: u64,
        len: u64,
    },
    Copy {
        from: u64,
        to: u64,
        len: u64,
    },
    Flush {
        handle: usize,
    },
    Reopen {
        handle: usize,
    },
    Stat,
    /// The next upload is slow, or at once.
    Slow(bool),
}

/// Offsets near the start, and near the edge between two chunks.
fn offset() -> impl Strategy<Value = u64> {
    let near = 0..20 * BLOCK as u64;
    prop_oneof![15 => near, 1 => CHUNK - 3 * BLOCK as u64..CHUNK + 3 * BLOCK as u64]
}

fn step() -> impl Strategy<Value = Step> {
    let handle = 0..3_usize;
    let len = prop_oneof![1..200_usize, 1..6 * BLOCK];
    let range = || (offset(), 1..4 * BLOCK as u64);
    prop_oneof![
        8 => (handle.clone(), offset(), len.clone()).prop_map(|(handle, off, len)| Step::Write { handle, off, len }),
        5 => (handle.clone(), len.clone(), any::<bool>())
            .prop_map(|(handle, len, stale)| Step::Append { handle, len, stale }),
        5 => (handle.clone(), offset(), len).prop_map(|(handle, off, len)| Step::Read { handle, off, len }),
        1 => (handle.clone(), offset()).prop_map(|(handle, size)| Step::Truncate { handle, size }),
        1 => range().prop_map(|(off, len)| Step::Punch { off, len }),
        1 => range().prop_map(|(off, len)| Step::Zero { off, len }),
        1 => range().prop_map(|(off, len)| Step::Allocate { off, len }),
        1 => (offset(), offset(), 1..4 * BLOCK as u64).prop_map(|(from, to, len)| Step::Copy { from, to, len }),
        2 => handle.clone().prop_map(|handle| Step::Flush { handle }),
        1 => handle.prop_map(|handle| Step::Reopen { handle }),
        1 => Just(Step::Stat),
        1 => any::<bool>().prop_map(Step::Slow),
    ]
}

struct Run {
    m: Mount,
    ino: juicefs_core::Ino,
    fhs: Vec<u64>,
    model: Vec<u8>,
    seed: u64,
}

impl Run {
    async fn new() -> Self {
        let m = Mount::started(VfsConfig::standard(), 1 << 20);
        let (ino, fh) = m.create("file").await;
        let fhs = vec![fh, m.open(ino, libc::O_RDWR).await.fh, m.open(ino, libc::O_RDWR).await.fh];
        Self { m, ino, fhs, model: Vec::new(), seed: 0 }
    }

    fn fill(&mut self, off: u64, len: u64) {
        let (from, to) = (off as usize, (off + len) as usize);
        let to = to.min(self.model.len());
        if from < to {
            self.model[from..to].fill(0);
        }
    }

    async fn step(&mut self, step: &Step) {
        let (m, ino) = (&self.m, self.ino);
        match *step {
            Step::Write { handle, off, len } => {
                self.seed += 1;
                let data = pattern(self.seed, len);
                assert_eq!(m.write(ino, self.fhs[handle], off, &data).await, Ok(len as u32));
                let end = off as usize + len;
                if self.model.len() < end {
                    self.model.resize(end, 0);
                }
                self.model[off as usize..end].copy_from_slice(&data);
            }
            Step::Append { handle, len, stale } => {
                self.seed += 1;
                let data = pattern(self.seed, len);
                let off = if stale { self.model.len() / 2 } else { self.model.len() };
                assert_eq!(m.append(ino, self.fhs[handle], off as u64, &data).await, Ok(len as u32));
                self.model.extend(data);
            }
            Step::Read { handle, off, len } => {
                let got = m.read(ino, self.fhs[handle], off, len).await.expect("read");
                let from = (off as usize).min(self.model.len());
                let to = (from + len).min(self.model.len());
                assert!(got == self.model[from..to], "read of {len} at {off}");
            }
            Step::Truncate { handle, size } => {
                m.truncate(ino, self.fhs[handle], size).await.expect("truncate");
                self.model.resize(size as usize, 0);
            }
            Step::Punch { off, len } => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                m.vfs.fallocate(&m.cx, ino, self.fhs[0], mode, off, len).await.expect("punch");
                self.fill(off, len);
            }
            Step::Zero { off, len } => {
                let mode = libc::FALLOC_FL_ZERO_RANGE;
                m.vfs.fallocate(&m.cx, ino, self.fhs[1], mode, off, len).await.expect("zero");
                self.fill(off, len);
                self.model.resize(self.model.len().max((off + len) as usize), 0);
            }
            Step::Allocate { off, len } => {
                m.vfs.fallocate(&m.cx, ino, self.fhs[2], 0, off, len).await.expect("allocate");
                self.model.resize(self.model.len().max((off + len) as usize), 0);
            }
            Step::Copy { from, to, len } => self.copy(from, to, len).await,
            Step::Flush { handle } => m.flush(ino, self.fhs[handle]).await.expect("flush"),
            Step::Reopen { handle } => {
                m.close(ino, self.fhs[handle]).await.expect("close");
                self.fhs[handle] = m.open(ino, libc::O_RDWR).await.fh;
            }
            Step::Stat => assert_eq!(m.length(ino).await, self.model.len() as u64),
            Step::Slow(slow) => {
                m.chunks.set_put_latency(std::time::Duration::from_micros(if slow { 300 } else { 0 }));
            }
        }
    }

    async fn copy(&mut self, from: u64, to: u64, len: u64) {
        let m = &self.m;
        let copied = m.vfs.copy_file_range(&m.cx, self.ino, self.fhs[0], from, self.ino, self.fhs[1], to, len, 0).await;
        if from < to + len && to < from + len {
            assert_eq!(copied, Err(juicefs_core::Errno::EINVAL));
            return;
        }
        let bytes = len.min((self.model.len() as u64).saturating_sub(from));
        assert_eq!(copied, Ok(bytes));
        if bytes > 0 {
            let part = self.model[from as usize..(from + bytes) as usize].to_vec();
            let end = (to + bytes) as usize;
            self.model.resize(self.model.len().max(end), 0);
            self.model[to as usize..end].copy_from_slice(&part);
        }
    }

    /// Everything, through a fresh mount of the same stores.
    async fn check_all(&self) {
        let (m, ino) = (&self.m, self.ino);
        for fh in &self.fhs {
            m.flush(ino, *fh).await.expect("flush");
        }
        let fh = m.open(ino, libc::O_RDONLY).await.fh;
        let mut got = Vec::new();
        while got.len() < self.model.len() {
            let part = m.read(ino, fh, got.len() as u64, 1 << 20).await.expect("read");
            assert!(!part.is_empty(), "short at {}", got.len());
            got.extend(part);
        }
        assert!(got == self.model, "the content differs");
    }
}

#[derive(Clone, Copy, Debug)]
enum PairStep {
    Append(usize),
    Flush,
    Stat,
    Read,
    Slow(bool),
}

fn pair_step() -> impl Strategy<Value = PairStep> {
    prop_oneof![
        6 => (0..3 * BLOCK).prop_map(PairStep::Append),
        2 => Just(PairStep::Flush),
        1 => Just(PairStep::Stat),
        2 => Just(PairStep::Read),
        1 => any::<bool>().prop_map(PairStep::Slow),
    ]
}

/// Who, the number, the length, and as many bytes that follow from them.
fn record(who: usize, number: u8, len: usize) -> Vec<u8> {
    let mut record = vec![who as u8, number];
    record.extend((len as u32).to_le_bytes());
    record.extend(pattern(who as u64 * 1000 + u64::from(number), len));
    record
}

/// How many records of each client follow each other in `file`, which has whole ones in the order of their client.
fn told(mut file: &[u8]) -> [u8; 2] {
    let mut next = [0; 2];
    while let [who, number, l0, l1, l2, l3, ..] = *file {
        let (who, len) = (usize::from(who), u32::from_le_bytes([l0, l1, l2, l3]) as usize);
        assert_eq!(number, next[who], "client {who}");
        let record = record(who, number, len);
        assert!(file.starts_with(&record), "record {number} of client {who} is torn");
        file = &file[record.len()..];
        next[who] += 1;
    }
    assert!(file.is_empty());
    next
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_file_is_what_was_written(steps in prop::collection::vec(step(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let mut run = Run::new().await;
            for step in &steps {
                run.step(step).await;
            }
            run.check_all().await;
            let slices = run.m.chunks.slices();
            for id in run.m.meta.live_slices() {
                assert!(slices.contains(&id), "slice {id} is committed without its data");
            }
        });
    }

    /// Two clients append to one file: nothing is lost, torn or out of the order of its client, whatever is pending where,
    /// and each client sees all that is its own.
    #[test]
    fn appends_of_two_clients_are_whole_and_in_order(steps in prop::collection::vec((0..2_usize, pair_step()), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let one = Mount::started(VfsConfig::standard(), 1 << 20);
            let (ino, fh) = one.create("file").await;
            let two = one.beside();
            let other = two.open(ino, libc::O_RDWR).await.fh;
            let clients = [(&one, fh), (&two, other)];
            let mut written = [0_u8; 2];
            let mut known = [0; 2];
            for (who, step) in steps {
                let (m, fh) = clients[who];
                match step {
                    PairStep::Append(len) => {
                        let record = record(who, written[who], len);
                        assert_eq!(m.append(ino, fh, known[who], &record).await, Ok(record.len() as u32));
                        written[who] += 1;
                        known[who] += record.len() as u64;
                    }
                    PairStep::Flush => m.flush(ino, fh).await.expect("flush"),
                    PairStep::Stat => known[who] = m.length(ino).await,
                    PairStep::Read => {
                        m.length(ino).await;
                        let got = m.read(ino, fh, 0, 1 << 20).await.expect("read");
                        assert_eq!(told(&got)[who], written[who], "client {who} misses its own");
                        assert_eq!(got.len() as u64, m.length(ino).await);
                    }
                    PairStep::Slow(slow) => {
                        m.chunks.set_put_latency(std::time::Duration::from_micros(if slow { 300 } else { 0 }));
                    }
                }
            }
            for (m, fh) in clients {
                m.flush(ino, fh).await.expect("flush");
            }
            for (m, fh) in clients {
                m.length(ino).await;
                assert_eq!(told(&m.read(ino, fh, 0, 1 << 20).await.expect("read")), written);
            }
        });
    }

    /// With uploads that fail: after an error nothing is promised about what was not flushed, but what a flush answered
    /// for stays, and whatever a read gives is some version of each byte.
    #[test]
    fn what_a_flush_answered_for_survives_failures(
        rounds in prop::collection::vec((prop::collection::vec((0..30_000_u64, 1..9000_usize), 1..6), any::<bool>()), 1..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let m = Mount::started(VfsConfig::standard(), 1 << 20);
            let failing = Arc::new(AtomicBool::new(false));
            let fails = Arc::clone(&failing);
            m.chunks.fail_puts(move |(id, index, _)| {
                let lose = fails.load(Ordering::SeqCst) && (id.0 + u64::from(index)) % 2 == 0;
                lose.then(|| ChunkError::Storage(StorageError::Transient("injected".into())))
            });
            let (ino, mut fh) = m.create("file").await;
            let (mut sure, mut seed) = (Vec::new(), 0);
            for (writes, fail) in rounds {
                failing.store(fail, Ordering::SeqCst);
                let mut model = sure.clone();
                let mut touched = vec![false; model.len()];
                let mut refused = false;
                for (off, len) in writes {
                    seed += 1;
                    let data = pattern(seed, len);
                    refused |= m.write(ino, fh, off, &data).await.is_err();
                    let end = off as usize + len;
                    model.resize(model.len().max(end), 0);
                    touched.resize(model.len(), false);
                    model[off as usize..end].copy_from_slice(&data);
                    touched[off as usize..end].fill(true);
                }
                let flushed = m.flush(ino, fh).await;
                failing.store(false, Ordering::SeqCst);
                if flushed.is_ok() && !refused {
                    sure = model;
                } else {
                    let _ = m.close(ino, fh).await;
                    fh = m.open(ino, libc::O_RDWR).await.fh;
                    let got = m.read(ino, fh, 0, 1 << 20).await.expect("read");
                    for (at, byte) in sure.iter().enumerate() {
                        assert!(touched[at] || got[at] == *byte, "byte {at} was never written again and changed");
                    }
                    sure = got;
                }
                let got = m.read(ino, fh, 0, 1 << 20).await.expect("read");
                assert!(got == sure, "the content differs");
            }
        });
    }
}
