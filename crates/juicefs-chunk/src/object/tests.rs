use std::sync::Arc;

use bytes::Bytes;
use juicefs_core::{Format, ObjectStorage, Segments, StorageError};

use super::{
    opening::{Clients, Opening},
    *,
};

mod broken_off;
mod listing;
mod s3;

/// A bucket that speaks S3, with nothing from the environment.
fn s3_bucket(address: &str, format: &Format) -> DalStorage {
    opened(address, format, &|_| None, &mut Clients::default())
}

fn opened(bucket: &str, format: &Format, variables: &Variables<'_>, clients: &mut Clients) -> DalStorage {
    crate::object::s3::open(Opening { storage: "s3", bucket, format, variables, clients }).expect("a bucket")
}

fn body(data: &[u8]) -> Segments {
    // In two pieces, so that joining them is tested too.
    let (a, b) = data.split_at(data.len() / 2);
    [Bytes::copy_from_slice(a), Bytes::copy_from_slice(b)].into_iter().collect()
}

async fn keys(store: &dyn ObjectStorage, prefix: &str, after: &str, limit: usize) -> Vec<String> {
    store.list(prefix, after, limit).await.expect("lists").into_iter().map(|o| o.key).collect()
}

/// What every store must do.
async fn suite(store: &dyn ObjectStorage) {
    store.create().await.expect("made");
    store.create().await.expect("made again");
    let missing = store.get("none", None).await.expect_err("not there");
    assert!(matches!(missing, StorageError::NotFound(_)), "{missing}");
    store.delete("none").await.expect("deleting what is not there");
    let odd = "a dir/with blanks & ünïcode%20?/key+=#";
    for (key, data) in [("k1", "hello world"), ("dir/a", "1"), ("dir/b/c", "22"), ("dir-x", "333"), (odd, "odd")] {
        store.put(key, body(data.as_bytes())).await.expect("put");
        assert_eq!(store.get(key, None).await.expect("get").concat(), data.as_bytes());
        assert_eq!(store.head(key).await.expect("head").size, data.len() as u64);
    }
    for (off, len, want) in [(0, 5, "hello"), (6, 100, "world"), (11, 1, ""), (50, 5, "")] {
        let got = store.get("k1", Some((off, len))).await.expect("ranged get");
        assert_eq!(got.concat(), want.as_bytes(), "{off} {len}");
    }
    store.put("k1", body(b"short")).await.expect("replaced");
    assert_eq!(store.get("k1", None).await.expect("get").concat(), b"short");
    assert_eq!(keys(store, "", "", 100).await, [odd, "dir-x", "dir/a", "dir/b/c", "k1"]);
    assert_eq!(keys(store, "dir", "", 100).await, ["dir-x", "dir/a", "dir/b/c"]);
    assert_eq!(keys(store, "dir/", "dir/a", 100).await, ["dir/b/c"]);
    assert_eq!(keys(store, "", "a dir/x", 2).await, ["dir-x", "dir/a"]);
    assert_eq!(keys(store, "nothing/", "", 100).await, Vec::<String>::new());
    for key in ["k1", "dir/a", "dir/b/c", "dir-x", odd] {
        store.delete(key).await.expect("delete");
        assert!(matches!(store.head(key).await, Err(StorageError::NotFound(_))));
    }
    assert_eq!(keys(store, "", "", 100).await, Vec::<String>::new());
    check_empty(store).await.expect("empty");
    selftest(store).await.expect("sound");
    check_empty(store).await.expect("the probe leaves nothing");
    assert_eq!(read_uuid(store).await.expect("asked"), None);
    write_uuid(store, "0-1-2").await.expect("written");
    assert_eq!(read_uuid(store).await.expect("asked").as_deref(), Some("0-1-2"));
    let refused = check_empty(store).await.expect_err("in use").to_string();
    assert!(refused.contains("not empty") && refused.contains(UUID_KEY), "{refused}");
    store.delete(UUID_KEY).await.expect("clean");
}

fn format(storage: &str, bucket: &str, shards: u32) -> Format {
    Format {
        name: "vol".into(),
        storage: storage.into(),
        bucket: bucket.into(),
        shards,
        block_size: 64,
        ..Format::default()
    }
}

#[tokio::test]
async fn every_store_keeps_the_contract() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = format!("{}/", dir.path().display());
    suite(&DalStorage::memory().expect("memory")).await;
    suite(&FileStorage::new(&root)).await;
    suite(open_storage(&format("MEM", "", 0)).expect("memory").as_ref()).await;
    suite(open_storage(&format("file", &root, 0)).expect("files").as_ref()).await;
    let sharded = format!("{root}s%d/");
    suite(open_storage(&format("file", &sharded, 10)).expect("shards").as_ref()).await;
}

#[tokio::test]
async fn objects_lie_where_the_format_says() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = format!("{}/", dir.path().display());
    let store = open_storage(&format("file", &root, 0)).expect("files");
    store.put("chunks/0/0/1_0_4", body(b"abcd")).await.expect("put");
    assert_eq!(std::fs::read(dir.path().join("vol/chunks/0/0/1_0_4")).expect("a file"), b"abcd");

    let store = open_storage(&format("file", &format!("{root}s%d/"), 4)).expect("shards");
    store.put("chunks/0/0/1_0_4", body(b"abcd")).await.expect("put");
    let shard = 0x7e29_dc71_u32 % 4;
    let path = dir.path().join(format!("s{shard}/vol/chunks/0/0/1_0_4"));
    assert_eq!(std::fs::read(path).expect("in the shard of its full key"), b"abcd");
}

#[test]
fn what_is_not_supported_is_said_clearly() {
    let text = open_storage(&format("ceph", "x", 0)).expect_err("unknown").to_string();
    assert!(text.contains("\"ceph\" is not supported") && text.contains("file, mem, s3"), "{text}");
    for bucket in ["/a/", "/a%d/%d/", "/a%s/"] {
        let text = open_storage(&format("file", bucket, 3)).expect_err("bad bucket").to_string();
        assert!(text.contains("%d"), "{text}");
    }
}

#[tokio::test]
async fn encrypted_objects_are_whole_or_an_error() {
    let raw: Arc<dyn ObjectStorage> = Arc::new(DalStorage::memory().expect("memory"));
    let cipher = crate::cipher::tests::cipher("aes256gcm-rsa");
    let store = Encrypted::new(Arc::clone(&raw), Arc::clone(&cipher));
    for len in [0, 1, 5000] {
        let data = vec![7; len];
        store.put("k", body(&data)).await.expect("put");
        assert_eq!(store.get("k", None).await.expect("get").concat(), data);
        let kept = raw.get("k", None).await.expect("there").concat();
        assert_eq!(kept.len(), len + cipher.overhead_bytes());
        assert_eq!(store.head("k").await.expect("head").size, kept.len() as u64, "as it is stored");
        assert!(!kept.windows(16).any(|part| part == [7; 16]), "in the clear");
    }
    store.put("k", body(b"hello world")).await.expect("put");
    for (off, len, want) in [(0, 5, "hello"), (6, 100, "world"), (6, u64::MAX, "world"), (11, 1, ""), (u64::MAX, 1, "")]
    {
        assert_eq!(store.get("k", Some((off, len))).await.expect("get").concat(), want.as_bytes(), "{off} {len}");
    }
    assert!(matches!(store.get("none", None).await, Err(StorageError::NotFound(_))));
    let mut damaged = raw.get("k", None).await.expect("there").concat();
    *damaged.last_mut().expect("a byte") ^= 1;
    raw.put("k", body(&damaged)).await.expect("put");
    for range in [None, Some((0, 1))] {
        let failed = store.get("k", range).await.expect_err("damaged");
        assert!(matches!(&failed, StorageError::Permanent(text) if text.starts_with("k: ")), "{failed}");
    }
    store.delete("k").await.expect("deleted");
    selftest(&store).await.expect("sound");
    write_uuid(&store, "0-1-2").await.expect("written");
    assert_eq!(read_uuid(&store).await.expect("asked").as_deref(), Some("0-1-2"));
    assert_ne!(read_uuid(raw.as_ref()).await.expect("asked").as_deref(), Some("0-1-2"));
    assert_eq!(keys(&store, "", "", 10).await, [UUID_KEY]);
}

#[cfg(feature = "all-storage")]
#[tokio::test]
#[ignore = "needs a WebDAV server of which JUICEFS_TEST_WEBDAV is an empty directory"]
async fn a_webdav_server_keeps_the_contract() {
    let address = std::env::var("JUICEFS_TEST_WEBDAV").expect("JUICEFS_TEST_WEBDAV names a server");
    suite(open_storage(&format("webdav", &address, 0)).expect("a store").as_ref()).await;
}
