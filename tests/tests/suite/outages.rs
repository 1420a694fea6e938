//! Sessions across outages: an engine that freezes, machines that sleep, clients that stop.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::FileExt,
    thread,
    time::{Duration, Instant},
};

use e2e::{Meta, Mount, Rest, Volume, full, run};

use crate::locks::Process;

/// A session lasts for five heartbeats, of a second each.
const LIFETIME: Duration = Duration::from_secs(5);
const FLAGS: [&str; 5] = ["--heartbeat", "1", "--attr-cache", "0", "--enable-xattr"];

/// How many sessions the volume has.
fn sessions(volume: &Volume, meta: Meta) -> usize {
    let count = match meta {
        Meta::Sqlite => {
            let meta = volume.meta_path();
            let sql = "pragma busy_timeout=10000; select count(*) from jfs_session2;";
            let listed = run("sqlite3", [&*meta.to_string_lossy(), sql]).expect_success().stdout;
            listed.trim().lines().last().unwrap_or_default().to_owned()
        }
        Meta::Redis | Meta::RedisCluster => {
            volume.redis().call(&["ZCARD", &volume.key("allSessions")]).int().to_string()
        }
    };
    count.parse().unwrap()
}

fn signal(mount: &Mount, signal: &str) {
    run("kill", [signal, &mount.pid().to_string()]).expect_success();
}

/// A mount with what only a living session keeps: a locked file, one without a name, and data on its way.
struct Client {
    mount: Mount,
    number: usize,
    unnamed: File,
    buffered: File,
    holder: Process,
}

impl Client {
    fn start(volume: &Volume, number: usize) -> Self {
        let mount = volume.mount_with(&format!("mnt{number}"), &FLAGS);
        let path = |name: &str| mount.join(format!("{name}{number}"));
        let unnamed = File::options().read(true).write(true).create_new(true).open(path("unnamed")).unwrap();
        unnamed.write_all_at(b"still here", 0).unwrap();
        unnamed.sync_all().unwrap();
        fs::remove_file(path("unnamed")).unwrap();
        fs::write(path("locked"), "").unwrap();
        let mut holder = Process::on(&path("locked"));
        holder.must("lock f flock ex try");
        holder.must("lock f posix ex try");
        let buffered = File::create(path("buffered")).unwrap();
        Self { number, unnamed, buffered, holder, mount }
    }

    /// Nothing was taken from it.
    fn check(&mut self, others: &Mount) {
        let mut read = [0; 10];
        self.unnamed.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(&read, b"still here");
        self.buffered.sync_all().unwrap();
        assert_eq!(fs::read(others.join(format!("buffered{}", self.number))).unwrap(), [7; 100_000]);
        fs::write(self.mount.join(format!("new{}", self.number)), "works").unwrap();
        let locked = others.join(format!("locked{}", self.number));
        for way in ["flock", "posix"] {
            assert_eq!(Process::on(&locked).ask(&format!("lock f {way} ex try")), "EAGAIN", "its lock is its own");
        }
        let log = self.mount.log();
        assert!(!log.contains("has ended the session"), "{log}");
    }
}

/// What is away.
#[derive(Clone, Copy, Debug)]
enum Outage {
    /// The Redis server.
    Server,
    /// All clients, as those of a machine that sleeps; they come back one after the other.
    Clients,
}

/// So many clients through an outage of so many lifetimes of a session.
fn nobody_is_ended(meta: Meta, outage: Outage, clients: usize, lifetimes: u32) {
    let volume = Volume::on(meta, &["--trash-days", "0"]);
    let mut clients: Vec<_> = (0..clients).map(|number| Client::start(&volume, number)).collect();
    let looking = volume.mount_with("looking", &FLAGS);
    let all = clients.len() + 1;
    for client in &mut clients {
        client.buffered.write_all(&[7; 100_000]).unwrap();
    }
    match outage {
        Outage::Server => {
            volume.server().stop();
            thread::sleep(lifetimes * LIFETIME);
            volume.server().cont();
        }
        Outage::Clients => {
            let mounts = || clients.iter().map(|client| &client.mount).chain([&looking]);
            mounts().for_each(|mount| signal(mount, "-STOP"));
            thread::sleep(lifetimes * LIFETIME);
            for mount in mounts() {
                signal(mount, "-CONT");
                thread::sleep(Duration::from_millis(300));
            }
        }
    }
    // Long enough for whoever would end a session to do it.
    let until = Instant::now() + 3 * LIFETIME;
    while Instant::now() < until {
        assert_eq!(sessions(&volume, meta), all, "{meta:?} {outage:?}");
        thread::sleep(Duration::from_millis(500));
    }
    for client in &mut clients {
        client.check(&looking);
    }
    assert_eq!(sessions(&volume, meta), all);
    for Client { mount, holder, unnamed, buffered, .. } in clients {
        drop((holder, unnamed, buffered));
        mount.unmount();
    }
    looking.unmount();
    volume.assert_sound(Rest::Clean);
}

/// Whoever comes back first from an outage finds the sessions of all others expired. Nobody is dead.
#[test]
fn an_outage_ends_no_session_of_a_client_that_comes_back() {
    use Outage::{Clients, Server};
    let mut cases = vec![
        (Meta::Redis, Server, 2, 2),
        (Meta::Redis, Server, 5, 5),
        (Meta::Redis, Clients, 2, 5),
        (Meta::Sqlite, Clients, 2, 2),
        (Meta::Sqlite, Clients, 5, 5),
    ];
    if full() {
        cases.extend([(Meta::Redis, Server, 2, 20), (Meta::Redis, Server, 5, 20), (Meta::Sqlite, Clients, 5, 20)]);
    }
    thread::scope(|scope| {
        for (meta, outage, clients, lifetimes) in cases {
            scope.spawn(move || nobody_is_ended(meta, outage, clients, lifetimes));
        }
    });
}
