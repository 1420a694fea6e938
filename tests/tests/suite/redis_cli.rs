//! The commands on Redis: what they say when the server cannot be used, and that no password is ever shown.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use e2e::{Finished, Meta, Rest, Volume, children_of, is_mounted, juicefs, run_within};
use juicefs_testkit::redis::RedisServer;

const PASSWORD: &str = "s3cret-Word";

/// Runs all commands on a volume that cannot be used through `url`: they fail soon, in a few lines that contain `about`.
fn refused(volume: &Volume, url: &str, about: &[&str]) {
    refused_by(&["status", "config", "format", "mount", "mount -d"], volume, url, about);
}

fn refused_by(commands: &[&str], volume: &Volume, url: &str, about: &[&str]) {
    let bucket = format!("{}/", volume.bucket().display());
    let point = volume.dir().join("mnt").to_string_lossy().into_owned();
    let cache = volume.dir().join("cache").to_string_lossy().into_owned();
    for command in commands {
        let mut args: Vec<&str> = command.split(' ').collect();
        args.extend(match args[0] {
            "format" => vec!["--bucket", &bucket, url, "myvol"],
            "mount" => vec!["--no-usage-report", "--cache-dir", &cache, url, &point],
            _ => vec![url],
        });
        let begun = Instant::now();
        let finished = volume.juicefs(&args).expect_failure();
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?} until: {finished}", begun.elapsed());
        assert_readable(&finished, about);
        assert!(!is_mounted(Path::new(&point)));
    }
    assert_eq!(fs::read_dir(volume.bucket()).unwrap().count(), 0, "objects were written");
}

fn assert_readable(finished: &Finished, about: &[&str]) {
    let lines: Vec<&str> = finished.stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    assert!(!lines.is_empty() && lines.len() <= 5, "{finished}");
    for part in about {
        assert!(finished.stderr.contains(part), "the message does not name {part:?}: {finished}");
    }
    assert!(!finished.text().contains("panicked"), "{finished}");
    assert!(!finished.text().contains(PASSWORD), "the password is shown: {finished}");
}

/// A port that nobody listens on.
fn closed_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let volume = Volume::unformatted_on(Meta::Sqlite);
    let port = closed_port();
    let url = format!("redis://:{PASSWORD}@127.0.0.1:{port}/1");
    // Each tries for some seconds: the server may be starting just now.
    refused_by(&["status", "format", "mount -d"], &volume, &url, &[&format!("127.0.0.1:{port}")]);
    // What is not there may also be a socket.
    let socket = volume.dir().join("no.sock");
    refused_by(&["status"], &volume, &format!("unix://{}?db=1", socket.display()), &["no.sock"]);
}

#[test]
fn a_wrong_or_missing_password_is_named_and_not_shown() {
    let server = RedisServer::setup().password("the right one").start();
    let volume = Volume::unformatted_on(Meta::Sqlite);
    let port = server.port();
    refused(&volume, &format!("redis://:{PASSWORD}@127.0.0.1:{port}/1"), &["password"]);
    refused(&volume, &format!("redis://127.0.0.1:{port}/1"), &["password"]);
    assert!(server.wire(1).keys("*").is_empty());
}

#[test]
fn a_database_that_the_server_does_not_have_is_named() {
    let server = RedisServer::new();
    let volume = Volume::unformatted_on(Meta::Sqlite);
    let place = format!("redis://127.0.0.1:{}", server.port());
    refused(&volume, &format!("{place}/99"), &["99"]);
    refused(&volume, &format!("{place}/first"), &["first"]);
}

#[test]
fn an_option_that_cannot_be_is_named() {
    let server = RedisServer::new();
    let volume = Volume::unformatted_on(Meta::Sqlite);
    refused(&volume, &format!("{}?read-timeuot=3", server.url(1)), &["read-timeuot", "read-timeout"]);
}

#[test]
fn an_empty_database_is_no_volume() {
    let volume = Volume::unformatted_on(Meta::Redis);
    let url = volume.meta_url();
    let point = volume.dir().join("mnt").to_string_lossy().into_owned();
    for args in [vec!["status", &url], vec!["config", &url], vec!["mount", &url, &point]] {
        let finished = volume.juicefs(&args).expect_failure();
        assert!(finished.text().contains("format"), "no hint at format: {finished}");
    }
    assert!(!is_mounted(Path::new(&point)));
    assert!(!volume.has_metadata(), "looking at a database wrote into it");
}

/// A database with keys of somebody else is no place for a volume.
#[test]
fn a_volume_of_another_name_is_not_overwritten() {
    let volume = Volume::on(Meta::Redis, &["--trash-days", "0"]);
    let before = volume.redis().call(&["DEBUG", "DIGEST"]).text();
    let bucket = format!("{}/", volume.bucket().display());
    let finished =
        volume.juicefs(&["format", "--bucket", &bucket, &volume.meta_url(), "another-name"]).expect_failure();
    assert_readable(&finished, &["e2e-volume"]);
    assert_eq!(volume.redis().call(&["DEBUG", "DIGEST"]).text(), before);
}

/// Enough of a server to say that it is too old: RESP2 only, as those were.
fn old_server(version: &'static str) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            thread::spawn(move || {
                // The client hangs up when it has heard enough.
                let _ = answer(&stream, version);
            });
        }
    });
    port
}

fn answer(mut stream: &TcpStream, version: &str) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut words = Vec::new();
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        for _ in 0..line.trim().trim_start_matches('*').parse().unwrap_or(0) {
            let mut word = String::new();
            reader.read_line(&mut String::new())?;
            reader.read_line(&mut word)?;
            words.push(word.trim().to_uppercase());
        }
        let info = format!("# Server\r\nredis_version:{version}\r\nredis_mode:standalone\r\nrole:master\r\n");
        let reply = match words.first().map(String::as_str) {
            Some("INFO") => format!("${}\r\n{info}\r\n", info.len()),
            Some("PING") => "+PONG\r\n".to_owned(),
            Some("SELECT" | "AUTH") => "+OK\r\n".to_owned(),
            Some(other) => format!("-ERR unknown command '{other}'\r\n"),
            None => return Ok(()),
        };
        stream.write_all(reply.as_bytes())?;
    }
}

#[test]
fn a_server_that_is_too_old_is_refused() {
    let volume = Volume::unformatted_on(Meta::Sqlite);
    let port = old_server("3.2.12");
    refused(&volume, &format!("redis://127.0.0.1:{port}/1"), &["3.2.12", "4.0"]);
}

/// What everybody on the machine can read about a process and everything below it.
fn command_lines(pid: u32) -> String {
    let own = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let below: Vec<String> = children_of(pid).into_iter().map(command_lines).collect();
    format!("{}\n{}", String::from_utf8_lossy(&own).replace('\0', " "), below.concat())
}

#[test]
fn a_password_stays_out_of_logs_and_process_lists() {
    let server = RedisServer::setup().password(PASSWORD).start();
    let volume = Volume::on_server(server, &["--trash-days", "0"]);
    let url = volume.meta_url();
    assert!(url.contains(PASSWORD));
    let bare = url.trim_start_matches("redis://");
    for args in
        [vec!["status", "-v", &url], vec!["status", "-v", bare], vec!["config", "-v", &url, "--inodes", "9", "--yes"]]
    {
        let finished = volume.juicefs(&args).expect_success();
        assert!(!finished.text().contains(PASSWORD), "the password is shown: {finished}");
    }
    let mount = volume.mount_with("mnt", &["-v"]);
    fs::write(mount.join("file"), "x").unwrap();
    let lines = command_lines(mount.pid());
    assert!(lines.contains("mount"), "{lines}");
    assert!(!lines.contains(PASSWORD), "the password is in the list of processes: {lines}");
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!table.contains(PASSWORD));
    assert!(!mount.log().contains(PASSWORD), "the password is in the log: {}", mount.log());
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}

#[test]
fn a_password_may_come_from_the_environment_or_a_file() {
    let server = RedisServer::setup().password(PASSWORD).start();
    let port = server.port();
    let volume = Volume::on_server(server, &["--trash-days", "0"]);
    let url = format!("redis://127.0.0.1:{port}/1");
    let file = volume.dir().join("password");
    fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    let file = file.to_string_lossy().into_owned();
    for (name, value) in [("REDIS_PASSWORD", PASSWORD), ("META_PASSWORD", PASSWORD), ("META_PASSWORD_FILE", &file)] {
        let mut command = Command::new(juicefs());
        command.args(["status", &url]).env(name, value);
        let finished = run_within(command, Duration::from_secs(60)).expect_success();
        assert!(finished.stdout.contains("e2e-volume"), "{name}: {finished}");
    }
}

#[test]
fn format_config_and_status_keep_a_volume_on_redis() {
    let volume = Volume::on(Meta::Redis, &["--block-size", "1M", "--trash-days", "3", "--capacity", "10"]);
    let url = volume.meta_url();
    let status = |url: &str| -> serde_json::Value {
        let finished = volume.juicefs(&["status", url]).expect_success();
        serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("not JSON ({error}): {finished}"))
    };
    let first = status(&url);
    assert_eq!(first["Setting"]["BlockSize"], 1024);
    assert_eq!(first["Setting"]["TrashDays"], 3);
    // Once more changes what is given, and keeps the rest.
    volume.format(&["--trash-days", "0"]).expect_success();
    let second = status(&url);
    assert_eq!(second["Setting"]["UUID"], first["Setting"]["UUID"]);
    assert_eq!(second["Setting"]["BlockSize"], 1024);
    assert_eq!(second["Setting"]["TrashDays"], 0);
    volume.juicefs(&["config", &url, "--inodes", "1000", "--yes"]).expect_success();
    assert_eq!(status(&url)["Setting"]["Inodes"], 1000);
    // The scheme may be left out, and the number of another database is another place.
    let bare = url.trim_start_matches("redis://");
    assert_eq!(status(bare)["Setting"]["Name"], "e2e-volume");
    let other = format!("redis://127.0.0.1:{}/2", volume.server().port());
    assert!(volume.juicefs(&["status", &other]).expect_failure().text().contains("format"));
    let mount = volume.mount();
    assert_eq!(status(&url)["Sessions"][0]["MountPoint"], mount.path().to_string_lossy().into_owned());
    mount.unmount();
    assert_eq!(status(&url)["Sessions"], serde_json::json!([]));
}

#[test]
fn a_volume_is_mounted_through_a_socket() {
    let server = RedisServer::new();
    let volume = Volume::at(&server.unix_url(4), &["--trash-days", "0"]);
    let mount = volume.mount();
    fs::write(mount.join("file"), "through a socket").unwrap();
    mount.unmount();
    let mount = volume.mount();
    assert_eq!(fs::read(mount.join("file")).unwrap(), b"through a socket");
    mount.unmount();
    volume.assert_sound_in(&mut server.wire(4), "", Rest::Clean);
}

/// Redis may forget keys when its memory is full: a volume does not survive that. And without an append-only file, it
/// forgets what came after its last dump when it ends.
#[test]
fn a_server_that_may_forget_is_set_right_or_warned_about() {
    let server = RedisServer::start(&["--maxmemory-policy", "allkeys-lru"]);
    let volume = Volume::on_server(server, &["--trash-days", "0"]);
    let mount = volume.mount();
    let log = mount.log();
    assert!(log.contains("AOF") || log.contains("append"), "no word about the append-only file: {log}");
    mount.unmount();
    let policy = volume.redis().call(&["CONFIG", "GET", "maxmemory-policy"]).items().pop().unwrap().text();
    assert_eq!(policy, "noeviction");
}
