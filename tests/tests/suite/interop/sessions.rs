//! Sessions of both clients on one volume: JuiceFS (Go) ends by the wall clock whatever has expired.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    thread,
    time::Duration,
};

use e2e::{Meta, Volume, wait_until};

use super::GoMount;
use crate::locks::Process;

const FLAGS: [&str; 2] = ["--heartbeat", "1"];

/// The Go client is the first to come back, and ends the sessions of ours. They come back by themselves: no mount is needed, what
/// was buffered is there, and what was locked is lost and said to be.
#[test]
#[ignore = "needs the Go client in JUICEFS_GO"]
fn clients_that_the_other_one_ended_come_back() {
    let volume = Volume::on(Meta::Redis, &["--trash-days", "0"]);
    let other = GoMount::start(&volume, &FLAGS);
    let mounts = ["mnt1", "mnt2"].map(|place| volume.mount_with(place, &FLAGS));
    for lifetimes in [2, 5] {
        let mut kept = Vec::new();
        for (number, mount) in mounts.iter().enumerate() {
            let locked = mount.join(format!("locked{number}"));
            fs::write(&locked, "").unwrap();
            let mut holder = Process::on(&locked);
            holder.must("lock f flock ex try");
            holder.open("buffered", &mount.join(format!("buffered{number}")), "rw");
            holder.must("write buffered 7 100000");
            kept.push(holder);
        }
        let signal = |signal: i32| mounts.iter().for_each(|mount| crate::outages::signal(mount, signal));
        signal(libc::SIGSTOP);
        volume.server().stop();
        thread::sleep(Duration::from_secs(5) * lifetimes);
        volume.server().cont();
        let sessions = || volume.redis().call(&["ZCARD", "allSessions"]).int();
        assert!(wait_until(Duration::from_secs(30), || sessions() == 1), "it ends what has expired");
        signal(libc::SIGCONT);
        assert!(wait_until(Duration::from_secs(10), || sessions() == 3), "they come back");
        for (number, mut holder) in kept.into_iter().enumerate() {
            holder.must("sync buffered");
            let there = other.point.join(format!("buffered{number}"));
            assert!(
                wait_until(Duration::from_secs(10), || fs::read(&there).is_ok_and(|read| read == vec![b'7'; 100_000]))
            );
            assert_eq!(holder.ask("lock f flock sh try"), "EIO");
            fs::remove_file(&there).unwrap();
        }
    }
    mounts.into_iter().for_each(e2e::Mount::unmount);
    other.unmount();
}

/// Only the server is away: whoever comes back first, everybody goes on.
#[test]
#[ignore = "needs the Go client in JUICEFS_GO"]
fn an_outage_leaves_all_clients_at_work() {
    let volume = Volume::on(Meta::Redis, &["--trash-days", "0"]);
    let other = GoMount::start(&volume, &FLAGS);
    let mounts = ["mnt1", "mnt2"].map(|place| volume.mount_with(place, &FLAGS));
    for lifetimes in [2, 5] {
        let files: Vec<_> = mounts
            .iter()
            .map(|mount| {
                let file = File::create(mount.join(format!("file{}", mount.pid()))).unwrap();
                file.write_all_at(&[7; 100_000], 0).unwrap();
                file
            })
            .collect();
        volume.server().stop();
        thread::sleep(Duration::from_secs(5) * lifetimes);
        volume.server().cont();
        for (file, mount) in files.iter().zip(&mounts) {
            file.sync_all().unwrap();
            fs::write(mount.join(format!("new{}-{lifetimes}", mount.pid())), "works").unwrap();
        }
        fs::write(other.point.join(format!("go{lifetimes}")), "works").unwrap();
        let sessions = || volume.redis().call(&["ZCARD", "allSessions"]).int();
        assert!(wait_until(Duration::from_secs(10), || sessions() == 3));
    }
    for mount in &mounts {
        println!("ended by the other client: {}", mount.log().matches("has ended the session").count());
    }
    mounts.into_iter().for_each(e2e::Mount::unmount);
    other.unmount();
}
