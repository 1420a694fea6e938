use std::os::unix::fs::PermissionsExt;

use super::*;

fn store_in(dir: &tempfile::TempDir) -> FileStorage {
    FileStorage::new(&format!("{}/", dir.path().display()))
}

#[tokio::test]
async fn keys_cannot_leave_the_root() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = store_in(&dir);
    for key in ["../x", "a/../../x", "/../x"] {
        assert!(matches!(store.put(key, Segments::new()).await, Err(StorageError::Permanent(_))), "put {key}");
        assert!(matches!(store.get(key, None).await, Err(StorageError::Permanent(_))), "get {key}");
        assert!(matches!(store.head(key).await, Err(StorageError::Permanent(_))), "head {key}");
        assert!(matches!(store.list(key, "", 1).await, Err(StorageError::Permanent(_))), "list {key}");
    }
}

#[tokio::test]
async fn large_bodies_in_many_pieces_are_whole_and_leave_no_temp() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = store_in(&dir);
    let data: Vec<u8> = (0..1_200_000_u32).map(|i| i.to_le_bytes()[1]).collect();
    let body: Segments = data.chunks(500).map(Bytes::copy_from_slice).collect();
    assert!(body.len() > 2 * 1024, "more pieces than one writev takes");
    store.put("d/e/f", body).await.expect("put");
    assert_eq!(store.get("d/e/f", None).await.expect("get").concat(), data);
    assert_eq!(store.get("d/e/f", Some((1_199_990, 100))).await.expect("get").concat(), data[1_199_990..]);
    let names: Vec<_> = fs::read_dir(dir.path().join("d/e")).expect("dir").flatten().map(|e| e.file_name()).collect();
    assert_eq!(names, ["f"]);
}

#[tokio::test]
async fn a_failed_put_leaves_the_old_object() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = store_in(&dir);
    fs::create_dir(dir.path().join("taken")).expect("a directory in the way");
    let full = store.put("taken", Segments::from_iter([Bytes::from_static(b"x")])).await;
    assert!(full.is_err());
    assert_eq!(fs::read_dir(dir.path()).expect("dir").count(), 1, "no temporary file stays");
    fs::write(dir.path().join("file"), b"x").expect("a file");
    let below = store.put("file/below", Segments::from_iter([Bytes::from_static(b"x")])).await;
    assert!(matches!(below, Err(StorageError::Permanent(_))), "{below:?}");
}

#[test]
fn errors_are_sorted_by_what_to_do() {
    let of = |errno| failure(&io::Error::from_raw_os_error(errno), Path::new("/p"));
    assert!(matches!(of(libc::ENOSPC), StorageError::NoSpace(_)));
    assert!(matches!(of(libc::EDQUOT), StorageError::NoSpace(_)));
    assert!(matches!(of(libc::ENOENT), StorageError::NotFound(_)));
    assert!(matches!(of(libc::EACCES), StorageError::Permanent(_)));
    assert!(matches!(of(libc::EIO), StorageError::Transient(_)));
}

#[tokio::test]
async fn modes_and_temp_names_are_those_of_the_format() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = store_in(&dir);
    store.put("d/x", Segments::from_iter([Bytes::from_static(b"x")])).await.expect("put");
    let mode = |path: &str| fs::metadata(dir.path().join(path)).expect("made").permissions().mode() & 0o777;
    let umask = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(umask);
    assert_eq!(mode("d/x"), 0o666 & !umask.bits());
    assert_eq!(mode("d"), 0o777 & !umask.bits());
    let temp = temp_path(Path::new("/a/b/1_0_4"));
    let name = temp.file_name().and_then(OsStr::to_str).expect("text");
    let random = name.strip_prefix(".jfs.1_0_4.tmp.").expect("the name of the format");
    assert!(random.parse::<u32>().is_ok() && temp.parent() == Some(Path::new("/a/b")));
    let long = temp_path(Path::new(&format!("/a/{}", "n".repeat(250))));
    assert!(long.file_name().expect("a name").len() <= 255);
}
