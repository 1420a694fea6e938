//! Mounts whose buffers are full, for their S3 server answers nothing: what needs neither of them goes on, and the mount
//! still ends.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use e2e::{Mount, Owner, Pattern, Rest, Volume, drop_kernel_caches, run, seed_of, wait_until};
use juicefs_testkit::fault_proxy::http::{HttpFault, HttpProxy};

const MIB: usize = 1 << 20;

/// What is answered from this machine is there within this time, also on one that is busy.
const AT_ONCE: Duration = Duration::from_secs(1);
/// After this a call hangs.
const NEVER: Duration = Duration::from_secs(30);

fn data(file: u64, length: usize) -> Vec<u8> {
    Pattern::of(Owner { run: 98, file, version: 1 }).bytes(length)
}

fn behind_a_proxy(test: &str, seed: u64) -> (Volume, HttpProxy) {
    let volume = Volume::with_objects_on_s3(&["--trash-days", "0", "--block-size", "1M"]);
    let proxy = HttpProxy::start(volume.object_server().port(), seed_of(test, seed));
    (volume, proxy)
}

fn mount(volume: &Volume, proxy: &HttpProxy, flags: &[&str]) -> Mount {
    let bucket = proxy.bucket_url("objects");
    volume.mount_with("mnt", &[&["--bucket", bucket.as_str(), "--buffer-size", "64"], flags].concat())
}

fn write_synced(path: &Path, data: &[u8]) {
    fs::write(path, data).unwrap();
    fs::File::open(path).unwrap().sync_all().unwrap();
}

/// Processes that are killed with the test.
struct Processes(Vec<Child>);

impl Processes {
    fn new(count: usize, command: impl Fn(usize) -> Command) -> Self {
        let quietly = |number| command(number).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self((0..count).map(quietly).collect())
    }

    fn writers(mnt: &Mount, count: usize, mib: usize) -> Self {
        Self::new(count, |number| {
            let mut dd = Command::new("dd");
            dd.args(["if=/dev/zero", "bs=1M"]).arg(format!("count={mib}"));
            dd.arg(format!("of={}", mnt.join(format!("writer-{number}")).display()));
            dd
        })
    }

    fn kill(&mut self) {
        // Those that ended are no failure.
        self.0.iter_mut().for_each(|child| drop(child.kill()));
    }

    fn all_ended(&mut self) -> bool {
        self.0.iter_mut().all(|child| child.try_wait().unwrap().is_some())
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.kill();
    }
}

/// How long something takes that may hang for ever; it is left to itself then.
fn timed<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> (T, Duration) {
    let (done, answer) = mpsc::channel();
    let begun = Instant::now();
    thread::spawn(move || done.send(work()));
    let value = answer.recv_timeout(NEVER).unwrap_or_else(|_| panic!("{what} hangs"));
    (value, begun.elapsed())
}

/// A file of which every block is in the disk cache. That one is kept is no promise (what finds the queue of the disk full stays
/// in memory), and a slice that was closed early has blocks of other lengths. Then another file is tried.
fn cached_file(mnt: &Mount) -> std::path::PathBuf {
    let cached_bytes = || mnt.stat("blockcache_bytes");
    for number in 0..10 {
        let path = mnt.join(format!("cached-{number}"));
        write_synced(&path, &data(1, 8 * MIB));
        let before = cached_bytes();
        drop_kernel_caches(1);
        assert!(fs::read(&path).unwrap() == data(1, 8 * MIB));
        if wait_until(Duration::from_secs(3), || cached_bytes() - before >= 8.0 * MIB as f64) {
            return path;
        }
        println!("{} of 8 MiB are in the cache: another file is tried", cached_bytes() - before);
    }
    panic!("what was read is not in the cache");
}

/// A stat of one file and a read of a cached one, while the store is silent and the buffers are full.
fn look(mnt: &Mount, cached: &Path) {
    drop_kernel_caches(3);
    let path = mnt.path().to_owned();
    let (listed, took) = timed("a listing", move || fs::read_dir(path).unwrap().count());
    assert!(listed > 0 && took < AT_ONCE, "a listing took {took:?}");
    let path = cached.to_owned();
    let (length, took) = timed("a stat", move || fs::metadata(path).unwrap().len());
    assert!(length == 8 * MIB as u64 && took < AT_ONCE, "a stat took {took:?}");
    let path = cached.to_owned();
    let (read, took) = timed("a read of what is in the cache", move || fs::read(path).unwrap());
    println!("a read of 8 MiB took {took:?}");
    assert!(read == data(1, 8 * MIB));
    assert!(took < AT_ONCE, "a read of what is in the cache took {took:?}");
}

#[test]
fn a_cached_read_does_not_wait_for_writers() {
    let (volume, proxy) = behind_a_proxy("a_cached_read_does_not_wait_for_writers", 1);
    let mnt = mount(&volume, &proxy, &["--put-timeout", "5s"]);
    let cached = cached_file(&mnt);
    let uncached = |number: usize| mnt.join(format!("uncached-{number}"));
    (0..30).for_each(|number| write_synced(&uncached(number), &data(2, MIB)));
    proxy.fail_always("", HttpFault::Hung);
    let mut writers = Processes::writers(&mnt, 10, 100);
    assert!(wait_until(NEVER, || mnt.stat("write_waits_memory") >= 10.0), "nobody waits for memory");
    look(&mnt, &cached);
    // Nor for readers that wait for the store, of more blocks than there is memory for beside what writers have. (The kernel
    // has 128 requests under way for all readers together.)
    let readers = Processes::new(30, |number| {
        let mut cat = Command::new("cat");
        cat.arg(uncached(number));
        cat
    });
    thread::sleep(Duration::from_millis(500));
    look(&mnt, &cached);
    writers.kill();
    drop(readers);
    // Those whose data was taken close their files on their way out, and the store does not take that now.
    assert!(wait_until(Duration::from_secs(10), || writers.all_ended()), "killed writers live on");
    proxy.calm();
    mnt.unmount();
    volume.assert_sound(Rest::Clean);
}

#[test]
fn two_hundred_waiting_writers_hold_up_nobody() {
    let (volume, proxy) = behind_a_proxy("two_hundred_waiting_writers_hold_up_nobody", 2);
    let mnt = mount(&volume, &proxy, &["--put-timeout", "5s"]);
    let cached = cached_file(&mnt);
    proxy.fail_always("", HttpFault::Hung);
    let mut writers = Processes::writers(&mnt, 200, 2);
    thread::sleep(Duration::from_secs(5));
    look(&mnt, &cached);
    let memory = fs::read_to_string(format!("/proc/{}/status", mnt.pid())).unwrap();
    let resident: u64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok())
        .expect("the memory of the client");
    assert!(resident < 300 << 10, "{resident} KiB with buffers of 64 MiB");
    println!("{resident} KiB are resident");
    // All of them come to their turn.
    proxy.calm();
    assert!(wait_until(Duration::from_secs(180), || writers.all_ended()), "writers wait for nothing");
    for (number, child) in writers.0.iter_mut().enumerate() {
        assert!(child.wait().unwrap().success(), "writer {number}");
    }
    for number in [0, 50, 100, 150, 199] {
        assert!(fs::read(mnt.join(format!("writer-{number}"))).unwrap() == vec![0; 2 * MIB], "writer {number}");
    }
    mnt.unmount();
    volume.assert_sound(Rest::Clean);
}

/// How it ends, and whether soon enough after it was asked to.
fn ends_broken_off(mnt: Mount, begun: Instant) {
    let status = mnt.ended();
    let took = begun.elapsed();
    println!("ended after {took:?}");
    assert_eq!(status.code(), Some(11), "{status}");
    assert!(took < Duration::from_secs(45), "it took {took:?}");
}

#[test]
fn sigterm_ends_a_mount_whose_store_is_silent() {
    let (volume, proxy) = behind_a_proxy("sigterm_ends_a_mount_whose_store_is_silent", 3);
    let mnt = mount(&volume, &proxy, &["--cache-size", "0"]);
    write_synced(&mnt.join("uncached"), &data(1, 8 * MIB));
    drop_kernel_caches(1);
    proxy.fail_always("", HttpFault::Hung);
    let mut writers = Processes::writers(&mnt, 40, 100);
    let mut readers = Processes::new(4, |number| {
        let mut dd = Command::new("dd");
        dd.args(["bs=1M", "count=1"])
            .arg(format!("skip={number}"))
            .arg(format!("if={}", mnt.join("uncached").display()));
        dd
    });
    assert!(wait_until(NEVER, || mnt.stat("write_waits_memory") >= 10.0), "nobody waits for memory");
    let begun = Instant::now();
    mnt.terminate();
    ends_broken_off(mnt, begun);
    assert!(wait_until(NEVER, || writers.all_ended() && readers.all_ended()), "users of the mount hang");
}

#[test]
fn a_mount_whose_store_is_silent_ends_after_umount() {
    let (volume, proxy) = behind_a_proxy("a_mount_whose_store_is_silent_ends_after_umount", 4);
    let mnt = mount(&volume, &proxy, &["--cache-size", "0"]);
    proxy.fail_always("", HttpFault::Hung);
    let mut writers = Processes::writers(&mnt, 2, 4);
    // Each waits for its data to be stored, as it closes.
    assert!(wait_until(NEVER, || mnt.stat("used_buffer_size_bytes") >= 8.0 * MIB as f64), "nothing is written");
    writers.kill();
    assert!(wait_until(NEVER, || writers.all_ended()), "killed writers live on");
    let begun = Instant::now();
    run("umount", [mnt.path()]).expect_success();
    ends_broken_off(mnt, begun);
}

#[test]
fn what_is_staged_stays_when_a_mount_ends_whose_store_is_silent() {
    let (volume, proxy) = behind_a_proxy("what_is_staged_stays_when_a_mount_ends_whose_store_is_silent", 5);
    let mnt = mount(&volume, &proxy, &["--writeback"]);
    proxy.fail_always("", HttpFault::Hung);
    // More than background uploads may hold: they leave room for what can be staged.
    write_synced(&mnt.join("staged"), &data(1, 100 * MIB));
    let begun = Instant::now();
    mnt.terminate();
    let status = mnt.ended();
    assert!(status.success(), "{status}");
    assert!(begun.elapsed() < Duration::from_secs(20), "it took {:?}", begun.elapsed());
    proxy.calm();
    let mnt = mount(&volume, &proxy, &["--writeback"]);
    assert!(wait_until(Duration::from_secs(60), || mnt.stat("staging_blocks") == 0.0), "it is not uploaded");
    assert!(fs::read(mnt.join("staged")).unwrap() == data(1, 100 * MIB));
    mnt.unmount();
    volume.assert_sound(Rest::Clean);
}
