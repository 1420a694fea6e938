//! Bandwidth that a mount may take.

use tokio::time::Instant;

use super::*;

/// Seconds of writing and of reading `bytes` with limits of 8 Mbps, of which bodies get 850,000 bytes a second.
async fn seconds(codec: &str, bytes: usize) -> (f64, f64) {
    let config = ChunkConfig { upload_limit_mbps: 8, download_limit_mbps: 8, ..config(codec) };
    let store = Store::open(config, mem());
    let started = Instant::now();
    let slice = put(&store, 1, &sample(bytes)).await;
    let written = started.elapsed().as_secs_f64();
    store.evict(slice).await;
    let started = Instant::now();
    assert_eq!(get(&store, slice, 0, slice.size).await, sample(bytes));
    (written, started.elapsed().as_secs_f64())
}

#[tokio::test(start_paused = true)]
async fn blocks_go_and_come_at_the_limit() {
    let bytes = 4 << 20;
    let (written, read) = seconds("none", bytes).await;
    // The first tenth of a second's worth is free.
    let wanted = bytes as f64 / 850_000.0;
    assert!((wanted * 0.95..wanted * 1.05).contains(&written), "{written} s instead of {wanted} s");
    assert!((wanted * 0.95..wanted * 1.05).contains(&read), "{read} s instead of {wanted} s");
}

#[tokio::test(start_paused = true)]
async fn compressed_blocks_count_as_what_they_became() {
    let bytes = 1 << 20;
    let (written, read) = seconds("zstd", bytes).await;
    let plain = bytes as f64 / 850_000.0;
    assert!(written > 0.0 && written < plain, "{written} s");
    assert!(read > 0.0 && read < plain * 1.05, "{read} s");
}
