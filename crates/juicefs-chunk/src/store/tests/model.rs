//! The slice writer against a plain vector.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    /// Write this many bytes at this part (in 1/1000) of what may be written, or beyond its end by the gap.
    Write { at: u32, len: usize, gap: u32 },
    /// Flush up to this part of the length.
    Flush { at: u32 },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let len = write_len();
    let write = (0..=1000_u32, len, prop_oneof![4 => Just(0), 1 => 0..100_000_u32])
        .prop_map(|(at, len, gap)| Op::Write { at, len, gap });
    let flush = (0..=1000_u32).prop_map(|at| Op::Flush { at });
    prop::collection::vec(prop_oneof![5 => write, 1 => flush], 1..25)
}

fn write_len() -> impl Strategy<Value = usize> {
    prop_oneof![3 => 1..5000_usize, 2 => 1..200_000_usize, 1 => 500_000..700_000_usize]
}

async fn run(ops: Vec<Op>, config: ChunkConfig) {
    let store = Store::open(config, mem());
    let mut writer = store.writer(WriteOptions::default());
    let mut model: Vec<u8> = Vec::new();
    writer.set_id(SliceId(5));
    for (n, op) in ops.into_iter().enumerate() {
        match op {
            Op::Write { at, len, gap } => {
                let sealed = writer.sealed() as usize;
                let off = sealed + (model.len() - sealed) * at as usize / 1000 + gap as usize;
                let data: Vec<u8> = sample(len).iter().map(|b| b.wrapping_add(n as u8)).collect();
                if model.len() < off + len {
                    model.resize(off + len, 0);
                }
                model[off..off + len].copy_from_slice(&data);
                let lease = store.budget().acquire(Share::Write, len).await;
                writer.write(off as u32, data.into(), lease).expect("above what is sealed");
                assert_eq!(writer.len() as usize, model.len());
            }
            Op::Flush { at } => writer.flush_to((model.len() * at as usize / 1000) as u32),
        }
    }
    writer.finish().await.expect("finished");
    assert_eq!(writer.sealed(), writer.len());
    let slice = SliceKey { id: SliceId(5), size: writer.len() };
    drop(writer);
    assert_eq!(store.budget().used_bytes(), 0);
    assert!(get(&store, slice, 0, slice.size).await == model, "the whole slice");
    let mut at = 0;
    while at < model.len() {
        let len = (at % 77_777 + 1).min(model.len() - at);
        assert!(get(&store, slice, at as u32, len as u32).await == model[at..at + len], "{len} bytes at {at}");
        at += len;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn what_is_written_is_read(ops in ops(), codec in prop_oneof![Just("none"), Just("lz4"), Just("zstd")]) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(run(ops, config(codec)));
    }
}

proptest! {
    // Each block costs a private key operation.
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn what_is_written_is_read_on_encrypted_volumes(
        ops in ops(),
        codec in prop_oneof![Just("none"), Just("lz4"), Just("zstd")],
        algorithm in prop_oneof![Just("aes256gcm-rsa"), Just("chacha20-rsa")],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(run(ops, encrypted(codec, algorithm)));
    }
}

#[tokio::test]
async fn a_slice_ends_at_64_mib() {
    let store = Store::open(ChunkConfig { block_size: 16 << 20, ..config("none") }, mem());
    let mut writer = store.writer(WriteOptions::default());
    let end = 64 << 20;
    assert!(matches!(writer.write(end - 1, Bytes::from_static(b"xy"), Lease::empty()), Err(ChunkError::Misuse(_))));
    assert!(matches!(writer.write(u32::MAX, Bytes::from_static(b"xy"), Lease::empty()), Err(ChunkError::Misuse(_))));
    writer.write(end - 1, Bytes::from_static(b"x"), Lease::empty()).expect("the last byte");
    assert!(matches!(writer.finish().await, Err(ChunkError::Misuse(_))), "no id yet");
    writer.set_id(SliceId(3));
    writer.finish().await.expect("finished");
    let slice = SliceKey { id: SliceId(3), size: end };
    assert_eq!(get(&store, slice, end - 2, 2).await, b"\0x");
}

#[tokio::test]
async fn an_empty_slice_has_no_blocks() {
    let store = Store::open(config("none"), mem());
    let mut writer = store.writer(WriteOptions::default());
    assert!(writer.is_empty());
    writer.finish().await.expect("nothing to do");
    let slice = SliceKey { id: SliceId(3), size: 0 };
    assert!(store.read(slice, 0, 0, ReadPurpose::Random).await.expect("read").is_empty());
    store.remove(slice).await.expect("removed");
}
