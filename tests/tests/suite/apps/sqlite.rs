//! SQLite, with a kill while it commits.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use e2e::{Mount, Rest, Volume, full, run_in, seed_of};
use rand::{Rng, SeedableRng, rngs::StdRng};

const LIMIT: Duration = Duration::from_secs(120);
const MODES: &[&str] = &["wal", "delete", "truncate", "persist"];

/// Ten accounts whose sum is 0, and an entry for each transfer.
const CREATE: &str = "create table account (id integer primary key, balance integer); \
    insert into account select value, 0 from generate_series(0, 9); \
    create table entry (id integer primary key, body blob);";

/// Transfers for ever, and says the number of each transfer when it is committed.
const WRITER: &str = r#"
import sqlite3, sys
db = sqlite3.connect("ledger.db", timeout=60, isolation_level=None)
db.execute(f"pragma journal_mode={sys.argv[1]}")
db.execute("pragma synchronous=full")
number = db.execute("select coalesce(max(id), 0) from entry").fetchone()[0]
while True:
    number += 1
    db.execute("begin immediate")
    db.execute("update account set balance = balance - ? where id = ?", (number, number % 10))
    db.execute("update account set balance = balance + ? where id = ?", (number, (number * 7 + 3) % 10))
    db.execute("insert into entry values (?, ?)", (number, bytes([number % 251]) * (number * 37 % 9000)))
    db.execute("commit")
    print(number, flush=True)
"#;

/// Says, when it is asked, what one transaction sees: the sum of the accounts, how many entries there are and the last of them.
const READER: &str = r#"
import sqlite3, sys
db = sqlite3.connect("ledger.db", timeout=60, isolation_level=None)
for _ in sys.stdin:
    db.execute("begin")
    balance = db.execute("select sum(balance) from account").fetchone()[0]
    count, last = db.execute("select count(*), coalesce(max(id), 0) from entry").fetchone()
    db.execute("commit")
    print(balance, count, last, flush=True)
"#;

/// A program in Python that says numbers line by line.
struct Program {
    child: Child,
    orders: ChildStdin,
    lines: mpsc::Receiver<Vec<u64>>,
}

fn numbers(line: &str) -> Vec<u64> {
    line.split_whitespace().map(|word| word.parse().unwrap()).collect()
}

impl Program {
    /// A writer keeps its journal as `mode` says.
    fn start(dir: &Path, text: &str, mode: &str) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", text, mode]).current_dir(dir).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (orders, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (send, lines) = mpsc::channel();
        let read = move |output: ChildStdout| {
            let lines = BufReader::new(output).lines().map_while(Result::ok);
            lines.map(|line| numbers(&line)).try_for_each(|line| send.send(line))
        };
        thread::spawn(move || read(output));
        Self { child, orders, lines }
    }

    fn line(&self) -> Vec<u64> {
        self.lines.recv_timeout(LIMIT).expect("a line")
    }

    /// What a transaction of a reader sees: how many transfers, each of them whole.
    fn look(&mut self) -> u64 {
        writeln!(self.orders).unwrap();
        let seen = self.line();
        assert!(seen.len() == 3 && seen[0] == 0 && seen[1] == seen[2], "half a transfer is seen: {seen:?}");
        seen[1]
    }

    /// Ends a writer with SIGKILL; the last transfer that it has said to be committed, if there was one since.
    fn kill(mut self) -> Option<u64> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        // The sender goes when the pipe has been read to its end.
        self.lines.iter().last().map(|line| line[0])
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Transfers until some moment after a few of them; the last one that was acknowledged before the kill.
fn work(writer: &Program, reader: &mut Program, rng: &mut StdRng) -> u64 {
    let mut last = 0;
    for _ in 0..rng.random_range(5..25) {
        last = writer.line()[0];
        if rng.random_bool(0.3) {
            // The reader may see what is not said yet: one transfer, and those whose lines wait to be read here.
            assert!(reader.look() >= last, "{last} is acknowledged and not seen");
        }
    }
    thread::sleep(Duration::from_micros(rng.random_range(0..30_000)));
    last
}

fn check(mount: &Mount, acknowledged: u64) {
    let found = Program::start(mount.path(), READER, "").look();
    assert!((acknowledged..=acknowledged + 1).contains(&found), "{found} transfers, {acknowledged} acknowledged");
    let checked = run_in(mount.path(), "sqlite3 ledger.db 'pragma integrity_check'").expect_success().stdout;
    assert_eq!(checked, "ok\n");
}

fn create(mount: &Mount, mode: &str) {
    let script = format!("rm -f ledger.db*; sqlite3 ledger.db 'pragma journal_mode={mode}; {CREATE}'");
    assert_eq!(run_in(mount.path(), &script).expect_success().stdout, format!("{mode}\n"));
}

#[test]
fn a_killed_writer_loses_no_transaction() {
    let mut rng = StdRng::seed_from_u64(seed_of("sqlite-writer", 1));
    let volume = Volume::new();
    let mount = volume.mount();
    for mode in MODES {
        create(&mount, mode);
        // It has the database open throughout, and with it what the dead writers leave: a log, or a journal to roll back.
        let mut reader = Program::start(mount.path(), READER, "");
        for round in 0..if full() { 20 } else { 3 } {
            let writer = Program::start(mount.path(), WRITER, mode);
            let last = work(&writer, &mut reader, &mut rng);
            let acknowledged = writer.kill().unwrap_or(last);
            let seen = reader.look();
            println!("{mode} {round}: {acknowledged} acknowledged, {seen} seen");
            assert!((acknowledged..=acknowledged + 1).contains(&seen), "{seen} of {acknowledged} transfers are seen");
            check(&mount, acknowledged);
        }
    }
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}

/// Locks that the dead client leaves must not be found: with them SQLite takes an old `-shm` file for the work of somebody
/// alive, and does not look into its log.
#[test]
fn a_killed_client_loses_no_transaction() {
    let mut rng = StdRng::seed_from_u64(seed_of("sqlite-client", 2));
    let volume = Volume::new();
    for mode in MODES {
        let mut mount = volume.mount();
        create(&mount, mode);
        for round in 0..if full() { 10 } else { 1 } {
            let writer = Program::start(mount.path(), WRITER, mode);
            let mut reader = Program::start(mount.path(), READER, "");
            let last = work(&writer, &mut reader, &mut rng);
            let wreck = mount.kill();
            let acknowledged = writer.kill().unwrap_or(last);
            drop(reader);
            wreck.clear();
            mount = volume.mount();
            println!("{mode} {round}: {acknowledged} acknowledged");
            check(&mount, acknowledged);
        }
        mount.unmount();
        volume.assert_sound(Rest::Crashed);
    }
}
