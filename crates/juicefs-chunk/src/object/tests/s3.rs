//! Storages on a real S3 server.

use std::net::{Ipv4Addr, SocketAddr};

use juicefs_core::Timestamp;
use juicefs_testkit::s3::{ACCESS_KEY, DOMAIN, EXPIRED_TOKEN, S3Server, SECRET_KEY};

use super::*;
use juicefs_tls::TlsFiles;

use crate::object::{http::TLS_OPTIONS, opening::Clients};

fn setting(storage: &str, bucket: &str) -> Format {
    Format { access_key: ACCESS_KEY.into(), secret_key: SECRET_KEY.into(), ..format(storage, bucket, 0) }
}

/// The bucket without the volume's name before keys.
fn bucket(server: &S3Server, name: &str) -> DalStorage {
    let format = setting("s3", &server.bucket_url(name));
    s3_bucket(&format.bucket, &format)
}

fn made(server: &S3Server, name: &str) -> DalStorage {
    server.make_bucket(name);
    bucket(server, name)
}

fn refusal(error: StorageError) -> String {
    match error {
        StorageError::Permanent(text) | StorageError::Keys(text) => text,
        other => panic!("not permanent: {other}"),
    }
}

/// Why a put, a get and a listing of this volume are refused; they must agree.
async fn refused(format: &Format) -> String {
    let store = open_storage(format).expect("a store");
    let text = refusal(store.put("k", body(b"x")).await.expect_err("put"));
    refusal(store.get("k", Some((0, 1))).await.expect_err("get"));
    refusal(store.list("", "", 10).await.expect_err("list"));
    assert!(!text.contains('\n') && !text.contains(SECRET_KEY), "{text}");
    text
}

#[tokio::test]
async fn s3_keeps_the_contract() {
    let server = S3Server::start();
    suite(&bucket(&server, "plain")).await;
    suite(open_storage(&setting("S3", &server.bucket_url("volume"))).expect("a store").as_ref()).await;
    suite(open_storage(&setting("minio", &server.bucket_url("mini"))).expect("a store").as_ref()).await;
    // A name that the host begins with as well.
    suite(open_storage(&setting("s3", &server.bucket_url("127"))).expect("a store").as_ref()).await;
    let shards = Format { shards: 5, ..setting("s3", &server.bucket_url("shard-%d")) };
    suite(open_storage(&shards).expect("shards").as_ref()).await;
    assert!(server.bucket_dir("shard-4").is_dir());
}

#[tokio::test]
async fn buckets_may_be_part_of_the_host() {
    let server = S3Server::start();
    let host = format!("hosted.{DOMAIN}");
    let here = SocketAddr::from((Ipv4Addr::LOCALHOST, server.port()));
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(TlsFiles::default().config(&TLS_OPTIONS).expect("TLS"))
        .resolve(&host, here)
        .build()
        .expect("a client");
    let format = setting("s3", &format!("http://{host}:{}", server.port()));
    let variables = |name: &str| (name == "JFS_S3_VHOST_STYLE").then(|| "1".to_owned());
    let store = opened(&format.bucket, &format, &variables, &mut Clients::of(client));
    suite(&store).await;
    assert!(server.bucket_dir("hosted").is_dir());
}

#[tokio::test]
async fn what_a_user_did_wrong_is_said_in_a_sentence() {
    let server = S3Server::start();
    server.make_bucket("bkt");
    let good = setting("s3", &server.bucket_url("bkt"));
    let text = refused(&Format { access_key: "nobody".into(), ..good.clone() }).await;
    assert!(text.contains("--access-key"), "{text}");
    let text = refused(&Format { secret_key: "wrong".into(), ..good.clone() }).await;
    assert!(text.contains("--secret-key"), "{text}");
    let text = refused(&Format { session_token: EXPIRED_TOKEN.into(), ..good.clone() }).await;
    assert!(text.contains("session token") && text.contains("expired"), "{text}");
    let text = refused(&Format { bucket: server.bucket_url("none"), ..good.clone() }).await;
    assert!(text.contains(&format!("bucket s3://{}/none/ does not exist", server.address())), "{text}");
    let text = refused(&Format { access_key: "anonymous".into(), ..good.clone() }).await;
    assert!(text.contains("denied"), "{text}");
    let classed = Format { storage_class: "NO_SUCH_CLASS".into(), ..good.clone() };
    let text = refusal(open_storage(&classed).expect("a store").put("k", body(b"x")).await.expect_err("no class"));
    assert!(text.contains("InvalidStorageClass"), "{text}");
    // A token that is good, and a class that is there.
    let fine = Format { session_token: "fresh".into(), storage_class: "REDUCED_REDUNDANCY".into(), ..good };
    selftest(open_storage(&fine).expect("a store").as_ref()).await.expect("sound");
}

#[tokio::test]
async fn a_server_that_is_away_is_worth_another_try() {
    let server = S3Server::start();
    let store = made(&server, "bkt");
    store.put("k", body(b"hello")).await.expect("put");
    server.kill();
    for error in [
        store.put("k", body(b"x")).await.expect_err("away"),
        store.get("k", None).await.expect_err("away"),
        store.get("k", Some((0, 2))).await.expect_err("away"),
        store.list("", "", 1).await.map(drop).expect_err("away"),
    ] {
        assert!(matches!(&error, StorageError::Transient(text) if text.contains("cannot be reached")), "{error}");
    }
    server.restart();
    assert_eq!(store.get("k", None).await.expect("back").concat(), b"hello");
}

#[tokio::test]
async fn whoever_asks_may_read_a_public_bucket() {
    let server = S3Server::start();
    made(&server, "public-b").put("vol/k", body(b"hello")).await.expect("put");
    let nobody = Format { access_key: "anonymous".into(), ..setting("s3", &server.bucket_url("public-b")) };
    let store = open_storage(&nobody).expect("a store");
    assert_eq!(store.get("k", None).await.expect("get").concat(), b"hello");
    assert_eq!(keys(store.as_ref(), "", "", 10).await, ["k"]);
    let text = refusal(store.put("k", body(b"x")).await.expect_err("read only"));
    assert!(text.contains("denied"), "{text}");
}

#[tokio::test]
async fn a_missing_bucket_is_made_by_the_self_test() {
    let server = S3Server::start();
    let store = open_storage(&setting("s3", &server.bucket_url("new"))).expect("a store");
    selftest(store.as_ref()).await.expect("sound");
    assert!(server.bucket_dir("new").is_dir());
    check_empty(store.as_ref()).await.expect("nothing is left");
    let wrong = Format { secret_key: "wrong".into(), ..setting("s3", &server.bucket_url("newer")) };
    let text = refusal(selftest(open_storage(&wrong).expect("a store").as_ref()).await.expect_err("refused"));
    assert!(text.contains("--secret-key"), "{text}");
    assert!(!server.bucket_dir("newer").exists());
}

#[tokio::test]
async fn long_listings_come_in_order_and_in_pages() {
    let server = S3Server::start();
    let store = made(&server, "bkt");
    // As the server keeps them: 2,500 requests would test nothing more.
    let dir = server.bucket_dir("bkt").join("vol/chunks/0/0");
    std::fs::create_dir_all(&dir).expect("a directory");
    let mut wanted: Vec<String> = (0..2500).map(|n| format!("vol/chunks/0/0/{n}_0_4")).collect();
    for key in &wanted {
        std::fs::write(server.bucket_dir("bkt").join(key), b"abcd").expect("an object");
    }
    store.put("wol/other", body(b"x")).await.expect("put");
    wanted.sort_unstable();
    assert_eq!(keys(&store, "vol/", "", 10_000).await, wanted);
    assert_eq!(keys(&store, "vol/", &wanted[1233], 10_000).await, wanted[1234..]);
    assert_eq!(keys(&store, "vol/", &wanted[700], 1500).await, wanted[701..2201]);
    let mut paged = Vec::new();
    loop {
        let page = keys(&store, "vol/", paged.last().map_or("", String::as_str), 999).await;
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, wanted);
    let first = &store.list("vol/", "", 1).await.expect("lists")[0];
    assert!(first.size == 4 && first.mtime > Timestamp::from_nanos(0), "{first:?}");
}

#[tokio::test]
async fn large_objects_and_parts_of_them() {
    let server = S3Server::start();
    let store = made(&server, "bkt");
    let data: Vec<u8> = (0..16_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    // As the data path has them: many pieces.
    let pieces = data.chunks(100_000).map(Bytes::copy_from_slice).collect();
    store.put("large", pieces).await.expect("put");
    assert_eq!(store.head("large").await.expect("head").size, data.len() as u64);
    assert!(store.get("large", None).await.expect("get").concat() == data);
    for (off, len) in [(0, 1), (4096, 128 << 10), ((16 << 20) - 5, 5), (1 << 20, 15 << 20)] {
        let got = store.get("large", Some((off, len))).await.expect("a part").concat();
        assert!(got == data[off as usize..(off + len) as usize], "{off} {len}");
    }
    store.put("empty", Segments::new()).await.expect("put");
    assert_eq!(store.get("empty", None).await.expect("get").concat(), b"");
    assert_eq!(store.get("empty", Some((0, 10))).await.expect("get").concat(), b"");
}

#[tokio::test]
async fn objects_carry_a_checksum_that_whole_reads_compare() {
    let server = S3Server::start();
    let store = made(&server, "bkt");
    store.put("k", body(b"hello")).await.expect("put");
    let meta = store.operator().stat("k").await.expect("head");
    assert_eq!(meta.user_metadata().and_then(|user| user.get("crc32c")), Some("2591144780"));
    assert_eq!(meta.content_type(), Some("application/octet-stream"));
    std::fs::write(server.bucket_dir("bkt").join("k"), b"hellp").expect("damage");
    let error = store.get("k", None).await.expect_err("damaged");
    assert!(matches!(&error, StorageError::Transient(text) if text.contains("2591144780")), "{error}");
    // A part has no checksum.
    assert_eq!(store.get("k", Some((3, 2))).await.expect("a part").concat(), b"lp");
    let careless = setting("s3", &format!("{}?disable-checksum=true", server.bucket_url("bkt")));
    let careless = s3_bucket(&careless.bucket, &careless);
    assert_eq!(careless.get("k", None).await.expect("unchecked").concat(), b"hellp");
    careless.put("l", body(b"hello")).await.expect("put");
    assert!(store.operator().stat("l").await.expect("head").user_metadata().is_none_or(|user| user.is_empty()));
    assert_eq!(store.get("l", None).await.expect("without a checksum").concat(), b"hello");
}

#[tokio::test]
async fn certificates_are_those_that_the_address_names() {
    let server = S3Server::start_with_tls();
    server.make_bucket("bkt");
    let url = server.bucket_url("bkt");
    let files = server.tls().expect("certificates");
    let client = format!("ssl-cert={}&ssl-key={}", files.client_cert.display(), files.client_key.display());
    let at = |address: String| open_storage(&setting("s3", &address)).expect("a store");
    selftest(at(format!("{url}?{}", files.bucket_options())).as_ref()).await.expect("sound");
    selftest(at(format!("{url}?tls-insecure-skip-verify=true&{client}")).as_ref()).await.expect("sound");
    let error = at(format!("{url}?{client}")).put("k", body(b"x")).await.expect_err("not trusted");
    assert!(refusal(error).contains("is not trusted"));
    // Without its own certificate a client is not served, which it may only hear after it has begun to speak.
    let nobody = at(format!("{url}?ca-certs={}", files.ca.display()));
    let error = nobody.put("k", body(b"x")).await.expect_err("not served");
    assert!(matches!(error, StorageError::Transient(_)), "{error}");
    let missing = open_storage(&setting("s3", &format!("{url}?ca-certs=/no/such/file"))).expect_err("no file");
    assert!(refusal(missing).contains("ca-certs /no/such/file"));
}

#[tokio::test]
async fn a_server_without_tls_is_told_from_one_that_is_away() {
    let server = S3Server::start();
    let url = server.bucket_url("bkt").replace("http://", "https://");
    let store = open_storage(&setting("s3", &url)).expect("a store");
    assert!(refusal(store.put("k", body(b"x")).await.expect_err("no TLS")).contains("use http://"));
}
