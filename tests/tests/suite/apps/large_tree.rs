//! A tree as large as the source of Linux, and whether everybody counts the same in it.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use e2e::{Owner, Pattern, Rest, Volume, full, juicefs, run, wait_until};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::shell;
use crate::control::counted;

const LIMIT: Duration = Duration::from_secs(1500);
const SEED: u64 = 72;

/// How many directories and files it has.
fn dimensions() -> (usize, usize) {
    if full() { (5_000, 85_000) } else { (150, 2_500) }
}

/// The path of a directory: a tree with three branches at each level, eight levels deep.
fn dir_path(root: &Path, number: usize) -> PathBuf {
    if number == 0 { root.to_owned() } else { dir_path(root, (number - 1) / 3).join(format!("dir-{number}")) }
}

/// Lengths as sources have them: mostly a few kilobytes, some tables of megabytes, 14 KB on average.
fn length(rng: &mut StdRng) -> usize {
    match rng.random_range(0..10_000) {
        0..5 => rng.random_range(1_000_000..10_000_000),
        5..700 => rng.random_range(24_000..80_000),
        700..3_500 => rng.random_range(8_000..24_000),
        3_500..3_550 => 0,
        _ => rng.random_range(100..8_000),
    }
}

/// Makes the tree; always the same one. Returns the bytes in its files.
fn grow(root: &Path) -> u64 {
    let (dirs, files) = dimensions();
    let mut rng = StdRng::seed_from_u64(SEED);
    for number in 0..dirs {
        fs::create_dir(dir_path(root, number)).unwrap();
    }
    let mut total = 0;
    for number in 0..files {
        let path = dir_path(root, number % dirs).join(format!("file-{number}.c"));
        let data = Pattern::of(Owner { run: SEED, file: number as u64, version: 1 }).bytes(length(&mut rng));
        total += data.len() as u64;
        fs::write(&path, data).unwrap();
        if number % 50 == 0 {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            symlink(format!("file-{number}.c"), path.with_extension("link")).unwrap();
        }
    }
    total
}

/// What is counted by `find`, by `du`, and by the commands of the client, with statistics and one by one.
fn check_totals(dir: &Path, bytes_in_files: u64) {
    let (files, dirs, used_bytes) = counted(dir);
    let (made_dirs, made_files) = dimensions();
    assert_eq!((files, dirs), ((made_files + made_files.div_ceil(50)) as u64, made_dirs as u64));
    let summed = shell(dir, "find . -type f -printf '%s\\n' | awk '{ n += $1 } END { printf \"%d\", n }'", LIMIT);
    assert_eq!(summed, bytes_in_files.to_string());
    let blocks = shell(dir, "find . -printf '%b\\n' | awk '{ n += $1 } END { printf \"%d\", n * 512 }'", LIMIT);
    assert_eq!(shell(dir, "du -s --block-size=1 . | cut -f1", LIMIT).trim(), blocks);
    assert_eq!(shell(dir, "du -s --inodes . | cut -f1", LIMIT).trim(), (files + dirs).to_string());
    for strict in ["", "--strict"] {
        let client = juicefs().display();
        let summary = shell(dir, &format!("{client} summary --csv -d 1 -e 1 {strict} ."), LIMIT);
        assert_eq!(summary.lines().nth(1), Some(&*format!("/,{used_bytes},{dirs},{files}")), "{strict}: {summary}");
        let info = shell(dir, &format!("{client} info -r {strict} ."), LIMIT);
        assert!(info.contains(&format!("  files: {files}\n   dirs: {dirs}\n")), "{strict}: {info}");
        assert!(info.contains(&format!("({used_bytes} Bytes)")), "{strict}: {info}");
    }
}

#[test]
fn a_tree_like_that_of_linux_is_unpacked_counted_and_packed_again() {
    let volume = Volume::new();
    let source = volume.dir().join("linux");
    let bytes_in_files = grow(&source);
    let pack = "tar --sort=name -cf";
    shell(volume.dir(), &format!("{pack} linux.tar linux"), LIMIT);
    fs::remove_dir_all(&source).unwrap();
    let archive = volume.dir().join("linux.tar");
    let archive = archive.display();

    let mount = volume.mount();
    let begun = Instant::now();
    let lap = |what: &str| println!("{what} after {} s", begun.elapsed().as_secs());
    shell(mount.path(), &format!("tar -xpf {archive}"), LIMIT);
    lap("unpacked");
    check_totals(&mount.join("linux"), bytes_in_files);
    lap("counted");
    shell(mount.path(), &format!("tar -df {archive}"), LIMIT);
    lap("compared");
    mount.unmount();
    // The caches are gone, so that everything comes from the engine and the store.
    fs::remove_dir_all(volume.dir().join("cache-mnt")).unwrap();
    let mount = volume.mount();
    shell(mount.path(), &format!("{pack} - linux | cmp - {archive}"), LIMIT);
    lap("packed again");
    check_totals(&mount.join("linux"), bytes_in_files);
    shell(mount.path(), "rm -r linux", LIMIT);
    lap("removed");
    assert_eq!(run("ls", [mount.path()]).expect_success().stdout, "");
    assert!(wait_until(LIMIT, || volume.objects().is_empty()), "{} objects are left", volume.objects().len());
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}
