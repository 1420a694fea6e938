//! One mount: a client in the foreground, and its end.

mod namespaces;

use std::{
    env,
    fs::{self, File},
    io::Write,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use crate::{
    binary::juicefs,
    command::{kill_tree, run, wait_until},
    environment::full,
    volume::Volume,
};

/// How long a client may take until it serves, and until it is gone after its unmount.
const TURN_LIMIT: Duration = Duration::from_secs(60);

/// How long a client may take to end before somebody else is looked for who keeps its mount.
const PATIENCE: Duration = Duration::from_secs(10);

/// The inode of the root directory of every volume.
const ROOT_INO: u64 = 1;

/// A mounted volume. Dropping it unmounts and leaves no process behind.
#[derive(Debug)]
pub struct Mount {
    point: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    /// The number of the mount's device, by which the kernel knows the connection.
    minor: u32,
    /// Dropping this side tells the watchdog that the mount is gone.
    _alive: mpsc::Sender<()>,
}

impl Mount {
    /// Starts a client in the foreground and waits until the volume's root answers.
    pub(crate) fn start(volume: &Volume, place: &str, flags: &[&str]) -> Self {
        let cache = volume.dir().join(format!("cache-{place}"));
        Self::start_at(&volume.meta_url(), volume.dir(), place, &cache, flags, volume.variables())
    }

    /// Mounts `meta_url` on `dir/place`, with these environment variables, and waits until the volume's root answers.
    ///
    /// # Panics
    /// If the client ends, or does not serve within a minute; its log is part of the message.
    pub fn start_at(
        meta_url: &str,
        dir: &Path,
        place: &str,
        cache: &Path,
        flags: &[&str],
        variables: &[(String, String)],
    ) -> Self {
        let point = dir.join(place);
        // A dead mount is there and yet cannot be looked at; the client must deal with it.
        if !is_mounted(&point) {
            fs::create_dir_all(&point).expect("the mount point");
        }
        let log = dir.join(format!("{place}.log"));
        let output = File::options().create(true).append(true).open(&log).expect("the log file");
        let errors = output.try_clone().expect("a second handle of the log");
        let mut command = Command::new(juicefs());
        command.args(["mount", "--no-usage-report", "--backup-meta", "0", "--cache-dir"]).arg(cache);
        command.args(flags).arg(meta_url).arg(&point).envs(variables.iter().cloned());
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let before = device_of(&point);
        let mut child = command.spawn().expect("the client starts");
        note_pid(child.id());
        let mut ended = None;
        let ready = wait_until(TURN_LIMIT, || {
            ended = child.try_wait().expect("a child can be waited for");
            ended.is_some() || serves(&point, before)
        });
        if ended.is_some() || !ready {
            kill_tree(child.id(), libc::SIGKILL);
            let text = fs::read_to_string(&log).unwrap_or_default();
            panic!("{command:?} does not serve (ended: {ended:?}):\n{text}");
        }
        let (alive, watch) = mpsc::channel();
        let minor = libc::minor(device_of(&point));
        guard(&point, minor, child.id(), watch);
        Self { point, log, child: Some(child), minor, _alive: alive }
    }

    /// The mount point.
    pub fn path(&self) -> &Path {
        &self.point
    }

    /// A path below the mount point.
    pub fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.point.join(path)
    }

    /// A number of the file `.stats`; 0 when it is not there.
    ///
    /// # Panics
    /// If `.stats` cannot be read or what it has is no number.
    pub fn stat(&self, name: &str) -> f64 {
        let text = fs::read_to_string(self.join(".stats")).expect("the numbers of the mount");
        let wanted = format!("juicefs_{name} ");
        text.lines().find_map(|line| line.strip_prefix(&wanted)).map_or(0.0, |value| value.parse().expect("a number"))
    }

    /// What the client has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The process that was started (a client may do its work in a child of it).
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("invariant: taken only when the mount ends").id()
    }

    /// Unmounts with the client's own command and waits for the end of the process.
    ///
    /// # Panics
    /// If the command fails, or the client does not end well within a minute.
    pub fn unmount(mut self) {
        let point = self.point.clone();
        let mut finished = run(juicefs(), [Path::new("umount"), &point]);
        // Another test may be starting a program just now, which holds every open file of this process until its exec.
        for _ in 0..3 {
            if finished.success() || !finished.text().contains("busy") {
                break;
            }
            thread::sleep(Duration::from_millis(100));
            finished = run(juicefs(), [Path::new("umount"), &point]);
        }
        finished.expect_success();
        let status = self.wait_for_end();
        assert!(status.success(), "the client ended with {status} after umount:\n{}", self.log());
        assert!(!is_mounted(&point), "{} is still mounted", point.display());
    }

    /// Asks the client to end, with SIGTERM.
    pub fn terminate(&self) {
        let pid = i32::try_from(self.pid()).expect("a process id");
        // SAFETY: kill(2) takes plain numbers and touches no memory of this process.
        unsafe { libc::kill(pid, libc::SIGTERM) };
    }

    /// Waits for the end of the process, whatever ends it.
    ///
    /// # Panics
    /// If it does not end within a minute.
    pub fn ended(mut self) -> ExitStatus {
        self.wait_for_end()
    }

    /// Kills the client as a crash would (SIGKILL), without unmounting: the mount point then answers ENOTCONN.
    pub fn kill(mut self) -> Wreck {
        let mut child = self.child.take().expect("invariant: taken only when the mount ends");
        kill_tree(child.id(), libc::SIGKILL);
        // The status of a killed process says nothing.
        let _ = child.wait();
        Wreck { point: self.point.clone() }
    }

    fn wait_for_end(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("invariant: taken only when the mount ends");
        let mut status = None;
        let mut wait = |limit| {
            wait_until(limit, || {
                status = child.try_wait().expect("a child can be waited for");
                status.is_some()
            })
        };
        if !wait(PATIENCE) {
            namespaces::detach(&namespaces::copies_of(self.minor));
            wait(TURN_LIMIT);
        }
        status.unwrap_or_else(|| {
            kill_tree(child.id(), libc::SIGKILL);
            panic!("the client still ran {TURN_LIMIT:?} after its end was asked for:\n{}", self.log());
        })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        if thread::panicking() {
            eprintln!("--- log of the client\n{}", self.log());
        }
        // Best effort from here on: a test that wants a clean end calls `unmount`.
        let _ = run("umount", [Path::new("-l"), &self.point]);
        if !wait_until(Duration::from_secs(15), || matches!(child.try_wait(), Ok(Some(_)))) {
            kill_tree(child.id(), libc::SIGKILL);
            let _ = child.wait();
        }
    }
}

/// The mount point of a client that was killed; detached from the directory tree when dropped.
#[derive(Debug)]
pub struct Wreck {
    point: PathBuf,
}

impl Wreck {
    /// Clears the dead mount the way an administrator does.
    ///
    /// # Panics
    /// If `umount -l` fails or leaves the mount there.
    pub fn clear(self) {
        run("umount", [Path::new("-l"), &self.point]).expect_success();
        assert!(!is_mounted(&self.point), "umount -l left {} mounted", self.point.display());
    }
}

impl Drop for Wreck {
    fn drop(&mut self) {
        if is_mounted(&self.point) {
            // Best effort: a test that cares calls `clear`.
            let _ = run("umount", [Path::new("-l"), &self.point]);
        }
    }
}

/// Whether something is mounted on exactly this path.
pub fn is_mounted(point: &Path) -> bool {
    let wanted = point.to_string_lossy().replace(' ', "\\040");
    let table = fs::read_to_string("/proc/self/mounts").expect("the mount table");
    table.lines().any(|line| line.split(' ').nth(1) == Some(wanted.as_str()))
}

/// Writes the process down for `scripts/test.sh`, which ends what a killed test run leaves behind.
fn note_pid(pid: u32) {
    let Some(path) = env::var_os("JUICEFS_TEST_PIDS") else { return };
    let mut list = File::options().create(true).append(true).open(path).expect("the list of processes");
    writeln!(list, "{pid}").expect("a line in the list of processes");
}

fn device_of(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| meta.dev())
}

fn serves(point: &Path, before: u64) -> bool {
    fs::metadata(point).is_ok_and(|meta| meta.ino() == ROOT_INO && meta.dev() != before)
}

/// Ends a mount that outlives every sensible test, so that a call stuck in the kernel fails instead of hanging the
/// whole run.
fn guard(point: &Path, minor: u32, pid: u32, gone: mpsc::Receiver<()>) {
    let limit = Duration::from_secs(if full() { 3600 } else { 600 });
    let point = point.to_owned();
    let watch = move || {
        if gone.recv_timeout(limit) != Err(mpsc::RecvTimeoutError::Timeout) {
            return;
        }
        eprintln!("{} was still mounted after {limit:?}: its connection is aborted", point.display());
        // If the abort is refused, the kill below ends the connection as well.
        let _ = fs::write(format!("/sys/fs/fuse/connections/{minor}/abort"), "1");
        kill_tree(pid, libc::SIGKILL);
    };
    thread::Builder::new().name("mount-watchdog".into()).spawn(watch).expect("the watchdog starts");
}
