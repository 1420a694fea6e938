//! Measures what a request costs by itself, on a mount over operations that do nothing. It is to be run by hand,
//! optimised, on a machine that does nothing else.
//!
//! `cargo test --release -p juicefs-fuse measure -- --ignored --nocapture`

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{FileExt, OpenOptionsExt},
    time::Instant,
};

use bytes::Bytes;
use juicefs_core::{Attr, Caller, Errno, FileType, Ino, Segments, SetAttr};
use juicefs_vfs::{AttrReply, Entry, Opened};

use super::*;

const FILE_BYTES: u64 = 1 << 40;

/// Every name is a file of one terabyte; reads share one buffer and writes go nowhere.
#[derive(Clone)]
struct Nothing {
    block: Bytes,
}

fn attr(ino: Ino) -> Attr {
    match ino {
        Ino::ROOT => Attr { kind: FileType::Directory, mode: 0o755, nlink: 2, ..Attr::default() },
        _ => Attr { mode: 0o644, nlink: 1, length: FILE_BYTES, ..Attr::default() },
    }
}

fn entry() -> Entry {
    Entry { ino: Ino(2), attr: attr(Ino(2)), attr_ttl: Duration::ZERO, entry_ttl: Duration::ZERO }
}

impl Operations for Nothing {
    async fn lookup(&self, _: &Caller, _: Ino, name: &[u8]) -> Result<Entry, Errno> {
        if name.starts_with(b"new") { Err(Errno::ENOENT) } else { Ok(entry()) }
    }
    async fn getattr(&self, _: &Caller, ino: Ino, _: Option<u64>) -> Result<AttrReply, Errno> {
        Ok(AttrReply { attr: attr(ino), ino, attr_ttl: Duration::ZERO })
    }
    async fn setattr(
        &self,
        cx: &Caller,
        ino: Ino,
        fh: Option<u64>,
        _: SetAttr,
        _: Option<u64>,
    ) -> Result<AttrReply, Errno> {
        self.getattr(cx, ino, fh).await
    }
    async fn open(&self, _: &Caller, _: Ino, _: i32) -> Result<Opened, Errno> {
        Ok(Opened { fh: 2, parallel_direct_writes: true, ..Opened::default() })
    }
    async fn create(&self, cx: &Caller, _: Ino, _: &[u8], _: u32, _: u16, _: i32) -> Result<(Entry, Opened), Errno> {
        Ok((entry(), self.open(cx, Ino(2), 0).await?))
    }
    async fn unlink(&self, _: &Caller, _: Ino, _: &[u8]) -> Result<(), Errno> {
        Ok(())
    }
    async fn read(&self, _: &Caller, _: Ino, _: u64, off: u64, size: u32) -> Result<Segments, Errno> {
        let from = off as usize % self.block.len();
        Ok(Segments::from_iter([self.block.slice(from..from + size as usize)]))
    }
    async fn write(&self, _: &Caller, _: Ino, _: u64, _: u64, data: Bytes, _: bool) -> Result<u32, Errno> {
        Ok(data.len() as u32)
    }
    async fn flush(&self, _: &Caller, _: Ino, _: u64, _: u64) -> Result<(), Errno> {
        Ok(())
    }
    async fn release(&self, _: Ino, _: u64) -> Result<(), Errno> {
        Ok(())
    }
}

/// CPU time of the readers and of everything else in this process, in nanoseconds.
fn cpu() -> (u64, u64) {
    let (mut readers, mut others) = (0, 0);
    for task in fs::read_dir("/proc/self/task").expect("procfs").flatten() {
        let (Ok(name), Ok(stat)) =
            (fs::read_to_string(task.path().join("comm")), fs::read_to_string(task.path().join("schedstat")))
        else {
            continue;
        };
        let spent: u64 = stat.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        *(if name.starts_with("fuse-") { &mut readers } else { &mut others }) += spent;
    }
    (readers, others)
}

fn report(what: &str, ops: u64, bytes_each: u64, mut run: impl FnMut(u64)) {
    let (before, begun) = (cpu(), Instant::now());
    for i in 0..ops {
        run(i);
    }
    let (wall, after) = (begun.elapsed(), cpu());
    let per_op = |nanos: u64| nanos as f64 / ops as f64 / 1000.0;
    println!(
        "{what:24} {:9.0} op/s {:8.0} MB/s   wall {:7.2} us   server {:7.2} us   client {:7.2} us",
        ops as f64 / wall.as_secs_f64(),
        (ops * bytes_each) as f64 / wall.as_secs_f64() / 1e6,
        wall.as_secs_f64() * 1e6 / ops as f64,
        per_op(after.0 - before.0),
        per_op(after.1 - before.1),
    );
}

fn measure(dir: &Path) {
    let direct = |name: &str| {
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(dir.join(name)).expect("open")
    };
    let file = direct("f");
    report("fstat", 200_000, 0, |_| assert!(file.metadata().is_ok()));
    report("stat", 100_000, 0, |_| assert!(fs::metadata(dir.join("f")).is_ok()));
    report("create + close", 30_000, 0, |i| drop(File::create(dir.join(format!("new{i}"))).expect("create")));
    report("open + close", 30_000, 0, |_| drop(File::open(dir.join("f")).expect("open")));
    let mut buf = Aligned::new();
    report("read 4 KiB direct", 100_000, 4096, |i| {
        file.read_exact_at(&mut buf.bytes()[..4096], i % 256 * 4096).expect("read");
    });
    report("read 1 MiB direct", 5_000, 1 << 20, |i| file.read_exact_at(buf.bytes(), i << 20).expect("read"));
    report("write 4 KiB direct", 100_000, 4096, |i| {
        file.write_all_at(&buf.bytes()[..4096], i % 256 * 4096).expect("write");
    });
    report("write 1 MiB direct", 5_000, 1 << 20, |i| file.write_all_at(buf.bytes(), i << 20).expect("write"));
    let buffered = OpenOptions::new().read(true).write(true).open(dir.join("g")).expect("open");
    report("write 128 KiB buffered", 10_000, 128 << 10, |i| {
        buffered.write_all_at(&buf.bytes()[..128 << 10], i * (128 << 10)).expect("write");
    });
    report("read 128 KiB buffered", 10_000, 128 << 10, |i| {
        buffered.read_exact_at(&mut buf.bytes()[..128 << 10], (1 << 35) + i * (128 << 10)).expect("read");
    });
}

struct Aligned(Vec<u8>);

impl Aligned {
    fn new() -> Self {
        Self(vec![1; (1 << 20) + 4096])
    }
    fn bytes(&mut self) -> &mut [u8] {
        let skip = self.0.as_ptr().align_offset(4096);
        &mut self.0[skip..skip + (1 << 20)]
    }
}

#[test]
#[ignore = "measures; run by hand"]
fn measure_requests() {
    let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    for threads in [Some(1), None] {
        let dir = tempfile::tempdir().expect("a directory");
        let mut options = MountOptions::standard(dir.path().into(), "nothing");
        (options.max_io_bytes, options.threads) = (1 << 20, threads);
        let nothing = Nothing { block: vec![7; 2 << 20].into() };
        let mounted = Mounted::mount_operations(nothing, rt.handle().clone(), &options).expect("root and /dev/fuse");
        println!("readers: {threads:?}");
        measure(dir.path());
        mounted.unmount(false).expect("nobody uses it");
        mounted.wait(Duration::from_secs(60)).expect("no thread panicked");
    }
}
