//! PostgreSQL with its data directory on a mount, and what pgbench knows to be committed.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use e2e::{Mount, Rest, Volume, full, run, run_within, seed_of, wait_until};
use rand::{Rng, SeedableRng, rngs::StdRng};

const CLIENTS: u64 = 8;
/// Acknowledged transactions without which a round shows nothing.
const ENOUGH: u64 = 20;
/// Accounts are a hundred thousand times as many.
const SCALE: u64 = 5;
/// Recovery replays at most what lies between two checkpoints.
const LIMIT: Duration = Duration::from_secs(300);
/// The server refuses to run as root.
const USER: &str = "tests";

/// A cluster of databases on a mount, with its log and its socket beside the mount.
struct Cluster {
    tools: PathBuf,
    home: PathBuf,
    data: PathBuf,
}

/// A server that runs.
struct Server<'a> {
    cluster: &'a Cluster,
    child: Child,
}

fn give_to_user(path: &Path) {
    run("chown", [USER, &path.to_string_lossy()]).expect_success();
}

impl Cluster {
    fn create(volume: &Volume, mount: &Mount) -> Self {
        fs::set_permissions(volume.dir(), Permissions::from_mode(0o755)).unwrap();
        let (home, data) = (volume.dir().join("pg"), mount.join("data"));
        for dir in [&home, &data] {
            fs::create_dir(dir).unwrap();
            give_to_user(dir);
        }
        let cluster = Self { tools: tools(), home, data };
        let mut initdb = cluster.tool("initdb");
        initdb.args(["--auth=trust", "--locale=C", "--encoding=UTF8", "--data-checksums", "-D"]).arg(&cluster.data);
        run_within(initdb, LIMIT).expect_success();
        cluster
    }

    fn tool(&self, name: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups"]);
        command.arg(self.tools.join(name)).current_dir(&self.home).env("LC_ALL", "C").env("PGHOST", &self.home);
        command.env("PGUSER", USER);
        command
    }

    /// Starts a server and waits until it has recovered and answers.
    fn start(&self) -> Server<'_> {
        let log = self.home.join("server.log");
        let output = File::options().create(true).append(true).open(&log).unwrap();
        let mut postgres = self.tool("postgres");
        postgres.arg("-D").arg(&self.data).arg("-k").arg(&self.home);
        // Checkpoints come often, so that kills meet some.
        for setting in ["listen_addresses=", "checkpoint_timeout=30s", "max_wal_size=64MB", "min_wal_size=32MB"] {
            postgres.args(["-c", setting]);
        }
        postgres.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        let mut server = Server { cluster: self, child: postgres.spawn().unwrap() };
        let ready = wait_until(LIMIT, || server.has_ended() || run_within(self.tool("pg_isready"), LIMIT).success());
        let text = || fs::read_to_string(&log).unwrap_or_default();
        assert!(ready && !server.has_ended(), "PostgreSQL does not answer:\n{}", text());
        server
    }

    /// The answer to a query, unaligned and without headers.
    fn ask(&self, query: &str) -> String {
        let mut psql = self.tool("psql");
        psql.args(["-XAtqc", query, "postgres"]);
        run_within(psql, LIMIT).expect_success().stdout.trim().to_owned()
    }

    fn count_history(&self) -> u64 {
        self.ask("select count(*) from pgbench_history").parse().unwrap()
    }

    /// A transaction moves one sum through four tables: they agree when each is there as a whole or not at all.
    fn check_sums(&self) {
        let sums = "select (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers), \
            (select sum(bbalance) from pgbench_branches), (select coalesce(sum(delta), 0) from pgbench_history)";
        let answer = self.ask(sums);
        let sums: Vec<&str> = answer.split('|').collect();
        assert!(sums.len() == 4 && sums.iter().all(|sum| *sum == sums[0]), "the sums differ: {answer}");
    }

    fn initialize(&self) {
        let mut pgbench = self.tool("pgbench");
        pgbench.args(["--initialize", "--quiet", &format!("--scale={SCALE}"), "postgres"]);
        run_within(pgbench, LIMIT).expect_success();
    }

    fn load(&self, seconds: u64, args: &[&str]) -> Command {
        let mut pgbench = self.tool("pgbench");
        pgbench.args(["--no-vacuum", "--jobs=2", &format!("--client={CLIENTS}"), &format!("--time={seconds}")]);
        pgbench.args(args).arg("postgres");
        pgbench
    }

    /// Transactions that the clients of a run were told to be committed.
    fn acknowledged(&self, run: &str) -> u64 {
        let is_log = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(&format!("{run}."));
        let logs = fs::read_dir(&self.home).unwrap().map(|entry| entry.unwrap().path()).filter(is_log);
        logs.map(|path| fs::read_to_string(path).unwrap().lines().count() as u64).sum()
    }

    /// The processes of the server: all of them work in the data directory.
    fn processes(&self) -> Vec<i32> {
        let ids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        ids.filter(|pid: &i32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|dir| dir == self.data)).collect()
    }

    /// Kills all processes of the server at once, as a crash of their machine would.
    fn kill(&self, mut server: Server<'_>) {
        let gone = wait_until(LIMIT, || {
            let left = self.processes();
            for pid in &left {
                // SAFETY: kill(2) takes plain numbers and touches no memory of this process.
                unsafe { libc::kill(*pid, libc::SIGKILL) };
            }
            left.is_empty() && server.has_ended()
        });
        assert!(gone, "processes of PostgreSQL outlive SIGKILL: {:?}", self.processes());
    }
}

impl Server<'_> {
    fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Ends it in good order, with a last checkpoint.
    fn stop(mut self) {
        // SAFETY: kill(2) takes plain numbers and touches no memory of this process.
        unsafe { libc::kill(i32::try_from(self.child.id()).unwrap(), libc::SIGINT) };
        assert!(wait_until(LIMIT, || self.has_ended()), "PostgreSQL does not stop");
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        for pid in self.cluster.processes() {
            // SAFETY: kill(2) takes plain numbers and touches no memory of this process.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        let _ = self.child.wait();
    }
}

/// Where the package keeps its programs; the newest version of several.
fn tools() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL, which scripts/test.sh --full installs");
    let version = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let newest = versions.map(|entry| entry.unwrap().path()).max_by_key(version);
    newest.expect("a version of PostgreSQL").join("bin")
}

/// What is killed under the load.
#[derive(Clone, Copy, PartialEq)]
enum Victim {
    Server,
    /// The client of the volume, and then the server, which cannot do without.
    Client,
}

/// Puts load on the server until its victim is killed; returns how many transactions were acknowledged.
fn load_until_killed(cluster: &Cluster, run: &str, pause: Duration, kill: impl FnOnce()) -> u64 {
    let before = cluster.count_history();
    let errors = File::create(cluster.home.join("pgbench.log")).unwrap();
    let mut load = cluster.load(LIMIT.as_secs(), &["--log", &format!("--log-prefix={run}")]);
    let mut load = load.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).spawn().unwrap();
    thread::sleep(pause);
    // A slow machine may need longer for a round that shows something.
    wait_until(LIMIT, || cluster.count_history() >= before + ENOUGH + CLIENTS);
    assert!(load.try_wait().unwrap().is_none(), "the load ended before the kill");
    kill();
    assert!(!load.wait().unwrap().success(), "pgbench has not noticed the kill");
    cluster.acknowledged(run)
}

/// Rounds of load that end with a kill. After recovery every transaction that was acknowledged is there, and of those that
/// were under way as many as there are clients at most.
fn rounds(name: &str, victim: Victim, flags: &[&str]) {
    let mut rng = StdRng::seed_from_u64(seed_of(name, 0xDB));
    let load_s = if full() { 60 } else { 10 };
    let volume = Volume::new();
    let mut mount = volume.mount_with("mnt", flags);
    let cluster = Cluster::create(&volume, &mount);
    let mut server = cluster.start();
    cluster.initialize();
    for round in 0..2 {
        let before = cluster.count_history();
        let pause = Duration::from_millis(rng.random_range(load_s * 300..load_s * 800));
        let mut wreck = None;
        let mut left = Some(mount);
        let acknowledged = load_until_killed(&cluster, &format!("round-{round}"), pause, || {
            if victim == Victim::Client {
                wreck = left.take().map(Mount::kill);
            }
            cluster.kill(server);
        });
        if let Some(wreck) = wreck {
            wreck.clear();
        }
        mount = left.unwrap_or_else(|| volume.mount_with("mnt", flags));
        server = cluster.start();
        let found = cluster.count_history() - before;
        println!("round {round}: {acknowledged} transactions acknowledged in {pause:?}, {found} found");
        assert!(acknowledged >= ENOUGH, "a vacuous round: {acknowledged} transactions");
        assert!((acknowledged..=acknowledged + CLIENTS).contains(&found), "{found} are there, not {acknowledged}");
        cluster.check_sums();
    }
    // What was recovered can be worked with, and no page or index of it is damaged.
    run_within(cluster.load(load_s / 5, &[]), LIMIT).expect_success();
    cluster.check_sums();
    let mut amcheck = cluster.tool("pg_amcheck");
    amcheck.args(["--install-missing", "--heapallindexed", "postgres"]);
    run_within(amcheck, LIMIT).expect_success();
    server.stop();
    let mut checksums = cluster.tool("pg_checksums");
    checksums.args(["--check", "-D"]).arg(&cluster.data);
    run_within(checksums, LIMIT).expect_success();
    mount.unmount();
    volume.assert_sound(if victim == Victim::Client { Rest::Crashed } else { Rest::Clean });
}

#[test]
#[ignore = "scripts/test.sh --full installs PostgreSQL first"]
fn a_killed_server_loses_no_transaction() {
    rounds("postgres", Victim::Server, &[]);
}

#[test]
#[ignore = "scripts/test.sh --full installs PostgreSQL first"]
fn a_killed_client_loses_no_transaction() {
    rounds("postgres-client", Victim::Client, &[]);
}

/// What was acknowledged may be on the local disk only; the client finds it there when it mounts again.
#[test]
#[ignore = "scripts/test.sh --full installs PostgreSQL first"]
fn a_killed_client_loses_no_transaction_with_writeback() {
    rounds("postgres-writeback", Victim::Client, &["--writeback"]);
}
