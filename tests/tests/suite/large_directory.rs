//! A directory of a million entries, and a client that does not grow with it.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use e2e::{Mount, Rest, Volume, full, juicefs, run_within, seed_of};
use rand::{Rng, SeedableRng, rngs::StdRng};
use rustix::fs::Dir;

use crate::memory::{forget_peak, peak_kib};

const LIMIT: Duration = Duration::from_secs(1500);
const PROCESSES: usize = 4;
const BUFFER_MIB: usize = 64;
/// What an open listing may keep of each entry: hashes of its name, in order and in a set, and the set once more while it grows.
const BYTES_PER_ENTRY: usize = 48;
/// What a listing takes beside, however long it is: some pages of entries, and what the allocator has not given back.
const BESIDE_KIB: usize = 32 << 10;

fn name(number: usize) -> String {
    format!("an-entry-of-many-{number:07}")
}

/// Makes the entries through several processes, each of which has its own numbers.
fn fill(dir: &Path, count: usize) {
    let text = "import os, sys
first, step, count = map(int, sys.argv[1:])
for number in range(first, count, step):
    os.close(os.open(f'an-entry-of-many-{number:07}', os.O_CREAT | os.O_EXCL | os.O_WRONLY))";
    thread::scope(|scope| {
        for first in 0..PROCESSES {
            scope.spawn(move || {
                let mut command = Command::new("python3");
                command.args(["-c", text]).args([first, PROCESSES, count].map(|number| number.to_string()));
                command.current_dir(dir);
                run_within(command, LIMIT).expect_success();
            });
        }
    });
}

/// The numbers of up to `limit` entries from where the listing is, each with the offset behind it.
fn entries(listing: &mut Dir, limit: usize) -> Vec<(usize, i64)> {
    let mut found = Vec::new();
    while found.len() < limit {
        let Some(entry) = listing.read() else { break };
        let entry = entry.unwrap();
        let name = entry.file_name().to_str().unwrap();
        if let Some(number) = name.strip_prefix("an-entry-of-many-") {
            found.push((number.parse().unwrap(), entry.offset()));
        }
    }
    found
}

/// Lists the whole directory and goes back into the middle of it again and again; returns all numbers that it showed.
fn list_and_seek(dir: &Path, count: usize, rng: &mut StdRng) -> Vec<usize> {
    let mut listing = Dir::read_from(File::open(dir).unwrap()).unwrap();
    let all = entries(&mut listing, usize::MAX);
    for _ in 0..20 {
        let at = rng.random_range(0..count);
        listing.seek(all[at].1).unwrap();
        let seen = entries(&mut listing, 500);
        assert!(seen.iter().eq(all[at + 1..].iter().take(500)), "from entry {at} on the listing is another one");
    }
    listing.seek(all[count - 1].1).unwrap();
    assert!(entries(&mut listing, 1).is_empty(), "entries after the last one");
    listing.rewind();
    assert!(entries(&mut listing, 1000).iter().eq(all.iter().take(1000)));
    all.into_iter().map(|(number, _)| number).collect()
}

/// How far the memory of the client rises above what it has now while `work` runs, in KiB.
fn growth_kib<T>(mount: &Mount, what: &str, work: impl FnOnce() -> T) -> (usize, T) {
    let before = forget_peak(mount.pid());
    let begun = Instant::now();
    let done = work();
    let growth = peak_kib(mount.pid()).saturating_sub(before);
    println!("{what}: {} s, {growth} KiB above {before} KiB", begun.elapsed().as_secs());
    (growth, done)
}

#[test]
fn a_million_entries_are_made_listed_and_removed_in_little_memory() {
    let count = if full() { 1_000_000 } else { 20_000 };
    let mut rng = StdRng::seed_from_u64(seed_of("large-directory", 9));
    let volume = Volume::new();
    let flags = ["--buffer-size", &BUFFER_MIB.to_string()];
    let mount = volume.mount_with("mnt", &flags);
    let dir = mount.join("many");
    fs::create_dir(&dir).unwrap();
    growth_kib(&mount, "made", || fill(&dir, count));
    mount.unmount();

    let mount = volume.mount_with("mnt", &flags);
    let dir = mount.join("many");
    let (growth, listed) = growth_kib(&mount, "listed", || list_and_seek(&dir, count, &mut rng));
    assert_eq!(listed.len(), count, "an entry was listed twice or not at all");
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>().len(), count);
    let allowed = BYTES_PER_ENTRY * count / 1024 + BESIDE_KIB;
    assert!(growth < allowed, "a listing of {count} entries took {growth} KiB, not less than {allowed}");
    growth_kib(&mount, "looked at", || {
        for _ in 0..5000 {
            let meta = fs::metadata(dir.join(name(rng.random_range(0..count)))).unwrap();
            assert!(meta.is_file() && meta.len() == 0 && meta.nlink() == 1);
        }
        assert!(fs::metadata(dir.join(name(count))).is_err());
    });
    growth_kib(&mount, "removed", || {
        let mut command = Command::new(juicefs());
        command.args(["rmr", "many"]).current_dir(mount.path());
        run_within(command, LIMIT).expect_success();
    });
    assert!(!dir.exists());
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}
