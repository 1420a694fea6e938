//! A process that ends with the test that started it, and that can be started again while the test is stuck.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

/// Starts and ends the server when it is told to, and ends it when nobody is left to tell it anything.
const SHELL: &str = r#"
dir=$1; shift; pid=
while read -r word; do
    case $word in
        run) "$@" </dev/null >/dev/null 2>&1 & pid=$!; echo "$pid" ;;
        end) kill -9 "$pid"; wait "$pid"; pid=; echo ended ;;
    esac
done
[ -z "$pid" ] || { kill -9 "$pid"; wait "$pid"; }
rm -rf "$dir"
"#;

/// A server process and the shell that starts it.
///
/// A test process that is killed, or that holds the server in a static, drops nothing. The shell sees the end of its
/// standard input then, ends the server and removes its directory.
///
/// The shell also starts the server, because the test may not be able to: a child of the test inherits its open files
/// and closes them at its exec. To close a file of a mount waits for the client, and the client waits for this very
/// server.
#[derive(Debug)]
pub(crate) struct Process {
    shell: Child,
    words: ChildStdin,
    answers: BufReader<ChildStdout>,
    server: Option<Pid>,
}

impl Process {
    /// Prepares to run `command`, whose files are in `dir`.
    pub(crate) fn prepare(command: &Command, dir: &Path) -> Self {
        // In a group of its own: an interrupt at the terminal is for the test, whose end the shell notices.
        let mut shell = Command::new("sh")
            .args(["-c", SHELL, "sh"])
            .arg(dir)
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("start a shell");
        let words = shell.stdin.take().expect("a pipe to the shell");
        let answers = BufReader::new(shell.stdout.take().expect("a pipe from the shell"));
        Self { shell, words, answers, server: None }
    }

    /// Starts the process. It may end at once, if it cannot do its work.
    pub(crate) fn run(&mut self) {
        assert!(self.server.is_none(), "the process runs already");
        let id = self.tell("run");
        self.server = id.parse().ok().and_then(Pid::from_raw);
        assert!(self.server.is_some(), "not a process id: {id:?}");
    }

    /// Ends the process with SIGKILL and waits for its end. It does nothing if the process does not run.
    pub(crate) fn end(&mut self) {
        if self.server.take().is_some() {
            self.tell("end");
        }
    }

    /// The process id, if it was started and not ended.
    pub(crate) fn id(&self) -> Option<u32> {
        self.server.map(|pid| pid.as_raw_nonzero().get().cast_unsigned())
    }

    /// Whether it ended by itself.
    pub(crate) fn has_ended(&self) -> bool {
        let Some(id) = self.id() else { return true };
        // Nobody but the shell can wait for it: until then it is a zombie.
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.server.expect("the process runs");
        kill_process(pid, signal).expect("send a signal to the process");
    }

    /// Says a word to the shell and returns its answer.
    fn tell(&mut self, word: &str) -> String {
        writeln!(self.words, "{word}").expect("the shell listens");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("the shell answers");
        answer.trim_end().to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
        // It would only remove a directory that its owner removes as well.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// A TCP port that nobody uses at the moment.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("find a free port");
    listener.local_addr().expect("the port just bound").port()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shell_ends_a_process_that_nobody_drops() {
        let dir = tempfile::TempDir::new().expect("make a directory");
        let files = dir.path().join("files");
        fs::create_dir(&files).expect("make a directory");
        let mut process = Process::prepare(Command::new("sleep").arg("600"), &files);
        process.run();
        assert!(!process.has_ended());
        let id = process.id().expect("it runs");
        // All that the shell sees of the death of this process.
        let (read, write) = std::io::pipe().expect("a pipe");
        drop(read);
        drop(std::mem::replace(&mut process.words, ChildStdin::from(std::os::fd::OwnedFd::from(write))));
        process.shell.wait().expect("the end of the shell");
        assert!(!files.exists());
        let ended = |id| !fs::read_to_string(format!("/proc/{id}/cmdline")).is_ok_and(|line| line.contains("sleep"));
        assert!(ended(id), "the process still runs");
        process.server = None;
    }

    #[test]
    fn a_process_ends_and_runs_again() {
        let dir = tempfile::TempDir::new().expect("make a directory");
        let mut process = Process::prepare(Command::new("sleep").arg("600"), dir.path());
        process.run();
        let first = process.id();
        process.end();
        assert_eq!(process.id(), None);
        process.end();
        process.run();
        assert_ne!(process.id(), first);
        process.signal(Signal::TERM);
        while !process.has_ended() {
            std::thread::yield_now();
        }
    }
}
