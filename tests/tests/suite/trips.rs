//! How often a client waits for Redis: round trips per operation, on real mounts.
//!
//! A round trip is a read of a client's socket by the server (`total_reads_processed`), so that what arrives together
//! counts once. These figures do not depend on the speed of the machine, and they decide the speed of every client whose
//! server is not on the same machine. A limit includes what the kernel asks on the way (a LOOKUP before a creation) and
//! what the client does beside and just behind the calls.

use std::{
    fs::{self, File},
    io::{Read, Write},
    path::Path,
    process::Command,
    sync::Barrier,
    thread,
    time::Duration,
};

use e2e::{Meta, Volume, drop_kernel_caches, keep_kernel_caches, run, run_within};
use juicefs_testkit::redis::Wire;
use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};

/// What a client may still do for calls that have returned: it counts.
const AFTERMATH: Duration = Duration::from_millis(500);

fn reads(redis: &mut Wire) -> u64 {
    let stats = redis.call(&["INFO", "stats"]).text();
    stats.lines().find_map(|line| line.strip_prefix("total_reads_processed:")?.parse().ok()).unwrap()
}

/// Trips per operation of `work`, which returns the number of its operations. What `prepare` made is found by a client
/// that has just started, with empty caches.
fn trips(prepare: Option<&dyn Fn(&Path) -> usize>, work: &dyn Fn(&Path) -> usize) -> f64 {
    trips_of(&[], prepare, work)
}

/// [`trips`] of a mount with these flags.
fn trips_of(flags: &[&str], prepare: Option<&dyn Fn(&Path) -> usize>, work: &dyn Fn(&Path) -> usize) -> f64 {
    let volume = Volume::on(Meta::Redis, &["--trash-days", "0"]);
    let mut mount = volume.mount_with("mnt", flags);
    if let Some(prepare) = prepare {
        prepare(mount.path());
        mount.unmount();
        fs::remove_dir_all(volume.dir().join("cache-mnt")).unwrap();
        drop_kernel_caches(3);
        mount = volume.mount_with("mnt", flags);
    }
    let mut redis = volume.redis();
    // What a test beside this one makes the kernel forget is asked for again.
    let _kept = keep_kernel_caches();
    let before = reads(&mut redis);
    let operations = work(mount.path());
    thread::sleep(AFTERMATH);
    // The question itself is one.
    let count = reads(&mut redis) - before - 1;
    mount.unmount();
    count as f64 / operations as f64
}

fn assert_trips(row: &str, limit: f64, prepare: Option<&dyn Fn(&Path) -> usize>, work: &dyn Fn(&Path) -> usize) {
    assert_few(row, trips(prepare, work), limit);
}

fn assert_few(row: &str, seen: f64, limit: f64) {
    println!("{row}: {seen:.2} round trips, at most {limit}");
    assert!(seen <= limit, "{row}: {seen:.2} round trips per operation, more than {limit}");
}

/// The same files in each run: `f.THREAD.NUMBER`, in one directory or in one per thread.
#[derive(Clone, Copy)]
struct Files {
    threads: usize,
    each: usize,
    own_directories: bool,
}

impl Files {
    fn shared(threads: usize, each: usize) -> Self {
        Self { threads, each, own_directories: false }
    }

    fn own(threads: usize, each: usize) -> Self {
        Self { threads, each, own_directories: true }
    }

    /// Makes the directories below `w`.
    fn make_directories(self, root: &Path) {
        fs::create_dir_all(root.join("w")).unwrap();
        if self.own_directories {
            for id in 0..self.threads {
                fs::create_dir(root.join(format!("w/d{id}"))).unwrap();
            }
        }
    }

    /// Calls `work` with the path of each file, from all threads at once; returns how many they were.
    fn each(self, root: &Path, work: &(dyn Fn(&Path) + Sync)) -> usize {
        let start = Barrier::new(self.threads);
        thread::scope(|scope| {
            for id in 0..self.threads {
                let start = &start;
                scope.spawn(move || {
                    let dir = if self.own_directories { root.join(format!("w/d{id}")) } else { root.join("w") };
                    start.wait();
                    for number in 0..self.each {
                        work(&dir.join(format!("f.{id}.{number}")));
                    }
                });
            }
        });
        self.threads * self.each
    }

    fn create(self, root: &Path) -> usize {
        self.make_directories(root);
        self.each(root, &|path| drop(File::create_new(path).unwrap()))
    }

    fn write(self, root: &Path) -> usize {
        self.make_directories(root);
        let data = [7; 4096];
        self.each(root, &|path| File::create_new(path).unwrap().write_all(&data).unwrap())
    }

    fn read(self, root: &Path) -> usize {
        self.each(root, &|path| {
            let mut data = Vec::with_capacity(8192);
            File::open(path).unwrap().read_to_end(&mut data).unwrap();
            assert!(data == [7; 4096]);
        })
    }
}

#[test]
fn create1() {
    assert_trips("create1", 2.1, None, &|root| Files::shared(1, 1000).create(root));
}

#[test]
fn create16_shared() {
    assert_trips("create16_shared", 2.3, None, &|root| Files::shared(16, 100).create(root));
}

#[test]
fn small4k_16() {
    assert_trips("small4k_16", 3.3, None, &|root| Files::own(16, 60).write(root));
}

#[test]
fn smallread_16() {
    let files = Files::own(16, 60);
    assert_trips("smallread_16", 3.1, Some(&|root| files.write(root)), &|root| files.read(root));
}

#[test]
fn rename1() {
    let files = Files::shared(1, 800);
    assert_trips("rename1", 4.1, Some(&|root| files.create(root)), &|root| {
        files.each(root, &|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            fs::rename(path, path.with_file_name(name.replacen('f', "g", 1))).unwrap();
        })
    });
}

#[test]
fn unlink16() {
    let files = Files::own(16, 100);
    assert_trips("unlink16", 2.2, Some(&|root| files.create(root)), &|root| {
        files.each(root, &|path| fs::remove_file(path).unwrap())
    });
}

#[test]
fn rmrf() {
    let files = Files::own(16, 60);
    assert_trips("rmrf", 4.5, Some(&|root| files.write(root)), &|root| {
        run("rm", ["-rf", &root.join("w").to_string_lossy()]).expect_success();
        files.threads * files.each
    });
}

/// All of it: 25 round trips for 20,000 names with their attributes.
#[test]
fn readdir_of_20000_names() {
    let files = Files::shared(16, 1250);
    // The kernel asks again for what is older than its cache times. How long `ls` takes for 20,000 lines is not counted here.
    let flags = ["--attr-cache", "60", "--entry-cache", "60", "--dir-entry-cache", "60"];
    let seen = trips_of(&flags, Some(&|root| files.create(root)), &|root| {
        let list = run("ls", ["-l", &root.join("w").to_string_lossy()]).expect_success();
        assert_eq!(list.stdout.lines().count(), 20_001);
        1
    });
    assert_few("readdir of 20,000 names", seen, 25.0);
}

/// A source tree: sizes with a median of 4 KiB and one of a hundred above 100 KiB, directories up to six deep.
struct Source {
    dir: tempfile::TempDir,
    /// Directories, each followed by its files.
    names: Vec<String>,
    files: usize,
}

impl Source {
    fn generate(files: usize, directories: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut rng = StdRng::seed_from_u64(11);
        let mut folders = vec!["src".to_owned()];
        while folders.len() < directories {
            let parent = &folders[rng.random_range(0..folders.len())];
            if parent.matches('/').count() < 6 {
                folders.push(format!("{parent}/d{}", folders.len()));
            }
        }
        folders.sort();
        let mut per_folder = vec![Vec::new(); folders.len()];
        for number in 0..files {
            per_folder[rng.random_range(0..folders.len())].push(number);
        }
        let mut names = Vec::new();
        for (folder, numbers) in folders.iter().zip(per_folder) {
            fs::create_dir(dir.path().join(folder)).unwrap();
            names.push(folder.clone());
            for number in numbers {
                let name = format!("{folder}/f{number}.c");
                fs::write(dir.path().join(&name), text(&mut rng)).unwrap();
                names.push(name);
            }
        }
        Self { dir, names, files }
    }

    /// An archive with the times of another day, beside the tree.
    fn pack(&self) -> String {
        let list = self.dir.path().join("list");
        fs::write(&list, self.names.join("\n")).unwrap();
        let archive = self.dir.path().join("tree.tar").to_string_lossy().into_owned();
        let mut command = Command::new("tar");
        command.current_dir(self.dir.path()).args(["-cf", &archive, "--no-recursion", "--mtime=2023-11-14T22:13:20"]);
        command.args(["--owner=0", "--group=0", "--format=gnu", "-T", "list"]);
        run_within(command, Duration::from_secs(60)).expect_success();
        archive
    }

    /// A bare repository whose only commit is the tree.
    fn commit(&self) -> String {
        let bare = self.dir.path().join("tree.git").to_string_lossy().into_owned();
        let tree = self.dir.path().join("src").to_string_lossy().into_owned();
        self.git(&["init", "-q", &tree]);
        self.git(&["-C", &tree, "add", "-A"]);
        self.git(&["-C", &tree, "commit", "-q", "-m", "tree"]);
        self.git(&["clone", "-q", "--bare", &tree, &bare]);
        bare
    }

    /// Runs git without the settings of whoever runs the test; returns what it printed.
    fn git(&self, args: &[&str]) -> String {
        let mut command = Command::new("git");
        command.args(["-c", "gc.auto=0", "-c", "advice.detachedHead=false"]).args(args);
        command.env("HOME", self.dir.path()).env("GIT_CONFIG_NOSYSTEM", "1");
        for role in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{role}_NAME"), "e2e").env(format!("GIT_{role}_EMAIL"), "e2e@localhost");
        }
        run_within(command, Duration::from_secs(300)).expect_success().stdout
    }
}

/// Half noise, half text; the length is log-normal.
fn text(rng: &mut StdRng) -> Vec<u8> {
    let normal: f64 = (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
    let sigma = 25f64.ln() / 2.3263;
    let length = (4096.0 * (normal * sigma).exp()) as usize;
    let mut data = vec![0; length / 2];
    rng.fill_bytes(&mut data);
    while data.len() < length {
        data.extend_from_slice(b"some lines of text\n");
    }
    data.truncate(length);
    data
}

#[test]
fn untar() {
    let source = Source::generate(1000, 80);
    let archive = source.pack();
    assert_trips("untar", 8.0, None, &|root| {
        let into = root.join("w").to_string_lossy().into_owned();
        fs::create_dir(&into).unwrap();
        run("tar", ["-xf", &archive, "-C", &into]).expect_success();
        source.files
    });
}

#[test]
fn gitclone() {
    let source = Source::generate(3000, 240);
    let bare = source.commit();
    assert_trips("gitclone", 7.5, None, &|root| {
        let clone = root.join("w").to_string_lossy().into_owned();
        source.git(&["clone", "-q", "--no-local", &bare, &clone]);
        assert_eq!(source.git(&["-C", &clone, "status", "--porcelain"]), "");
        source.files
    });
}

#[test]
fn taking_a_lock_is_one_trip_and_so_is_releasing_it() {
    const CYCLES: usize = 200;
    assert_trips("flock and unlock", 2.1, None, &|root| {
        let file = File::create(root.join("f")).unwrap();
        for _ in 0..CYCLES {
            rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
            rustix::fs::flock(&file, rustix::fs::FlockOperation::Unlock).unwrap();
        }
        CYCLES
    });
}
