//! A client whose session another one has ended: a machine that slept, a process that was stopped for too long.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::fd::IntoRawFd,
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

#[test]
fn a_client_taken_for_dead_writes_nothing_and_goes_on_reading() {
    let volume = Volume::new();
    let mount = volume.mount_with("mnt", &["--heartbeat", "600", "--attr-cache", "0", "--entry-cache", "0"]);
    fs::write(mount.join("old"), vec![1; 3 << 20]).unwrap();
    fs::create_dir(mount.join("dir")).unwrap();
    let mut synced = File::create(mount.join("synced")).unwrap();
    let mut closed = File::create(mount.join("closed")).unwrap();
    end_sessions(&volume);

    // Buffering needs no session, and the client does not know yet.
    synced.write_all(&vec![2; 300_000]).unwrap();
    closed.write_all(&vec![3; 300_000]).unwrap();
    let begun = Instant::now();
    assert_eio("fsync of what was buffered", synced.sync_all());
    assert_eio("close of what was buffered", close(closed));
    assert_eio("a write after that", synced.write_all(b"more").and_then(|()| synced.sync_all()));
    drop(synced);
    assert_eio("create", File::create(mount.join("new")));
    assert_eio("open for writing", OpenOptions::new().append(true).open(mount.join("old")));
    assert_eio("truncate", OpenOptions::new().write(true).truncate(true).open(mount.join("old")));
    assert_eio("mkdir", fs::create_dir(mount.join("more")));
    assert_eio("unlink", fs::remove_file(mount.join("old")));
    assert_eio("rmdir", fs::remove_dir(mount.join("dir")));
    assert_eio("rename", fs::rename(mount.join("old"), mount.join("dir/old")));
    assert!(begun.elapsed() < Duration::from_secs(20), "errors come at once, not after retries: {:?}", begun.elapsed());

    assert_eq!(fs::read(mount.join("old")).unwrap(), vec![1; 3 << 20]);
    let names = fs::read_dir(mount.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| !name.starts_with('.')).count(), 4);
    let log = mount.log();
    assert_eq!(announcements(&log), 1, "{log}");
    assert!(log.contains("unmount and mount again"), "it says what to do: {log}");
    mount.unmount();

    // What was not acknowledged is not there; what was, is whole.
    let mount = volume.mount();
    assert_eq!(fs::read(mount.join("old")).unwrap(), vec![1; 3 << 20]);
    assert_eq!(fs::metadata(mount.join("synced")).unwrap().len(), 0);
    fs::write(mount.join("new"), "works").unwrap();
    mount.unmount();
    // The objects that were uploaded for writes that were then refused are leaks, as after a crash.
    volume.assert_sound(Rest::Crashed);
}

#[test]
fn an_idle_client_learns_from_its_heartbeat_and_does_not_come_back() {
    let volume = Volume::new();
    let mount = volume.mount_with("mnt", &["--heartbeat", "1"]);
    fs::write(mount.join("file"), "content").unwrap();
    end_sessions(&volume);
    assert!(wait_until(Duration::from_secs(20), || announcements(&mount.log()) == 1), "{}", mount.log());
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(sessions(&volume), "0", "nothing registers it again");
    assert_eq!(announcements(&mount.log()), 1, "it is said once: {}", mount.log());
    assert_eq!(fs::read(mount.join("file")).unwrap(), b"content");
    assert_eio("create", File::create(mount.join("new")));
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
