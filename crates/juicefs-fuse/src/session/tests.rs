//! Real mounts of a toy file system. Skipped, loudly, where FUSE cannot be used.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    process::{Command, Stdio},
    sync::atomic::Ordering,
    time::Instant,
};

use juicefs_core::{Clock, SystemClock};
use juicefs_testkit::{mem_chunks::MemChunks, mem_meta::MemMeta};
use juicefs_vfs::VfsConfig;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::*;
use crate::tests::toy::Toy;

const NOBODY: u32 = 65534;
const INTERRUPTED_AFTER: Duration = Duration::from_secs(1);

struct Bench {
    toy: Toy,
    mounted: Option<Mounted>,
    dir: TempDir,
    rt: Runtime,
}

impl Bench {
    /// `None` where FUSE cannot be used.
    fn new(change: impl FnOnce(&mut MountOptions)) -> Option<Self> {
        let toy = Toy::new();
        can_mount().then(|| Self::of(toy.clone(), toy, change))
    }

    fn of<O: Operations>(ops: O, toy: Toy, change: impl FnOnce(&mut MountOptions)) -> Self {
        let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let dir = tempfile::tempdir().expect("a directory");
        let mut options = MountOptions::standard(dir.path().into(), "a,vol ume");
        options.max_io_bytes = 1 << 20;
        change(&mut options);
        let mounted = Mounted::mount_operations(ops, rt.handle().clone(), &options).expect("a mount");
        Self { toy, mounted: Some(mounted), dir, rt }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn mounted(&self) -> &Mounted {
        self.mounted.as_ref().expect("it is mounted")
    }

    fn end(mut self) -> Runtime {
        let mounted = self.mounted.take().expect("it is mounted");
        mounted.unmount(false).expect("nobody uses it");
        mounted.wait(Duration::from_secs(60)).expect("no thread panicked");
        assert!(mounted_at(self.dir.path()).expect("procfs").is_none());
        let rt = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        std::mem::replace(&mut self.rt, rt)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(mounted) = self.mounted.take() {
            let _ = mounted.abort();
            let _ = mounted.unmount(true);
        }
    }
}

fn can_mount() -> bool {
    let can = rustix::process::geteuid().is_root() && OpenOptions::new().write(true).open("/dev/fuse").is_ok();
    if !can {
        eprintln!("SKIPPED: mounting takes root and /dev/fuse");
    }
    can
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(31).wrapping_add(i >> 9).wrapping_add(seed)) as u8).collect()
}

fn work_like_a_user(bench: &Bench) {
    let file = bench.path("file");
    let data = pattern(5_000_001, 1);
    fs::write(&file, &data).expect("a write");
    assert!(fs::read(&file).expect("a read") == data);
    let open = OpenOptions::new().read(true).write(true).open(&file).expect("open");
    open.write_all_at(b"xyz", 4_999_999).expect("a write across the end");
    let mut tail = [0; 5];
    open.read_exact_at(&mut tail, 4_999_997).expect("a read at the end");
    assert_eq!(&tail[2..], b"xyz");
    open.set_len(10).expect("truncation");
    open.sync_all().expect("fsync");
    assert_eq!(fs::read(&file).expect("a read"), &data[..10]);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("chmod");
    assert_eq!(fs::metadata(&file).expect("stat").mode() & 0o7777, 0o640);

    fs::create_dir(bench.path("dir")).expect("mkdir");
    fs::rename(&file, bench.path("dir/moved")).expect("rename");
    assert!(!file.exists());
    std::os::unix::fs::symlink("dir/moved", bench.path("link")).expect("symlink");
    assert_eq!(fs::read_link(bench.path("link")).expect("readlink"), Path::new("dir/moved"));
    fs::hard_link(bench.path("dir/moved"), bench.path("hard")).expect("link");
    assert_eq!(fs::metadata(bench.path("hard")).expect("stat").nlink(), 2);
    for i in 0..500 {
        File::create(bench.path(&format!("dir/entry-{i:03}"))).expect("create");
    }
    let mut names: Vec<_> = fs::read_dir(bench.path("dir")).expect("readdir").map(|e| e.expect("an entry")).collect();
    names.sort_by_key(fs::DirEntry::file_name);
    assert_eq!(names.len(), 501);
    assert!(names[7].metadata().expect("stat").is_file());
    for entry in names {
        fs::remove_file(entry.path()).expect("unlink");
    }
    fs::remove_dir(bench.path("dir")).expect("rmdir");
    assert_eq!(fs::remove_dir(bench.path("dir")).expect_err("gone").raw_os_error(), Some(libc::ENOENT));
    let volume = rustix::fs::statvfs(bench.dir.path()).expect("statfs");
    assert_eq!((volume.f_namemax, volume.f_bsize), (255, 4096));
}

#[test]
fn a_mount_serves_and_ends() {
    let Some(bench) = Bench::new(|_| {}) else { return };
    let entry = mounted_at(bench.dir.path()).expect("procfs").expect("it is mounted");
    assert_eq!((entry.fstype.as_str(), entry.source.as_str()), ("fuse.juicefs", "JuiceFS:a,vol ume"));
    assert_eq!(fs::metadata(bench.dir.path()).expect("stat").ino(), 1);
    work_like_a_user(&bench);
    bench.end();
}

#[test]
fn deferred_requests_give_the_same_answers() {
    let Some(bench) = Bench::new(|o| o.max_io_bytes = 128 << 10) else { return };
    bench.toy.slow.store(true, Ordering::Relaxed);
    work_like_a_user(&bench);
    bench.end();
}

#[test]
fn many_threads_read_and_write_at_once() {
    let Some(bench) = Bench::new(|o| o.threads = Some(4)) else { return };
    bench.toy.slow.store(true, Ordering::Relaxed);
    thread::scope(|scope| {
        for i in 0..8 {
            let path = bench.path(&format!("f{i}"));
            scope.spawn(move || {
                let data = pattern(3 << 20, i);
                let mut file = File::create(&path).expect("create");
                data.chunks(700_000).for_each(|part| file.write_all(part).expect("a write"));
                drop(file);
                let mut back = Vec::new();
                let mut file =
                    OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path).expect("open directly");
                file.read_to_end(&mut back).expect("a read");
                assert!(back == data, "file {i}");
            });
        }
    });
    bench.end();
}

#[test]
fn xattrs_are_served_only_where_asked_for() {
    for (enable_xattr, expected) in [(false, Some(libc::EOPNOTSUPP)), (true, None)] {
        let Some(bench) = Bench::new(|o| o.enable_xattr = enable_xattr) else { return };
        let file = bench.path("f");
        fs::write(&file, b"x").expect("a write");
        let set = rustix::fs::setxattr(&file, "user.a", b"value", rustix::fs::XattrFlags::empty());
        assert_eq!(set.err().map(|e| e.raw_os_error()), expected);
        if enable_xattr {
            let mut value = [0; 16];
            assert_eq!(rustix::fs::getxattr(&file, "user.a", &mut value), Ok(5));
            assert_eq!(&value[..5], b"value");
            assert_eq!(rustix::fs::getxattr(&file, "user.b", &mut value), Err(rustix::io::Errno::NODATA));
        }
        bench.end();
    }
}

#[test]
fn a_busy_mount_names_its_holder_and_ends_lazily() {
    let Some(mut bench) = Bench::new(|_| {}) else { return };
    let file = File::create(bench.path("f")).expect("create");
    match bench.mounted().unmount(false) {
        Err(MountError::Busy { holders, .. }) => {
            assert!(holders.iter().any(|h| h.pid == std::process::id() && h.what.ends_with("/f")), "{holders:?}");
        }
        other => panic!("{other:?}"),
    }
    bench.mounted().unmount(true).expect("lazily");
    file.write_all_at(b"still served", 0).expect("a write");
    drop(file);
    bench.mounted.take().expect("a mount").wait(Duration::from_secs(60)).expect("the session ended with its last user");
}

fn wait_until(mut what: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !what() {
        assert!(begun.elapsed() < Duration::from_secs(8), "it does not happen");
        thread::sleep(Duration::from_millis(5));
    }
}

fn kill_stuck(bench: &Bench, command: &str, name: &str) {
    bench.toy.stuck.store(true, Ordering::Relaxed);
    let path = bench.path(name);
    let mut child =
        Command::new(command).arg(path).stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("a child");
    wait_until(|| bench.mounted().waiting_requests() > 0);
    child.kill().expect("a signal");
    wait_until(|| child.try_wait().expect("a child").is_some());
}

#[test]
fn killed_processes_do_not_wait_and_what_they_began_to_change_is_finished() {
    let Some(bench) = Bench::new(|_| {}) else { return };
    kill_stuck(&bench, "stat", "stuck-lookup");
    wait_until(|| bench.mounted().waiting_requests() == 0);
    kill_stuck(&bench, "mkdir", "stuck-mkdir");
    assert_eq!(bench.mounted().waiting_requests(), 1, "the operation goes on");
    bench.toy.stuck.store(false, Ordering::Relaxed);
    wait_until(|| bench.mounted().waiting_requests() == 0);
    assert!(bench.path("stuck-mkdir").is_dir());
    kill_stuck(&bench, "touch", "stuck-create");
    bench.toy.stuck.store(false, Ordering::Relaxed);
    wait_until(|| bench.mounted().waiting_requests() == 0);
    assert_eq!(bench.toy.open_files.load(Ordering::Relaxed), 0, "the file that nobody holds was released");
    bench.end();
}

/// Whoever asked for it is gone, and could not say whether it came before or after what others do now.
#[test]
fn what_a_killed_process_began_to_change_comes_before_what_others_change_later() {
    let Some(bench) = Bench::new(|_| {}) else { return };
    fs::create_dir(bench.path("elsewhere")).expect("mkdir");
    kill_stuck(&bench, "mkdir", "stuck-mkdir");
    fs::create_dir(bench.path("elsewhere/in")).expect("in another directory nothing waits");
    let path = bench.path("later");
    let later = thread::spawn(move || fs::create_dir(path).expect("mkdir"));
    thread::sleep(Duration::from_millis(300));
    assert!(!later.is_finished(), "it waits");
    bench.toy.stuck.store(false, Ordering::Relaxed);
    later.join().expect("it is done");
    assert!(bench.path("stuck-mkdir").is_dir() && bench.path("later").is_dir());
    bench.end();
}

#[test]
fn a_signal_that_does_not_kill_ends_only_long_looks() {
    let Some(bench) = Bench::new(|_| {}) else { return };
    bench.toy.stuck.store(true, Ordering::Relaxed);
    let script = format!(
        "import os,signal,sys\nsignal.signal(signal.SIGALRM, lambda *a: sys.exit(3))\nsignal.setitimer(signal.ITIMER_REAL, 0.05)\n\
         os.stat({:?})",
        bench.path("stuck-lookup")
    );
    let begun = Instant::now();
    let status = Command::new("python3").args(["-c", &script]).status().expect("python3");
    assert_eq!(status.code(), Some(3), "the handler ran");
    assert!(begun.elapsed() >= INTERRUPTED_AFTER, "but not before a second");
    bench.toy.stuck.store(false, Ordering::Relaxed);
    bench.end();
}

#[test]
fn an_aborted_session_ends_while_it_is_used() {
    let Some(mut bench) = Bench::new(|_| {}) else { return };
    let mounted = bench.mounted.take().expect("a mount");
    let file = File::create(bench.path("f")).expect("create");
    mounted.unmount(true).expect("lazily");
    file.sync_all().expect("it is served after that");
    mounted.abort().expect("root may");
    assert_eq!(file.sync_all().expect_err("it is dead").raw_os_error(), Some(libc::ENOTCONN));
    assert!(mounted_at(bench.dir.path()).expect("procfs").is_none());
    mounted.unmount(false).expect("it is gone already");
    mounted.wait(Duration::from_secs(60)).expect("the readers ended");
}

/// The VFS itself, over stores in memory.
#[test]
fn the_vfs_serves_through_the_kernel() {
    if !can_mount() {
        return;
    }
    for readers in [1, 4] {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (meta, chunks) = (MemMeta::new(Arc::clone(&clock)), MemChunks::new(1 << 20, 64 << 20));
        let vfs = Vfs::new(meta, chunks, clock, VfsConfig::standard());
        let bench = Bench::of(Arc::clone(&vfs), Toy::new(), |o| o.threads = Some(readers));
        vfs.start(bench.rt.handle());
        work_like_a_user(&bench);
        let rt = bench.end();
        rt.block_on(vfs.shutdown()).expect("everything was flushed");
    }
}

/// Mounts through fusermount3: runs the test below as another user.
#[test]
fn an_ordinary_user_may_mount() {
    if !can_mount() || Command::new("fusermount3").arg("-V").output().is_err() {
        eprintln!("SKIPPED: takes fusermount3");
        return;
    }
    let home = tempfile::tempdir().expect("a directory");
    std::os::unix::fs::chown(home.path(), Some(NOBODY), Some(NOBODY)).expect("root may");
    // The user may not be able to reach the place of the test itself.
    let copy = home.path().join("tests");
    fs::copy(std::env::current_exe().expect("a path"), &copy).expect("a copy");
    // In a mount namespace of its own, where the device is everybody's, as distributions have it.
    let script = "mount -t tmpfs none /mnt && mknod /mnt/fuse c 10 229 && chmod 666 /mnt/fuse && \
                  mount --bind /mnt/fuse /dev/fuse && \
                  exec setpriv --reuid 65534 --regid 65534 --clear-groups \
                  \"$0\" --exact session::tests::as_an_ordinary_user --ignored --nocapture";
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", script])
        .arg(copy)
        .env("TMPDIR", home.path())
        .current_dir("/")
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "run by an_ordinary_user_may_mount"]
fn as_an_ordinary_user() {
    assert!(!rustix::process::geteuid().is_root());
    let toy = Toy::new();
    toy.own_root(NOBODY);
    let bench = Bench::of(toy.clone(), toy, |o| {
        o.allow_other = false;
        o.threads = Some(3);
    });
    work_like_a_user(&bench);
    let held = File::create(bench.path("held")).expect("create");
    assert!(matches!(bench.mounted().unmount(false), Err(MountError::Busy { .. })));
    drop(held);
    bench.end();
}
