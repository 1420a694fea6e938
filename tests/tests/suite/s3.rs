//! Volumes with their objects on an S3 server.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use e2e::{Owner, Pattern, Rest, Volume, run_in};
use juicefs_testkit::s3::{ACCESS_KEY, EXPIRED_TOKEN, S3Server, SECRET_KEY};

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
