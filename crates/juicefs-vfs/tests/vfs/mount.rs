//! A mounted file system over stores in memory.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use juicefs_core::{Caller, Errno, Ino, SetAttr};
use juicefs_testkit::{clock::TestClock, mem_chunks::MemChunks, mem_meta::MemMeta};
use juicefs_vfs::{Opened, Vfs, VfsConfig};

/// Block size of the tests: small, so that little data makes many blocks.
pub(crate) const BLOCK: usize = 4096;

/// Bytes of a chunk.
pub(crate) const CHUNK: u64 = 64 << 20;

pub(crate) struct Mount {
    pub(crate) vfs: Arc<Vfs>,
    pub(crate) meta: Arc<MemMeta>,
    pub(crate) chunks: Arc<MemChunks>,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) cx: Caller,
}

impl Mount {
    pub(crate) fn new() -> Self {
        Self::with(VfsConfig { enable_xattr: true, enable_ioctl: true, ..VfsConfig::standard() }, 64 << 20)
    }

    pub(crate) fn with(config: VfsConfig, budget_bytes: usize) -> Self {
        Self::sized(config, BLOCK, budget_bytes)
    }

    pub(crate) fn sized(config: VfsConfig, block: usize, budget_bytes: usize) -> Self {
        let clock = TestClock::at(1_700_000_000);
        let meta = MemMeta::new(clock.clone());
        let chunks = MemChunks::new(block, budget_bytes);
        let vfs = Vfs::new(meta.clone(), chunks.clone(), clock.clone(), config);
        Self { vfs, meta, chunks, clock, cx: Caller::root() }
    }

    /// Another client on the same stores.
    pub(crate) fn beside(&self) -> Self {
        let (meta, chunks, clock) = (self.meta.clone(), self.chunks.clone(), self.clock.clone());
        let vfs = Vfs::new(meta.clone(), chunks.clone(), clock.clone(), VfsConfig::standard());
        Self { vfs, meta, chunks, clock, cx: Caller::root() }
    }

    /// With all background tasks.
    pub(crate) fn started(config: VfsConfig, budget_bytes: usize) -> Self {
        let mount = Self::with(config, budget_bytes);
        mount.vfs.start(&tokio::runtime::Handle::current());
        mount
    }

    pub(crate) async fn create(&self, name: &str) -> (Ino, u64) {
        let made = self.vfs.create(&self.cx, Ino::ROOT, name.as_bytes(), 0o644, 0o22, libc::O_RDWR).await;
        let (entry, opened) = made.expect("create");
        (entry.ino, opened.fh)
    }

    pub(crate) async fn open(&self, ino: Ino, flags: i32) -> Opened {
        self.vfs.open(&self.cx, ino, flags).await.expect("open")
    }

    pub(crate) async fn write(&self, ino: Ino, fh: u64, off: u64, data: &[u8]) -> Result<u32, Errno> {
        self.vfs.write(&self.cx, ino, fh, off, Bytes::copy_from_slice(data), false).await
    }

    /// To the end of the file, which the front end takes to be at `off`.
    pub(crate) async fn append(&self, ino: Ino, fh: u64, off: u64, data: &[u8]) -> Result<u32, Errno> {
        self.vfs.write(&self.cx, ino, fh, off, Bytes::copy_from_slice(data), true).await
    }

    pub(crate) async fn read(&self, ino: Ino, fh: u64, off: u64, size: usize) -> Result<Vec<u8>, Errno> {
        let segments = self.vfs.read(&self.cx, ino, fh, off, u32::try_from(size).expect("a small read")).await?;
        Ok(segments.concat())
    }

    pub(crate) async fn flush(&self, ino: Ino, fh: u64) -> Result<(), Errno> {
        self.vfs.flush(&self.cx, ino, fh, 0).await
    }

    pub(crate) async fn truncate(&self, ino: Ino, fh: u64, size: u64) -> Result<(), Errno> {
        self.vfs.setattr(&self.cx, ino, Some(fh), SetAttr::default(), Some(size)).await.map(drop)
    }

    pub(crate) async fn length(&self, ino: Ino) -> u64 {
        self.vfs.getattr(&self.cx, ino, None).await.expect("getattr").attr.length
    }

    /// A number of `.stats`.
    pub(crate) async fn counter(&self, name: &str) -> u64 {
        let entry = self.vfs.lookup(&self.cx, Ino::ROOT, b".stats").await.expect("lookup");
        let fh = self.open(entry.ino, libc::O_RDONLY).await.fh;
        let text = self.read(entry.ino, fh, 0, 1 << 20).await.expect("read");
        self.close(entry.ino, fh).await.expect("close");
        let text = String::from_utf8(text).expect("text");
        let value = text.lines().find_map(|line| line.strip_prefix(&format!("juicefs_{name} ")));
        value.and_then(|value| value.parse().ok()).expect("a number with this name")
    }

    pub(crate) async fn close(&self, ino: Ino, fh: u64) -> Result<(), Errno> {
        self.vfs.release(ino, fh).await
    }
}

/// Polls a future once, as a front end does before it moves it to a task.
pub(crate) fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}

/// Bytes that differ everywhere.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}
