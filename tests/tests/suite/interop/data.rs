//! Objects in every form, and the attributes of files: what one client wrote the other one reads.

use std::path::{Path, PathBuf};

use e2e::{GoldenVolume, Volume, juicefs, run_in, verify, workspace_root};

use super::{GoMount, fill, manifest, run_go};

/// Golden volumes whose objects are not plain.
const GOLDEN: [&str; 6] =
    ["sqlite-lz4", "sqlite-zstd", "sqlite-aes", "sqlite-chacha", "sqlite-hashprefix", "sqlite-block64k"];

fn encrypted(key: &str, flags: &[&str]) -> Volume {
    let mut volume = Volume::unformatted();
    volume.set_variable("JFS_RSA_PASSPHRASE", "correct-horse");
    let key = workspace_root().join("crates/juicefs-chunk/tests/keys").join(key);
    let key = ["--encrypt-rsa-key", key.to_str().unwrap(), "--trash-days", "0"];
    volume.format(&[&key, flags].concat()).expect_success();
    volume
}

/// Volumes in every form that objects have, with what they are called.
fn volumes() -> Vec<(&'static str, Volume)> {
    let plain = |flags: &[&str]| Volume::with(&[&["--trash-days", "0"], flags].concat());
    let on_s3 = |flags: &[&str]| Volume::with_objects_on_s3(&[&["--trash-days", "0"], flags].concat());
    vec![
        ("plain", plain(&[])),
        ("lz4, small blocks, trash", Volume::with(&["--trash-days", "1", "--block-size", "64K", "--compress", "lz4"])),
        ("zstd", plain(&["--block-size", "1M", "--compress", "zstd"])),
        ("hash prefix", plain(&["--hash-prefix", "--block-size", "1M"])),
        ("aes", encrypted("dek-aes128.pem", &["--block-size", "256K"])),
        ("aes over zstd", encrypted("pbes2-aes256.pem", &["--compress", "zstd", "--hash-prefix"])),
        ("chacha over lz4", encrypted("pbes2-aes256.pem", &["--encrypt-algo", "chacha20-rsa", "--compress", "lz4"])),
        ("on S3", on_s3(&[])),
        ("on S3, lz4, hash prefix", on_s3(&["--compress", "lz4", "--hash-prefix"])),
    ]
}

/// Where a volume is, for commands and mounts of the Go client.
struct Place<'a> {
    meta_url: String,
    dir: &'a Path,
    variables: Vec<(String, String)>,
}

impl Place<'_> {
    /// The Go client shows what the manifest says, and finds nothing wrong with the objects.
    fn check_with_go(&self, wanted: &Path, name: &str) {
        let flags = ["--read-only", "--no-bgjob", "--enable-cap", "--free-space-ratio", "0.001"];
        let cache = self.dir.join("cache-go-reads");
        let other = GoMount::start_at(&self.meta_url, self.dir, &cache, &flags, &self.variables);
        // Only blocks in its disk cache does that client decompress with zstd without damage (spec/go-facts.md).
        run_go(&["warmup", other.point.to_str().unwrap()], &self.variables).expect_success();
        let verdict = verify(wanted, &other.point);
        assert!(verdict.success(), "{name}: {verdict}");
        other.unmount();
        let fsck = run_go(&["fsck", &self.meta_url], &self.variables);
        assert!(fsck.success(), "{name}: {fsck}");
    }

    fn go_mount(&self) -> GoMount {
        let cache = self.dir.join("cache-go");
        GoMount::start_at(&self.meta_url, self.dir, &cache, &["--enable-cap"], &self.variables)
    }

    fn manifest_of(&self, root: &Path, name: &str) -> PathBuf {
        manifest(root, &self.dir.join(name))
    }
}

fn place(volume: &Volume) -> Place<'_> {
    Place { meta_url: volume.meta_url(), dir: volume.dir(), variables: volume.variables().to_vec() }
}

/// Overwrites, cuts and extends files that are there, whoever wrote them.
fn change(root: &Path) {
    let script = "find . -path ./.trash -prune -o -type f -size +4k -size -50M -print0 | sort -z | head -z -n 60 > /tmp/jfs-interop-$$;
        n=0; while IFS= read -r -d '' file; do n=$((n + 1));
            dd if=/dev/urandom of=\"$file\" bs=1000 count=3 seek=$((n % 4)) conv=notrunc status=none || continue;
            case $((n % 4)) in
                0) truncate -s -1777 \"$file\" ;;
                1) truncate -s +200000 \"$file\"; printf end >> \"$file\" ;;
                2) truncate -s 1500 \"$file\"; truncate -s 90000 \"$file\" ;;
                3) printf more >> \"$file\" ;;
            esac || true;
        done < /tmp/jfs-interop-$$ 2> /dev/null; rm /tmp/jfs-interop-$$; [ $n -gt 0 ]";
    run_in(root, script).expect_success();
}

#[test]
#[ignore = "needs the Go client in JUICEFS_GO"]
fn what_we_write_the_go_client_reads() {
    for (name, volume) in volumes() {
        let (mount, place) = (volume.mount(), place(&volume));
        fill(mount.path());
        change(mount.path());
        let wanted = place.manifest_of(mount.path(), "ours.json");
        mount.unmount();
        place.check_with_go(&wanted, name);
    }
}

#[test]
#[ignore = "needs the Go client in JUICEFS_GO"]
fn what_the_go_client_writes_we_read_and_change() {
    for (name, volume) in volumes() {
        let place = place(&volume);
        let other = place.go_mount();
        fill(&other.point);
        let wanted = place.manifest_of(&other.point, "theirs.json");
        other.unmount();
        let mount = volume.mount_with("mnt", &["--read-only", "--no-bgjob", "--enable-xattr", "--enable-ioctl"]);
        // Of zstd the manifest itself may be wrong: what it says was read by that client.
        let verdict = verify(&wanted, mount.path());
        assert!(name.contains("zstd") || verdict.success(), "{name}: {verdict}");
        mount.unmount();
        let mount = volume.mount();
        change(mount.path());
        let wanted = place.manifest_of(mount.path(), "changed.json");
        mount.unmount();
        place.check_with_go(&wanted, name);
    }
}

/// Volumes that JuiceFS (Go) wrote long ago: we read them, change files and add some, and it reads all of that.
#[test]
#[ignore = "needs the Go client in JUICEFS_GO"]
fn golden_volumes_that_we_change_are_read_by_the_go_client() {
    for name in GOLDEN {
        let golden = GoldenVolume::unpack(name);
        let place = Place { meta_url: golden.meta_url(), dir: golden.dir(), variables: golden.variables() };
        let mount = golden.mount_with(&["--enable-xattr", "--enable-ioctl", "--enable-cap"]);
        let verdict = verify(&golden.manifest(), mount.path());
        assert!(verdict.success(), "{name}: {verdict}");
        change(mount.path());
        std::fs::create_dir(mount.join("ours")).unwrap();
        fill(&mount.join("ours"));
        let wanted = place.manifest_of(mount.path(), "changed.json");
        mount.unmount();
        // For commands without a flag for it.
        let moved = ["config", &place.meta_url, "--bucket", golden.bucket(), "--yes"];
        let mut command = std::process::Command::new(juicefs());
        command.args(moved).envs(place.variables.iter().cloned());
        e2e::run_within(command, std::time::Duration::from_secs(60)).expect_success();
        place.check_with_go(&wanted, name);
    }
}

/// ACLs that one client set are those that the other one shows, and pass them on.
#[test]
#[ignore = "needs the Go client in JUICEFS_GO"]
fn acls_are_those_of_the_other_client() {
    let first =
        "mkdir top; setfacl -m u:1001:rwx,g:1002:r-x top; setfacl -d -m u:1001:rw,g:1002:r,o::- top; touch top/f;
        mkdir top/d; chmod 750 top/d; setfacl -m u:4000000000:r top/f; touch plain; setfacl -b top/d";
    let second =
        "touch top/g; mkdir top/d/e top/h; touch top/h/i; chmod g-w top/f; setfacl -x u:1001 top/f; setfacl -k top/h;
        setfacl -m u:1003:rw,m::r plain; cp -a top copied";
    for ours_first in [true, false] {
        let volume = Volume::with(&["--trash-days", "0", "--enable-acl"]);
        let place = place(&volume);
        for (ours, script) in [(ours_first, first), (!ours_first, second)] {
            if ours {
                let mount = volume.mount();
                run_in(mount.path(), script).expect_success();
                let wanted = place.manifest_of(mount.path(), "acl.json");
                mount.unmount();
                place.check_with_go(&wanted, "ACLs that we set");
            } else {
                let other = place.go_mount();
                run_in(&other.point, script).expect_success();
                let wanted = place.manifest_of(&other.point, "acl.json");
                other.unmount();
                let mount = volume.mount();
                verify(&wanted, mount.path()).expect_success();
                mount.unmount();
            }
        }
    }
}
