//! A volume in a Redis cluster: all of its keys are in one slot, which may move while it is used.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Write,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use e2e::{Meta, Rest, Volume, run, wait_until};
use juicefs_testkit::redis::{RedisCluster, RedisServer};
use rustix::fs::Dir;

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// The inodes of the trash are larger than the numbers of Lua.
#[test]
fn the_trash_is_listed_and_emptied() {
    let volume = Volume::on(Meta::RedisCluster, &["--trash-days", "1"]);
    let mount = volume.mount();
    fs::create_dir_all(mount.join("dir/below")).unwrap();
    for n in 0..300 {
        fs::write(mount.join(format!("dir/file-{n}")), "content").unwrap();
    }
    fs::remove_dir_all(mount.join("dir")).unwrap();
    let trash = mount.join(".trash");
    let hours: Vec<_> = names(&trash).into_iter().collect();
    assert!(!hours.is_empty());
    run("ls", ["-lR", &trash.to_string_lossy()]).expect_success();
    let found: usize = hours.iter().map(|hour| names(&trash.join(hour)).len()).sum();
    assert_eq!(found, 302);
    for hour in hours {
        for entry in fs::read_dir(trash.join(hour)).unwrap() {
            let path = entry.unwrap().path();
            let is_dir = fs::symlink_metadata(&path).unwrap().is_dir();
            if is_dir { fs::remove_dir(&path).unwrap() } else { fs::remove_file(&path).unwrap() }
        }
    }
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}

#[test]
fn quotas_are_set_and_checked_with_the_trash() {
    let volume = Volume::on(Meta::RedisCluster, &["--trash-days", "1", "--enable-acl"]);
    let mount = volume.mount();
    fs::create_dir(mount.join("dir")).unwrap();
    fs::write(mount.join("dir/kept"), vec![1; 100_000]).unwrap();
    fs::write(mount.join("gone"), "x").unwrap();
    fs::remove_file(mount.join("gone")).unwrap();
    let url = volume.meta_url();
    volume.juicefs(&["quota", "set", &url, "--uid", "1000", "--capacity", "1", "--inodes", "1000"]).expect_success();
    volume.juicefs(&["quota", "set", &url, "--path", "/dir", "--capacity", "1"]).expect_success();
    volume.juicefs(&["quota", "check", &url, "--path", "/dir"]).expect_success();
    volume.juicefs(&["quota", "check", &url, "--uid", "1000"]).expect_success();
    let listed = volume.juicefs(&["quota", "list", &url]).expect_success();
    assert!(listed.stdout.contains("/dir"), "{listed}");
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}

/// A server that keeps what it said when it is killed. With an fsync each second it holds writes back for up to two seconds while the
/// disk is busy.
const KEPT: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "no"];

/// The rename of the only name in a directory takes the directory's key away and makes it again; creating needs keys that are
/// nowhere yet; a long listing walks through a hash that goes to another server in between.
#[test]
fn no_call_fails_while_the_slot_moves() {
    const DATABASE: u32 = 5;
    const LISTED: usize = 13_000;
    let prefix = format!("{{{DATABASE}}}");
    let cluster = RedisCluster::start(&KEPT);
    let volume = Volume::at(&cluster.url(DATABASE), &["--trash-days", "1"]);
    let slot = cluster.slot_of(&prefix);
    let mount = volume.mount();
    fs::create_dir(mount.join("listed")).unwrap();
    for n in 0..LISTED {
        File::create(mount.join(format!("listed/name-{n}"))).unwrap();
    }
    let root = mount.path();
    let stop = AtomicBool::new(false);
    let goes_on = || !stop.load(Ordering::Relaxed);
    let done: [AtomicU64; 3] = std::array::from_fn(|_| AtomicU64::new(0));
    let [renamed, written, walked] = &done;
    let counts = || done.each_ref().map(|count| count.load(Ordering::Relaxed));
    thread::scope(|scope| {
        let renames = scope.spawn(|| {
            let dir = root.join("single");
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("name-0"), "kept").unwrap();
            let mut count = 0;
            while goes_on() {
                fs::rename(dir.join(format!("name-{count}")), dir.join(format!("name-{}", count + 1))).unwrap();
                count += 1;
                assert_eq!(names(&dir), BTreeSet::from([format!("name-{count}")]));
                renamed.store(count, Ordering::Relaxed);
            }
            assert_eq!(fs::read(dir.join(format!("name-{count}"))).unwrap(), b"kept");
        });
        let writes = scope.spawn(|| {
            let dir = root.join("written");
            fs::create_dir(&dir).unwrap();
            let mut count = 0;
            while goes_on() {
                let path = dir.join(format!("file-{count}"));
                let mut file = File::create_new(&path).unwrap();
                file.write_all(&vec![7; 5000]).unwrap();
                file.sync_all().unwrap();
                file.write_all(&vec![8; 5000]).unwrap();
                drop(file);
                if count % 3 == 0 {
                    fs::remove_file(&path).unwrap();
                }
                count += 1;
                written.store(count, Ordering::Relaxed);
            }
            let left = names(&dir);
            assert_eq!(left.len(), (0..count).filter(|n| n % 3 != 0).count());
        });
        let listings = scope.spawn(|| {
            let mut count = 0;
            while goes_on() {
                let mut listing = Dir::new(File::open(root.join("listed")).unwrap()).unwrap();
                let mut found = BTreeSet::new();
                while let Some(entry) = listing.read() {
                    let name = entry.unwrap().file_name().to_str().unwrap().to_owned();
                    assert!(found.insert(name.clone()), "{name} is listed twice");
                    if found.len() % 5000 == 0 {
                        thread::sleep(Duration::from_millis(20));
                    }
                }
                assert_eq!(found.len(), LISTED + 2, "listing {count}");
                count += 1;
                walked.store(count, Ordering::Relaxed);
            }
        });
        let trouble = || {
            for round in 0..if e2e::full() { 20 } else { 4 } {
                let mut moving = cluster.begin_move(slot, (cluster.owner(slot) + 1) % 3);
                for _ in 0..10 {
                    moving.move_keys(40);
                    thread::sleep(Duration::from_millis(30));
                }
                moving.finish();
                let before = counts();
                println!("round {round}: {before:?} renames, writes and listings");
                let go_on = || counts().iter().zip(before).all(|(now, before)| *now > before);
                assert!(wait_until(Duration::from_secs(60), go_on), "somebody is stuck: {:?}", counts());
            }
        };
        let troubled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(trouble));
        stop.store(true, Ordering::Relaxed);
        for task in [renames, writes, listings] {
            task.join().expect("no call failed");
        }
        troubled.expect("the slot moves, and everybody gets on");
    });
    mount.unmount();
    volume.assert_sound_in(&mut cluster.nodes()[cluster.owner(slot)].wire(0), &prefix, Rest::Clean);
}

/// A server that was started again gives the entries of a hash in another order.
#[test]
fn a_listing_goes_on_after_the_server_was_restarted() {
    const LISTED: usize = 25_000;
    let server = RedisServer::start(&KEPT);
    let volume = Volume::on_server(server, &["--trash-days", "0"]);
    let mount = volume.mount();
    fs::create_dir(mount.join("listed")).unwrap();
    for n in 0..LISTED {
        File::create(mount.join(format!("listed/name-{n}"))).unwrap();
    }
    let mut listing = Dir::new(File::open(mount.join("listed")).unwrap()).unwrap();
    let mut found = BTreeSet::new();
    while let Some(entry) = listing.read() {
        let name = entry.unwrap().file_name().to_str().unwrap().to_owned();
        assert!(found.insert(name.clone()), "{name} is listed twice");
        if found.len() % 7000 == 0 {
            volume.server().restart();
            assert!(wait_until(Duration::from_secs(60), || fs::metadata(mount.join("listed/name-1")).is_ok()));
        }
    }
    assert_eq!(fs::read_dir(mount.join("listed")).unwrap().count(), LISTED, "the server has lost names");
    assert_eq!(found.len(), LISTED + 2);
    drop(listing);
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}
