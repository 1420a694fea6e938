//! Names: every byte but `/` and NUL, up to 255 of them, at any depth.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use e2e::{Volume, full, run};

fn listing(dir: &Path) -> BTreeSet<OsString> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

#[test]
fn any_byte_and_255_of_them() {
    let volume = Volume::new();
    let mount = volume.mount();
    let dir = mount.join("names");
    fs::create_dir(&dir).unwrap();
    let single = (1..=255u8).filter(|&byte| byte != b'/' && byte != b'.').map(|byte| vec![byte]);
    let long = (1..=255u8).filter(|&byte| byte != b'/').map(|byte| vec![byte; 255]);
    let odd =
        ["...", " ", "-rf", "a\nb", "\u{202e}x", "ä", "a\u{308}", "%d", "'\"\\"].map(|name| name.as_bytes().to_vec());
    let names: BTreeSet<OsString> = single.chain(long).chain(odd).map(OsString::from_vec).collect();
    for name in &names {
        fs::write(dir.join(name), name.as_bytes()).unwrap();
    }
    assert_eq!(listing(&dir), names);
    let too_long = dir.join(OsStr::from_bytes(&[b'x'; 256]));
    assert_eq!(fs::write(&too_long, "").unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
    assert_eq!(fs::create_dir(&too_long).unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
    mount.unmount();
    let mount = volume.mount();
    let dir = mount.join("names");
    assert_eq!(listing(&dir), names);
    for name in &names {
        assert_eq!(fs::read(dir.join(name)).unwrap(), name.as_bytes());
        fs::remove_file(dir.join(name)).unwrap();
    }
    fs::remove_dir(&dir).unwrap();
    mount.unmount();
}

#[test]
fn a_deep_path_works_to_its_end() {
    let volume = Volume::new();
    let mount = volume.mount();
    // A path of 4000 bytes through the system call, and 300 levels by working directory.
    let mut path = PathBuf::from(mount.path());
    while path.as_os_str().len() < 3800 {
        path.push("d".repeat(60));
    }
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("leaf"), "deep").unwrap();
    assert_eq!(fs::read_to_string(path.join("leaf")).unwrap(), "deep");
    let script =
        "for i in $(seq 300); do mkdir level-$i-abcdefghij; cd level-$i-abcdefghij; done; echo bottom > f; cat f";
    let finished = e2e::run_in(mount.path(), script).expect_success();
    assert_eq!(finished.stdout, "bottom\n");
    let found = run("find", [mount.path().to_str().unwrap(), "-name", "f", "-size", "7c"]).expect_success();
    assert_eq!(found.stdout.lines().count(), 1);
    run("rm", ["-rf", &mount.join("level-1-abcdefghij").to_string_lossy()]).expect_success();
    mount.unmount();
}

#[test]
fn a_large_directory_lists_each_name_once() {
    let count = if full() { 100_000 } else { 20_000 };
    let volume = Volume::new();
    let mount = volume.mount();
    let dir = mount.join("many");
    fs::create_dir(&dir).unwrap();
    let names: BTreeSet<OsString> = (0..count).map(|number| OsString::from(format!("entry-{number:06}"))).collect();
    for name in &names {
        fs::File::create(dir.join(name)).unwrap();
    }
    let counted = |dir: &Path| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(counted(&dir).len(), count);
    assert_eq!(listing(&dir), names);
    mount.unmount();
    let mount = volume.mount();
    let dir = mount.join("many");
    let listed = counted(&dir);
    assert_eq!(listed.len(), count, "a name was listed twice or not at all");
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), names);
    let sized = run("ls", ["-lU", &dir.to_string_lossy()]).expect_success();
    assert_eq!(sized.stdout.lines().count(), count + 1);
    mount.unmount();
}

/// A reader in the middle of a directory sees every name that was there all along, exactly once.
#[test]
fn a_listing_survives_changes_under_it() {
    let volume = Volume::new();
    let mount = volume.mount();
    let dir = mount.join("moving");
    fs::create_dir(&dir).unwrap();
    for number in 0..3000 {
        fs::File::create(dir.join(format!("stay-{number}"))).unwrap();
        fs::File::create(dir.join(format!("go-{number}"))).unwrap();
    }
    let mut seen = Vec::new();
    for (index, entry) in fs::read_dir(&dir).unwrap().enumerate() {
        seen.push(entry.unwrap().file_name().into_string().unwrap());
        // Unlink what was there and add what was not, at a steady pace.
        if index % 2 == 0 {
            let number = index / 2;
            let _ = fs::remove_file(dir.join(format!("go-{number}")));
            fs::File::create(dir.join(format!("come-{number}"))).unwrap();
        }
        assert!(index < 20_000, "the listing does not end");
    }
    let stayed: Vec<&String> = seen.iter().filter(|name| name.starts_with("stay-")).collect();
    let distinct: BTreeSet<&&String> = stayed.iter().collect();
    assert_eq!(stayed.len(), distinct.len(), "a name was listed twice");
    assert_eq!(distinct.len(), 3000, "a name that was there all along is missing");
    mount.unmount();
}
