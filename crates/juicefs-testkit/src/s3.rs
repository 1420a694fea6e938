//! An S3 server for a single test. It listens on 127.0.0.1 and a free port, has a directory of its own, and ends when
//! it is dropped.
//!
//! The server is the package `s3-server` of the workspace. It is large and no other package depends on it, so that
//! whoever tests without S3 does not build it. `JUICEFS_TEST_S3_SERVER` names its binary; without that the package is
//! built here, once per test process and in the profile of the test.

use std::{
    env, fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tempfile::TempDir;

use crate::{
    process::{Process, free_port},
    redis::TlsFiles,
};

/// The access key that a server knows.
pub const ACCESS_KEY: &str = "testkey";
/// The secret of [`ACCESS_KEY`].
pub const SECRET_KEY: &str = "testsecret/+=";
/// A session token that is refused because it has expired. Any other one is accepted.
pub const EXPIRED_TOKEN: &str = "expired-token";
/// The domain in which buckets are found as `BUCKET.s3.localhost`. Every machine resolves such a name to itself.
pub const DOMAIN: &str = "s3.localhost";

/// How long a server may take until it answers.
const START_WITHIN: Duration = Duration::from_secs(20);

/// A running S3 server.
#[derive(Debug)]
pub struct S3Server {
    dir: TempDir,
    port: u16,
    tls: Option<TlsFiles>,
    /// Whether its keys can be changed.
    has_key_file: bool,
    process: Mutex<Option<Process>>,
}

impl Default for S3Server {
    fn default() -> Self {
        Self::start()
    }
}

impl S3Server {
    /// Starts a server without buckets and waits until it answers.
    ///
    /// # Panics
    ///
    /// If it cannot be built or does not start.
    #[must_use]
    pub fn start() -> Self {
        Self::with(None, false)
    }

    /// Starts a server whose keys [`set_keys`](Self::set_keys) can change. Until then they are the usual ones.
    ///
    /// # Panics
    ///
    /// If it cannot be built or does not start.
    #[must_use]
    pub fn start_with_changing_keys() -> Self {
        Self::with(None, true)
    }

    /// Starts a server that speaks TLS only, and only to clients with a certificate: see [`tls`](Self::tls).
    ///
    /// # Panics
    ///
    /// If it cannot be built or does not start.
    #[must_use]
    pub fn start_with_tls() -> Self {
        Self::with(Some(TlsFiles::make), false)
    }

    fn with(make_tls: Option<fn(&Path) -> TlsFiles>, has_key_file: bool) -> Self {
        let dir = TempDir::with_prefix("s3").expect("make a directory for the S3 server");
        fs::create_dir(dir.path().join("buckets")).expect("make a directory for buckets");
        let tls = make_tls.map(|make| make(dir.path()));
        let mut server = Self { dir, port: 0, tls, has_key_file, process: Mutex::new(None) };
        server.set_keys(&[(ACCESS_KEY, SECRET_KEY)]);
        // Between the choice of a port and its use another process may take it.
        for _ in 0..20 {
            server.port = free_port();
            server.process = Mutex::new(None);
            if server.launch() {
                return server;
            }
        }
        panic!("the S3 server does not start");
    }

    /// Where the server is, `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}:{}", Ipv4Addr::LOCALHOST, self.port)
    }

    /// The TCP port, which stays through [`restart`](Self::restart).
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The certificates, if the server speaks TLS.
    #[must_use]
    pub fn tls(&self) -> Option<&TlsFiles> {
        self.tls.as_ref()
    }

    /// What `--bucket` takes for a bucket of this server, in path style and without the certificates.
    #[must_use]
    pub fn bucket_url(&self, bucket: &str) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}/{bucket}", self.address())
    }

    /// Makes a bucket, without a request.
    ///
    /// # Panics
    ///
    /// If it cannot be made.
    pub fn make_bucket(&self, bucket: &str) {
        fs::create_dir_all(self.bucket_dir(bucket)).expect("make a bucket");
    }

    /// The directory with the objects of a bucket, each a file of its key.
    #[must_use]
    pub fn bucket_dir(&self, bucket: &str) -> PathBuf {
        self.root().join(bucket)
    }

    /// Makes these pairs of access and secret key the only ones that are accepted. The server must be one whose keys
    /// can be changed.
    ///
    /// # Panics
    ///
    /// If they cannot be written down.
    pub fn set_keys(&self, keys: &[(&str, &str)]) {
        let text: String = keys.iter().map(|(access, secret)| format!("{access} {secret}\n")).collect();
        // A request reads the keys of before or those of now, never a part of them.
        let whole = self.dir.path().join("keys.new");
        fs::write(&whole, text).and_then(|()| fs::rename(&whole, self.key_file())).expect("write the keys down");
    }

    fn key_file(&self) -> PathBuf {
        self.dir.path().join("keys")
    }

    /// Ends the process with SIGKILL and waits for its end. The objects stay.
    pub fn kill(&self) {
        self.process.lock().as_mut().expect("the S3 server was started").end();
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
        while !self.launch() {
            assert!(Instant::now() < deadline, "the S3 server does not start again");
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("buckets")
    }

    /// Starts the process and waits until it answers. Returns `false` when it ended instead.
    fn launch(&self) -> bool {
        let mut slot = self.process.lock();
        let process = slot.get_or_insert_with(|| Process::prepare(&self.command(), self.dir.path()));
        process.run();
        let deadline = Instant::now() + START_WITHIN;
        loop {
            if process.has_ended() {
                process.end();
                return false;
            }
            if self.answers() {
                return !process.has_ended();
            }
            assert!(Instant::now() < deadline, "the S3 server does not answer");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether it is this kind of server that listens.
    fn answers(&self) -> bool {
        match &self.tls {
            None => self.greet().is_ok_and(|answer| answer.contains("AccessDenied")),
            // Whoever speaks no TLS is not heard; that the connection is taken must do.
            Some(_) => TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok(),
        }
    }

    /// What the server says to somebody without a key.
    fn greet(&self) -> io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(START_WITHIN))?;
        write!(stream, "GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(program());
        command.arg(self.root()).arg(self.address()).args([ACCESS_KEY, SECRET_KEY]);
        command.args(["--expired-token", EXPIRED_TOKEN, "--domain"]).arg(format!("{DOMAIN}:{}", self.port));
        if self.has_key_file {
            command.arg("--keys").arg(self.key_file());
        }
        if let Some(tls) = &self.tls {
            command.arg("--tls").args([&tls.cert, &tls.key, &tls.ca]);
        }
        command
    }
}

/// The server's binary.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| match env::var_os("JUICEFS_TEST_S3_SERVER") {
        Some(path) => {
            let path = PathBuf::from(path);
            assert!(path.is_file(), "JUICEFS_TEST_S3_SERVER={} is not a file", path.display());
            path
        }
        None => build(),
    })
}

/// Builds the server where this test was built. The binary of a test is `PROFILE/deps/NAME` below the target directory.
fn build() -> PathBuf {
    let test = env::current_exe().expect("the path of this test");
    let place = test.parent().and_then(Path::parent).expect("the directory of the test's profile");
    let profile = match place.file_name().and_then(|name| name.to_str()).expect("the name of the test's profile") {
        "debug" => "dev",
        other => other,
    };
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .args(["build", "--quiet", "--package", "s3-server", "--profile", profile, "--target-dir"])
        .arg(place.parent().expect("the target directory"))
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "the S3 server does not build: {}", String::from_utf8_lossy(&output.stderr));
    place.join("s3-server")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_ends_and_runs_again_with_its_buckets() {
        let server = S3Server::start();
        server.make_bucket("a");
        assert!(server.greet().expect("an answer").contains("AccessDenied"));
        server.kill();
        assert!(server.greet().is_err());
        server.restart();
        assert!(server.greet().is_ok() && server.bucket_dir("a").is_dir());
    }
}
