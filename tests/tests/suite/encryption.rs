//! Encrypted volumes: what a user needs for one, and that nothing lies in the store in the clear or damaged unseen.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use e2e::{Finished, Owner, Pattern, Volume, juicefs, run_within, workspace_root};

const PASSPHRASE: &str = "JFS_RSA_PASSPHRASE";
const RIGHT: &str = "correct-horse";
const MIB: usize = 1 << 20;

fn key(name: &str) -> String {
    workspace_root().join("crates/juicefs-chunk/tests/keys").join(name).to_str().unwrap().to_owned()
}

/// An encrypted volume without trash, with 1 MiB blocks.
fn encrypted(name: &str, flags: &[&str]) -> Volume {
    let mut volume = Volume::unformatted();
    volume.set_variable(PASSPHRASE, RIGHT);
    let key = key(name);
    let base = ["--trash-days", "0", "--block-size", "1M", "--encrypt-rsa-key", &key];
    volume.format(&[&base, flags].concat()).expect_success();
    volume
}

/// Tries to mount, which must fail.
fn refused_mount(volume: &Volume) -> Finished {
    let mut command = Command::new(juicefs());
    command.args(["mount", "--no-usage-report", &volume.meta_url()]).arg(volume.dir().join("mnt"));
    command.envs(volume.variables().iter().cloned());
    run_within(command, Duration::from_secs(60)).expect_failure()
}

fn assert_says(finished: &Finished, about: &str) {
    let harmless = |line: &str| line.contains("<INFO>") || line.contains("AOF is not enabled");
    let trouble: Vec<&str> = finished.stderr.lines().filter(|line| !harmless(line)).collect();
    assert_eq!(trouble.len(), 1, "one sentence: {finished}");
    assert!(finished.stderr.contains(about), "the message does not say {about:?}: {finished}");
}

fn all_objects(volume: &Volume) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = volume.objects().into_iter().map(|(path, _)| path).collect();
    found.push(volume.bucket().join("e2e-volume/juicefs_uuid"));
    found
}

#[test]
fn a_key_that_cannot_be_used_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("notes.txt");
    fs::write(&text, "no key in here\n").unwrap();
    let text = text.to_str().unwrap().to_owned();
    let cases: [(String, &str, &[&str], &str); 12] = [
        (key("dek-aes256.pem"), "", &[], "set JFS_RSA_PASSPHRASE"),
        (key("pbes2-aes256.pem"), "", &[], "set JFS_RSA_PASSPHRASE"),
        (key("dek-aes256.pem"), "wrong", &[], "the passphrase given is not that of the private key"),
        (key("pbes2-aes256.pem"), "wrong", &[], "the passphrase given is not that of the private key"),
        (key("small.pem"), "", &[], "1024 bits"),
        (key("ec.pem"), "", &[], "EC PRIVATE KEY"),
        (key("public.pem"), "", &[], "PUBLIC KEY"),
        (text, "", &[], "there is no PEM block"),
        ("/no/such/key.pem".into(), "", &[], "No such file"),
        (key("sm2-pbes2-sm4-sm3.pem"), "", &[], "set JFS_RSA_PASSPHRASE"),
        (key("sm2-pbes-gmt.pem"), "wrong", &[], "the passphrase given is not that of the private key"),
        (key("sm2-sec1.pem"), "", &[], "the SM2 key is not in PKCS#8"),
    ];
    for (path, passphrase, flags, about) in cases {
        let mut volume = Volume::unformatted();
        volume.set_variable(PASSPHRASE, passphrase);
        let finished = volume.format(&[&["--encrypt-rsa-key", &path], flags].concat()).expect_failure();
        assert_says(&finished, about);
        assert!(finished.stderr.contains(&path), "the message does not name the file: {finished}");
        assert!(!volume.has_metadata(), "metadata were written");
        assert_eq!(fs::read_dir(volume.bucket()).unwrap().count(), 0, "objects were written");
    }
}

#[test]
fn nothing_lies_in_the_store_in_the_clear() {
    let forms: [(&str, &[&str]); 6] = [
        ("pkcs1.pem", &[]),
        ("dek-des3.pem", &["--encrypt-algo", "chacha20-rsa", "--compress", "zstd"]),
        ("pbes2-scrypt.pem", &["--encrypt-algo", "aes256gcm-rsa", "--compress", "lz4", "--hash-prefix"]),
        ("sm2.pem", &["--encrypt-algo", "sm4gcm"]),
        ("sm2-pbes-gmt.pem", &["--encrypt-algo", "aes256gcm-rsa", "--compress", "lz4"]),
        ("pbes2-sm4.pem", &["--encrypt-algo", "sm4gcm", "--compress", "zstd"]),
    ];
    for (name, flags) in forms {
        let volume = encrypted(name, flags);
        let text = b"a text that would be recognised anywhere ".repeat(100_000);
        let data = Pattern::of(Owner { run: 95, file: 1, version: 1 }).bytes(3 * MIB + 17);
        let mount = volume.mount();
        fs::write(mount.join("text"), &text).unwrap();
        fs::write(mount.join("data"), &data).unwrap();
        fs::write(mount.join("short"), "x").unwrap();
        mount.unmount();
        let status = volume.juicefs(&["status", &volume.meta_url()]).expect_success();
        let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
        assert_eq!(status["Setting"]["EncryptKey"], "removed");
        assert_eq!(status["Setting"]["KeyEncrypted"], true);
        let uuid = status["Setting"]["UUID"].as_str().unwrap().as_bytes();
        assert!(all_objects(&volume).len() > 8);
        for object in all_objects(&volume) {
            let body = fs::read(&object).unwrap();
            let wrapped = u16::from_be_bytes([body[0], body[1]]);
            let good = if name.starts_with("sm2") { 100..=141 } else { 256..=256 };
            assert!(good.contains(&wrapped) && body[2] == 12, "{} is not encrypted", object.display());
            for clear in [&text[..16], &uuid[..16]] {
                assert!(!body.windows(16).any(|part| part == clear), "{} is in the clear", object.display());
            }
        }
        let mount = volume.mount_with("mnt", &["--cache-size", "0", "--check-storage"]);
        assert!(fs::read(mount.join("text")).unwrap() == text);
        assert!(fs::read(mount.join("data")).unwrap() == data);
        assert_eq!(fs::read(mount.join("short")).unwrap(), b"x");
        let shown = fs::read_to_string(mount.join(".config")).unwrap();
        assert!(shown.contains("\"EncryptKey\": \"removed\"") && !shown.contains("BEGIN"), "{shown}");
        mount.unmount();
    }
}

#[test]
fn the_passphrase_is_needed_where_data_are_touched() {
    let mut volume = encrypted("dek-aes192.pem", &[]);
    let elsewhere = format!("{}/elsewhere/", volume.dir().display());
    let meta = volume.meta_url();
    for (given, about) in [("", "set JFS_RSA_PASSPHRASE"), ("wrong", "JFS_RSA_PASSPHRASE must hold it")] {
        volume.set_variable(PASSPHRASE, given);
        assert_says(&refused_mount(&volume), about);
        assert_says(&volume.juicefs(&["config", &meta, "--bucket", &elsewhere]).expect_failure(), about);
        assert!(!Path::new(&elsewhere).exists(), "written without the key");
    }
    volume.juicefs(&["config", &meta, "--trash-days", "2", "--yes"]).expect_success();
    volume.juicefs(&["status", &meta]).expect_success();
    volume.set_variable(PASSPHRASE, RIGHT);
    volume.juicefs(&["config", &meta, "--bucket", &elsewhere]).expect_success();
}

#[test]
fn the_key_of_a_volume_never_changes() {
    let volume = encrypted("pkcs1.pem", &[]);
    let mount = volume.mount();
    fs::write(mount.join("file"), "content").unwrap();
    mount.unmount();
    let other = key("dek-aes128.pem");
    let again = volume.format(&["--encrypt-rsa-key", &other, "--encrypt-algo", "chacha20-rsa"]).expect_success();
    for flag in ["--encrypt-rsa-key is ignored", "--encrypt-algo is ignored"] {
        assert!(again.stderr.contains(flag), "{again}");
    }
    let mount = volume.mount();
    assert_eq!(fs::read(mount.join("file")).unwrap(), b"content");
    mount.unmount();
}

#[test]
fn a_damaged_object_is_an_error_and_not_data() {
    let volume = encrypted("pkcs8.pem", &["--encrypt-algo", "chacha20-rsa"]);
    let mount = volume.mount();
    fs::write(mount.join("file"), Pattern::of(Owner { run: 96, file: 1, version: 1 }).bytes(MIB)).unwrap();
    mount.unmount();
    let [(object, size)] = &volume.objects()[..] else { panic!("one block") };
    let whole = fs::read(object).unwrap();
    assert_eq!(*size as usize, MIB + 3 + 256 + 12 + 16);
    // Lengths, wrapped key, nonce, content, tag.
    for at in [0, 1, 2, 3, 200, 258, 260, 271, 5000, MIB, whole.len() - 1] {
        let mut body = whole.clone();
        body[at] ^= 0x10;
        fs::write(object, body).unwrap();
        let mount = volume.mount_with("mnt", &["--cache-size", "0"]);
        let failed = fs::read(mount.join("file")).expect_err("damaged");
        assert_eq!(failed.raw_os_error(), Some(libc::EIO), "byte {at}");
        assert!(mount.log().contains("corrupt block"), "byte {at}: {}", mount.log());
        mount.unmount();
    }
    fs::write(object, &whole).unwrap();
    let mount = volume.mount_with("mnt", &["--cache-size", "0"]);
    assert!(fs::read(mount.join("file")).unwrap() == Pattern::of(Owner { run: 96, file: 1, version: 1 }).bytes(MIB));
    mount.unmount();
}
