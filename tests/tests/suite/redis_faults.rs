//! The metadata server dies, hangs or moves under a working mount: what was acknowledged is there, calls wait instead of
//! failing, and the mount heals by itself.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use e2e::{Meta, Mount, Owner, Pattern, Rest, Volume, full, wait_until};
use juicefs_testkit::redis::{RedisCluster, RedisSentinels, RedisServer, Reply};

/// Nothing that was acknowledged may be lost, so the server may lose nothing either.
const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];
const WRITERS: u64 = 4;

fn content(number: u64) -> Vec<u8> {
    let length = 1 + usize::try_from(number * 7919 % 60_000).expect("a small number");
    Pattern::of(Owner { run: 70, file: number, version: 1 }).bytes(length)
}

/// Files that are written, fsynced and renamed until somebody says stop.
#[derive(Default)]
struct Load {
    next: AtomicU64,
    stop: AtomicBool,
    /// Files whose last call returned.
    acknowledged: Mutex<HashMap<PathBuf, u64>>,
    refused: Mutex<Vec<String>>,
}

impl Load {
    fn write_one(&self, dir: &Path) -> io::Result<()> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (first, last) = (dir.join(format!("new-{number}")), dir.join(format!("file-{number}")));
        let mut file = File::create_new(&first)?;
        file.write_all(&content(number))?;
        file.sync_all()?;
        drop(file);
        fs::rename(&first, &last)?;
        if number.is_multiple_of(5) {
            fs::remove_file(&last)?;
        } else {
            self.acknowledged.lock().unwrap().insert(last, number);
        }
        Ok(())
    }

    /// Runs writers in directories of their own while `trouble` happens.
    fn during(&self, root: &Path, trouble: impl FnOnce()) {
        thread::scope(|scope| {
            for id in 0..WRITERS {
                let dir = root.join(format!("writer-{id}"));
                fs::create_dir_all(&dir).unwrap();
                scope.spawn(move || {
                    while !self.stop.load(Ordering::Relaxed) {
                        if let Err(error) = self.write_one(&dir) {
                            self.refused.lock().unwrap().push(error.to_string());
                        }
                    }
                });
            }
            let stop = StopOnDrop(&self.stop);
            trouble();
            drop(stop);
        });
        self.stop.store(false, Ordering::Relaxed);
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    /// Waits until the writers get somewhere again.
    fn wait_for_progress(&self, limit: Duration) {
        let before = self.count();
        assert!(wait_until(limit, || self.count() > before + 20), "the mount does not heal within {limit:?}");
    }

    fn assert_nothing_was_refused(&self) {
        let refused = self.refused.lock().unwrap();
        assert!(refused.is_empty(), "{} calls failed: {:?}", refused.len(), refused.first());
    }

    /// Every acknowledged file is there, and nothing that was removed.
    fn assert_kept(&self, mount: &Mount) {
        let files = self.acknowledged.lock().unwrap();
        for (path, number) in files.iter() {
            let seen = fs::read(path).unwrap_or_else(|error| panic!("acknowledged {}: {error}", path.display()));
            assert!(seen == content(*number), "acknowledged {} is damaged", path.display());
        }
        for id in 0..WRITERS {
            for entry in fs::read_dir(mount.join(format!("writer-{id}"))).unwrap() {
                let path = entry.unwrap().path();
                assert!(files.contains_key(&path), "{} was removed or renamed, and is there", path.display());
            }
        }
    }
}

/// Also when the trouble panics, the writers end.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_killed_server_loses_nothing_that_was_acknowledged() {
    let volume = Volume::on_server(RedisServer::start(&DURABLE), &["--trash-days", "0"]);
    let mount = volume.mount_with("mnt", &["--heartbeat", "2"]);
    let load = Load::default();
    load.during(mount.path(), || {
        for round in 0..if full() { 20 } else { 4 } {
            load.wait_for_progress(Duration::from_secs(60));
            volume.server().kill();
            // The last two: long enough that every writer waits for sure.
            thread::sleep(Duration::from_millis(if round % 2 == 0 { 100 } else { 2000 }));
            volume.server().restart();
        }
        load.wait_for_progress(Duration::from_secs(60));
    });
    println!("{} files acknowledged", load.count());
    load.assert_nothing_was_refused();
    load.assert_kept(&mount);
    mount.unmount();
    volume.assert_sound(Rest::Clean);
    let mount = volume.mount();
    load.assert_kept(&mount);
    mount.unmount();
}

#[test]
fn a_frozen_server_is_waited_for() {
    let volume = Volume::on(Meta::Redis, &["--trash-days", "0"]);
    let mount = volume.mount();
    let load = Load::default();
    fs::write(mount.join("cached"), "x").unwrap();
    load.during(mount.path(), || {
        load.wait_for_progress(Duration::from_secs(60));
        volume.server().stop();
        let frozen = Instant::now();
        // What is under way may still end; then nothing does.
        thread::sleep(Duration::from_millis(500));
        let during = load.count();
        thread::sleep(Duration::from_secs(3).saturating_sub(frozen.elapsed()));
        assert_eq!(load.count(), during, "calls were acknowledged by a client that could reach nobody");
        volume.server().cont();
        load.wait_for_progress(Duration::from_secs(20));
    });
    load.assert_nothing_was_refused();
    load.assert_kept(&mount);
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}

/// While no server is there, calls end with an error after the time that the flags give them, and not before. The mount
/// stays and works again when the server does.
#[test]
fn a_long_absence_is_reported_and_survived() {
    let volume = Volume::on_server(RedisServer::start(&DURABLE), &["--trash-days", "0"]);
    let mount = volume.mount_with("mnt", &["--io-retries", "2"]);
    fs::write(mount.join("before"), "x").unwrap();
    volume.server().kill();
    let begun = Instant::now();
    let error = fs::create_dir(mount.join("during")).expect_err("a directory without a metadata server");
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    println!("refused after {:?}", begun.elapsed());
    // Six seconds for each retry.
    assert!((10..40).contains(&begun.elapsed().as_secs()), "EIO came after {:?}", begun.elapsed());
    volume.server().restart();
    let healed = wait_until(Duration::from_secs(30), || fs::write(mount.join("after"), "y").is_ok());
    assert!(healed, "the mount does not heal");
    assert_eq!(fs::read(mount.join("before")).unwrap(), b"x");
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}

/// The master dies under a mount, its replica takes over. Redis replicates behind the acknowledgement, so the test waits
/// for the replica before the death; what is asked for while there is no master waits for the new one.
#[test]
fn a_failover_by_sentinels_is_followed() {
    const DATABASE: u32 = 2;
    let group = RedisSentinels::start(&DURABLE);
    let volume = Volume::at(&group.url(DATABASE), &["--trash-days", "0"]);
    let mount = volume.mount_with("mnt", &["--heartbeat", "2"]);
    let load = Load::default();
    load.during(mount.path(), || load.wait_for_progress(Duration::from_secs(60)));
    let old_port = group.master().port();
    let mut master = group.master().wire(15);
    master.call(&["SET", "marker", "x"]);
    assert_eq!(master.call(&["WAIT", "1", "10000"]), Reply::Int(1), "the replica does not follow");
    group.kill_master();
    load.during(mount.path(), || {
        group.wait_for_successor(old_port);
        load.wait_for_progress(Duration::from_secs(60));
    });
    load.assert_nothing_was_refused();
    load.assert_kept(&mount);
    mount.unmount();
    volume.assert_sound_in(&mut group.master().wire(DATABASE), "", Rest::Clean);
}

/// A volume of a cluster lives in one slot: it moves to another node, and that node dies and comes back, under a mount.
#[test]
fn a_cluster_that_moves_a_volume_is_followed() {
    const DATABASE: u32 = 3;
    let prefix = format!("{{{DATABASE}}}");
    let cluster = RedisCluster::start(&DURABLE);
    let volume = Volume::at(&cluster.url(DATABASE), &["--trash-days", "0"]);
    let slot = cluster.slot_of(&prefix);
    let mount = volume.mount_with("mnt", &["--heartbeat", "2"]);
    let load = Load::default();
    let target = (cluster.owner(slot) + 1) % 3;
    load.during(mount.path(), || {
        load.wait_for_progress(Duration::from_secs(60));
        cluster.move_slot(slot, target);
        load.wait_for_progress(Duration::from_secs(60));
        cluster.nodes()[target].kill();
        thread::sleep(Duration::from_millis(500));
        cluster.nodes()[target].restart();
        load.wait_for_progress(Duration::from_secs(60));
    });
    load.assert_nothing_was_refused();
    load.assert_kept(&mount);
    mount.unmount();
    assert_eq!(cluster.owner(slot), target);
    volume.assert_sound_in(&mut cluster.nodes()[target].wire(0), &prefix, Rest::Clean);
}

/// Uploaded data that cannot be committed is kept, as is data that cannot be uploaded, and keeps its place.
#[test]
fn what_a_frozen_server_did_not_take_is_committed_by_a_later_fsync() {
    let volume = Volume::on_server(RedisServer::start(&DURABLE), &["--trash-days", "0"]);
    let mount = volume.mount_with("mnt", &["--io-retries", "2"]);
    let path = mount.join("file");
    let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    let mut expected = content(9);
    file.write_all(&expected).unwrap();
    file.sync_all().unwrap();
    volume.server().stop();
    let over = vec![7; 5000];
    file.write_all_at(&over, 100).unwrap();
    let begun = Instant::now();
    assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(libc::EIO));
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    let refused = file.write_all_at(b"more", 0).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EIO), "nobody pours more into what is not stored");
    assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(libc::EIO));
    volume.server().cont();
    assert!(wait_until(Duration::from_secs(60), || file.sync_all().is_ok()), "it is not committed");
    if expected.len() < 5100 {
        expected.resize(5100, 0);
    }
    expected[100..5100].copy_from_slice(&over);
    file.write_all_at(b"then", 0).unwrap();
    expected[..4].copy_from_slice(b"then");
    drop(file);
    assert!(fs::read(&path).unwrap() == expected);
    mount.unmount();
    let mount = volume.mount();
    assert!(fs::read(mount.join("file")).unwrap() == expected);
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}
