//! Mounts with `client-cache`: nothing is asked that the server has not told to have changed, and no change is missed.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use e2e::{Meta, Mount, Rest, Volume, full, seed_of, wait_until};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// The kernel keeps nothing, so that all there is comes from the client.
const NO_KERNEL_CACHES: [&str; 6] = ["--attr-cache", "0", "--entry-cache", "0", "--dir-entry-cache", "0"];

fn caching(volume: &Volume) -> Mount {
    let url = format!("{}?client-cache=true", volume.meta_url());
    let mount =
        Mount::start_at(&url, volume.dir(), "cached", &volume.dir().join("cache-cached"), &NO_KERNEL_CACHES, &[]);
    // The server tells of changes a moment after the mount is there.
    thread::sleep(Duration::from_millis(500));
    mount
}

/// Commands that the server has run for clients so far, but for those that every client sends as time passes.
fn commands(volume: &Volume) -> u64 {
    let stats = volume.redis().call(&["INFO", "commandstats"]).text();
    let of = |command: &str| {
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
        line.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0_u64)
    };
    of("evalsha") + of("hget") + of("mget")
}

#[test]
fn what_does_not_change_is_not_asked_for() {
    let volume = Volume::on(Meta::Redis, &["--trash-days", "0"]);
    let mount = caching(&volume);
    fs::create_dir_all(mount.join("a/b/c")).unwrap();
    fs::write(mount.join("a/b/c/file"), "content").unwrap();
    let look = || {
        assert_eq!(fs::metadata(mount.join("a/b/c/file")).unwrap().len(), 7);
        assert!(fs::metadata(mount.join("a/b/c/none")).is_err());
    };
    // What was just written is told of first, and statistics follow within a second or two; on a busy machine the server may
    // seem silent for a while.
    let known = || {
        look();
        let before = commands(&volume);
        (0..100).for_each(|_| look());
        commands(&volume) - before < 20
    };
    assert!(
        wait_until(Duration::from_secs(60), known),
        "200 looks at what is known go on to cost 20 commands and more"
    );
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}

#[test]
fn changes_of_another_mount_are_seen() {
    let volume = Volume::on(Meta::Redis, &["--trash-days", "0"]);
    let (cached, other) = (caching(&volume), volume.mount_with("other", &NO_KERNEL_CACHES));
    fs::create_dir(other.join("d")).unwrap();
    let mut rng = StdRng::seed_from_u64(seed_of("client-cache", 31));
    let path = |mount: &Mount, n: u32| mount.join("d").join(format!("f{n}"));
    let mut slowest = Duration::ZERO;
    for round in 0..if full() { 1000 } else { 80_u64 } {
        let (n, m) = (rng.random_range(0..8), rng.random_range(0..8));
        // What the cached mount has seen must not be what it says later.
        let _ = fs::metadata(path(&cached, n));
        match rng.random_range(0..4) {
            0 | 1 => fs::write(path(&other, n), vec![1; usize::try_from(round + 1).unwrap()]).unwrap(),
            2 => drop(fs::remove_file(path(&other, n))),
            _ => drop(fs::rename(path(&other, n), path(&other, m))),
        }
        let changed = Instant::now();
        for n in [n, m] {
            let want = fs::metadata(path(&other, n)).ok().map(|meta| meta.len());
            let seen = || fs::metadata(path(&cached, n)).ok().map(|meta| meta.len());
            assert!(wait_until(Duration::from_secs(5), || seen() == want), "round {round}: {:?}, not {want:?}", seen());
        }
        slowest = slowest.max(changed.elapsed());
    }
    println!("the slowest change took {slowest:?}");
    cached.unmount();
    other.unmount();
    volume.assert_sound(Rest::Clean);
}
