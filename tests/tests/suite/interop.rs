//! Side by side with JuiceFS (Go). Its binary is no part of a fresh machine, so these tests are run by hand:
//! `JUICEFS_GO=/path/to/juicefs cargo test -p e2e interop -- --ignored`.

mod data;
mod locks;
mod quotas;
mod sessions;
mod writeback;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use e2e::{Finished, Owner, Pattern, Volume, golden_dir, kill_tree, run, run_in, run_within, wait_until};

fn go() -> PathBuf {
    PathBuf::from(env::var_os("JUICEFS_GO").expect("JUICEFS_GO names the Go client"))
}

/// Runs the Go client.
fn run_go(args: &[&str], variables: &[(String, String)]) -> Finished {
    let mut command = Command::new(go());
    command.args(args).envs(variables.iter().cloned());
    run_within(command, Duration::from_secs(120))
}

/// A mount of the Go client.
struct GoMount {
    point: PathBuf,
    child: Child,
}

impl GoMount {
    fn start(volume: &Volume, flags: &[&str]) -> Self {
        let cache = volume.dir().join("cache-go");
        Self::start_at(&volume.meta_url(), volume.dir(), &cache, flags, volume.variables())
    }

    fn start_at(meta_url: &str, dir: &Path, cache: &Path, flags: &[&str], variables: &[(String, String)]) -> Self {
        let (point, log) = (dir.join("go"), dir.join("go.log"));
        fs::create_dir_all(&point).unwrap();
        let always =
            ["mount", "--no-usage-report", "--backup-meta", "0", "--enable-xattr", "--enable-ioctl", "--cache-dir"];
        let child = Command::new(go())
            .args(always)
            .arg(cache)
            .args(flags)
            .arg(meta_url)
            .arg(&point)
            .envs(variables.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let serves = wait_until(Duration::from_secs(30), || e2e::is_mounted(&point));
        assert!(serves, "the Go client does not serve: {}", fs::read_to_string(log).unwrap());
        Self { point, child }
    }

    /// Ends it as a crash would.
    fn kill(mut self) {
        kill_tree(self.child.id(), libc::SIGKILL);
        self.child.wait().unwrap();
        run("umount", [Path::new("-l"), &self.point]).expect_success();
    }

    fn unmount(mut self) {
        // The kernel hands back what programs had open a moment after they end.
        let done = wait_until(Duration::from_secs(10), || run(go(), [Path::new("umount"), &self.point]).success());
        assert!(done, "{} stays busy", self.point.display());
        self.child.wait().unwrap();
    }
}

impl Drop for GoMount {
    fn drop(&mut self) {
        if e2e::is_mounted(&self.point) {
            let _ = run("umount", [Path::new("-l"), &self.point]);
            kill_tree(self.child.id(), libc::SIGKILL);
        }
    }
}

/// A tree with every type, odd names, attributes, holes and overwritten ranges.
fn fill(root: &Path) {
    for number in 0..60u64 {
        let dir = root.join(format!("dir-{}", number % 7));
        fs::create_dir_all(&dir).unwrap();
        let length = [0, 1, 5000, 70_000, 5_000_000][usize::try_from(number % 5).unwrap()];
        let data = Pattern::of(Owner { run: 90, file: number, version: 1 }).bytes(length);
        fs::write(dir.join(format!("file-{number}")), data).unwrap();
    }
    let script = "cd dir-1; ln -s nowhere soft; ln file-1 hard; mkfifo pipe; mknod dev c 5 7; mknod block b 8 1; chmod 4711 file-8;
        chown 7:9 file-8; setfattr -n user.a -v b file-8; touch -d '2001-02-03 04:05:06.123456789' file-15; truncate -s 300M sparse;
        printf x | dd of=sparse bs=1 seek=200000000 conv=notrunc status=none; fallocate -p -o 100000 -l 3000000 file-29 || true;
        head -c 70000000 /dev/urandom > large; truncate -s 1234567 ../dir-5/file-54; truncate -s 3000000 ../dir-5/file-54;
        for i in $(seq 50); do dd if=/dev/urandom of=over bs=3k count=5 seek=$((i % 9)) conv=notrunc status=none; done;
        touch $'odd\\nname' $'\\xff\\xfe'; mkdir -m 1777 sticky; chattr +i file-22; chattr +a file-57; mv file-43 ../moved; rm file-36";
    run_in(root, script).expect_success();
}

/// What one client shows, as a manifest in a file.
fn manifest(of: &Path, into: &Path) -> PathBuf {
    let script = format!("python3 {}/verify.py --make {} > {}", golden_dir().display(), of.display(), into.display());
    run_in(Path::new("/"), &script).expect_success();
    into.to_owned()
}

#[test]
#[ignore = "needs the Go client in JUICEFS_GO"]
fn both_clients_serve_one_volume_at_once() {
    let volume = Volume::new();
    let other = GoMount::start(&volume, &[]);
    let mount = volume.mount();
    let roots = [other.point.clone(), mount.path().to_owned()];
    for (side, root) in roots.iter().enumerate() {
        fs::create_dir(root.join(format!("by-{side}"))).unwrap();
    }
    std::thread::scope(|scope| {
        for (side, root) in roots.iter().enumerate() {
            scope.spawn(move || {
                for number in 0..100u64 {
                    let data = Pattern::of(Owner { run: 91, file: number, version: 1 }).bytes(30_000);
                    fs::write(root.join(format!("by-{side}/f-{number}")), data).unwrap();
                    fs::rename(root.join(format!("by-{side}/f-{number}")), root.join(format!("by-{side}/g-{number}")))
                        .unwrap();
                }
            });
        }
    });
    for root in &roots {
        for side in 0..2 {
            let dir = root.join(format!("by-{side}"));
            let all = wait_until(Duration::from_secs(5), || fs::read_dir(&dir).is_ok_and(|list| list.count() == 100));
            assert!(all, "{} lacks files", dir.display());
            for number in 0..100u64 {
                let seen = fs::read(dir.join(format!("g-{number}"))).unwrap();
                assert!(seen == Pattern::of(Owner { run: 91, file: number, version: 1 }).bytes(30_000));
            }
        }
    }
    // Each removes what the other made.
    fs::remove_dir_all(roots[0].join("by-1")).unwrap();
    fs::remove_dir_all(roots[1].join("by-0")).unwrap();
    mount.unmount();
    other.unmount();
    run(go(), ["fsck", &volume.meta_url()]).expect_success();
}
