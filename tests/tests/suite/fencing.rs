//! A client whose session another one has ended: a machine that slept, a process that was stopped for too long.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::{fd::IntoRawFd, unix::fs::FileExt},
    time::{Duration, Instant},
};

use e2e::{Meta, Rest, Volume, run, wait_until};

use crate::locks::Process;

/// Ends every session of the volume, as clients do with those that were silent for too long.
fn end_sessions(volume: &Volume) {
    match Meta::of_this_run() {
        Meta::Sqlite => {
            let sql = "pragma busy_timeout=10000; delete from jfs_session2;";
            run("sqlite3", [&*volume.meta_path().to_string_lossy(), sql]).expect_success();
        }
        Meta::Redis | Meta::RedisCluster => {
            drop(volume.redis().call(&["DEL", &volume.key("allSessions"), &volume.key("sessionInfos")]));
        }
    }
}

/// How many sessions the volume has.
fn sessions(volume: &Volume) -> String {
    match Meta::of_this_run() {
        Meta::Sqlite => {
            let meta = volume.meta_path();
            let count = run("sqlite3", [&*meta.to_string_lossy(), "select count(*) from jfs_session2"]);
            count.expect_success().stdout.trim().to_owned()
        }
        Meta::Redis | Meta::RedisCluster => {
            volume.redis().call(&["ZCARD", &volume.key("allSessions")]).int().to_string()
        }
    }
}

/// Closes and reports what close(2) says, which dropping a `File` does not.
fn close(file: File) -> io::Result<()> {
    // SAFETY: the descriptor was just taken out of its owner, so nobody else closes or uses it.
    if unsafe { libc::close(file.into_raw_fd()) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn assert_eio<T: std::fmt::Debug>(what: &str, result: io::Result<T>) {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::EIO) => {}
        other => panic!("{what}: {other:?}"),
    }
}

/// How often the client has said that it was taken for dead.
fn announcements(log: &str) -> usize {
    log.matches("another client has ended the session of this one").count()
}

/// What only its session kept is lost, and said to be; everything else goes on in a new session, what was buffered included.
#[test]
fn a_client_whose_session_was_ended_goes_on_without_what_that_kept() {
    let volume = Volume::new();
    let mount = volume.mount_with("mnt", &["--heartbeat", "600", "--attr-cache", "0", "--entry-cache", "0"]);
    fs::write(mount.join("old"), vec![1; 3 << 20]).unwrap();
    fs::create_dir(mount.join("dir")).unwrap();
    let rw = |name: &str| {
        File::options().read(true).write(true).create(true).truncate(false).open(mount.join(name)).unwrap()
    };
    let [mut synced, mut closed, mut locked, mut unnamed] = ["synced", "closed", "locked", "unnamed"].map(rw);
    fs::write(mount.join("locked"), "before").unwrap();
    unnamed.write_all(b"gone").unwrap();
    fs::remove_file(mount.join("unnamed")).unwrap();
    locked.lock().unwrap();
    end_sessions(&volume);

    // Buffering needs no session, and the client does not know yet.
    synced.write_all(&vec![2; 300_000]).unwrap();
    closed.write_all(&vec![3; 300_000]).unwrap();
    locked.write_all(&vec![4; 300_000]).unwrap();
    let begun = Instant::now();
    synced.sync_all().unwrap();
    close(closed).unwrap();
    assert_eio("fsync of what was written under a lock that is lost", locked.sync_all());
    assert_eio("a write under it", locked.write_all(b"more"));
    assert_eio("a truncate under it", locked.set_len(3));
    assert_eio("a read under it", locked.read_at(&mut [0], 0));
    assert_eio("a read of a file that has gone", unnamed.read_at(&mut [0], 0));
    assert_eio("its close", close(unnamed));
    File::create(mount.join("new")).unwrap().write_all(b"new").unwrap();
    fs::rename(mount.join("old"), mount.join("dir/old")).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(20), "it comes back at once: {:?}", begun.elapsed());
    assert_eq!(sessions(&volume), "1", "a new one");

    // Beside the lost descriptor others use the file as ever.
    let again = rw("locked");
    again.lock().unwrap();
    assert_eq!(fs::read(mount.join("locked")).unwrap(), b"before");
    again.write_all_at(b" and after", 6).unwrap();
    again.sync_all().unwrap();
    assert_eio("the lost one", locked.read_at(&mut [0], 0));
    assert_eio("its close", close(locked));
    assert_eq!(fs::read(mount.join("locked")).unwrap(), b"before and after");
    drop(again);
    let log = mount.log();
    assert_eq!(announcements(&log), 1, "{log}");
    drop(synced);
    mount.unmount();

    let mount = volume.mount();
    assert_eq!(fs::read(mount.join("dir/old")).unwrap(), vec![1; 3 << 20]);
    assert_eq!(fs::read(mount.join("synced")).unwrap(), vec![2; 300_000]);
    assert_eq!(fs::read(mount.join("closed")).unwrap(), vec![3; 300_000]);
    assert_eq!(fs::read(mount.join("locked")).unwrap(), b"before and after");
    assert_eq!(fs::read(mount.join("new")).unwrap(), b"new");
    mount.unmount();
    volume.assert_sound(Rest::Crashed);
}

#[test]
fn an_idle_client_comes_back_with_its_heartbeat() {
    let volume = Volume::new();
    let mount = volume.mount_with("mnt", &["--heartbeat", "1"]);
    fs::write(mount.join("file"), "content").unwrap();
    for times in 1..3 {
        end_sessions(&volume);
        assert!(wait_until(Duration::from_secs(20), || announcements(&mount.log()) == times), "{}", mount.log());
        assert!(wait_until(Duration::from_secs(20), || sessions(&volume) == "1"), "{}", mount.log());
    }
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(announcements(&mount.log()), 2, "each loss is said once: {}", mount.log());
    assert_eq!(fs::read(mount.join("file")).unwrap(), b"content");
    fs::write(mount.join("new"), "works").unwrap();
    mount.unmount();
    // The last second of counters may be missing.
    volume.assert_sound(Rest::Crashed);
}

/// The kernel says that it is dead, so nobody has to wait until its session expires.
#[test]
fn what_a_killed_client_had_locked_is_free_for_the_next_one_on_its_machine() {
    let volume = Volume::new();
    let far = ["--heartbeat", "600"];
    let [dying, living] = ["mnt", "other"].map(|place| volume.mount_with(place, &far));
    for name in ["dead", "alive"] {
        fs::write(dying.join(name), "").unwrap();
    }
    assert!(wait_until(Duration::from_secs(60), || living.join("alive").exists()));
    let mut holders = [Process::on(&dying.join("dead")), Process::on(&living.join("alive"))];
    for holder in &mut holders {
        holder.must("lock f flock ex try");
        holder.must("lock f posix ex try");
    }
    dying.kill().clear();
    assert_eq!(sessions(&volume), "2", "it leaves its session");
    let next = volume.mount_with("mnt", &far);
    assert_eq!(sessions(&volume), "2", "that of the dead one is gone");
    for way in ["flock", "posix"] {
        Process::on(&next.join("dead")).must(&format!("lock f {way} ex try"));
        let refused = Process::on(&next.join("alive")).ask(&format!("lock f {way} ex try"));
        assert_eq!(refused, "EAGAIN", "who is alive keeps what it has");
    }
    drop(holders);
    for mount in [next, living] {
        mount.unmount();
    }
    volume.assert_sound(Rest::Crashed);
}
