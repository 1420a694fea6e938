use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use juicefs_core::Format;

use super::*;
use crate::config::{ChecksumLevel, Eviction};

fn config(dirs: &[&Path]) -> ChunkConfig {
    let format = Format { block_size: 64, storage: "mem".into(), ..Format::default() };
    let mut config = ChunkConfig::for_format(&format).expect("a config").corrected();
    config.cache.place = CachePlace::Disk(dirs.iter().map(|dir| dir.to_path_buf()).collect());
    config.cache.free_space_ratio = 0.0001;
    // Nothing is served from memory, so that the disk is what is tested.
    config.cache.memory_bytes = 0;
    config
}

fn open(config: &ChunkConfig) -> Cache {
    Cache::open(config, &Arc::default())
}

fn counted(config: &ChunkConfig) -> (Cache, Arc<Counters>) {
    let counters = Arc::default();
    (Cache::open(config, &counters), counters)
}

fn id(slice: u64, size: u32) -> BlockId {
    BlockId { slice, index: 0, size }
}

fn block(slice: u64, size: usize) -> Bytes {
    (0..size).map(|i| (i as u64).wrapping_mul(slice + 7).to_le_bytes()[0]).collect::<Vec<_>>().into()
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("not within 5 s: {what}");
}

/// The block as it is read back, from disk.
async fn stored(cache: &Cache, id: BlockId) -> Option<Bytes> {
    match cache.find(id) {
        Found::Memory(bytes) => Some(bytes),
        Found::Open(file) => file.read(0, id.size).await.ok(),
        Found::Closed => match cache.open_block(id).await {
            Found::Open(file) => file.read(0, id.size).await.ok(),
            _ => None,
        },
        Found::Nothing => None,
    }
}

#[tokio::test]
async fn blocks_lie_in_the_layout_of_the_format() {
    let root = tempfile::tempdir().expect("a directory");
    let dir = root.path().join("cache/uuid");
    let cache = open(&config(&[&dir]));
    cache.insert(id(1234, 5000), &block(1234, 5000), Keep::Normal).await;
    assert_eq!(stored(&cache, id(1234, 5000)).await.expect("readable at once"), block(1234, 5000));
    cache.close();
    let path = dir.join("raw/chunks/0/1/1234_0_5000");
    let bytes = fs::read(&path).expect("a file");
    assert_eq!(bytes[..5000], block(1234, 5000));
    assert_eq!(bytes[5000..], crc32c::crc32c(&bytes[..5000]).to_be_bytes());
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(&dir.join("raw/chunks/0")), 0o700);
    let lock = fs::read_to_string(dir.join(".lock")).expect("an id");
    assert_eq!((lock.len(), lock.matches('-').count()), (36, 4));
    let again = open(&config(&[&dir]));
    again.close();
    assert_eq!(fs::read_to_string(dir.join(".lock")).expect("an id"), lock, "the id is for good");
}

#[tokio::test]
async fn directories_get_search_bits_where_files_get_read_bits() {
    let root = tempfile::tempdir().expect("a directory");
    for (mode, want) in [(0o640, 0o770), (0o644, 0o777)] {
        let dir = root.path().join(format!("{mode:o}"));
        let mut config = config(&[&dir]);
        config.cache.mode = mode;
        open(&config).close();
        assert_eq!(fs::metadata(dir.join("raw")).expect("there").permissions().mode() & 0o777, want);
    }
}

#[tokio::test]
async fn a_restart_finds_what_is_there_and_clears_litter() {
    let root = tempfile::tempdir().expect("a directory");
    let config = config(&[root.path()]);
    let cache = open(&config);
    for n in 0..100 {
        cache.insert(id(n, 1024), &block(n, 1024), Keep::Forced).await;
    }
    cache.close();
    let raw = root.path().join("raw");
    fs::write(raw.join("chunks/0/0/5_0_4.tmp"), "x").expect("litter");
    let old = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    fs::write(raw.join("chunks/0/0/6_0_4.tmp"), "x").expect("litter");
    let litter = fs::File::options().write(true).open(raw.join("chunks/0/0/6_0_4.tmp")).expect("opened");
    litter.set_modified(old).expect("aged");
    fs::create_dir(raw.join("chunks/0/9")).expect("an empty directory");
    fs::write(raw.join("chunks/0/0/test_9"), "x").expect("something else");

    let cache = open(&config);
    wait_until("the scan", || cache.usage().0 == 100);
    assert_eq!(cache.usage().1, 100 * 1024);
    assert_eq!(stored(&cache, id(42, 1024)).await.expect("found"), block(42, 1024));
    cache.close();
    assert!(raw.join("chunks/0/0/5_0_4.tmp").exists() && !raw.join("chunks/0/0/6_0_4.tmp").exists());
    assert!(raw.join("chunks/0/9").exists() && raw.join("chunks/0/0/test_9").exists());
}

#[tokio::test]
async fn before_the_scan_the_disk_is_asked_and_without_it_always() {
    let root = tempfile::tempdir().expect("a directory");
    let mut config = config(&[root.path()]);
    config.cache.scan_interval = None;
    let cache = open(&config);
    let path = root.path().join("raw/chunks/0/0/7_0_11");
    fs::create_dir_all(path.parent().expect("a parent")).expect("made");
    fs::write(&path, "hello world").expect("by another client, without checksums");
    assert!(!cache.contains(id(7, 11)));
    assert_eq!(stored(&cache, id(7, 11)).await.expect("found"), "hello world");
    assert!(cache.contains(id(7, 11)));
    cache.close();
}

/// Files of 100 bytes in directories of a thousand, as many clients have left them.
fn litter(root: &Path, count: u64) {
    for n in 0..count {
        let path = root.join("raw").join(id(n, 100).key(false));
        if n % 1000 == 0 {
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        }
        fs::write(path, block(n, 100)).expect("written");
    }
}

/// While the scan stands still: reads find what it has not met, and nothing is evicted, however much there is.
#[tokio::test]
async fn nothing_waits_for_the_scan_but_eviction() {
    let root = tempfile::tempdir().expect("a directory");
    litter(root.path(), 300);
    let (go, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    trouble::set(root.path(), move || {
        if std::thread::current().name() == Some("cache-scan") {
            // Until the sender is gone.
            let _ = held.lock().recv();
        }
        Ok(())
    });
    let mut config = config(&[root.path()]);
    config.cache.items = 50;
    let cache = open(&config);
    for n in 0..300 {
        assert_eq!(stored(&cache, id(n, 100)).await.expect("found without the scan"), block(n, 100));
    }
    assert!(stored(&cache, id(1000, 100)).await.is_none());
    // A second look is at the limits, twice over.
    std::thread::sleep(2 * TIDY_INTERVAL);
    assert_eq!((cache.usage().0, walk(&root.path().join("raw"))), (300, 300), "nothing is evicted yet");
    drop(go);
    wait_until("within the limit", || cache.usage().0 <= 50 && walk(&root.path().join("raw")) <= 50);
    assert!(cache.usage().0 > 0);
    cache.close();
}

/// As many files as a large cache has, with `JUICEFS_TEST_FULL=1`.
#[tokio::test]
async fn many_files_are_found() {
    let count = if std::env::var_os("JUICEFS_TEST_FULL").is_some_and(|value| value == "1") { 200_000 } else { 5000 };
    let root = tempfile::tempdir().expect("a directory");
    litter(root.path(), count);
    let started = Instant::now();
    let cache = open(&config(&[root.path()]));
    let opened = started.elapsed();
    for n in (0..count).step_by(usize::try_from(count / 500).expect("a step")) {
        assert_eq!(stored(&cache, id(n, 100)).await.expect("found"), block(n, 100));
    }
    let read = started.elapsed();
    while cache.usage().0 < count {
        assert!(started.elapsed() < Duration::from_secs(300), "{} of {count} found", cache.usage().0);
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("{count} files: opened in {opened:?}, 500 read by {read:?}, all found by {:?}", started.elapsed());
    assert_eq!(cache.usage(), (count, count * 100));
    cache.close();
}

/// A scan that begins between the two steps of an eviction still sees the file.
#[tokio::test]
async fn what_was_evicted_while_a_scan_began_is_not_taken_for_cached() {
    let root = tempfile::tempdir().expect("a directory");
    let config = config(&[root.path()]);
    let gate = gate::Gate::new(root.path(), config.cache.health.clone(), 1);
    let (dir, _) = dir::CacheDir::open(root.path(), &config, gate).expect("opened");
    let (id, bytes) = (id(1, 3000), block(1, 3000));
    for _ in 0..2 {
        assert!(matches!(dir.offer(id, &bytes), dir::Offer::Taken), "it is not here");
        assert_eq!(dir.write_pending(id).expect("written"), 3000);
        let need = dir.forget(id, true).expect("it is here");
        scan::scan(&dir, &AtomicBool::new(false));
        dir.delete(id, need).expect("deleted");
        assert!(!dir.contains(id));
    }
}

#[tokio::test]
async fn what_another_client_evicted_or_damaged_is_a_miss() {
    let root = tempfile::tempdir().expect("a directory");
    let cache = open(&config(&[root.path()]));
    for n in 1..=3 {
        cache.insert(id(n, 3000), &block(n, 3000), Keep::Forced).await;
    }
    let path = |n: u64| root.path().join(format!("raw/chunks/0/0/{n}_0_3000"));
    wait_until("the files", || (1..=3).all(|n| path(n).exists()));
    wait_until("the index", || cache.usage().0 == 3);
    fs::remove_file(path(1)).expect("evicted");
    fs::OpenOptions::new().write(true).open(path(2)).and_then(|f| f.set_len(2000)).expect("cut");
    assert!(stored(&cache, id(1, 3000)).await.is_none() && !cache.contains(id(1, 3000)));
    assert!(stored(&cache, id(2, 3000)).await.is_none() && !cache.contains(id(2, 3000)));
    assert!(!path(2).exists(), "a file of the wrong length is of no use to anybody");
    assert_eq!(stored(&cache, id(3, 3000)).await.expect("sound"), block(3, 3000));
    cache.remove(id(3, 3000)).await;
    assert!(!path(3).exists() && stored(&cache, id(3, 3000)).await.is_none());
    cache.close();
}

#[tokio::test]
async fn limits_hold_for_every_policy() {
    for eviction in [Eviction::TwoRandom, Eviction::Lru, Eviction::None] {
        let root = tempfile::tempdir().expect("a directory");
        let mut config = config(&[root.path()]);
        config.cache.eviction = eviction;
        config.cache.size_bytes = 10 * (1024 + 4096);
        let (cache, counters) = counted(&config);
        for n in 0..30 {
            cache.insert(id(n, 1024), &block(n, 1024), Keep::Forced).await;
            wait_until("written or refused", || !matches!(cache.find(id(n, 1024)), Found::Memory(_)));
        }
        // Refusing begins once the limit is passed; evicting goes on every second.
        let most = if eviction == Eviction::None { 11 } else { 10 };
        wait_until("within the limit", || (1..=most).contains(&cache.usage().0));
        wait_until("the files are gone too", || walk(&root.path().join("raw")) as u64 == cache.usage().0);
        let gone = 30 - cache.usage().0;
        let wanted = if eviction == Eviction::None { (gone, 0) } else { (0, gone) };
        wait_until("counted as dropped or evicted", || drops_and_evicts(&counters) == wanted);
        cache.close();
    }
}

fn drops_and_evicts(counters: &Counters) -> (u64, u64) {
    (counters.cache_drops.load(Relaxed), counters.cache_evicts.load(Relaxed))
}

/// The disk takes nothing for a while: what finds no room before it is dropped, and counted.
#[tokio::test]
async fn what_a_slow_disk_does_not_get_is_counted() {
    const SIZE: usize = 256 << 10;
    let root = tempfile::tempdir().expect("a directory");
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let mut config = config(&[root.path()]);
    config.buffer_bytes = 64 << 20;
    // Opening is over when the trouble begins.
    let begun = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&begun);
    trouble::set(root.path(), move || {
        if seen.load(Relaxed) {
            let _ = held.lock().recv();
        }
        Ok(())
    });
    let (cache, counters) = counted(&config);
    begun.store(true, Relaxed);
    // A fifth of the buffers has room.
    let offered = (config.buffer_bytes / SIZE) as u64;
    let content = block(1, SIZE);
    for n in 0..offered {
        cache.insert(id(n, SIZE as u32), &content, Keep::Normal).await;
    }
    let (drops, evicts) = drops_and_evicts(&counters);
    assert!(drops > 0 && drops < offered && evicts == 0, "{drops} of {offered} blocks are dropped, {evicts} evicted");
    drop(release);
    wait_until("the others are written", || cache.usage().0 == offered - drops);
    assert_eq!(drops_and_evicts(&counters), (drops, 0));
    cache.close();
}

#[tokio::test]
async fn nothing_is_added_to_a_disk_short_of_space() {
    let root = tempfile::tempdir().expect("a directory");
    let mut config = config(&[root.path()]);
    let cache = open(&config);
    cache.insert(id(1, 1024), &block(1, 1024), Keep::Forced).await;
    cache.close();
    config.cache.free_space_ratio = 0.9999;
    let cache = open(&config);
    cache.insert(id(2, 1024), &block(2, 1024), Keep::Forced).await;
    assert!(!cache.contains(id(2, 1024)));
    wait_until("what was there is evicted", || walk(&root.path().join("raw")) == 0);
    cache.close();
}

#[tokio::test]
async fn old_blocks_expire() {
    let root = tempfile::tempdir().expect("a directory");
    let mut config = config(&[root.path()]);
    config.cache.expire = Duration::from_secs(1);
    let cache = open(&config);
    cache.insert(id(1, 1024), &block(1, 1024), Keep::Forced).await;
    wait_until("expired", || cache.usage().0 == 0 && walk(&root.path().join("raw")) == 0);
    cache.close();
}

#[tokio::test]
async fn several_directories_share_and_old_places_are_seen() {
    let root = tempfile::tempdir().expect("a directory");
    let dirs = ["a", "b", "c"].map(|name| root.path().join(name));
    let config = config(&dirs.each_ref().map(|dir| dir.as_path()));
    let cache = open(&config);
    for n in 0..200 {
        cache.insert(id(n, 1024), &block(n, 1024), Keep::Forced).await;
    }
    wait_until("written", || cache.usage().0 == 200);
    let counts = dirs.each_ref().map(|dir| walk(&dir.join("raw")));
    assert!(counts.iter().all(|count| *count > 20), "{counts:?}");
    cache.close();

    // A block in the directory where clients of old would have it.
    let key = id(7777, 4).key(false);
    let place = crate::hash::fnv1_32(key.as_bytes()) as usize % 3;
    let path = dirs[place].join("raw").join(&key);
    fs::create_dir_all(path.parent().expect("a parent")).expect("made");
    fs::write(&path, "good").expect("written");
    let cache = open(&config);
    wait_until("the scan", || cache.usage().0 == 201);
    assert_eq!(stored(&cache, id(7777, 4)).await.expect("found"), "good");
    for n in 0..200 {
        assert_eq!(stored(&cache, id(n, 1024)).await.expect("found"), block(n, 1024));
    }
    cache.remove(id(7777, 4)).await;
    assert!(!path.exists());
    cache.close();
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_left_out() {
    let root = tempfile::tempdir().expect("a directory");
    let (file, dir) = (root.path().join("file"), root.path().join("dir"));
    fs::write(&file, "x").expect("written");
    let cache = open(&config(&[&file.join("below"), &dir]));
    cache.insert(id(1, 10), &block(1, 10), Keep::Forced).await;
    cache.close();
    assert_eq!(walk(&dir.join("raw")), 1);
    let cache = open(&config(&[&file.join("below")]));
    cache.insert(id(1, 10), &block(1, 10), Keep::Normal).await;
    assert!(cache.contains(id(1, 10)), "memory stands in");
    cache.close();
}

#[tokio::test]
async fn no_checksums_are_written_at_level_none() {
    let root = tempfile::tempdir().expect("a directory");
    let mut config = config(&[root.path()]);
    config.cache.checksum = ChecksumLevel::None;
    let cache = open(&config);
    cache.insert(id(1, 10), &block(1, 10), Keep::Forced).await;
    cache.close();
    assert_eq!(fs::read(root.path().join("raw/chunks/0/0/1_0_10")).expect("a file"), block(1, 10));
}

/// Files below `path`.
fn walk(path: &Path) -> usize {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|e| if e.path().is_dir() { walk(&e.path()) } else { 1 }).sum()
}
