use super::*;

#[test]
fn a_killed_server_comes_back_with_what_it_stored() {
    let server = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    assert_eq!(server.cli(&["-n", "3", "SET", "key", "value"]), "OK");
    let (pid, port) = (server.pid(), server.port());
    server.kill();
    server.restart();
    assert_ne!(server.pid(), pid);
    assert_eq!(server.port(), port);
    assert_eq!(server.wire(3).call(&["GET", "key"]), Reply::Bulk(b"value".to_vec()));
    assert_eq!(server.url(3), format!("redis://127.0.0.1:{port}/3"));
}

#[test]
fn a_dump_file_is_loaded_from_a_copy() {
    let first = RedisServer::new();
    first.cli(&["SET", "key", "value"]);
    first.cli(&["SAVE"]);
    let second = RedisServer::with_rdb(&first.dir().join("dump.rdb"));
    assert_eq!(second.cli(&["GET", "key"]), "value");
    assert_eq!(second.wire(0).keys("*"), [b"key"]);
}

#[test]
fn the_process_ends_with_its_owner() {
    let server = RedisServer::new();
    let process = PathBuf::from(format!("/proc/{}", server.pid()));
    let dir = server.dir().to_owned();
    assert!(process.exists() && dir.exists());
    drop(server);
    assert!(!process.exists() && !dir.exists());
}

#[test]
fn a_frozen_server_answers_once_it_goes_on() {
    let server = RedisServer::new();
    server.stop();
    let asking = thread::spawn({
        let mut wire = server.wire(0);
        move || wire.call(&["PING"])
    });
    thread::sleep(Duration::from_millis(50));
    assert!(!asking.is_finished());
    server.cont();
    assert_eq!(asking.join().expect("an answer"), Reply::Status("PONG".to_owned()));
}

#[test]
fn passwords_and_tls_are_asked_for() {
    let server = RedisServer::setup().password("secret").tls().start();
    assert_eq!(server.cli(&["PING"]), "PONG");
    assert!(server.url(0).starts_with(&format!("rediss://:secret@127.0.0.1:{}/0?tls-ca-cert-file=", server.port())));
    let tls = server.tls().expect("certificates");
    let output = Command::new("redis-cli")
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &server.port().to_string(),
            "--tls",
            "--no-auth-warning",
            "-a",
            "secret",
            "--cacert",
        ])
        .arg(&tls.ca)
        .arg("--cert")
        .arg(&tls.client_cert)
        .arg("--key")
        .arg(&tls.client_key)
        .arg("PING")
        .output()
        .expect("run redis-cli");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "PONG\n");
}

#[test]
fn sentinels_name_a_successor() {
    let sentinels = RedisSentinels::default();
    let old = sentinels.master().port();
    assert!(sentinels.url(2).starts_with("redis://mymaster,127.0.0.1:"));
    sentinels.master().cli(&["SET", "key", "value"]);
    assert_eq!(sentinels.master().wire(0).call(&["WAIT", "1", "5000"]).int(), 1);
    sentinels.kill_master();
    sentinels.wait_for_successor(old);
    assert_eq!(sentinels.master().cli(&["GET", "key"]), "value");
}

#[test]
fn a_slot_moves_with_its_keys() {
    let cluster = RedisCluster::default();
    let slot = cluster.slot_of("{1}setting");
    assert_eq!(slot, cluster.slot_of("{1}i1"));
    let from = cluster.owner(slot);
    let to = (from + 1) % 3;
    cluster.nodes()[from].cli(&["SET", "{1}i1", "value"]);
    let moving = cluster.begin_move(slot, to);
    assert!(cluster.nodes()[from].cli(&["GET", "{1}other"]).starts_with("ASK "));
    moving.finish();
    assert_eq!(cluster.owner(slot), to);
    assert_eq!(cluster.nodes()[to].cli(&["GET", "{1}i1"]), "value");
    assert!(cluster.nodes()[from].cli(&["GET", "{1}i1"]).starts_with("MOVED "));
    cluster.move_slot(slot, from);
    assert_eq!(cluster.owner(slot), from);
}
