//! Locks among mounts of both clients.

use std::{fs, process::Command, time::Duration};

use e2e::{Volume, kill_tree, run_within, wait_until};

use super::GoMount;
use crate::locks::Process;

/// Whoever holds a lock in one client keeps the other one out, and both find the locks of the other.
#[test]
#[ignore = "needs the Go client in JUICEFS_GO"]
fn locks_hold_between_both_clients() {
    let volume = Volume::new();
    let other = GoMount::start(&volume, &["--heartbeat", "2"]);
    let mount = volume.mount_with("mnt", &["--heartbeat", "2"]);
    for name in ["f", "lock"] {
        fs::write(mount.join(name), "").unwrap();
        assert!(wait_until(Duration::from_secs(30), || other.point.join(name).exists()));
    }
    let (ours, theirs) = (mount.join("f"), other.point.join("f"));
    for way in ["flock", "posix", "ofd"] {
        for (first, second) in [(&ours, &theirs), (&theirs, &ours)] {
            let (mut holder, mut waiting) = (Process::on(first), Process::on(second));
            holder.must(&format!("lock f {way} sh try"));
            waiting.must(&format!("lock f {way} sh try"));
            waiting.must(&format!("lock f {way} un try"));
            assert_eq!(waiting.ask(&format!("lock f {way} ex try")), "EAGAIN", "{way}");
            holder.must(&format!("lock f {way} ex try"));
            waiting.tell(&format!("lock f {way} sh wait"));
            waiting.still_waits();
            holder.must(&format!("lock f {way} un try"));
            assert_eq!(waiting.answer(), "ok", "{way}");
        }
    }
    // Ranges are split and joined alike, whoever holds them.
    let (mut holder, mut asking) = (Process::on(&ours), Process::on(&theirs));
    holder.must("lock f posix ex try 0 100");
    holder.must("lock f posix un try 40 20");
    holder.must("lock f posix sh try 90 0");
    assert_eq!(asking.ask("get f sh 0 0"), "ex 0 40 0");
    asking.must("lock f posix ex try 40 20");
    assert_eq!(holder.ask("get f sh 0 0"), "ex 40 20 0");
    assert_eq!(asking.ask("lock f posix ex try 5000 1"), "EAGAIN");
    drop((holder, asking));

    let script = "for i in $(seq 15); do flock lock sh -c 'read n < n; echo $((n + 1)) > n'; done";
    fs::write(mount.join("n"), "0\n").unwrap();
    assert!(wait_until(Duration::from_secs(30), || other.point.join("n").exists()));
    std::thread::scope(|scope| {
        for dir in [mount.path(), other.point.as_path(), mount.path(), other.point.as_path()] {
            scope.spawn(move || {
                let mut command = Command::new("bash");
                command.args(["-euc", script]).current_dir(dir);
                run_within(command, Duration::from_secs(300)).expect_success();
            });
        }
    });
    assert_eq!(fs::read_to_string(mount.join("n")).unwrap().trim(), "60");

    // A client that dies loses its locks to the other. How often it would have renewed its session it does not say: it is given
    // the minute that its default would need.
    let (mut holder, mut waiting) = (Process::on(&theirs), Process::on(&ours));
    for way in ["flock", "posix"] {
        holder.must(&format!("lock f {way} sh try"));
    }
    kill_tree(other.child.id(), libc::SIGKILL);
    for way in ["flock", "posix"] {
        waiting.tell(&format!("lock f {way} ex wait"));
        assert_eq!(waiting.answer_within(Duration::from_secs(90)), "ok", "{way}");
    }
    drop((holder, waiting, other));
    mount.unmount();
}
