//! How fast a metadata engine is below everything else: `metabench URL [THREADS] [FILES] [SKIP_DIR_MTIME_MS]`. Formats a volume at the URL if
//! there is none, makes, looks up and removes files from several threads, and prints rates and CPU time per operation.

use std::{
    sync::{Arc, Barrier},
    time::{Duration, Instant},
};

use juicefs_core::{
    Caller, Clock, Format, Ino, Meta, SystemClock,
    attr::FileType,
    meta::{NewNode, OpenFlags},
};
use juicefs_meta::{AtimeMode, Client, ClientConfig};
use tokio::runtime::Handle;

fn cpu_micros() -> f64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: getrusage fills the struct that it is given, and zeroes are a valid one.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    let micros = |time: libc::timeval| time.tv_sec as f64 * 1e6 + time.tv_usec as f64;
    micros(usage.ru_utime) + micros(usage.ru_stime)
}

/// What an engine runs its connections on, as in a mount.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// Runs `op` for every file from `threads` threads and prints what it took.
fn measure<F>(
    (runtime, client): (&Handle, &Arc<Client>),
    label: &str,
    threads: usize,
    files: usize,
    op: fn(Arc<Client>, usize) -> F,
) where
    F: Future<Output = ()> + 'static,
{
    let barrier = Arc::new(Barrier::new(threads + 1));
    let workers: Vec<_> = (0..threads)
        .map(|thread| {
            let (runtime, client, barrier) = (runtime.clone(), Arc::clone(client), Arc::clone(&barrier));
            std::thread::spawn(move || {
                barrier.wait();
                for file in (thread..files).step_by(threads) {
                    runtime.block_on(op(Arc::clone(&client), file));
                }
            })
        })
        .collect();
    let cpu = cpu_micros();
    barrier.wait();
    let started = Instant::now();
    workers.into_iter().for_each(|worker| worker.join().expect("no panic"));
    let wall = started.elapsed().as_secs_f64();
    println!(
        "{label:>8} x{threads:<3} {:>9.0}/s  {:>6.1} us CPU per operation",
        files as f64 / wall,
        (cpu_micros() - cpu) / files as f64
    );
}

fn name(file: usize) -> Vec<u8> {
    format!("file-{file:08}").into_bytes()
}

async fn create(client: Arc<Client>, file: usize) {
    let node = NewNode { kind: FileType::File, mode: 0o644, umask: 0o22, rdev: 0, target: bytes::Bytes::new() };
    let flags = OpenFlags { write: true, ..OpenFlags::default() };
    let (ino, _) = client.create(&Caller::root(), Ino::ROOT, &name(file), node, true, flags).await.expect("created");
    client.close(ino).await.expect("closed");
}

async fn lookup(client: Arc<Client>, file: usize) {
    client.lookup(&Caller::root(), Ino::ROOT, &name(file)).await.expect("found");
}

async fn mixed(client: Arc<Client>, file: usize) {
    let missing = client.lookup(&Caller::root(), Ino::ROOT, &name(file + 10_000_000)).await;
    assert!(missing.is_err());
    create(client, file + 10_000_000).await;
}

async fn unlink(client: Arc<Client>, file: usize) {
    client.unlink(&Caller::root(), Ino::ROOT, &name(file), false).await.expect("removed");
}

fn main() {
    let mut args = std::env::args().skip(1);
    let url = args.next().expect("metabench URL [THREADS] [FILES] [SKIP_DIR_MTIME_MS]");
    let threads = args.next().map_or(1, |text| text.parse().expect("a number of threads"));
    let files = args.next().map_or(20_000, |text| text.parse().expect("a number of files"));
    let skip_ms = args.next().map_or(0, |text| text.parse().expect("milliseconds"));
    let engine = juicefs_meta::open(&url).expect("an engine");
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let format = Format {
        name: "bench".into(),
        uuid: "bench".into(),
        storage: "file".into(),
        block_size: 4096,
        compression: "none".into(),
        meta_version: 1,
        dir_stats: true,
        ..Format::default()
    };
    let config = ClientConfig {
        read_only: false,
        skip_dir_mtime: Duration::from_millis(skip_ms),
        subdir: None,
        heartbeat: Duration::from_secs(12),
        keep_replaced: Duration::ZERO,
        atime_mode: AtimeMode::NoAtime,
        sort_dir: false,
        fast_statfs: false,
        clock: Arc::clone(&clock),
    };
    let runtime = runtime();
    let client = runtime.block_on(async {
        if Client::load_format(&engine).await.expect("readable").is_none() {
            Client::init(&engine, &format, false, clock.as_ref()).await.expect("formatted");
        }
        let client = Client::open(engine, config).await.expect("opened");
        client.new_session("{}".into()).await.expect("a session");
        client
    });
    let bench = (runtime.handle(), &client);
    measure(bench, "create", threads, files, create);
    measure(bench, "lookup", threads, files, lookup);
    measure(bench, "mixed", threads, files, mixed);
    measure(bench, "unlink", threads, files, unlink);
    runtime.block_on(client.close_session()).expect("closed");
    runtime.block_on(client.engine().close());
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for line in status.lines().filter(|line| line.starts_with("VmHWM") || line.starts_with("RssAnon")) {
        println!("{line}");
    }
}
