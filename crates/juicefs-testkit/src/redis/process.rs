//! A process that does not outlive the test that started it.

use std::{
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

/// A running child with a watchdog beside it.
///
/// A test process that is killed, or that holds the server in a static, drops nothing. The watchdog sees the end of its
/// standard input then, ends the server and removes its directory.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    watchdog: Child,
}

impl Process {
    /// Starts `command`, whose files are in `dir`.
    pub(super) fn start(command: &mut Command, dir: &Path) -> Self {
        // In groups of their own: an interrupt at the terminal is for the test, whose end the watchdog notices.
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|e| panic!("cannot run {:?}, which tests with Redis need: {e}", command.get_program()));
        let watchdog = Command::new("sh")
            .args(["-c", r#"read -r _ || { kill -9 "$0"; rm -rf "$1"; }"#, &child.id().to_string()])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("start a shell");
        Self { child, watchdog }
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it ended by itself.
    pub(super) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("ask for the state of a child").is_some()
    }

    pub(super) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("send a signal to a child");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The watchdog first: afterwards the process id may be somebody else's. Either may have ended already.
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_ends_a_child_that_nobody_drops() {
        let dir = tempfile::TempDir::new().expect("make a directory");
        let files = dir.path().join("files");
        std::fs::create_dir(&files).expect("make a directory");
        let mut process = Process::start(Command::new("sleep").arg("600"), &files);
        // All that the watchdog sees of the death of this process.
        drop(process.watchdog.stdin.take());
        process.child.wait().expect("the end of the child");
        process.watchdog.wait().expect("the end of the watchdog");
        assert!(!files.exists());
    }
}
