//! The audit of a volume on Redis finds each kind of damage that it is there for.

use std::{fs, os::unix::fs::symlink};

use e2e::{Meta, Rest, Volume};
use juicefs_testkit::redis::Wire;

/// A volume with a bit of everything.
fn sample() -> Volume {
    let volume = Volume::on(Meta::Redis, &["--trash-days", "0"]);
    let mount = volume.mount();
    fs::create_dir(mount.join("dir")).unwrap();
    fs::write(mount.join("dir/file"), vec![7; 10_000]).unwrap();
    fs::hard_link(mount.join("dir/file"), mount.join("second")).unwrap();
    symlink("elsewhere", mount.join("link")).unwrap();
    e2e::run("setfattr", ["-n", "user.a", "-v", "b", &mount.join("dir").to_string_lossy()]).expect_success();
    mount.unmount();
    volume
}

fn key(redis: &mut Wire, pattern: &str) -> String {
    let keys = redis.keys(pattern);
    String::from_utf8(keys.into_iter().next().unwrap_or_else(|| panic!("no key {pattern}"))).unwrap()
}

#[test]
fn each_kind_of_damage_is_found() {
    let volume = sample();
    volume.assert_sound(Rest::Clean);
    let mut redis = volume.redis();
    let file = key(&mut redis, "c*_0").trim_start_matches('c').trim_end_matches("_0").to_owned();
    let (link, attributed) = (key(&mut redis, "s[0-9]*"), key(&mut redis, "x*"));
    let (node, chunk, parents) = (format!("i{file}"), format!("c{file}_0"), format!("p{file}"));
    // What is done, how it is undone, and a part of what the audit says about it.
    let damages: &[(&[&str], &[&str], &str)] = &[
        (&["RENAME", &node, "i99999"], &["RENAME", "i99999", &node], "leads to inode"),
        (&["RENAME", "d1", "d99999"], &["RENAME", "d99999", "d1"], "of no directory"),
        (&["RENAME", &parents, "p99999"], &["RENAME", "p99999", &parents], "parents"),
        (&["HINCRBY", &parents, "1", "1"], &["HINCRBY", &parents, "1", "-1"], "has the parents"),
        (&["RENAME", &link, "s99999"], &["RENAME", "s99999", &link], "has no target"),
        (&["APPEND", &link, "x"], &["SET", &link, "elsewhere"], "a target of"),
        (&["RENAME", &attributed, "x99999"], &["RENAME", "x99999", &attributed], "extended attributes"),
        (&["RENAME", &chunk, "c99999_0"], &["RENAME", "c99999_0", &chunk], "which is not there"),
        (&["RPUSH", &chunk, "short"], &["RPOP", &chunk], "bytes of slices"),
        (&["HSET", "sliceRef", "k77_100", "0"], &["HDEL", "sliceRef", "k77_100"], "counted 0"),
        (&["INCRBY", "usedSpace", "4096"], &["INCRBY", "usedSpace", "-4096"], "counter usedSpace"),
        (&["INCRBY", "totalInodes", "-1"], &["INCRBY", "totalInodes", "1"], "counter totalInodes"),
        (&["RENAME", "nextinode", "nextTrash"], &["RENAME", "nextTrash", "nextinode"], "beyond the counter"),
        (&["HINCRBY", "dirUsedInodes", "1", "1"], &["HINCRBY", "dirUsedInodes", "1", "-1"], "statistics"),
        (&["ZADD", "allSessions", "1", "9"], &["ZREM", "allSessions", "9"], "session 9"),
        (&["SADD", "locked9", "lockf2"], &["DEL", "locked9"], "locked9"),
        (&["HSET", "lockf2", "9_0000000000000001", "R"], &["DEL", "lockf2"], "lockf2"),
        (&["SADD", "session9", "99999"], &["DEL", "session9"], "is kept open"),
        (&["SET", "outcome_1", "x"], &["DEL", "outcome_1"], "no end"),
        (&["SET", "novelty", "x"], &["DEL", "novelty"], "novelty"),
    ];
    for (damage, repair, about) in damages {
        redis.call(damage);
        let faults = volume.faults(Rest::Clean);
        assert!(faults.iter().any(|fault| fault.contains(about)), "{damage:?} is not found: {faults:?}");
        redis.call(repair);
    }
    volume.assert_sound(Rest::Clean);
    let (object, _) = volume.objects().into_iter().find(|(path, _)| path.to_string_lossy().contains("chunks")).unwrap();
    let elsewhere = object.with_file_name("77_0_100");
    fs::rename(&object, &elsewhere).unwrap();
    let faults = volume.faults(Rest::Clean);
    assert!(faults.iter().any(|fault| fault.starts_with("block ")), "a lost object is not found: {faults:?}");
    assert!(faults.iter().any(|fault| fault.contains("belongs to no slice")), "a leak is not found: {faults:?}");
}
