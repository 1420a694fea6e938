//! Running programs with a deadline, and ending processes by their id.

use std::{
    ffi::OsStr,
    fmt,
    fs::{self, File},
    io::Read,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long [`run`] waits for a program.
const RUN_LIMIT: Duration = Duration::from_secs(300);

/// What a program left behind.
#[derive(Debug)]
pub struct Finished {
    command: String,
    /// The exit status; `None` after a signal.
    pub code: Option<i32>,
    /// All of standard output.
    pub stdout: String,
    /// All of standard error.
    pub stderr: String,
}

impl Finished {
    /// Whether it exited with 0.
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// Standard output and standard error, for searching.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// Itself, after it is sure that the program exited with 0.
    ///
    /// # Panics
    /// If it did not, with everything that it printed.
    pub fn expect_success(self) -> Self {
        assert!(self.success(), "{self}");
        self
    }

    /// Itself, after it is sure that the program exited with a status of its own that is not 0.
    ///
    /// # Panics
    /// If it succeeded, or died of a signal.
    pub fn expect_failure(self) -> Self {
        assert!(self.code.is_some_and(|code| code != 0), "should have failed: {self}");
        self
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.code.map_or_else(|| "a signal".to_owned(), |code| code.to_string());
        write!(f, "`{}` ended with {code}\n--- stdout\n{}\n--- stderr\n{}", self.command, self.stdout, self.stderr)
    }
}

/// Runs a program to its end.
///
/// # Panics
/// If it does not start, or runs for more than five minutes.
pub fn run<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: impl IntoIterator<Item = A>) -> Finished {
    let mut command = Command::new(program);
    command.args(args);
    run_within(command, RUN_LIMIT)
}

/// Runs a line of shell in `dir`, stopping at the first command that fails.
///
/// # Panics
/// As [`run`].
pub fn run_in(dir: &Path, script: &str) -> Finished {
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script]).current_dir(dir);
    run_within(command, RUN_LIMIT)
}

/// Runs a prepared command to its end, or to the end of `limit`.
///
/// # Panics
/// If it does not start, or is still there after `limit` (it is killed then).
pub fn run_within(mut command: Command, limit: Duration) -> Finished {
    let text = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("`{text}` does not start: {error}"));
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            break status;
        }
        if Instant::now() > deadline {
            kill_tree(child.id(), libc::SIGKILL);
            panic!("`{text}` still ran after {limit:?}");
        }
        thread::sleep(Duration::from_millis(5));
    };
    let join = |reader: thread::JoinHandle<String>| reader.join().expect("the reader thread ends");
    Finished { command: text, code: status.code(), stdout: join(stdout), stderr: join(stderr) }
}

/// Runs a prepared command, all that it says going to the file `output`, to its end or to that of `limit`.
///
/// `None` says that it was still there after `limit` and was killed, with its whole process group. Unlike
/// [`run_within`] this does not wait for processes that it leaves behind.
///
/// # Panics
/// If it does not start, or cannot even be killed: then it is stuck in the kernel.
pub fn run_into(output: &Path, mut command: Command, limit: Duration) -> Option<ExitStatus> {
    let file = File::create(output).expect("the file for what the program says");
    let errors = file.try_clone().expect("a second handle of it");
    command.stdin(Stdio::null()).stdout(file).stderr(errors).process_group(0);
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    let ended = end_of(&mut child, limit);
    if ended.is_none() {
        kill_tree(child.id(), libc::SIGKILL);
        kill_group(child.id());
        assert!(end_of(&mut child, Duration::from_secs(60)).is_some(), "{command:?} hangs and cannot be killed");
    }
    ended
}

fn end_of(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let mut status = None;
    wait_until(limit, || {
        status = child.try_wait().expect("a child can be waited for");
        status.is_some()
    });
    status
}

fn collect(stream: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // A broken pipe ends the text early, and the exit status then says why.
            let _ = stream.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// The direct children of a process.
pub fn children_of(pid: u32) -> Vec<u32> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|&candidate| parent_of(candidate) == Some(pid))
        .collect()
}

/// The parent in `/proc/PID/stat`, whose second field (the name) may itself hold blanks and brackets.
fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(1)?.parse().ok()
}

/// Sends `signal` to a process and everything below it, the parent first so that it restarts nothing.
pub fn kill_tree(pid: u32, signal: i32) {
    let children = children_of(pid);
    if let Ok(id) = i32::try_from(pid) {
        // SAFETY: kill(2) takes plain numbers and touches no memory of this process.
        unsafe { libc::kill(id, signal) };
    }
    for child in children {
        kill_tree(child, signal);
    }
}

/// Kills what is left of the process group of a program that was started as the leader of one.
fn kill_group(leader: u32) {
    if let Ok(id) = i32::try_from(leader) {
        // SAFETY: kill(2) takes plain numbers and touches no memory of this process.
        unsafe { libc::kill(-id, libc::SIGKILL) };
    }
}

/// Polls until `done`, for at most `limit`; returns whether it came true.
pub fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if done() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
}
