//! Volumes written by JuiceFS (Go) 1.0–1.4 on Redis show exactly what their manifests say, and what a killed client of it
//! left behind is cleaned up.

use std::time::Duration;

use e2e::{GoldenVolume, verify, wait_until};
use juicefs_testkit::redis::{Reply, Wire};

/// A hash over all keys and values of the server.
fn digest(redis: &mut Wire) -> String {
    redis.call(&["DEBUG", "DIGEST"]).text()
}

/// Shows what the manifest says, and leaves every key as it was.
fn check(name: &str) {
    let volume = GoldenVolume::unpack(name);
    let before = digest(&mut volume.redis());
    let mount = volume.mount();
    let verdict = verify(&volume.manifest(), mount.path()).expect_success();
    println!("{name}: {}", verdict.stderr.trim());
    let refused = std::fs::write(mount.join("new"), "x").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    mount.unmount();
    assert_eq!(digest(&mut volume.redis()), before, "a read-only mount changed the metadata");
}

macro_rules! golden {
    ($($test:ident: $name:literal,)*) => {
        $(#[test]
        fn $test() {
            check($name);
        })*
    };
}

golden! {
    plain: "redis-plain",
    plain_of_1_0: "redis-plain-v1.0",
    plain_of_1_1: "redis-plain-v1.1",
    plain_of_1_2: "redis-plain-v1.2",
    plain_of_1_3: "redis-plain-v1.3",
    // Blocks that were still to be uploaded are in the cache of the client that was killed, also for reading.
    killed: "redis-killed",
}

/// The session of the killed client.
const STALE: &str = "3";

#[test]
fn the_session_of_a_killed_client_is_shown() {
    let volume = GoldenVolume::unpack("redis-killed");
    let url = volume.meta_url();
    let finished = e2e::run(e2e::juicefs(), ["status", "--session", STALE, &url]).expect_success();
    let session: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(session["Sid"], 3);
    assert_eq!(session["HostName"], "golden");
    assert_eq!(session["MountPoint"], "/golden/mnt");
    assert_eq!(session["ProcessID"], 25269);
    assert_eq!(session["Expire"], "2026-11-21T02:01:52Z");
    let mut sustained: Vec<u64> = serde_json::from_value(session["Sustained"].clone()).unwrap();
    sustained.sort_unstable();
    assert_eq!(sustained, [2059, 2061, 2062]);
    let all = e2e::run(e2e::juicefs(), ["status", &url]).expect_success();
    let all: serde_json::Value = serde_json::from_str(&all.stdout).unwrap();
    assert_eq!(all["Sessions"].as_array().map(Vec::len), Some(1), "{all}");
    assert_eq!(all["Stat"]["UsedSpace"], 970_264_576);
    assert_eq!(all["Stat"]["UsedInodes"], 414);
}

fn exists(redis: &mut Wire, key: &str) -> bool {
    redis.call(&["EXISTS", key]) == Reply::Int(1)
}

fn counter(redis: &mut Wire, name: &str) -> i64 {
    redis.call(&["GET", name]).text().parse().unwrap()
}

/// The first client that mounts after a crash cleans the dead one's session up: its locks, its open removed files, itself.
/// The other client does not tell how often it renews its session, so it is watched for five of its usual heartbeats of 12 s.
#[test]
fn a_killed_client_is_cleaned_up_by_the_next_mount() {
    let volume = GoldenVolume::unpack("redis-killed");
    let mut redis = volume.redis();
    let (space, inodes) = (counter(&mut redis, "usedSpace"), counter(&mut redis, "totalInodes"));
    assert!(exists(&mut redis, "session3") && exists(&mut redis, "locked3"));
    let mount = volume.mount_with(&["--heartbeat", "1"]);
    let gone = wait_until(Duration::from_secs(120), || redis.call(&["ZSCORE", "allSessions", STALE]) == Reply::Nil);
    assert!(gone, "the stale session is still there");
    assert_eq!(redis.call(&["HEXISTS", "sessionInfos", STALE]), Reply::Int(0));
    for key in ["session3", "locked3", "lockf2056", "lockp2058"] {
        assert!(!exists(&mut redis, key), "{key} is still there");
    }
    for (ino, length) in [(2059, 12345), (2061, 5000), (2062, 500)] {
        assert!(!exists(&mut redis, &format!("i{ino}")), "the removed file {ino} is still kept open");
        // Its data go now or are listed for later.
        let listed = redis.call(&["ZSCORE", "delfiles", &format!("{ino}:{length}")]) != Reply::Nil;
        assert!(listed || !exists(&mut redis, &format!("c{ino}_0")), "the data of {ino} are forgotten");
    }
    assert_eq!(counter(&mut redis, "totalInodes"), inodes - 3);
    assert_eq!(counter(&mut redis, "usedSpace"), space - (16384 + 8192 + 4096));
    // A shared lock that its client left out of the list of its locks counts for nothing, and goes when it is met.
    for name in ["locked-flock", "locked-flock-shared"] {
        let path = mount.join("staged").join(name);
        let script = format!("flock --exclusive --nonblock '{}' true", path.display());
        e2e::run_in(std::path::Path::new("/"), &script).expect_success();
    }
    let gone = wait_until(Duration::from_secs(30), || redis.keys("lock*").is_empty());
    assert!(gone, "locks are left: {:?}", redis.keys("lock*"));
    mount.unmount();
    assert!(redis.keys("session*").iter().all(|key| key == b"sessionInfos"), "the own session is left");
    assert_eq!(redis.call(&["ZCARD", "allSessions"]), Reply::Int(0));
}
