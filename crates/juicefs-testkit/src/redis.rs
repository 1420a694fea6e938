//! Redis servers for single tests. They are started on 127.0.0.1 and a free port, and ended by process id when they are
//! dropped.
//!
//! Everything here blocks and runs no async code, so that it serves any test. A server that cannot be started fails the
//! test and never skips it. `JUICEFS_TEST_REDIS` names another program than `redis-server`, that of Valkey for example.

mod cluster;
mod sentinel;
mod tls;
mod wire;

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tempfile::TempDir;

use crate::process::{Process, free_port};

pub use cluster::{RedisCluster, SlotMove};
pub use sentinel::RedisSentinels;
pub use tls::TlsFiles;
pub use wire::{Reply, Wire};

/// How long a server may take until it answers.
const START_WITHIN: Duration = Duration::from_secs(20);

/// What a server is to be like. [`start`](Self::start) makes it run.
#[derive(Clone, Debug, Default)]
pub struct RedisSetup {
    args: Vec<String>,
    rdb: Option<PathBuf>,
    password: Option<String>,
    tls: bool,
    sentinel: bool,
}

impl RedisSetup {
    /// Adds options of the command line of the server, which go before those that are given here anyway.
    #[must_use]
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(ToString::to_string));
        self
    }

    /// Lets the server start with a copy of this dump file.
    #[must_use]
    pub fn rdb(mut self, path: &Path) -> Self {
        self.rdb = Some(path.to_owned());
        self
    }

    /// Demands this password.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// Lets the port speak TLS only, with certificates made for this server: see [`RedisServer::tls`].
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    fn sentinel(mut self) -> Self {
        self.sentinel = true;
        self
    }

    /// Starts the server and waits until it answers.
    ///
    /// # Panics
    ///
    /// If it does not start, with what it wrote.
    #[must_use]
    pub fn start(self) -> RedisServer {
        let dir = TempDir::with_prefix("redis").expect("make a directory for the Redis server");
        if let Some(rdb) = &self.rdb {
            fs::copy(rdb, dir.path().join("dump.rdb"))
                .unwrap_or_else(|e| panic!("copy the dump file {}: {e}", rdb.display()));
        }
        let tls = self.tls.then(|| TlsFiles::make(dir.path()));
        let mut server = RedisServer { setup: self, dir, port: 0, tls, process: Mutex::new(None) };
        // Between the choice of a port and its use another process may take it.
        let mut last = String::new();
        for _ in 0..20 {
            server.port = free_port();
            server.process = Mutex::new(None);
            match server.launch() {
                Ok(()) => return server,
                Err(why) => last = why,
            }
        }
        panic!("the Redis server does not start: {last}");
    }
}

/// A running Redis server.
#[derive(Debug)]
pub struct RedisServer {
    setup: RedisSetup,
    dir: TempDir,
    port: u16,
    tls: Option<TlsFiles>,
    process: Mutex<Option<Process>>,
}

impl Default for RedisServer {
    fn default() -> Self {
        Self::new()
    }
}

impl RedisServer {
    /// Starts a server that keeps nothing on disk.
    #[must_use]
    pub fn new() -> Self {
        Self::setup().start()
    }

    /// Starts a server with more options, for example `&["--appendonly", "yes"]`.
    #[must_use]
    pub fn start(args: &[&str]) -> Self {
        Self::setup().args(args).start()
    }

    /// Starts a server on a copy of the dump file at `path`.
    #[must_use]
    pub fn with_rdb(path: &Path) -> Self {
        Self::setup().rdb(path).start()
    }

    /// Starts a server that speaks TLS only.
    #[must_use]
    pub fn with_tls(args: &[&str]) -> Self {
        Self::setup().args(args).tls().start()
    }

    /// The setup of a server, which is still to be described.
    #[must_use]
    pub fn setup() -> RedisSetup {
        RedisSetup::default()
    }

    /// Where logical database `db` of the server is, for the meta commands: `redis://127.0.0.1:PORT/DB`, with the password
    /// if there is one, `rediss://` and the client's certificates if it speaks TLS.
    #[must_use]
    pub fn url(&self, db: u32) -> String {
        let user = self.setup.password.as_ref().map(|password| format!(":{password}@")).unwrap_or_default();
        let (scheme, options) = match &self.tls {
            Some(tls) => ("rediss", format!("?{}", tls.url_options())),
            None => ("redis", String::new()),
        };
        format!("{scheme}://{user}127.0.0.1:{}/{db}{options}", self.port)
    }

    /// The same database through the server's Unix socket: `unix:///PATH?db=DB`.
    #[must_use]
    pub fn unix_url(&self, db: u32) -> String {
        let user = self.setup.password.as_ref().map(|password| format!(":{password}@")).unwrap_or_default();
        format!("unix://{user}{}?db={db}", self.socket().display())
    }

    /// The TCP port, which stays through [`restart`](Self::restart).
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id.
    ///
    /// # Panics
    ///
    /// If the server was killed and not restarted.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.lock().as_ref().and_then(Process::id).expect("the Redis server runs")
    }

    /// Where the server keeps its files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The Unix socket that the server listens on.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    /// The certificates, if the server speaks TLS.
    #[must_use]
    pub fn tls(&self) -> Option<&TlsFiles> {
        self.tls.as_ref()
    }

    /// Ends the process with SIGKILL and waits for its end.
    pub fn kill(&self) {
        self.process.lock().as_mut().expect("the Redis server was started").end();
    }

    /// Starts the process again on the same port and directory, after ending it if it still runs, and waits until it
    /// answers.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn restart(&self) {
        self.kill();
        // The port was given up a moment ago; someone's outgoing connection may still sit on it.
        let deadline = Instant::now() + START_WITHIN;
        while let Err(why) = self.launch() {
            assert!(Instant::now() < deadline, "the Redis server does not start again: {why}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Freezes the process: connections stay, nothing is answered.
    pub fn stop(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    /// Lets a frozen process go on.
    pub fn cont(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        self.process.lock().as_ref().expect("the Redis server runs").signal(signal);
    }

    /// Runs `redis-cli` with these arguments against the server. Returns what it printed, without the last newline.
    ///
    /// # Panics
    ///
    /// If there is no `redis-cli` or it fails, which an error that the server replied is not.
    pub fn cli(&self, args: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.arg("-s").arg(self.socket()).args(args).env_remove("REDISCLI_AUTH");
        if let Some(password) = &self.setup.password {
            command.env("REDISCLI_AUTH", password);
        }
        let output =
            command.output().unwrap_or_else(|e| panic!("cannot run redis-cli, which tests with Redis need: {e}"));
        let text = String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "redis-cli {args:?}: {text} {errors}");
        text
    }

    /// A connection of the test to a database, to look at it without the client.
    ///
    /// # Panics
    ///
    /// If the server cannot be reached.
    #[must_use]
    pub fn wire(&self, db: u32) -> Wire {
        let mut wire = self.connect().expect("connect to the Redis server");
        if db != 0 {
            wire.call(&["SELECT", &db.to_string()]);
        }
        wire
    }

    fn connect(&self) -> io::Result<Wire> {
        let mut wire = Wire::connect(&self.socket())?;
        if let Some(password) = &self.setup.password {
            wire.try_call(&["AUTH", password])?;
        }
        Ok(wire)
    }

    /// Starts the process and waits until it answers. The error says why it did not.
    fn launch(&self) -> Result<(), String> {
        let mut slot = self.process.lock();
        let process = slot.get_or_insert_with(|| Process::prepare(&self.command(), self.dir.path()));
        process.run();
        let deadline = Instant::now() + START_WITHIN;
        loop {
            // The socket's file may be one that an earlier process left; only a live one answers.
            if let Ok(mut wire) = self.connect()
                && let Ok(Reply::Status(_)) = wire.try_call(&["PING"])
            {
                break;
            }
            if process.has_ended() {
                process.end();
                return Err(self.log());
            }
            assert!(Instant::now() < deadline, "the Redis server does not answer: {}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn command(&self) -> Command {
        let program = env::var_os("JUICEFS_TEST_REDIS").unwrap_or_else(|| "redis-server".into());
        let mut command = Command::new(program);
        let port = self.port.to_string();
        if self.setup.sentinel {
            // A sentinel writes what it learns into its configuration file and will not run without one.
            let file = self.dir.path().join("sentinel.conf");
            if !file.exists() {
                fs::write(&file, "").expect("write the sentinel's configuration");
            }
            command.arg(file).arg("--sentinel");
        }
        command.args(["--bind", "127.0.0.1", "--daemonize", "no"]);
        command.arg("--dir").arg(self.dir.path());
        command.arg("--logfile").arg(self.dir.path().join("redis.log"));
        command.arg("--unixsocket").arg(self.socket());
        match &self.tls {
            Some(tls) => command.args(["--port", "0", "--tls-port", &port]).args(tls.server_args()),
            None => command.args(["--port", &port]),
        };
        if !self.setup.sentinel {
            command.args(["--save", "", "--appendonly", "no", "--enable-debug-command", "local"]);
        }
        if let Some(password) = &self.setup.password {
            command.args(["--requirepass", password]);
        }
        command.args(&self.setup.args);
        command
    }

    /// The end of what the server wrote about itself.
    #[must_use]
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.dir.path().join("redis.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

/// Looks every 10 ms until `what` holds.
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + START_WITHIN;
    while !holds() {
        assert!(Instant::now() < deadline, "still not true after {START_WITHIN:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests;
