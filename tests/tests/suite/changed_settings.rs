//! What `config` changes reaches mounts that run: keys, bucket, class and bandwidths.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use e2e::{Mount, Owner, Pattern, Rest, Volume, drop_kernel_caches, juicefs, run_in, wait_until};
use juicefs_testkit::s3::{ACCESS_KEY, S3Server, SECRET_KEY};

const MIB: usize = 1 << 20;

fn data(file: u64, length: usize) -> Vec<u8> {
    Pattern::of(Owner { run: 97, file, version: 1 }).bytes(length)
}

fn write_synced(path: &Path, data: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(data)?;
    file.sync_all()
}

fn config(volume: &Volume, flags: &[&str]) {
    volume.juicefs(&[&["config", &volume.meta_url(), "--yes"], flags].concat()).expect_success();
}

/// A process that changes the keys of a volume. It is there before any file is open: one that is started later closes the
/// files that it inherits from the workers, and waits for their data as long as the store refuses.
struct KeyChanger {
    shell: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl KeyChanger {
    fn start(volume: &Volume) -> Self {
        let each = "sleep \"$delay\"; \"$0\" config \"$1\" --yes --access-key \"$access\" --secret-key \"$secret\" >&2 </dev/null";
        let mut command = Command::new("sh");
        command.args(["-c", &format!("while read -r delay access secret; do {each}; echo $?; done")]);
        command.arg(juicefs()).arg(volume.meta_url()).envs(volume.variables().iter().cloned());
        let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (orders, answers) = (shell.stdin.take().unwrap(), shell.stdout.take().unwrap());
        Self { shell, orders, answers: BufReader::new(answers) }
    }

    /// Begins to change the keys after so many seconds.
    fn begin(&mut self, (access_key, secret_key): &(String, String), delay_secs: u32) {
        writeln!(self.orders, "{delay_secs} {access_key} {secret_key}").unwrap();
    }

    /// Waits until the keys are changed; whether they are.
    fn is_done(&mut self) -> bool {
        let mut status = String::new();
        self.answers.read_line(&mut status).unwrap();
        status.trim() == "0"
    }

    fn end(mut self) {
        drop(self.orders);
        self.shell.wait().unwrap();
    }
}

/// Writes and reads until it is told to stop; returns how many files were acknowledged.
fn work_until(stop: &AtomicBool, mnt: &Mount, worker: u64, done: &AtomicU64) -> u64 {
    let mut files = 0;
    let path = |file: u64| mnt.join(format!("file-{worker}-{file}"));
    let content = |file: u64| data(worker * 100_000 + file, MIB / 2 + 1000);
    while !stop.load(Ordering::Relaxed) {
        write_synced(&path(files), &content(files))
            .unwrap_or_else(|e| panic!("file {worker}-{files}: {e}\n{}", mnt.log()));
        drop_kernel_caches(1);
        let older = files * 7 / 11;
        let seen = fs::read(path(older)).unwrap_or_else(|e| panic!("file {worker}-{older}: {e}\n{}", mnt.log()));
        assert!(seen == content(older), "file {worker}-{older}");
        files += 1;
        done.fetch_add(1, Ordering::Relaxed);
    }
    files
}

/// Keys are replaced again and again while files are written and read; each time the old ones are refused right after the
/// setting has the new ones, long before the next heartbeat, and at last some seconds before.
#[test]
fn rotated_keys_are_taken_up_under_load() {
    let volume = Volume::unformatted_with_objects_on(S3Server::start_with_changing_keys());
    volume.format(&["--trash-days", "0", "--block-size", "1M"]).expect_success();
    let server = volume.object_server();
    let mnt = volume.mount_with("mnt", &["--cache-size", "0", "--heartbeat", "60"]);
    let mut changer = KeyChanger::start(&volume);
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let more = |files: u64| {
        let wanted = done.load(Ordering::Relaxed) + files;
        wait_until(Duration::from_secs(60), || done.load(Ordering::Relaxed) >= wanted)
    };
    let counts = thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let (stop, mnt, done) = (&stop, &mnt, &done);
                scope.spawn(move || work_until(stop, mnt, worker, done))
            })
            .collect();
        assert!(more(8), "no load");
        let mut old = (ACCESS_KEY.to_owned(), SECRET_KEY.to_owned());
        for round in 0..5 {
            let new = (format!("key-{round}"), format!("secret/{round}"));
            let refuse_first = round == 4;
            let both = [(old.0.as_str(), old.1.as_str()), (new.0.as_str(), new.1.as_str())];
            server.set_keys(&both);
            changer.begin(&new, if refuse_first { 2 } else { 0 });
            if refuse_first {
                server.set_keys(&both[1..]);
            }
            assert!(changer.is_done(), "rotation {round}");
            server.set_keys(&both[1..]);
            assert!(more(8), "no work is done after rotation {round}:\n{}", mnt.log());
            old = new;
        }
        stop.store(true, Ordering::Relaxed);
        workers.into_iter().map(|worker| worker.join().unwrap()).collect::<Vec<_>>()
    });
    changer.end();
    assert!(!mnt.log().contains("secret/"), "{}", mnt.log());
    mnt.unmount();
    volume.assert_sound(Rest::Clean);
    let mnt = volume.mount_with("second", &["--cache-size", "0"]);
    for (worker, files) in (0..).zip(counts) {
        for file in 0..files {
            let seen = fs::read(mnt.join(format!("file-{worker}-{file}"))).unwrap();
            assert!(seen == data(worker * 100_000 + file, MIB / 2 + 1000), "acknowledged file {worker}-{file}");
        }
    }
    mnt.unmount();
}

#[test]
fn bucket_class_and_bandwidths_change_with_the_next_heartbeat() {
    let volume = Volume::with_objects_on_s3(&["--trash-days", "0", "--block-size", "1M"]);
    let mnt = volume.mount_with("mnt", &["--cache-size", "0", "--heartbeat", "1"]);
    write_synced(&mnt.join("before"), &data(1, 3 * MIB)).unwrap();
    let seconds_of = |name: &str, mib: usize| {
        let begun = Instant::now();
        write_synced(&mnt.join(name), &data(2, mib * MIB)).unwrap();
        begun.elapsed().as_secs_f64()
    };
    // 1.7 MB/s of bodies.
    config(&volume, &["--upload-limit", "16"]);
    let slowed = wait_until(Duration::from_secs(20), || seconds_of("limited", 1) > 0.5);
    assert!(slowed, "uploads are not limited:\n{}", mnt.log());
    config(&volume, &["--upload-limit", "0"]);
    let freed = wait_until(Duration::from_secs(20), || seconds_of("free", 4) < 1.5);
    assert!(freed, "uploads stay limited:\n{}", mnt.log());

    // The objects move to another bucket, and the first one is gone.
    let server = volume.object_server();
    run_in(server.bucket_dir("objects").parent().unwrap(), "cp -r objects elsewhere").expect_success();
    config(&volume, &["--bucket", &server.bucket_url("elsewhere")]);
    let moved = wait_until(Duration::from_secs(20), || mnt.log().contains("/elsewhere/e2e-volume/ from now on"));
    assert!(moved, "{}", mnt.log());
    fs::rename(volume.bucket(), volume.dir().join("hidden")).unwrap();
    assert!(fs::read(mnt.join("before")).unwrap() == data(1, 3 * MIB));
    write_synced(&mnt.join("after"), &data(3, 2 * MIB)).unwrap();
    drop_kernel_caches(1);
    assert!(fs::read(mnt.join("after")).unwrap() == data(3, 2 * MIB));

    // The server refuses a class that it does not know.
    config(&volume, &["--storage-class", "NO_SUCH_CLASS", "--force"]);
    let refused = wait_until(Duration::from_secs(20), || {
        let mut file = File::create(mnt.join("class")).unwrap();
        file.write_all(b"x").unwrap();
        file.sync_all().is_err_and(|e| e.raw_os_error() == Some(libc::EIO))
    });
    assert!(refused && mnt.log().contains("InvalidStorageClass"), "{}", mnt.log());
    config(&volume, &["--storage-class", "STANDARD", "--force"]);
    assert!(wait_until(Duration::from_secs(20), || write_synced(&mnt.join("class"), b"y").is_ok()), "{}", mnt.log());

    // What cannot be used changes nothing.
    config(&volume, &["--bucket", "http://127.0.0.1:1", "--force"]);
    let kept = wait_until(Duration::from_secs(20), || mnt.log().contains("the former stays"));
    assert!(kept, "{}", mnt.log());
    write_synced(&mnt.join("last"), &data(4, MIB)).unwrap();
    mnt.unmount();
}

/// What a mount was told by its own flags stays.
#[test]
fn flags_of_a_mount_come_before_a_changed_setting() {
    let volume = Volume::with_objects_on_s3(&["--trash-days", "0"]);
    let bucket = volume.object_server().bucket_url("objects");
    let flags = ["--cache-size", "0", "--heartbeat", "1", "--bucket", &bucket, "--upload-limit", "800"];
    let mnt = volume.mount_with("mnt", &flags);
    config(&volume, &["--bucket", "http://127.0.0.1:1/nowhere", "--upload-limit", "1", "--trash-days", "1", "--force"]);
    thread::sleep(Duration::from_secs(3));
    let begun = Instant::now();
    write_synced(&mnt.join("file"), &data(1, 2 * MIB)).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    drop_kernel_caches(1);
    assert!(fs::read(mnt.join("file")).unwrap() == data(1, 2 * MIB));
    mnt.unmount();
}
