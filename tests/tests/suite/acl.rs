//! POSIX ACLs act as on a local file system, and last.

use std::{fs, path::Path, time::Duration};

use e2e::{GoldenVolume, Rest, Volume, run, run_in, verify, wait_until};

/// What a user does with ACLs.
const STEPS: &str = r"
umask 022
mkdir team private
setfacl -m u:1001:rwx,g:1002:r-x,m::rwx team
setfacl -d -m u:1001:rw-,g:1002:r--,o::--- team
mkdir team/sub team/sub/deeper
touch team/file team/sub/file
mkfifo team/sub/fifo
ln -s file team/link
chmod 750 team/sub
chmod 604 team/file
setfacl -m u:1003:r-- team/sub/file
chmod g+w team/sub/file
setfacl -x u:1001 team/sub/deeper
setfacl -b team/sub/fifo
cp -p team/sub/file copied
setfacl -m u:1001:r-- private
setfacl -m m::--- private
setfacl -d -m u::rwx,g::r-x,o::r-x private
umask 077
mkdir private/wide
touch private/wide/file
setfacl -k team/sub/deeper
chown 1004:1005 team/sub/file
mv team/sub/deeper moved
ln team/file linked
setfacl -m u:1006:rw linked
install -d -m 2775 -g 1002 shared
setfacl -d -m g::rwx shared
mkdir shared/below
touch shared/below/file
";

/// Steps by somebody else: the exit code of each is compared.
const TRIES: &[(u32, &str)] = &[
    (1001, "ls team"),
    (1001, "touch team/new"),
    (1001, "cat team/sub/file"),
    (1002, "ls team"),
    (1002, "touch team/other"),
    (1003, "ls team"),
    (1003, "cat linked"),
    (1006, "cat linked"),
    (1006, "sh -c 'echo x >> linked'"),
    (1001, "ls private"),
    (1004, "setfacl -m u:1007:r team/sub/file"),
    (1007, "setfacl -m u:1007:rwx linked"),
    (1005, "cat copied"),
];

fn tree(dir: &Path) -> String {
    run_in(dir, "find . ! -type l -print0 | sort -z | xargs -0 getfacl -n && find . -printf '%p %m %U %G\\n' | sort")
        .expect_success()
        .stdout
}

fn as_user(dir: &Path, uid: u32, step: &str) -> bool {
    let id = format!("setpriv --reuid={uid} --regid={uid} --clear-groups {step}");
    run_in(dir, &id).success()
}

/// The same steps on a local file system and on a mount make equal trees, with equal rights.
#[test]
fn rules_act_as_on_a_local_file_system() {
    let volume = Volume::with(&["--enable-acl", "--trash-days", "0"]);
    let mount = volume.mount();
    let local = volume.dir().join("local");
    fs::create_dir(&local).unwrap();
    run("mount", ["-t", "tmpfs", "-o", "mode=755", "tmpfs", &local.to_string_lossy()]).expect_success();
    let ours = mount.join("tree");
    let theirs = local.join("tree");
    for dir in [&ours, &theirs] {
        fs::create_dir(dir).unwrap();
        run("chmod", ["755", &dir.to_string_lossy()]).expect_success();
        run_in(dir, STEPS).expect_success();
    }
    let same = |when: &str| {
        let (got, wanted) = (tree(&ours), tree(&theirs));
        assert!(got == wanted, "{when}: on the mount\n{got}\nlocally\n{wanted}");
    };
    same("after all steps");
    for (uid, step) in TRIES {
        let (got, wanted) = (as_user(&ours, *uid, step), as_user(&theirs, *uid, step));
        assert_eq!(got, wanted, "{uid}: {step}");
    }
    same("after all tries");
    let before = tree(&ours);
    mount.unmount();
    run("umount", [&local]).expect_success();
    let mount = volume.mount();
    assert_eq!(tree(&mount.join("tree")), before, "after a remount");
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}

/// Without permission checks of the kernel the client checks, rules included.
#[test]
fn rules_act_without_the_kernels_checks() {
    let volume = Volume::with(&["--enable-acl"]);
    let mount = volume.mount_with("mnt", &["--non-default-permission"]);
    run_in(mount.path(), "umask 022; mkdir d; echo x > d/f; chmod 700 d; chmod 600 d/f").expect_success();
    assert!(!as_user(mount.path(), 1001, "cat d/f"));
    run_in(mount.path(), "setfacl -m u:1001:x d; setfacl -m u:1001:r d/f").expect_success();
    assert!(as_user(mount.path(), 1001, "cat d/f"));
    assert!(!as_user(mount.path(), 1001, "touch d/f"));
    assert!(!as_user(mount.path(), 1002, "cat d/f"));
    mount.unmount();
}

/// Another mount sees a rule within the cache time, and enforces it.
#[test]
fn rules_reach_the_other_mount() {
    let volume = Volume::with(&["--enable-acl"]);
    let (one, two) = (volume.mount(), volume.mount_with("two", &[]));
    run_in(one.path(), "umask 022; echo x > f; chmod 600 f").expect_success();
    assert!(wait_until(Duration::from_secs(30), || two.join("f").exists()));
    assert!(!as_user(two.path(), 1001, "cat f"));
    run_in(one.path(), "setfacl -m u:1001:r f").expect_success();
    assert!(wait_until(Duration::from_secs(30), || as_user(two.path(), 1001, "cat f")));
    run_in(two.path(), "setfacl -b f").expect_success();
    assert!(wait_until(Duration::from_secs(30), || !as_user(one.path(), 1001, "cat f")));
    two.unmount();
    one.unmount();
}

/// ACLs are turned on once, for good, and a volume without them has none.
#[test]
fn acls_are_a_choice_of_the_volume() {
    let volume = Volume::new();
    let mount = volume.mount_with("mnt", &["--enable-xattr"]);
    run_in(mount.path(), "touch f; setfacl -m u:1001:r f").expect_failure();
    mount.unmount();
    let url = volume.meta_url();
    let on = volume.juicefs(&["config", &url, "--enable-acl", "--yes"]).expect_success();
    assert!(on.text().contains("enable-acl: false -> true"), "{on}");
    volume.juicefs(&["config", &url, "--enable-acl=false", "--yes"]).expect_failure();
    let mount = volume.mount();
    run_in(mount.path(), "setfacl -m u:1001:r f && getfacl -n f | grep -q user:1001:r--").expect_success();
    mount.unmount();
}

/// Rules, quotas and flags that JuiceFS (Go) wrote read as it showed them.
#[test]
fn a_volume_of_the_other_client_shows_its_rules() {
    for name in ["sqlite-acl", "redis-acl"] {
        let volume = GoldenVolume::unpack(name);
        let mount = volume.mount();
        verify(&volume.manifest(), mount.path()).expect_success();
        mount.unmount();
    }
}
