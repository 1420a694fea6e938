//! Names of one file, more than other file systems allow.

use std::{
    fs,
    os::unix::fs::{DirEntryExt, MetadataExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use e2e::{Rest, Volume, full, wait_until};

const DIRS: usize = 4;

fn links(dir: &Path) -> u64 {
    fs::metadata(dir.join("file")).unwrap().nlink()
}

fn dirs(root: &Path) -> Vec<PathBuf> {
    (0..DIRS).map(|number| root.join(format!("names-{number}"))).collect()
}

#[test]
fn many_names_of_one_file_are_counted_and_taken_away() {
    let per_dir = if full() { 17_500 } else { 500 };
    let all = (DIRS * per_dir) as u64;
    let volume = Volume::new();
    let mount = volume.mount();
    let file = mount.join("file");
    fs::write(&file, "content").unwrap();
    let ino = fs::metadata(&file).unwrap().ino();
    thread::scope(|scope| {
        for dir in dirs(mount.path()) {
            let file = &file;
            scope.spawn(move || {
                fs::create_dir(&dir).unwrap();
                (0..per_dir).for_each(|number| fs::hard_link(file, dir.join(format!("{number}"))).unwrap());
            });
        }
    });
    assert_eq!(links(mount.path()), all + 1);
    mount.unmount();
    volume.assert_sound(Rest::Clean);

    let mount = volume.mount();
    assert_eq!(links(mount.path()), all + 1);
    for dir in dirs(mount.path()) {
        let mut names = 0;
        for entry in fs::read_dir(&dir).unwrap() {
            assert_eq!(entry.unwrap().ino(), ino);
            names += 1;
        }
        assert_eq!(names, per_dir);
        let meta = fs::metadata(dir.join(format!("{}", per_dir - 1))).unwrap();
        assert_eq!((meta.ino(), meta.nlink(), meta.len()), (ino, all + 1, 7));
    }
    // The first name goes before the others; the file stays until the last one.
    fs::remove_file(mount.join("file")).unwrap();
    let [first, others @ ..] = &dirs(mount.path())[..] else { unreachable!("there are four") };
    thread::scope(|scope| {
        for dir in others {
            scope.spawn(move || fs::remove_dir_all(dir).unwrap());
        }
    });
    let last = first.join("0");
    assert_eq!(fs::metadata(&last).unwrap().nlink(), per_dir as u64);
    for number in 1..per_dir {
        fs::remove_file(first.join(format!("{number}"))).unwrap();
    }
    assert_eq!(fs::metadata(&last).unwrap().nlink(), 1);
    assert_eq!(fs::read_to_string(&last).unwrap(), "content");
    fs::remove_dir_all(first).unwrap();
    assert!(wait_until(Duration::from_secs(60), || volume.objects().is_empty()));
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}
