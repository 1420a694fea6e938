//! How a mount goes to the background. The command returns once the mount serves, or with the reason why it does not.
//!
//! [`detach`] forks before any thread exists, because a runtime does not survive a fork. The background process reports
//! through a pipe, and whoever started it waits at the other end, with a deadline.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    fcntl::OFlag,
    sys::{signal, wait},
    unistd::{ForkResult, Pid},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Which side of the fork this process is.
#[derive(Debug)]
pub(crate) enum Side {
    /// The process that the user started.
    Starter(Waiter),
    /// The background process.
    Background(Reporter),
}

/// The background side of the pipe.
#[derive(Debug)]
pub(crate) struct Reporter(File);

/// The starting side of the pipe.
#[derive(Debug)]
pub(crate) struct Waiter(File);

/// What became of the background process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It serves, and the text is for the user.
    Ready(String),
    /// It gave up for this reason.
    Failed(String),
    /// It ended without a word.
    Died,
    /// It did not get ready in time and was told to end.
    TimedOut,
}

impl Reporter {
    fn send(mut self, kind: u8, text: &str) {
        // If the starter is gone there is nobody left to tell.
        let _ = self.0.write_all(&[&[kind], text.as_bytes()].concat());
    }

    /// Tells the starter that the mount serves.
    pub(crate) fn ready(self, text: &str) {
        self.send(b'R', text);
    }

    /// Tells the starter why there is no mount.
    pub(crate) fn failed(self, reason: &str) {
        self.send(b'F', reason);
    }
}

impl Waiter {
    /// Waits for the report. After `timeout` the background process is told to end.
    ///
    /// # Errors
    /// When the pipe fails, which it does not on a working machine.
    pub(crate) fn wait(mut self, timeout: Duration) -> Result<Outcome> {
        let deadline = std::time::Instant::now() + timeout;
        let mut report = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            let timespec = Timespec::try_from(left).context("waiting for the background process")?;
            let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
            match poll(&mut fds, Some(&timespec)) {
                Ok(0) => return Ok(end_late(&report)),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error).context("waiting for the background process"),
            }
            match self.0.read(&mut buffer).context("reading from the background process")? {
                0 => return Ok(outcome(&report)),
                n => report.extend_from_slice(&buffer[..n]),
            }
        }
    }
}

/// Reads the report, which is the process id (4 bytes), then a letter and a text.
fn outcome(report: &[u8]) -> Outcome {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match report.get(4..).and_then(<[u8]>::split_first) {
        Some((b'R', rest)) => Outcome::Ready(text(rest)),
        Some((_, rest)) => Outcome::Failed(text(rest)),
        None => Outcome::Died,
    }
}

fn end_late(report: &[u8]) -> Outcome {
    if let Some(pid) = report.first_chunk::<4>().map(|bytes| i32::from_ne_bytes(*bytes)).filter(|pid| *pid > 1) {
        // It may just have ended by itself; then there is nothing to stop.
        let _ = signal::kill(Pid::from_raw(pid), signal::Signal::SIGTERM);
    }
    Outcome::TimedOut
}

/// Forks into the background, in a session of its own, with standard output and error appended to `log`.
///
/// Relative paths mean something else afterwards, because the background process stands in `/`.
///
/// # Errors
/// When the log cannot be opened or the system has no room for another process. Nothing runs in the background then.
pub(crate) fn detach(log: &Path) -> Result<Side> {
    let log = open_log(log)?;
    let null = File::open("/dev/null").context("opening /dev/null")?;
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).context("making a pipe")?;
    if std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count) != 1 {
        bail!("the process has threads already and cannot go to the background");
    }
    // SAFETY: this is the only thread (checked above), so the child may do whatever the parent may.
    match unsafe { nix::unistd::fork() }.context("starting a background process")? {
        ForkResult::Parent { child } => {
            drop(write);
            wait::waitpid(child, None).context("waiting for the fork")?;
            Ok(Side::Starter(Waiter(File::from(read))))
        }
        ForkResult::Child => {
            drop(read);
            settle(&log, &null, write)
        }
    }
}

/// Does the rest of `detach` in the child, which leaves the session, the starter and its terminal for good.
fn settle(log: &File, null: &File, write: OwnedFd) -> Result<Side> {
    nix::unistd::setsid().context("leaving the session")?;
    // SAFETY: still the only thread. A second fork keeps the process from ever getting a terminal again.
    if let ForkResult::Parent { .. } = unsafe { nix::unistd::fork() }.context("starting a background process")? {
        // SAFETY: ends this intermediate process without running what was registered for the end of the starter.
        unsafe { libc::_exit(0) }
    }
    std::env::set_current_dir("/").context("leaving the directory")?;
    nix::unistd::dup2_stdin(null.as_fd()).context("closing the input")?;
    nix::unistd::dup2_stdout(log.as_fd()).context("redirecting the output")?;
    nix::unistd::dup2_stderr(log.as_fd()).context("redirecting the output")?;
    let mut pipe = File::from(write);
    pipe.write_all(&std::process::id().to_ne_bytes()).context("reporting to the starter")?;
    Ok(Side::Background(Reporter(pipe)))
}

fn open_log(path: &Path) -> Result<File> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("making the directory of the log file {path:?}"))?;
    }
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o644);
    options.open(path).with_context(|| format!("opening the log file {path:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe() -> (Waiter, File) {
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        (Waiter(File::from(read)), File::from(write))
    }

    #[test]
    fn reports_arrive() {
        for (kind, wanted) in [(b'R', Outcome::Ready("text".into())), (b'F', Outcome::Failed("text".into()))] {
            let (waiter, mut write) = pipe();
            write.write_all(&0i32.to_ne_bytes()).expect("room");
            Reporter(write).send(kind, "text");
            assert_eq!(waiter.wait(Duration::from_secs(5)).expect("works"), wanted);
        }
    }

    #[test]
    fn silence_is_noticed() {
        let (waiter, write) = pipe();
        drop(write);
        assert_eq!(waiter.wait(Duration::from_secs(5)).expect("works"), Outcome::Died);
        let (waiter, write) = pipe();
        assert_eq!(waiter.wait(Duration::from_millis(20)).expect("works"), Outcome::TimedOut);
        drop(write);
    }
}
