//! Volumes written by JuiceFS (Go) 1.0–1.4 show exactly what their manifests say.

use e2e::{GoldenVolume, verify};

fn check(name: &str) {
    let volume = GoldenVolume::unpack(name);
    let mount = volume.mount();
    let verdict = verify(&volume.manifest(), mount.path()).expect_success();
    println!("{name}: {}", verdict.stderr.trim());
    mount.unmount();
}

macro_rules! golden {
    ($($test:ident: $name:literal,)*) => {
        $(#[test]
        fn $test() {
            check($name);
        })*
    };
}

golden! {
    plain: "sqlite-plain",
    lz4: "sqlite-lz4",
    zstd: "sqlite-zstd",
    aes: "sqlite-aes",
    chacha20_over_lz4: "sqlite-chacha",
    trash: "sqlite-trash",
    block64k: "sqlite-block64k",
    hashprefix_and_shards: "sqlite-hashprefix",
    plain_of_1_0: "sqlite-plain-v1.0",
    plain_of_1_1: "sqlite-plain-v1.1",
    plain_of_1_2: "sqlite-plain-v1.2",
    plain_of_1_3: "sqlite-plain-v1.3",
}

/// A read-only mount changes nothing: the next one sees the same, and writing is refused.
#[test]
fn a_read_only_mount_leaves_no_trace() {
    let volume = GoldenVolume::unpack("sqlite-plain");
    let mount = volume.mount();
    let refused = std::fs::write(mount.join("new"), "x").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    mount.unmount();
    let mount = volume.mount();
    verify(&volume.manifest(), mount.path()).expect_success();
}
