//! Encrypted volumes: what lies in the store, and what happens to it.

use std::sync::atomic::Ordering::Relaxed;

use juicefs_core::{Errno, StorageError};
use juicefs_testkit::fault_store::{Fault, FaultStore, Verb};

use super::*;

const KEY: &str = "chunks/0/0/1_0_90";

#[tokio::test]
async fn a_damaged_body_is_fetched_again_and_a_part_needs_the_whole() {
    let config = ChunkConfig { block_size: 4 << 20, ..encrypted("none", "aes256gcm-rsa") };
    let faults = FaultStore::new(mem(), 1);
    let store = Store::open(config, Arc::clone(&faults) as Arc<dyn ObjectStorage>);
    let slice = put(&store, 1, &sample(4 << 20)).await;
    faults.fail_next(Verb::Get, Fault::CorruptByte);
    let part = store.read(slice, 1000, 4096, ReadPurpose::Random).await.expect("whole the second time").concat();
    assert_eq!(part, sample(4 << 20)[1000..5096]);
    assert_eq!(faults.counts.get.load(Relaxed), 2);
    assert!(faults.counts.get_bytes.load(Relaxed) > 2 * (4 << 20));
}

/// One block is encrypted once, however often it is sent: every try stores the same bytes.
#[tokio::test]
async fn tries_store_the_same_body() {
    let storage = mem();
    let faults = FaultStore::new(Arc::clone(&storage), 1);
    let store = Store::open(encrypted("none", "aes256gcm-rsa"), Arc::clone(&faults) as Arc<dyn ObjectStorage>);
    let mut writer = store.writer(WriteOptions::default());
    writer.set_id(SliceId(1));
    writer.write(0, sample(90).into(), store.budget().acquire(Share::Write, 90).await).expect("written");
    faults.fail_next(Verb::Put, Fault::ErrorAfter(StorageError::Permanent("the answer is lost".into())));
    assert_eq!(writer.finish().await.expect_err("reported").errno(), Errno::EIO);
    let first = storage.get(KEY, None).await.expect("stored").concat();
    writer.finish().await.expect("the second time");
    assert!(storage.get(KEY, None).await.expect("stored").concat() == first, "another body of the same block");
}

#[tokio::test]
async fn an_encrypted_volume_without_its_key_is_refused() {
    let format = Format { encrypt_key: "PEM".into(), ..format("none") };
    assert_eq!(ChunkConfig::for_format(&format).expect_err("no key"), crate::ConfigError::Encrypted);
    let cipher = crate::cipher::tests::cipher("");
    assert!(ChunkConfig::for_volume(&format, Some(cipher)).is_ok());
}
