//! Locks among the processes of two mounts of one volume.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use e2e::{Mount, Rest, Volume, full, run_in, run_within, wait_until};

const FLAGS: &[&str] = &["--heartbeat", "1"];
/// Whatever should happen happens long before.
const LIMIT: Duration = Duration::from_secs(60);
/// Where a test can only wait for nothing to happen.
const MOMENT: Duration = Duration::from_millis(300);

/// Obeys lines: opens files and locks them, and answers each line with `ok`, the name of an error number or what it found.
/// SIGUSR1 interrupts the call that it is in.
const OBEDIENT: &str = r#"
import errno, fcntl, os, signal, struct, sys

def interrupt(*_):
    raise InterruptedError(errno.EINTR, "a signal")

signal.signal(signal.SIGUSR1, interrupt)
KINDS = {"sh": fcntl.F_RDLCK, "ex": fcntl.F_WRLCK, "un": fcntl.F_UNLCK}
FLOCKS = {"sh": fcntl.LOCK_SH, "ex": fcntl.LOCK_EX, "un": fcntl.LOCK_UN}
COMMANDS = {"posix": {"try": fcntl.F_SETLK, "wait": fcntl.F_SETLKW}, "ofd": {"try": 37, "wait": 38}}
FORM = "hhqqi4x"
files = {}

def lock(fd, way, kind, patience, start=0, length=0):
    if way == "flock":
        fcntl.flock(fd, FLOCKS[kind] | (fcntl.LOCK_NB if patience == "try" else 0))
    else:
        fcntl.fcntl(fd, COMMANDS[way][patience], struct.pack(FORM, KINDS[kind], 0, int(start), int(length), 0))

def count(fd, way, rounds):
    for _ in range(int(rounds)):
        lock(fd, way, "ex", "wait")
        number = int(os.pread(fd, 64, 0) or b"0")
        os.pwrite(fd, b"%d\n" % (number + 1), 0)
        lock(fd, way, "un", "try")

def obey(verb, name, *rest):
    if verb == "open":
        files[name] = os.open(rest[0], os.O_RDONLY if rest[1] == "ro" else os.O_RDWR | os.O_CREAT, 0o644)
    elif verb == "dup":
        files[rest[0]] = os.dup(files[name])
    elif verb == "close":
        os.close(files.pop(name))
    elif verb == "lock":
        lock(files[name], *rest)
    elif verb == "count":
        count(files[name], *rest)
    elif verb == "unlink":
        os.unlink(name)
    elif verb == "write":
        os.pwrite(files[name], rest[0].encode() * int(rest[1]), 0)
    elif verb == "read":
        return os.pread(files[name], int(rest[0]), 0).decode()
    elif verb == "sync":
        os.fsync(files[name])
    elif verb == "get":
        asked = struct.pack(FORM, KINDS[rest[0]], 0, int(rest[1]), int(rest[2]), 0)
        kind, _, start, length, pid = struct.unpack(FORM, fcntl.fcntl(files[name], fcntl.F_GETLK, asked))
        return "free" if kind == fcntl.F_UNLCK else f"{'sh' if kind == fcntl.F_RDLCK else 'ex'} {start} {length} {pid}"
    return "ok"

print("ready", flush=True)
for line in sys.stdin:
    try:
        answer = obey(*line.split())
    except OSError as error:
        answer = "EDEADLK" if error.errno == errno.EDEADLK else errno.errorcode[error.errno]
    print(answer, flush=True)
"#;

/// A process that obeys.
pub(crate) struct Process {
    child: Child,
    orders: ChildStdin,
    answers: mpsc::Receiver<String>,
}

impl Process {
    fn start() -> Self {
        let mut child = Command::new("python3")
            .args(["-c", OBEDIENT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 starts");
        let orders = child.stdin.take().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (send, answers) = mpsc::channel();
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| send.send(line)));
        let process = Self { child, orders, answers };
        assert_eq!(process.answer(), "ready");
        process
    }

    /// With `path` open for reading and writing as `f`.
    pub(crate) fn on(path: &Path) -> Self {
        let mut process = Self::start();
        process.open("f", path, "rw");
        process
    }

    pub(crate) fn open(&mut self, name: &str, path: &Path, mode: &str) {
        assert_eq!(self.ask(&format!("open {name} {} {mode}", path.display())), "ok");
    }

    pub(crate) fn tell(&mut self, order: &str) {
        writeln!(self.orders, "{order}").unwrap();
    }

    pub(crate) fn answer(&self) -> String {
        self.answer_within(LIMIT)
    }

    pub(crate) fn answer_within(&self, limit: Duration) -> String {
        self.answers.recv_timeout(limit).expect("an answer")
    }

    pub(crate) fn ask(&mut self, order: &str) -> String {
        self.tell(order);
        self.answer()
    }

    pub(crate) fn must(&mut self, order: &str) {
        assert_eq!(self.ask(order), "ok", "{order}");
    }

    /// It waits in the call that it was last told to make.
    pub(crate) fn still_waits(&self) {
        if let Ok(answer) = self.answers.recv_timeout(MOMENT) {
            panic!("it does not wait: {answer}");
        }
    }

    fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).unwrap();
        // SAFETY: kill(2) takes plain numbers and touches no memory of this process.
        unsafe { libc::kill(pid, signal) };
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(libc::SIGKILL);
        let _ = self.child.wait();
    }
}

/// Two mounts of a volume, with a file in a directory that both know.
fn pair(volume: &Volume) -> [Mount; 2] {
    let mounts = [volume.mount_with("one", FLAGS), volume.mount_with("two", FLAGS)];
    fs::create_dir(mounts[0].join("d")).unwrap();
    fs::write(mounts[0].join("d/f"), "").unwrap();
    assert!(wait_until(LIMIT, || mounts[1].join("d/f").exists()));
    mounts
}

fn end(volume: &Volume, mounts: [Mount; 2]) {
    for mount in mounts {
        mount.unmount();
    }
    volume.assert_sound(Rest::Clean);
}

/// A counter that is read and written through descriptors that stay open all the time: a lost count is either a lock that
/// two held, or bytes that one did not see.
#[test]
fn a_lock_is_never_held_by_two_and_shows_what_the_one_before_wrote() {
    let volume = Volume::new();
    let mounts = pair(&volume);
    let rounds = if full() { 200 } else { 20 };
    for way in ["flock", "posix", "ofd"] {
        let name = format!("d/count-{way}");
        fs::write(mounts[0].join(&name), "0\n").unwrap();
        assert!(wait_until(LIMIT, || mounts[1].join(&name).exists()));
        let mut processes: Vec<_> = (0..6).map(|at| Process::on(&mounts[at % 2].join(&name))).collect();
        for process in &mut processes {
            process.tell(&format!("count f {way} {rounds}"));
        }
        for process in &processes {
            let answer = process.answers.recv_timeout(LIMIT * 5).expect("it ends");
            assert_eq!(answer, "ok", "{way}");
        }
        drop(processes);
        let counted = run_in(mounts[1].path(), &format!("flock -s {name} cat {name}")).expect_success().stdout;
        assert_eq!(counted.trim(), (6 * rounds).to_string(), "{way}");
    }
    end(&volume, mounts);
}

#[test]
fn flocks_are_converted_as_on_linux() {
    let volume = Volume::new();
    let mounts = pair(&volume);
    let mut one = Process::on(&mounts[0].join("d/f"));
    let mut two = Process::on(&mounts[1].join("d/f"));
    one.must("lock f flock sh try");
    two.must("lock f flock sh try");
    assert_eq!(two.ask("lock f flock ex try"), "EAGAIN");
    // What was held is lost with an upgrade that fails.
    one.must("lock f flock ex try");
    assert_eq!(two.ask("lock f flock sh try"), "EAGAIN");
    two.tell("lock f flock sh wait");
    two.still_waits();
    one.must("lock f flock sh try");
    assert_eq!(two.answer(), "ok", "a downgrade lets others share");
    // Two upgrades do not wait for each other for ever.
    one.tell("lock f flock ex wait");
    two.tell("lock f flock ex wait");
    let first_is_one = loop {
        if let Ok(answer) = one.answers.recv_timeout(Duration::from_millis(50)) {
            assert_eq!(answer, "ok");
            break true;
        }
        if let Ok(answer) = two.answers.recv_timeout(Duration::from_millis(50)) {
            assert_eq!(answer, "ok");
            break false;
        }
    };
    let (first, second) = if first_is_one { (&mut one, &mut two) } else { (&mut two, &mut one) };
    second.still_waits();
    first.must("lock f flock un try");
    assert_eq!(second.answer(), "ok");
    drop((one, two));
    end(&volume, mounts);
}

#[test]
fn ranges_exclude_only_where_they_meet() {
    let volume = Volume::new();
    let mounts = pair(&volume);
    let mut one = Process::on(&mounts[0].join("d/f"));
    let mut two = Process::on(&mounts[1].join("d/f"));
    let mut near = Process::on(&mounts[0].join("d/f"));
    one.must("lock f posix ex try 0 100");
    one.must("lock f posix un try 40 20");
    two.must("lock f posix ex try 40 20");
    assert_eq!(two.ask("lock f posix sh try 39 1"), "EAGAIN");
    assert_eq!(two.ask("get f sh 0 0"), "ex 0 40 0");
    assert_eq!(near.ask("get f sh 60 0"), format!("ex 60 40 {}", one.child.id()), "a process of this mount is told");
    one.must("lock f posix sh try 90 10");
    two.must("lock f posix sh try 95 0");
    assert_eq!(near.ask("get f ex 1000 1"), "sh 95 0 0", "without end");
    // Reading a range does not need a descriptor that can write.
    near.open("r", &mounts[0].join("d/f"), "ro");
    near.must("lock r posix sh try 95 1");
    assert_eq!(near.ask("lock r posix ex try 5000 1"), "EBADF");
    // The kinds of locks know nothing of each other, as on Linux.
    near.must("lock f flock ex try");
    drop((one, two, near));
    end(&volume, mounts);
}

#[test]
fn a_circle_of_waiting_processes_is_refused() {
    let volume = Volume::new();
    let mounts = pair(&volume);
    let mut one = Process::on(&mounts[0].join("d/f"));
    let mut two = Process::on(&mounts[0].join("d/f"));
    one.must("lock f posix ex try 0 1");
    two.must("lock f posix ex try 1 1");
    one.tell("lock f posix ex wait 1 1");
    one.still_waits();
    assert_eq!(two.ask("lock f posix ex wait 0 1"), "EDEADLK");
    two.must("lock f posix un try 1 1");
    assert_eq!(one.answer(), "ok");
    drop((one, two));
    end(&volume, mounts);
}

#[test]
fn a_signal_ends_the_waiting_and_leaves_nothing() {
    let volume = Volume::new();
    let mounts = pair(&volume);
    let mut holder = Process::on(&mounts[0].join("d/f"));
    for way in ["flock", "posix", "ofd"] {
        holder.must(&format!("lock f {way} ex try"));
        for mount in &mounts {
            let mut waiting = Process::on(&mount.join("d/f"));
            let mut killed = Process::on(&mount.join("d/f"));
            waiting.tell(&format!("lock f {way} ex wait"));
            killed.tell(&format!("lock f {way} ex wait"));
            waiting.still_waits();
            waiting.signal(libc::SIGUSR1);
            assert_eq!(waiting.answer(), "EINTR", "{way}");
            killed.still_waits();
            killed.signal(libc::SIGKILL);
            assert!(wait_until(LIMIT, || matches!(killed.child.try_wait(), Ok(Some(_)))), "{way}: it hangs");
        }
        holder.must(&format!("lock f {way} un try"));
        let mut next = Process::on(&mounts[1].join("d/f"));
        next.must(&format!("lock f {way} ex wait"));
    }
    drop(holder);
    end(&volume, mounts);
}

#[test]
fn waiting_ends_when_the_holder_unlocks_closes_or_dies() {
    let volume = Volume::new();
    let mounts = pair(&volume);
    for way in ["flock", "posix", "ofd"] {
        for mount in &mounts {
            for how in ["unlock", "close", "exit"] {
                let mut holder = Process::on(&mounts[0].join("d/f"));
                let mut waiting = Process::on(&mount.join("d/f"));
                holder.must(&format!("lock f {way} ex try"));
                waiting.tell(&format!("lock f {way} ex wait"));
                waiting.still_waits();
                match how {
                    "unlock" => holder.must(&format!("lock f {way} un try")),
                    "close" => holder.must("close f"),
                    _ => holder.signal(libc::SIGKILL),
                }
                assert_eq!(waiting.answer(), "ok", "{way}, {how}");
            }
        }
    }
    end(&volume, mounts);
}

#[test]
fn closing_releases_what_linux_says() {
    let volume = Volume::new();
    let mounts = pair(&volume);
    let path = mounts[0].join("d/f");
    let mut one = Process::on(&path);
    let mut probe = Process::on(&mounts[1].join("d/f"));
    // A process loses all its ranges with any of its descriptors of the file, also one that can only read.
    one.must("lock f posix ex try");
    one.open("g", &path, "ro");
    assert_eq!(probe.ask("lock f posix ex try"), "EAGAIN");
    one.must("close g");
    probe.must("lock f posix ex try");
    probe.must("lock f posix un try");
    // An open file keeps its locks until its last descriptor is closed.
    for way in ["flock", "ofd"] {
        one.must(&format!("lock f {way} ex try"));
        one.open("g", &path, "rw");
        one.must("dup f h");
        one.must("close f");
        one.must("close g");
        assert_eq!(probe.ask(&format!("lock f {way} ex try")), "EAGAIN", "{way}");
        one.must("close h");
        probe.must(&format!("lock f {way} ex wait"));
        probe.must(&format!("lock f {way} un try"));
        one.open("f", &path, "rw");
    }
    // In one mount whoever closes has released, as seen by those who come after.
    let mut near = Process::on(&path);
    for _ in 0..20 {
        one.must("lock f flock ex try");
        one.must("close f");
        near.must("lock f flock ex try");
        near.must("lock f flock un try");
        one.open("f", &path, "rw");
    }
    drop((one, probe, near));
    end(&volume, mounts);
}

#[test]
fn locks_of_a_killed_client_go_with_its_session() {
    let volume = Volume::new();
    let [one, two] = pair(&volume);
    let mut holder = Process::on(&one.join("d/f"));
    holder.must("lock f flock sh try");
    holder.must("lock f posix ex try 5 5");
    holder.must("lock f ofd sh try 50 5");
    let mut waiting: Vec<_> = ["flock", "posix"].map(|way| (way, Process::on(&two.join("d/f")))).into();
    for (way, process) in &mut waiting {
        process.tell(&format!("lock f {way} ex wait"));
    }
    waiting.iter().for_each(|(_, process)| process.still_waits());
    let wreck = one.kill();
    for (way, process) in &mut waiting {
        assert_eq!(process.answer(), "ok", "{way}");
        process.must(&format!("lock f {way} un try"));
    }
    Process::on(&two.join("d/f")).must("lock f ofd ex try");
    drop((holder, waiting));
    wreck.clear();
    two.unmount();
    volume.assert_sound(Rest::Crashed);
}

#[test]
fn the_flock_program_excludes_between_mounts() {
    let volume = Volume::new();
    let mounts = pair(&volume);
    let script = "for i in $(seq 15); do flock lock sh -c 'read n < n; echo $((n + 1)) > n'; done";
    fs::write(mounts[0].join("d/n"), "0\n").unwrap();
    fs::write(mounts[0].join("d/lock"), "").unwrap();
    assert!(wait_until(LIMIT, || mounts[1].join("d/lock").exists()));
    thread::scope(|scope| {
        for at in 0..4 {
            let dir = mounts[at % 2].join("d");
            scope.spawn(move || {
                let mut command = Command::new("bash");
                command.args(["-euc", script]).current_dir(dir);
                run_within(command, LIMIT * 3).expect_success();
            });
        }
    });
    // Opening after the last close shows what was written last.
    assert_eq!(fs::read_to_string(mounts[1].join("d/n")).unwrap().trim(), "60");
    end(&volume, mounts);
}

#[test]
fn sqlite_works_from_two_mounts_at_once() {
    let volume = Volume::new();
    let mounts = pair(&volume);
    let rounds = if full() { 100 } else { 15 };
    let script = format!(
        "import sqlite3, sys
db = sqlite3.connect('data.db', timeout=300, isolation_level=None)
for n in range({rounds}):
    db.execute('begin immediate')
    total, rows = db.execute('select coalesce(sum(n), 0), count(*) from t').fetchone()
    assert total == rows * (rows + 1) // 2, (total, rows)
    db.execute('insert into t (n, who) values (?, ?)', (rows + 1, sys.argv[1]))
    db.execute('commit')
"
    );
    let make = "import sqlite3; sqlite3.connect('data.db').execute('create table t (n integer, who text)')";
    fs::write(volume.dir().join("make.py"), make).unwrap();
    fs::write(volume.dir().join("add.py"), script).unwrap();
    let python = |dir: &Path, name: &str, who: &str| {
        let mut command = Command::new("python3");
        command.arg(volume.dir().join(name)).arg(who).current_dir(dir);
        run_within(command, LIMIT * 5).expect_success();
    };
    python(&mounts[0].join("d"), "make.py", "");
    assert!(wait_until(LIMIT, || mounts[1].join("d/data.db").exists()));
    thread::scope(|scope| {
        for at in 0..4 {
            let (dir, python) = (mounts[at % 2].join("d"), &python);
            scope.spawn(move || python(&dir, "add.py", &at.to_string()));
        }
    });
    let question = "pragma integrity_check; select count(*), count(distinct n), max(n) from t";
    let answer = run_in(&mounts[1].join("d"), &format!("sqlite3 data.db '{question}'")).expect_success().stdout;
    let all = 4 * rounds;
    assert_eq!(answer.split_whitespace().collect::<Vec<_>>(), ["ok", &format!("{all}|{all}|{all}")]);
    end(&volume, mounts);
}

/// It may write nothing, so its locks are the kernel's and hold among its own processes.
#[test]
fn a_read_only_mount_keeps_its_locks_to_itself() {
    let volume = Volume::new();
    let mount = volume.mount_with("one", FLAGS);
    fs::write(mount.join("f"), "").unwrap();
    let reader = volume.mount_with("two", &["--read-only"]);
    let mut writing = Process::on(&mount.join("f"));
    writing.must("lock f flock ex try");
    let mut reading = [Process::start(), Process::start()];
    for process in &mut reading {
        process.open("f", &reader.join("f"), "ro");
    }
    reading[0].must("lock f flock ex try");
    assert_eq!(reading[1].ask("lock f flock sh try"), "EAGAIN");
    reading[0].must("lock f flock un try");
    reading[0].must("lock f posix sh try");
    reading[1].must("lock f posix sh try");
    drop((writing, reading));
    reader.unmount();
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}
