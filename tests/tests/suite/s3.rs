//! Volumes with their objects on an S3 server.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use e2e::{Owner, Pattern, Rest, Volume, run_in};
use juicefs_testkit::{
    fault_proxy::http::{HttpFault, HttpProxy},
    s3::{ACCESS_KEY, EXPIRED_TOKEN, S3Server, SECRET_KEY},
};

fn data(file: u64, length: usize) -> Vec<u8> {
    Pattern::of(Owner { run: 95, file, version: 1 }).bytes(length)
}

#[test]
fn files_are_there_for_another_mount_and_gone_when_removed() {
    for flags in [&["--trash-days", "0"][..], &["--trash-days", "0", "--compress", "zstd", "--block-size", "1M"]] {
        let volume = Volume::with_objects_on_s3(flags);
        let mount = volume.mount();
        for (file, length) in [(0, 1), (1, 100_000), (2, 20_000_000), (3, 4 << 20)] {
            fs::write(mount.join(format!("f{file}")), data(file, length)).unwrap();
        }
        run_in(mount.path(), "cp -r /etc/ssl copy && tar cf all.tar copy && mv all.tar copy/").expect_success();
        mount.unmount();
        volume.assert_sound(Rest::Clean);
        let mount = volume.mount_with("second", &["--cache-size", "0"]);
        for (file, length) in [(0, 1), (1, 100_000), (2, 20_000_000), (3, 4 << 20)] {
            assert!(fs::read(mount.join(format!("f{file}"))).unwrap() == data(file, length), "{file} {flags:?}");
        }
        run_in(mount.path(), "diff -r /etc/ssl copy --exclude all.tar && rm -r copy f*").expect_success();
        let begun = Instant::now();
        while !volume.objects().is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(20), "objects stay: {:?}", volume.objects());
            thread::sleep(Duration::from_millis(50));
        }
        mount.unmount();
    }
}

/// Formatting is refused soon, in one line that has `about`, and leaves nothing.
fn refused(volume: &Volume, flags: &[&str], about: &str) {
    let begun = Instant::now();
    let finished = volume.format(flags).expect_failure();
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?} until: {finished}", begun.elapsed());
    assert!(finished.stderr.contains(about), "not about {about:?}: {finished}");
    assert!(!finished.text().contains(SECRET_KEY) && !finished.text().contains("panicked"), "{finished}");
    assert!(!volume.bucket().join("e2e-volume").exists());
}

#[test]
fn format_says_what_is_wrong_with_the_storage() {
    let volume = Volume::unformatted_on_s3();
    refused(&volume, &["--access-key", "nobody"], "--access-key");
    refused(&volume, &["--secret-key", "wrong"], "--secret-key");
    refused(&volume, &["--session-token", EXPIRED_TOKEN], "session token");
    refused(&volume, &["--storage", "ceph"], "\"ceph\" is not supported");
    refused(&volume, &["--storage", "nonsense"], "\"nonsense\" is not known; supported are: file, mem, s3");
    refused(&volume, &["--bucket", "http://127.0.0.1:1/bucket"], "cannot be reached");
    refused(&volume, &["--bucket", "http://127.0.0.1:1"], "http://HOST:PORT/BUCKET");
    assert!(!volume.bucket().exists(), "a bucket was made");
    // The third of three tries finds the server.
    volume.object_server().kill();
    let finished = thread::scope(|scope| {
        let formatting = scope.spawn(|| volume.format(&[]));
        thread::sleep(Duration::from_millis(2500));
        volume.object_server().restart();
        formatting.join().unwrap()
    });
    let text = finished.expect_success().text();
    assert!(text.contains("try 1 of 3") && text.contains("try 2 of 3") && !text.contains("try 3 of 3"), "{text}");
}

#[test]
fn a_place_in_use_is_refused() {
    let volume = Volume::with_objects_on_s3(&[]);
    let server: &S3Server = volume.object_server();
    let meta = format!("sqlite3://{}/other.db", volume.dir().display());
    let bucket = server.bucket_url("objects");
    let keys = ["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY];
    let format = |name: &str| {
        let place = ["format", "--storage", "s3", "--bucket", &bucket, &meta, name];
        volume.juicefs(&[&place[..], &keys[..]].concat())
    };
    let finished = format("e2e-volume").expect_failure();
    assert!(finished.stderr.contains("is not empty (it holds juicefs_uuid)"), "{finished}");
    format("another").expect_success();
}

#[test]
fn bandwidth_of_a_mount_is_limited() {
    let volume = Volume::with_objects_on_s3(&["--trash-days", "0"]);
    // 8.5 MB/s of bodies.
    let mount = volume.mount_with("mnt", &["--upload-limit", "80", "--cache-size", "0"]);
    let begun = Instant::now();
    run_in(mount.path(), "dd if=/dev/zero of=f bs=1M count=40 conv=fsync status=none").expect_success();
    let seconds = begun.elapsed().as_secs_f64();
    assert!((4.0..12.0).contains(&seconds), "40 MiB in {seconds:.1} s instead of 4.9 s");
    mount.unmount();
}

#[test]
fn writers_wait_for_a_server_that_is_away() {
    let volume = Volume::with_objects_on_s3(&["--trash-days", "0"]);
    let mount = volume.mount();
    fs::write(mount.join("before"), data(1, 3_000_000)).unwrap();
    volume.object_server().kill();
    thread::scope(|scope| {
        let writing = scope.spawn(|| fs::write(mount.join("during"), data(2, 9_000_000)));
        thread::sleep(Duration::from_secs(3));
        assert!(!writing.is_finished(), "close came back before the objects were stored");
        volume.object_server().restart();
        writing.join().unwrap().unwrap();
    });
    mount.unmount();
    volume.assert_sound(Rest::Clean);
    let mount = volume.mount_with("second", &[]);
    assert!(fs::read(mount.join("before")).unwrap() == data(1, 3_000_000));
    assert!(fs::read(mount.join("during")).unwrap() == data(2, 9_000_000));
    mount.unmount();
}

/// Keys of objects below a directory of a server.
fn keys_below(dir: &Path) -> Vec<String> {
    let found = run_in(dir, "find . -type f -path '*/chunks/*' -printf '%P\n'").expect_success().stdout;
    found.lines().map(str::to_owned).collect()
}

#[test]
fn shards_and_hash_prefixes_decide_where_objects_are() {
    let volume = Volume::unformatted_on_s3();
    let server = volume.object_server();
    let buckets = server.bucket_url("shard-%d");
    volume.format(&["--shards", "3", "--hash-prefix", "--block-size", "64K", "--bucket", &buckets]).expect_success();
    let mount = volume.mount();
    fs::write(mount.join("file"), data(1, 2_000_000)).unwrap();
    mount.unmount();
    let mut blocks = 0;
    for shard in 0..3 {
        let keys = keys_below(&server.bucket_dir(&format!("shard-{shard}")));
        assert!(keys.len() >= 3, "shard {shard} has {keys:?}");
        for key in &keys {
            let parts: Vec<&str> = key.split('/').collect();
            // e2e-volume/chunks/HEX/ID/...
            let (hex, slice) = (parts[2], parts[4].split('_').next().unwrap().parse::<u64>().unwrap());
            assert_eq!(hex, format!("{:02X}", slice % 256), "{key}");
        }
        blocks += keys.len();
    }
    assert_eq!(blocks, 31);
    let mount = volume.mount_with("second", &["--cache-size", "0"]);
    assert!(fs::read(mount.join("file")).unwrap() == data(1, 2_000_000));
    mount.unmount();
    let finished = volume.format(&["--shards", "2", "--bucket", &server.bucket_url("shard-%d")]).expect_failure();
    assert!(finished.stderr.contains("shards"), "{finished}");
}

#[test]
fn a_storage_class_goes_with_every_object() {
    let volume = Volume::unformatted_on_s3();
    refused(&volume, &["--storage-class", "NO_SUCH_CLASS"], "InvalidStorageClass");
    volume.format(&["--trash-days", "0", "--storage-class", "REDUCED_REDUNDANCY"]).expect_success();
    let mount = volume.mount();
    fs::write(mount.join("good"), "x").unwrap();
    mount.unmount();
    // That of the client comes before that of the volume: the server refuses it.
    let mount = volume.mount_with("second", &["--storage-class", "NO_SUCH_CLASS"]);
    let mut file = File::create(mount.join("bad")).unwrap();
    file.write_all(b"x").unwrap();
    assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(libc::EIO));
    assert!(mount.log().contains("InvalidStorageClass"), "{}", mount.log());
    drop(file);
    mount.unmount();
}

#[test]
fn a_server_with_a_certificate_of_its_own_authority_is_trusted_by_name() {
    let volume = Volume::unformatted();
    let server = S3Server::start_with_tls();
    let tls = server.tls().unwrap();
    let (plain, meta) = (server.bucket_url("bkt"), volume.meta_url());
    let trusting = format!("{plain}?{}", tls.bucket_options());
    let format = |bucket: &str| {
        let place = ["format", "--storage", "s3", "--bucket", bucket, &meta, "e2e-volume"];
        volume.juicefs(&[&place[..], &["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]].concat())
    };
    let finished = format(&plain).expect_failure();
    assert!(finished.stderr.contains("ca-certs in --bucket names its authority"), "{finished}");
    // Nor is TLS spoken to where nobody asked for it.
    let finished = format(&plain.replace("https://", "http://")).expect_failure();
    assert!(finished.stderr.contains("object storage") || finished.stderr.contains("object store"), "{finished}");
    format(&trusting).expect_success();
    let mount = volume.mount();
    fs::write(mount.join("file"), data(1, 5_000_000)).unwrap();
    mount.unmount();
    let mount = volume.mount_with("second", &["--cache-size", "0"]);
    assert!(fs::read(mount.join("file")).unwrap() == data(1, 5_000_000));
    mount.unmount();
    assert_eq!(keys_below(&server.bucket_dir("bkt")).len(), 2);
}

#[test]
fn retries_and_timeouts_are_those_of_the_flags() {
    let volume = Volume::with_objects_on_s3(&["--trash-days", "0"]);
    let proxy = HttpProxy::start(volume.object_server().port(), 1);
    let bucket = proxy.bucket_url("objects");
    let base = ["--bucket", bucket.as_str(), "--cache-size", "0"];
    // No second try.
    let mount = volume.mount_with("none", &[&base[..], &["--io-retries", "0"]].concat());
    let mut file = File::create(mount.join("file")).unwrap();
    file.write_all(b"content").unwrap();
    proxy.fail_next("PUT", HttpFault::Refused(503, "SlowDown"));
    assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(libc::EIO));
    file.sync_all().unwrap();
    drop(file);
    assert!(mount.log().contains("failed after 1 tries"), "{}", mount.log());
    mount.unmount();
    // One is enough. A request without an answer ends long before the 60 seconds that are usual.
    let flags = ["--io-retries", "1", "--get-timeout", "1s", "--put-timeout", "1s"];
    let mount = volume.mount_with("short", &[&base[..], &flags].concat());
    let begun = Instant::now();
    proxy.fail_next("PUT", HttpFault::Hung);
    fs::write(mount.join("second"), "content").unwrap();
    proxy.fail_next("GET", HttpFault::Hung);
    assert_eq!(fs::read(mount.join("file")).unwrap(), b"content");
    assert!(begun.elapsed() < Duration::from_secs(45), "{:?}", begun.elapsed());
    assert_eq!(proxy.counts().hung, 2, "{:?}", proxy.counts());
    mount.unmount();
}
