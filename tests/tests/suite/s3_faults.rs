//! Mounts whose S3 server is behind a bad network, refuses, or is away: each ends in the right error or the right waiting,
//! and never in wrong data.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use e2e::{Mount, Owner, Pattern, Rest, Volume, drop_kernel_caches, full, run_in, seed_of, wait_until};
use juicefs_testkit::{
    fault_proxy::http::{HttpFault, HttpProxy, HttpRates},
    s3::SECRET_KEY,
};

const MIB: usize = 1 << 20;

/// The bucket of volumes with a server of their own.
const BUCKET: &str = "objects";

fn data(file: u64, length: usize) -> Vec<u8> {
    Pattern::of(Owner { run: 96, file, version: 1 }).bytes(length)
}

fn drop_page_cache() {
    drop_kernel_caches(1);
}

fn write_synced(path: &Path, data: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(data)?;
    file.sync_all()
}

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

/// A volume with 1 MiB blocks, and a proxy before its server.
fn behind_a_proxy(test: &str, seed: u64) -> (Volume, HttpProxy) {
    let volume = Volume::with_objects_on_s3(&["--trash-days", "0", "--block-size", "1M"]);
    let proxy = HttpProxy::start(volume.object_server().port(), seed_of(test, seed));
    (volume, proxy)
}

/// A mount without a cache whose requests go through the proxy.
fn mount(volume: &Volume, proxy: &HttpProxy, flags: &[&str]) -> Mount {
    let bucket = proxy.bucket_url(BUCKET);
    volume.mount_with("mnt", &[&["--bucket", bucket.as_str(), "--cache-size", "0"], flags].concat())
}

/// The value of a line of `.stats`.
fn stat(mount: &Mount, name: &str) -> u64 {
    let text = fs::read_to_string(mount.join(".stats")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("juicefs_{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

#[test]
fn a_slow_network_is_only_slow() {
    let (volume, proxy) = behind_a_proxy("a_slow_network_is_only_slow", 1);
    let mnt = mount(&volume, &proxy, &[]);
    proxy.fail_always("", HttpFault::Latency(Duration::from_millis(100)));
    // Two mebibytes a second for each of the connections.
    proxy.bandwidth(2 * MIB as u64);
    let begun = Instant::now();
    write_synced(&mnt.join("file"), &data(1, 4 * MIB)).unwrap();
    assert!(begun.elapsed() > Duration::from_millis(600), "{:?}: not through the proxy", begun.elapsed());
    drop_page_cache();
    assert!(fs::read(mnt.join("file")).unwrap() == data(1, 4 * MIB));
    assert!(proxy.counts().delayed >= 8, "{:?}", proxy.counts());
    proxy.calm();
    mnt.unmount();
    volume.assert_sound(Rest::Clean);
}

#[test]
fn faults_that_pass_are_not_seen() {
    let (volume, proxy) = behind_a_proxy("faults_that_pass_are_not_seen", 2);
    let mnt = mount(&volume, &proxy, &["--get-timeout", "3s", "--put-timeout", "3s"]);
    let faults = [
        HttpFault::Refused(503, "SlowDown"),
        HttpFault::Refused(500, "InternalError"),
        HttpFault::ResetBefore,
        HttpFault::ResetAfter,
        HttpFault::BodyCut,
        HttpFault::BodyFlipped,
        HttpFault::Hung,
    ];
    for (number, fault) in (0..).zip(faults) {
        // Such a small one is always fetched whole, so that its checksum is compared.
        let (path, content) = (mnt.join(format!("file-{number}")), data(number, 100_000));
        let before = proxy.counts().faults();
        (0..2).for_each(|_| proxy.fail_next("PUT", fault.clone()));
        write_synced(&path, &content).unwrap();
        drop_page_cache();
        (0..2).for_each(|_| proxy.fail_next("GET", fault.clone()));
        assert!(fs::read(&path).unwrap() == content, "{fault:?}");
        let met = proxy.counts().faults() - before;
        // An answer to PUT has no body.
        let least = if fault == HttpFault::BodyFlipped { 2 } else { 4 };
        assert!(met >= least, "{fault:?} was met {met} times only");
        proxy.calm();
    }
    mnt.unmount();
    volume.assert_sound(Rest::Clean);
}

#[test]
fn a_storm_harms_nothing() {
    let (volume, proxy) = behind_a_proxy("a_storm_harms_nothing", 3);
    let mnt = mount(&volume, &proxy, &["--get-timeout", "5s", "--put-timeout", "5s", "--io-retries", "20"]);
    proxy.rates(HttpRates {
        get_latency: 50,
        latency_for: Duration::from_millis(300),
        unavailable: 40,
        reset_before: 40,
        reset_after: 40,
        body_cut: 40,
        body_flipped: 20,
        hung: 10,
    });
    let rounds = if full() { 20 } else { 4 };
    thread::scope(|scope| {
        for writer in 0..4 {
            let mnt = &mnt;
            scope.spawn(move || {
                for round in 0..rounds {
                    let file = writer * 1000 + round;
                    let (path, content) = (mnt.join(format!("file-{file}")), data(file, 2 * MIB + 77_777));
                    write_synced(&path, &content).unwrap();
                    drop_page_cache();
                    assert!(fs::read(&path).unwrap() == content, "file {file}");
                }
            });
        }
    });
    let counts = proxy.counts();
    assert!(counts.faults() >= rounds * 3, "hardly a storm: {counts:?}");
    proxy.calm();
    mnt.unmount();
    volume.assert_sound(Rest::Clean);
    let mnt = volume.mount_with("direct", &["--cache-size", "0"]);
    for file in (0..4).flat_map(|writer| (0..rounds).map(move |round| writer * 1000 + round)) {
        assert!(fs::read(mnt.join(format!("file-{file}"))).unwrap() == data(file, 2 * MIB + 77_777), "file {file}");
    }
    mnt.unmount();
}

/// What will not pass is said at once and by its name, and nothing is lost when somebody mends it.
#[test]
fn refusals_are_errors_until_they_are_mended() {
    let (volume, proxy) = behind_a_proxy("refusals_are_errors_until_they_are_mended", 4);
    let mnt = mount(&volume, &proxy, &[]);
    let sound = data(0, 100_000);
    let cases = [
        (403, "SignatureDoesNotMatch", libc::EIO, "check --secret-key"),
        (403, "InvalidAccessKeyId", libc::EIO, "check --access-key"),
        (404, "NoSuchBucket", libc::EIO, "does not exist"),
        (400, "ExpiredToken", libc::EIO, "set a new one with --session-token"),
        (403, "AccessDenied", libc::EIO, "is denied"),
        (403, "RequestTimeTooSkewed", libc::EIO, "clock of this machine"),
        (507, "InsufficientCapacity", libc::ENOSPC, "InsufficientCapacity"),
        (507, "", libc::ENOSPC, "507"),
    ];
    for (number, (status, code, expected, words)) in (1..).zip(cases) {
        let content = data(number, MIB + 5000);
        let path = mnt.join(format!("file-{number}"));
        // Not read yet, so that it is not in the memory of the client.
        let other = mnt.join(format!("sound-{number}"));
        write_synced(&other, &sound).unwrap();
        let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        let logged = mnt.log().len();
        proxy.fail_always("", HttpFault::Refused(status, code));
        file.write_all(&content).unwrap();
        let begun = Instant::now();
        assert_eq!(errno(file.sync_all()), expected, "{status} {code}");
        drop_page_cache();
        assert_eq!(errno(fs::read(&other)), expected, "{status} {code}");
        assert!(begun.elapsed() < Duration::from_secs(40), "{:?} until {status} {code}", begun.elapsed());
        let log = mnt.log()[logged..].to_owned();
        assert!(log.contains(words) && !log.contains(SECRET_KEY), "{status} {code}, not about {words:?}:\n{log}");
        proxy.calm();
        file.sync_all().unwrap();
        drop_page_cache();
        let mut seen = vec![0; content.len()];
        file.read_exact_at(&mut seen, 0).unwrap();
        assert!(seen == content && fs::read(&other).unwrap() == sound, "{status} {code}");
    }
    mnt.unmount();
    volume.assert_sound(Rest::Crashed);
}

#[test]
fn a_wrong_key_and_a_missing_bucket_of_a_server_are_named() {
    let volume = Volume::with_objects_on_s3(&["--trash-days", "0"]);
    let config = |secret: &str| {
        volume.juicefs(&["config", &volume.meta_url(), "--secret-key", secret, "--force"]).expect_success();
    };
    config("wrong");
    let mnt = volume.mount();
    assert_eq!(errno(write_synced(&mnt.join("file"), &data(1, 1000))), libc::EIO);
    assert!(mnt.log().contains("check --secret-key"), "{}", mnt.log());
    mnt.unmount();
    config(SECRET_KEY);
    let mnt = volume.mount_with("second", &[]);
    let hidden = volume.dir().join("hidden");
    let mut file = File::create(mnt.join("file")).unwrap();
    fs::rename(volume.bucket(), &hidden).unwrap();
    file.write_all(&data(1, 1000)).unwrap();
    assert_eq!(errno(file.sync_all()), libc::EIO);
    assert!(mnt.log().contains("objects/ does not exist"), "{}", mnt.log());
    fs::rename(&hidden, volume.bucket()).unwrap();
    file.sync_all().unwrap();
    drop(file);
    assert!(fs::read(mnt.join("file")).unwrap() == data(1, 1000));
    mnt.unmount();
    volume.assert_sound(Rest::Crashed);
}

/// Damage and silence that do not pass: an error in the end, and no byte of it is seen.
#[test]
fn faults_that_stay_are_errors() {
    let (volume, proxy) = behind_a_proxy("faults_that_stay_are_errors", 5);
    let mnt = mount(&volume, &proxy, &["--io-retries", "1", "--get-timeout", "2s", "--put-timeout", "2s"]);
    let length = 100_000;
    let begun = Instant::now();
    for (number, fault) in (1..).zip([HttpFault::BodyFlipped, HttpFault::BodyCut, HttpFault::Hung]) {
        // Not read yet, so that it is not in the memory of the client.
        let sound = mnt.join(format!("sound-{number}"));
        write_synced(&sound, &data(0, length)).unwrap();
        proxy.fail_always("GET", fault.clone());
        drop_page_cache();
        assert_eq!(errno(fs::read(&sound)), libc::EIO, "{fault:?}");
        proxy.calm();
        assert!(fs::read(&sound).unwrap() == data(0, length), "{fault:?}");
        let mut file = File::create(mnt.join(format!("file-{number}"))).unwrap();
        file.write_all(&data(number, length)).unwrap();
        proxy.fail_always("PUT", HttpFault::Hung);
        assert_eq!(errno(file.sync_all()), libc::EIO);
        proxy.calm();
        file.sync_all().unwrap();
    }
    assert!(begun.elapsed() < Duration::from_secs(50), "{:?} with timeouts of 2 s", begun.elapsed());
    mnt.unmount();
    volume.assert_sound(Rest::Clean);
}

/// Writes files until it is told to stop; returns how many were acknowledged. None may fail.
fn write_until(stop: &AtomicBool, mnt: &Mount, writer: u64, done: &AtomicU64) -> u64 {
    let mut files = 0;
    while !stop.load(Ordering::Relaxed) {
        let path = mnt.join(format!("file-{writer}-{files}"));
        write_synced(&path, &data(writer * 100_000 + files, MIB / 2 + 1000)).unwrap();
        files += 1;
        done.fetch_add(1, Ordering::Relaxed);
    }
    files
}

#[test]
fn an_absent_server_is_waited_for_under_load() {
    let away = Duration::from_secs(if full() { 60 } else { 8 });
    let volume = Volume::with_objects_on_s3(&["--trash-days", "0", "--block-size", "1M"]);
    let mnt = volume.mount_with("mnt", &["--cache-large-write"]);
    write_synced(&mnt.join("cached"), &data(7, 3 * MIB)).unwrap();
    let in_cache = || {
        let find = "find cache-mnt -type f -path '*/raw/chunks/*' ! -name '*.tmp' | wc -l";
        run_in(volume.dir(), find).expect_success().stdout.trim() == "3"
    };
    assert!(wait_until(Duration::from_secs(30), in_cache), "what was written is not in the cache");
    let (stop, done, cached) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let counts = thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let (stop, mnt, done) = (&stop, &mnt, &done);
                scope.spawn(move || write_until(stop, mnt, writer, done))
            })
            .collect();
        let reader = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                drop_page_cache();
                assert!(fs::read(mnt.join("cached")).unwrap() == data(7, 3 * MIB));
                cached.fetch_add(1, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(50));
            }
        });
        assert!(wait_until(Duration::from_secs(60), || done.load(Ordering::Relaxed) >= 6), "no load");
        volume.object_server().kill();
        let (acknowledged, read) = (done.load(Ordering::Relaxed), cached.load(Ordering::Relaxed));
        thread::sleep(away);
        // One each may have been stored just before.
        let late = done.load(Ordering::Relaxed) - acknowledged;
        assert!(late <= 3, "{late} files were acknowledged without a server");
        let read = cached.load(Ordering::Relaxed) - read;
        assert!(read >= 4, "only {read} reads of cached data in {away:?} without a server");
        volume.object_server().restart();
        let (back, waiting) = (Instant::now(), done.load(Ordering::Relaxed));
        let healed = wait_until(Duration::from_secs(30), || done.load(Ordering::Relaxed) >= waiting + 3);
        println!("writers went on {:?} after the server was back", back.elapsed());
        assert!(healed, "writers still wait 30 s after the server is back");
        stop.store(true, Ordering::Relaxed);
        reader.join().unwrap();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
    });
    mnt.unmount();
    volume.assert_sound(Rest::Clean);
    let mnt = volume.mount_with("second", &["--cache-size", "0"]);
    for (writer, files) in (0..).zip(counts) {
        for file in 0..files {
            let seen = fs::read(mnt.join(format!("file-{writer}-{file}"))).unwrap();
            assert!(seen == data(writer * 100_000 + file, MIB / 2 + 1000), "acknowledged file {writer}-{file}");
        }
    }
    mnt.unmount();
}

/// Away for longer than a mount tries: fsync says so, the handle keeps the data, and another fsync stores it.
#[test]
fn what_an_absent_server_did_not_take_is_kept_by_its_handle() {
    let volume = Volume::with_objects_on_s3(&["--trash-days", "0", "--block-size", "1M"]);
    let mnt = volume.mount_with("mnt", &["--io-retries", "1", "--put-timeout", "2s", "--get-timeout", "2s"]);
    let content = data(1, 3 * MIB + 1000);
    let mut file = File::create(mnt.join("file")).unwrap();
    let mut closed = File::create(mnt.join("closed")).unwrap();
    let mut other = File::create(mnt.join("other")).unwrap();
    volume.object_server().kill();
    file.write_all(&content).unwrap();
    closed.write_all(&content).unwrap();
    assert_eq!(errno(file.sync_all()), libc::EIO);
    assert_eq!(errno(file.sync_all()), libc::EIO, "it is not stored, however often it is asked");
    assert_eq!(errno(file.write_all(b"more")), libc::EIO, "until it is stored");
    assert_eq!(errno(closed.sync_all()), libc::EIO);
    drop(closed);
    // Another handle has its own data, and no part in this.
    other.write_all(b"other").unwrap();
    volume.object_server().restart();
    other.sync_all().unwrap();
    file.sync_all().unwrap();
    file.write_all(b"more").unwrap();
    file.sync_all().unwrap();
    drop((file, other));
    mnt.unmount();
    volume.assert_sound(Rest::Crashed);
    let mnt = volume.mount_with("second", &["--cache-size", "0"]);
    assert!(fs::read(mnt.join("file")).unwrap() == [content.as_slice(), b"more"].concat());
    assert_eq!(fs::read(mnt.join("other")).unwrap(), b"other");
    // What its last handle was closed with is gone, as close has said; nothing foreign is in its place.
    let left = fs::read(mnt.join("closed")).unwrap();
    assert!(left.is_empty() || left == content, "{} bytes", left.len());
    mnt.unmount();
}

/// One GET in thirty is answered late. Counted is how many reads wait for that, and the limit is far from either answer.
#[test]
fn a_late_answer_is_overtaken_by_a_second_request() {
    const FILES: u64 = 300;
    let late = Duration::from_secs(3);
    let (volume, proxy) = behind_a_proxy("a_late_answer_is_overtaken_by_a_second_request", 6);
    let mnt = mount(&volume, &proxy, &[]);
    for file in 0..FILES {
        fs::write(mnt.join(format!("file-{file}")), data(file, 4096)).unwrap();
    }
    mnt.unmount();
    let slow_reads = |flag: &str| {
        let mnt = mount(&volume, &proxy, &[flag]);
        let before = proxy.counts().delayed;
        let slow = (0..FILES)
            .filter(|file| {
                if *file == 100 {
                    // It is known by now what is usual.
                    proxy.rates(HttpRates { get_latency: 40, latency_for: late, ..HttpRates::default() });
                }
                let begun = Instant::now();
                assert!(fs::read(mnt.join(format!("file-{file}"))).unwrap() == data(*file, 4096));
                begun.elapsed() >= late
            })
            .count() as u64;
        let (sent, won) = (stat(&mnt, "object_request_hedges"), stat(&mnt, "object_request_hedges_won"));
        let delayed = proxy.counts().delayed - before;
        println!("{flag}: {delayed} late answers, {slow} slow reads, {sent} second requests, {won} of them first");
        proxy.calm();
        mnt.unmount();
        (delayed, slow, sent, won)
    };
    let (delayed, slow, sent, _) = slow_reads("--hedge-get=false");
    assert!(delayed >= 2 && slow == delayed && sent == 0, "without: {delayed} {slow} {sent}");
    let (delayed, slow, sent, won) = slow_reads("--hedge-get=true");
    // A second request may be answered late as well.
    assert!(delayed >= 2 && slow * 2 <= delayed, "with: {slow} of {delayed} were waited for");
    assert!(won >= 1 && sent >= won && sent <= FILES / 10, "{delayed} {slow} {sent} {won}");
}

/// Its write waits for memory when it is killed: nobody knows whether it happened, but it does not happen later.
#[test]
fn the_write_of_a_killed_process_does_not_come_after_a_truncate() {
    let (volume, proxy) = behind_a_proxy("the_write_of_a_killed_process_does_not_come_after_a_truncate", 9);
    let mnt = mount(&volume, &proxy, &["--buffer-size", "32", "--put-timeout", "3s"]);
    let (victim, hog) = (mnt.join("victim"), mnt.join("hog"));
    write_synced(&victim, &data(1, MIB)).unwrap();
    proxy.fail_always("PUT", HttpFault::Hung);
    let dd = |to: &Path, count: u32| {
        let mut dd = Command::new("dd");
        dd.args(["if=/dev/zero", "bs=1M", "conv=notrunc", &format!("count={count}")]);
        dd.arg(format!("of={}", to.display())).stderr(Stdio::null()).spawn().unwrap()
    };
    let mut hogging = dd(&hog, 200);
    // What writers may have of it.
    let full = || stat(&mnt, "used_buffer_size_bytes") >= 19 * MIB as u64;
    assert!(wait_until(Duration::from_secs(30), full), "the buffers are not full");
    thread::sleep(Duration::from_secs(1));
    let before = stat(&mnt, "write_waits_memory");
    let mut writing = dd(&victim, 8);
    assert!(wait_until(Duration::from_secs(30), || stat(&mnt, "write_waits_memory") > before), "nobody waits");
    writing.kill().unwrap();
    let gone = wait_until(Duration::from_secs(10), || writing.try_wait().unwrap().is_some());
    assert!(gone, "a killed writer lives on");
    File::options().write(true).truncate(true).open(&victim).unwrap();
    assert_eq!(fs::metadata(&victim).unwrap().len(), 0);
    proxy.calm();
    hogging.kill().unwrap();
    hogging.wait().unwrap();
    File::open(&hog).unwrap().sync_all().unwrap();
    File::open(&victim).unwrap().sync_all().unwrap();
    assert_eq!(fs::metadata(&victim).unwrap().len(), 0, "what was cut off has come back");
    mnt.unmount();
    let mnt = mount(&volume, &proxy, &[]);
    assert_eq!(fs::metadata(mnt.join("victim")).unwrap().len(), 0, "what was cut off has come back");
    mnt.unmount();
    volume.assert_sound(Rest::Clean);
}
