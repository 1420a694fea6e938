//! `juicefs restore`: what was removed comes back from the trash.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use e2e::{Mount, Owner, Pattern, Rest, Volume, juicefs, run, snapshot, wait_until};

const KEPT: &[&str] = &["--trash-days", "1"];
const UNCACHED: &[&str] = &["--attr-cache", "0", "--entry-cache", "0", "--dir-entry-cache", "0"];

/// The hours of the trash: two when one ended meanwhile.
fn hours(mount: &Mount) -> Vec<String> {
    let hours = fs::read_dir(mount.join(".trash")).unwrap();
    let mut hours: Vec<String> = hours.map(|hour| hour.unwrap().file_name().into_string().unwrap()).collect();
    hours.sort();
    hours
}

fn in_trash(mount: &Mount) -> Vec<PathBuf> {
    let entries = |hour: String| fs::read_dir(mount.join(".trash").join(hour)).unwrap();
    hours(mount).into_iter().flat_map(entries).map(|entry| entry.unwrap().path()).collect()
}

/// Directories within directories, files, a link; with a name that has what separates the parts of names in the trash.
fn make_tree(root: &Path) {
    for number in 0..60_u64 {
        let dir = root.join(format!("d-{}", number % 4)).join(format!("s{}", number % 3));
        fs::create_dir_all(&dir).unwrap();
        let data =
            Pattern::of(Owner { run: 90, file: number, version: 1 }).bytes(usize::try_from(number).unwrap() * 999);
        fs::write(dir.join(format!("7-8-file-{number}")), data).unwrap();
    }
    std::os::unix::fs::symlink("d-1/s1", root.join("link")).unwrap();
    fs::hard_link(root.join("d-0/s0/7-8-file-0"), root.join("d-1/second name")).unwrap();
}

#[test]
fn a_removed_tree_is_put_back() {
    let volume = Volume::with(KEPT);
    let mount = volume.mount_with("mnt", UNCACHED);
    make_tree(&mount.join("tree"));
    let before = snapshot(&mount.join("tree"));
    run("rm", ["-r", &mount.join("tree").to_string_lossy()]).expect_success();
    assert!(!mount.join("tree").exists());
    let removed = in_trash(&mount).len();
    for hour in hours(&mount) {
        let said = volume.juicefs(&["restore", &volume.meta_url(), &hour, "--put-back"]).expect_success();
        assert!(said.stdout.contains(" restored, 0 conflicts, 0 failed"), "{}", said.text());
    }
    assert!(removed > 60 && in_trash(&mount).is_empty());
    let after = snapshot(&mount.join("tree"));
    assert!(before == after, "{:?} is not {:?}", after.keys(), before.keys());
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}

#[test]
fn a_tree_stands_in_the_trash_again_until_it_is_put_back() {
    let volume = Volume::with(KEPT);
    let mount = volume.mount_with("mnt", UNCACHED);
    make_tree(&mount.join("tree"));
    fs::write(mount.join("alone"), "alone").unwrap();
    let before = snapshot(&mount.join("tree"));
    run("rm", ["-r", &mount.join("tree").to_string_lossy(), &mount.join("alone").to_string_lossy()]).expect_success();
    let hours = hours(&mount);
    let mut all: Vec<&str> = hours.iter().map(String::as_str).collect();
    let url = volume.meta_url();
    all.splice(0..0, ["restore", &url]);
    let said = volume.juicefs(&all).expect_success();
    assert!(said.stdout.contains(" need --put-back, 0 conflicts, 0 failed"), "{}", said.text());
    // Only what had another place than the tree is left beside it, if the hour did not end within the removal.
    if hours.len() == 1 {
        let entries = in_trash(&mount);
        assert_eq!(entries.len(), 2, "{entries:?}");
        let tree = entries.iter().find(|entry| entry.to_string_lossy().ends_with("-tree")).unwrap();
        assert!(snapshot(tree) == before);
        // Root takes it out by hand.
        fs::rename(tree, mount.join("back")).unwrap();
        assert!(snapshot(&mount.join("back")) == before);
    }
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}

#[test]
fn what_cannot_be_restored_is_told_and_kept() {
    let volume = Volume::with(KEPT);
    let mount = volume.mount_with("mnt", UNCACHED);
    fs::create_dir(mount.join("gone")).unwrap();
    for name in ["taken", "free", "gone/orphan"] {
        fs::write(mount.join(name), name).unwrap();
    }
    for name in ["taken", "free", "gone/orphan"] {
        fs::remove_file(mount.join(name)).unwrap();
    }
    fs::write(mount.join("taken"), "by somebody else").unwrap();
    // Removed for good, so that what was in it has no place any more.
    volume.juicefs(&["rmr", "--skip-trash", &mount.join("gone").to_string_lossy()]).expect_success();
    let mut conflicts = 0;
    for hour in hours(&mount) {
        let said = volume.juicefs(&["restore", &volume.meta_url(), &hour, "--put-back"]);
        conflicts += usize::from(said.text().contains("-taken: its old place is taken"));
        said.expect_failure();
    }
    assert_eq!(conflicts, 1);
    assert_eq!(fs::read_to_string(mount.join("free")).unwrap(), "free");
    assert_eq!(fs::read_to_string(mount.join("taken")).unwrap(), "by somebody else");
    assert_eq!(in_trash(&mount).len(), 2, "the one whose place is taken and the one whose directory is gone");
    let said = volume.juicefs(&["restore", &volume.meta_url(), "yesterday"]).expect_failure();
    assert!(said.text().contains("there is no \"yesterday\" in the trash"), "{}", said.text());
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}

/// Users of such volumes know this as the way to free what the trash holds.
#[test]
fn rmr_of_the_trash_empties_it_for_root_alone() {
    let volume = Volume::with(KEPT);
    fs::set_permissions(volume.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let mount = volume.mount_with("mnt", UNCACHED);
    make_tree(&mount.join("tree"));
    run("rm", ["-r", &mount.join("tree").to_string_lossy()]).expect_success();
    let (kept, trash) = (in_trash(&mount).len(), mount.join(".trash").to_string_lossy().into_owned());
    assert!(kept > 60 && !volume.objects().is_empty());
    let user = ["--reuid=1001", "--regid=1001", "--clear-groups", &juicefs().to_string_lossy(), "rmr", &trash];
    run("setpriv", user).expect_failure();
    assert_eq!(in_trash(&mount).len(), kept);
    volume.juicefs(&["rmr", &trash]).expect_success();
    assert!(in_trash(&mount).is_empty() && mount.join(".trash").is_dir());
    assert!(wait_until(Duration::from_secs(60), || volume.objects().is_empty()), "{:?}", volume.objects());
    // It is used again.
    fs::write(mount.join("file"), "content").unwrap();
    fs::remove_file(mount.join("file")).unwrap();
    assert_eq!(in_trash(&mount).len(), 1);
    volume.juicefs(&["rmr", "--skip-trash", &format!("{trash}/")]).expect_success();
    assert!(in_trash(&mount).is_empty());
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}

#[test]
fn what_a_quota_keeps_out_is_told_in_known_words() {
    let volume = Volume::with(KEPT);
    let mount = volume.mount_with("mnt", UNCACHED);
    fs::create_dir(mount.join("dir")).unwrap();
    for name in ["one", "two"] {
        fs::write(mount.join("dir").join(name), name).unwrap();
    }
    fs::remove_file(mount.join("dir/one")).unwrap();
    let url = volume.meta_url();
    volume.juicefs(&["quota", "set", &url, "--path", "/dir", "--inodes", "1"]).expect_success();
    mount.unmount();
    let mount = volume.mount_with("mnt", UNCACHED);
    for hour in hours(&mount) {
        let said = volume.juicefs(&["restore", &url, &hour, "--put-back"]).expect_failure();
        assert!(said.text().contains("disk quota exceeded"), "{}", said.text());
    }
    assert_eq!(in_trash(&mount).len(), 1);
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}
