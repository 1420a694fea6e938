//! The tests of `objbench`. They try what volumes, and tools that copy files, need of a storage.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use juicefs_core::{ObjectStorage, Segments, StorageError, buffer::segments_len};
use nix::unistd::{User, chown};

/// What a test found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    /// The storage has nothing of the kind.
    NotSupported,
    Failed(String),
    /// It failed at what volumes can do without.
    Warning(String),
}

/// One line of the table.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) category: &'static str,
    pub(super) title: &'static str,
    pub(super) verdict: Verdict,
}

const KEY: &str = "put_test_file";
const MISSING: &str = "not_exists_file";
const HELLO: &str = "hello";
/// How many objects are listed to compare their order.
const LISTED: usize = 100;
const BIG_BYTES: usize = 256 << 20;
const BIG_PIECE_BYTES: usize = 4 << 20;
/// The smallest part, other than the last one, that S3 takes.
const PART_BYTES: usize = 5 << 20;
const CLOCKS_DIFFER: Duration = Duration::from_secs(30);

/// Runs all tests, which leave nothing.
pub(super) async fn run(store: &dyn ObjectStorage) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut note = |category, title: &'static str, done: Result<bool>| {
        let verdict = match done {
            Ok(true) => Verdict::Pass,
            Ok(false) => Verdict::NotSupported,
            Err(error) if title == "multipart upload" || title.starts_with("change") => {
                Verdict::Warning(format!("{error:#}"))
            }
            Err(error) => Verdict::Failed(format!("{error:#}")),
        };
        if let Verdict::Failed(why) | Verdict::Warning(why) = &verdict {
            tracing::debug!("{title}: {why}");
        }
        cases.push(Case { category, title, verdict });
    };
    note("basic", "create a bucket", clean(store, KEY, make_bucket(store).await).await);
    note("basic", "put an object", clean(store, KEY, put(store, KEY, HELLO).await).await);
    note("basic", "get an object", clean(store, KEY, get_whole(store).await).await);
    note("basic", "get non-exist", get_missing(store).await.map(|()| true));
    note("basic", "get partial object", clean(store, KEY, get_parts(store).await).await);
    note("basic", "head an object", clean(store, KEY, head(store).await).await);
    note("basic", "delete an object", clean(store, KEY, delete(store).await).await);
    note("basic", "delete non-exist", delete_missing(store).await.map(|()| true));
    note("basic", "list objects", clean(store, KEY, list(store).await).await);
    note("sync", "special key", special_key(store).await.map(|()| true));
    note("sync", "put a big object", clean(store, KEY, put_big(store).await).await);
    note("sync", "put an empty object", put_empty(store).await.map(|()| true));
    note("sync", "multipart upload", in_parts(store).await);
    note("sync", "change owner/group", of_file(store, change_owner).await);
    note("sync", "change permission", of_file(store, change_mode).await);
    note("sync", "change mtime", of_file(store, change_mtime).await);
    cases
}

fn body(text: &str) -> Segments {
    Segments::from_iter([Bytes::copy_from_slice(text.as_bytes())])
}

/// Removes the object of a test whose outcome is known.
async fn clean(store: &dyn ObjectStorage, key: &str, done: Result<()>) -> Result<bool> {
    if let Err(error) = store.delete(key).await {
        tracing::debug!("{key} stays: {error}");
    }
    done.map(|()| true)
}

async fn put(store: &dyn ObjectStorage, key: &str, text: &str) -> Result<()> {
    store.put(key, body(text)).await.context("put object failed")
}

async fn make_bucket(store: &dyn ObjectStorage) -> Result<()> {
    if store.put(KEY, body("1")).await.is_err() {
        store.create().await.context("can't create bucket")?;
    }
    store.create().await.context("creating a bucket that already exists returns an error")
}

async fn expect(store: &dyn ObjectStorage, key: &str, range: Option<(u64, u64)>, wanted: &str) -> Result<()> {
    let got = store.get(key, range).await.context("failed to get an object")?.concat();
    ensure!(got == wanted.as_bytes(), "expect {wanted:?}, but got {:?}", String::from_utf8_lossy(&got));
    Ok(())
}

async fn get_whole(store: &dyn ObjectStorage) -> Result<()> {
    put(store, KEY, HELLO).await?;
    expect(store, KEY, None, HELLO).await?;
    expect(store, KEY, Some((0, 5)), HELLO).await
}

async fn get_missing(store: &dyn ObjectStorage) -> Result<()> {
    match store.get(MISSING, None).await {
        Err(StorageError::NotFound(_)) => Ok(()),
        Err(other) => Err(other).context("not said to be missing"),
        Ok(_) => bail!("getting an object that is not there succeeds"),
    }
}

async fn get_parts(store: &dyn ObjectStorage) -> Result<()> {
    put(store, KEY, HELLO).await?;
    for (off, len, wanted) in [(0, 1, "h"), (4, 1, "o"), (2, 3, "llo"), (2, 2, "ll"), (4, 2, "o"), (6, 2, "")] {
        expect(store, KEY, Some((off, len)), wanted).await.with_context(|| format!("{len} bytes at {off}"))?;
    }
    Ok(())
}

async fn head(store: &dyn ObjectStorage) -> Result<()> {
    put(store, KEY, HELLO).await?;
    let found = store.head(KEY).await.context("failed to head object")?;
    ensure!(found.key == KEY, "expect key {KEY}, but got {}", found.key);
    ensure!(found.size == 5, "expect 5 bytes, but got {}", found.size);
    Ok(())
}

async fn delete(store: &dyn ObjectStorage) -> Result<()> {
    put(store, KEY, HELLO).await?;
    store.delete(KEY).await.context("delete failed")?;
    ensure!(store.head(KEY).await.is_err(), "the object is there after it was deleted");
    Ok(())
}

async fn delete_missing(store: &dyn ObjectStorage) -> Result<()> {
    store.delete(KEY).await.context("deleting a non-existent object returns an error")
}

async fn list(store: &dyn ObjectStorage) -> Result<()> {
    put(store, KEY, HELLO).await?;
    let found = store.list("", "", 10).await.context("list failed")?;
    ensure!(found.len() == 1 && found[0].key == KEY, "expect {KEY} alone, but got {} keys", found.len());
    ensure!(found[0].size == 5, "expect 5 bytes, but got {}", found[0].size);
    let mtime = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(found[0].mtime.secs).unwrap_or_default());
    let age = mtime.elapsed().unwrap_or_else(|ahead| ahead.duration());
    ensure!(age < CLOCKS_DIFFER, "the clock of the storage differs by {age:.0?}");
    ensure!(store.list("", "test2", 1).await.context("list failed")?.is_empty(), "a listing begins before its start");
    let mut keys: Vec<String> = (0..LISTED).map(|number| format!("hashKey{number}")).collect();
    let done = list_many(store, &mut keys).await;
    for key in &keys {
        clean(store, key, Ok(())).await?;
    }
    done
}

async fn list_many(store: &dyn ObjectStorage, keys: &mut [String]) -> Result<()> {
    for key in keys.iter() {
        put(store, key, HELLO).await?;
    }
    keys.sort_unstable();
    let found = store.list("hashKey", "", LISTED).await.context("list failed")?;
    ensure!(found.iter().map(|object| &object.key).eq(keys.iter()), "the listing is not in the order of the keys");
    Ok(())
}

async fn special_key(store: &dyn ObjectStorage) -> Result<()> {
    let key = "测试编码文件{\"name\":\"juicefs\"}\u{1f}%uFF081%uFF09.jpg";
    let tried = async {
        put(store, key, "1").await?;
        let found = store.list("测试编码文件", "", 1).await.context("list encode file failed")?;
        ensure!(found.first().is_some_and(|object| object.key == key), "the listing has another key");
        expect(store, key, None, "1").await
    };
    let done = tried.await;
    clean(store, key, done).await.map(drop)
}

async fn put_big(store: &dyn ObjectStorage) -> Result<()> {
    let mut piece = vec![0; BIG_PIECE_BYTES];
    rand::RngCore::fill_bytes(&mut rand::rng(), &mut piece);
    let piece = Bytes::from(piece);
    let whole = Segments::from_iter(std::iter::repeat_n(piece, BIG_BYTES / BIG_PIECE_BYTES));
    store.put(KEY, whole).await.context("put object failed")?;
    let size = store.head(KEY).await.context("failed to head object")?.size;
    ensure!(size == BIG_BYTES as u64, "{size} bytes of {BIG_BYTES} were stored");
    Ok(())
}

async fn put_empty(store: &dyn ObjectStorage) -> Result<()> {
    // The second one is what tools that copy files make of a directory.
    for key in ["empty_test_file", "slash_test_file/"] {
        let done = store.put(key, Segments::new()).await.with_context(|| format!("put of {key} failed"));
        clean(store, key, done).await?;
    }
    Ok(())
}

async fn in_parts(store: &dyn ObjectStorage) -> Result<bool> {
    const KEY: &str = "multi_test_file";
    let mut piece = vec![0; PART_BYTES];
    rand::RngCore::fill_bytes(&mut rand::rng(), &mut piece);
    let part = Segments::from_iter([Bytes::from(piece)]);
    let parts = vec![part.clone(), part, body(HELLO)];
    let wanted: Segments = parts.iter().flatten().cloned().collect();
    let tried = async {
        if !store.put_in_parts(KEY, parts).await.context("multipart upload failed")? {
            return Ok(false);
        }
        let got = store.get(KEY, None).await.context("failed to get multipart upload file")?;
        ensure!(
            segments_len(&got) == segments_len(&wanted) && got.concat() == wanted.concat(),
            "the content of the multipart upload file is incorrect"
        );
        Ok(true)
    };
    match tried.await {
        Ok(false) => Ok(false),
        Ok(true) => clean(store, KEY, Ok(())).await,
        Err(error) => clean(store, KEY, Err(error)).await,
    }
}

/// Runs a test of an object that is a file.
async fn of_file(store: &dyn ObjectStorage, test: fn(&Path) -> Result<()>) -> Result<bool> {
    let Some(path) = store.file_path(KEY) else { return Ok(false) };
    let tried = async {
        put(store, KEY, HELLO).await?;
        test(&path)
    };
    let done = tried.await;
    clean(store, KEY, done).await
}

/// The user that tests give files to, with the main group.
pub(super) fn nobody() -> Result<User> {
    User::from_name("nobody")?.context("there is no user nobody")
}

fn change_owner(path: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let nobody = nobody()?;
    chown(path, Some(nobody.uid), Some(nobody.gid)).context("failed to chown file")?;
    let found = fs::metadata(path)?;
    ensure!((found.uid(), found.gid()) == (nobody.uid.as_raw(), nobody.gid.as_raw()), "the owner is another one");
    Ok(())
}

fn change_mode(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).context("failed to chmod file")?;
    let mode = fs::metadata(path)?.permissions().mode() & 0o777;
    ensure!(mode == 0o777, "expect mode 777, but got {mode:o}");
    Ok(())
}

fn change_mtime(path: &Path) -> Result<()> {
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000);
    set_mtime(path, then).context("failed to change the mtime")?;
    ensure!(fs::metadata(path)?.modified()? == then, "the mtime is another one");
    Ok(())
}

/// Sets the modification time of a file.
pub(super) fn set_mtime(path: &Path, time: SystemTime) -> std::io::Result<()> {
    fs::File::options().write(true).open(path)?.set_modified(time)
}

#[cfg(test)]
mod tests {
    use juicefs_core::Format;

    use super::*;

    fn directory(path: &Path) -> std::sync::Arc<dyn ObjectStorage> {
        let bucket = format!("{}/", path.display());
        let format = Format { name: "b".into(), storage: "file".into(), bucket, ..Format::default() };
        juicefs_chunk::open_storage(&format).expect("a store")
    }

    #[tokio::test]
    async fn a_directory_passes_but_has_no_parts() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = directory(dir.path());
        let may_chown = nix::unistd::geteuid().is_root();
        for Case { title, verdict, .. } in run(store.as_ref()).await {
            match title {
                "multipart upload" => assert_eq!(verdict, Verdict::NotSupported),
                "change owner/group" if !may_chown => assert!(matches!(verdict, Verdict::Warning(_)), "{verdict:?}"),
                _ => assert_eq!(verdict, Verdict::Pass, "{title}"),
            }
        }
        assert_eq!(store.list("", "", 10).await.expect("list"), [], "something stays");
    }

    #[tokio::test]
    async fn what_a_store_cannot_do_is_said() {
        // A file where the directory should be.
        let file = tempfile::NamedTempFile::new().expect("a file");
        let found = run(directory(file.path()).as_ref()).await;
        let failed = |title: &str| {
            let case = found.iter().find(|case| case.title == title);
            case.is_some_and(|case| matches!(&case.verdict, Verdict::Failed(why) if !why.is_empty()))
        };
        assert!(failed("create a bucket") && failed("put an object") && failed("put a big object"), "{found:?}");
    }
}
