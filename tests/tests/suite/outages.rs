//! Sessions across outages: an engine that freezes, machines that sleep, clients that stop.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use e2e::{Meta, Mount, Rest, Volume, full, run, wait_until};

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

pub(crate) fn signal(mount: &Mount, signal: i32) {
    let pid = i32::try_from(mount.pid()).unwrap();
    // SAFETY: kill(2) takes plain numbers and touches no memory of this process.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

/// A mount with what only a living session keeps: a locked file, one without a name, and data on its way. Another process has
/// them open: a program that this one starts would wait for the end of a close, as long as the mount is stopped.
struct Client {
    mount: Mount,
    number: usize,
    holder: Process,
}

impl Client {
    fn start(volume: &Volume, number: usize) -> Self {
        let mount = volume.mount_with(&format!("mnt{number}"), &FLAGS);
        let path = |name: &str| mount.join(format!("{name}{number}"));
        let mut holder = Process::on(&path("locked"));
        holder.must("lock f flock ex try");
        holder.must("lock f posix ex try");
        holder.open("unnamed", &path("unnamed"), "rw");
        holder.must("write unnamed here 1");
        holder.must("sync unnamed");
        holder.must(&format!("unlink {}", path("unnamed").display()));
        holder.open("buffered", &path("buffered"), "rw");
        Self { number, holder, mount }
    }

    /// Nothing was taken from it.
    fn check(&mut self, others: &Mount) {
        assert_eq!(self.holder.ask("read unnamed 4"), "here");
        self.holder.must("sync buffered");
        assert_eq!(fs::read(others.join(format!("buffered{}", self.number))).unwrap(), vec![b'7'; 100_000]);
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
        client.holder.must("write buffered 7 100000");
    }
    match outage {
        Outage::Server => {
            volume.server().stop();
            thread::sleep(lifetimes * LIFETIME);
            volume.server().cont();
        }
        Outage::Clients => {
            let mounts = || clients.iter().map(|client| &client.mount).chain([&looking]);
            mounts().for_each(|mount| signal(mount, libc::SIGSTOP));
            thread::sleep(lifetimes * LIFETIME);
            for mount in mounts() {
                signal(mount, libc::SIGCONT);
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
    for Client { mount, holder, .. } in clients {
        drop(holder);
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

/// A client that stops while the engine answers is taken for dead, as it must be. When it goes on, it comes back by itself: what it
/// had locked and what it kept without a name is lost, what it had buffered otherwise is not.
fn a_stopped_client_is_ended_and_comes_back(meta: Meta) {
    let volume = Volume::on(meta, &["--trash-days", "0"]);
    let looking = volume.mount_with("looking", &FLAGS);
    let Client { mount, mut holder, number } = Client::start(&volume, 0);
    holder.must("write buffered 7 100000");
    signal(&mount, libc::SIGSTOP);
    assert!(wait_until(12 * LIFETIME, || sessions(&volume, meta) == 1), "nobody ends it");
    // Its locks are free.
    let there = looking.join(format!("locked{number}"));
    for way in ["flock", "posix"] {
        Process::on(&there).must(&format!("lock f {way} ex try"));
    }
    signal(&mount, libc::SIGCONT);
    holder.must("sync buffered");
    assert!(wait_until(2 * LIFETIME, || sessions(&volume, meta) == 2), "it comes back");
    assert_eq!(fs::read(looking.join(format!("buffered{number}"))).unwrap(), vec![b'7'; 100_000]);
    fs::write(mount.join("new"), "works").unwrap();
    assert_eq!(holder.ask("write unnamed x 1"), "EIO");
    assert_eq!(holder.ask("lock f flock sh try"), "EIO", "the lock is lost, and its holder hears of it");
    assert_eq!(holder.ask("write f x 1"), "EIO");
    let log = mount.log();
    assert!(log.contains("has ended the session"), "{log}");
    // Whoever opens anew has everything.
    let mut next = Process::on(&mount.join(format!("locked{number}")));
    next.must("lock f flock ex try");
    next.must("write f y 1");
    next.must("sync f");
    drop((holder, next));
    mount.unmount();
    looking.unmount();
    volume.assert_sound(Rest::Crashed);
}

#[test]
fn a_client_that_stops_alone_is_ended_and_comes_back() {
    thread::scope(|scope| {
        for meta in [Meta::Redis, Meta::Sqlite] {
            scope.spawn(move || a_stopped_client_is_ended_and_comes_back(meta));
        }
    });
}
