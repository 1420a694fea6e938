use std::{
    fs,
    time::{Duration, SystemTime},
};

use super::*;

const LEVELS: [ChecksumLevel; 4] =
    [ChecksumLevel::None, ChecksumLevel::Full, ChecksumLevel::Shrink, ChecksumLevel::Extend];

fn data(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect()
}

/// A file of `data` with checksums.
fn file_of(dir: &tempfile::TempDir, data: &[u8]) -> std::path::PathBuf {
    let path = dir.path().join(format!("1_0_{}", data.len()));
    let sums = checksums(&[Bytes::copy_from_slice(data)]);
    fs::write(&path, [data, &sums].concat()).expect("written");
    path
}

fn open(path: &Path, size: usize, level: ChecksumLevel) -> io::Result<CachedFile> {
    CachedFile::open(path, size as u32, level, sys::medium(path))
}

fn read(path: &Path, size: usize, level: ChecksumLevel, off: usize, len: usize) -> io::Result<Bytes> {
    let file = open(path, size, level).expect("opened");
    let waited = file.read(off as u32, len as u32);
    let at_once = file.read_now(off as u32, len as u32);
    // A file just written is in the page cache, so both ways see the same.
    assert_eq!(at_once.as_ref(), waited.as_ref().ok());
    waited
}

#[test]
fn every_range_reads_back_at_every_level() {
    let dir = tempfile::tempdir().expect("a directory");
    for size in [10, 100 << 10, 1 << 20] {
        let data = data(size);
        let path = file_of(&dir, &data);
        for level in LEVELS {
            let ranges =
                [(0, size), (0, 1), (size - 1, 1), (size / 3, size / 2), (32 << 10, 32 << 10), (8 << 10, 90 << 10)];
            for (off, len) in ranges {
                if off + len <= size {
                    assert_eq!(read(&path, size, level, off, len).expect("read"), data[off..off + len]);
                }
            }
        }
    }
}

#[test]
fn a_wrong_checksum_is_seen_as_far_as_the_level_looks() {
    const SIZE: usize = 100 << 10;
    let dir = tempfile::tempdir().expect("a directory");
    let data = data(SIZE);
    let path = file_of(&dir, &data);
    let mut bytes = fs::read(&path).expect("read");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).expect("written");
    for (level, whole, part) in [
        (ChecksumLevel::None, true, true),
        (ChecksumLevel::Full, false, true),
        (ChecksumLevel::Shrink, false, true),
        (ChecksumLevel::Extend, false, false),
    ] {
        assert_eq!(read(&path, SIZE, level, 0, SIZE).is_ok(), whole, "{level:?} whole");
        assert_eq!(read(&path, SIZE, level, 8 << 10, 90 << 10).is_ok(), part, "{level:?} part");
        assert!(read(&path, SIZE, level, 0, 32 << 10).is_ok(), "{level:?} elsewhere");
    }
}

#[test]
fn a_flipped_bit_anywhere_is_seen() {
    const SIZE: usize = 70_000;
    let dir = tempfile::tempdir().expect("a directory");
    let data = data(SIZE);
    let path = file_of(&dir, &data);
    let sound = fs::read(&path).expect("read");
    for at in [0, 1, 32_767, 32_768, 65_536, SIZE - 1, SIZE, SIZE + 5, sound.len() - 1] {
        let mut bytes = sound.clone();
        bytes[at] ^= 0x10;
        fs::write(&path, &bytes).expect("written");
        assert!(read(&path, SIZE, ChecksumLevel::Extend, 0, SIZE).is_err(), "byte {at}");
        let off = at.min(SIZE - 1);
        assert!(at >= SIZE || read(&path, SIZE, ChecksumLevel::Extend, off, 1).is_err(), "byte {at} alone");
    }
    // Cut while it is open: what is no longer there is an error, never zeros.
    fs::write(&path, &sound).expect("written");
    let file = open(&path, SIZE, ChecksumLevel::Extend).expect("opened");
    fs::OpenOptions::new().write(true).open(&path).and_then(|f| f.set_len(40_000)).expect("cut");
    assert_eq!(file.read_now(0, SIZE as u32), None);
    assert!(file.read(39_000, 5000).is_err());
    assert_eq!(file.read(0, 5000).expect("still there"), data[..5000]);
}

#[test]
fn lengths_tell_what_a_file_is() {
    let size = 80 << 10;
    for (extra, want) in [(0, Some(false)), (12, Some(true)), (12 + 20, Some(true)), (18, Some(false)), (8, None)] {
        assert_eq!(has_checksums(size, (size + extra) as u64), want, "{extra} bytes after the data");
    }
    assert_eq!(has_checksums(size, size as u64 - 1), None);
    // A footer alone is never taken for three checksums.
    assert_eq!(has_checksums(size, size as u64 + 14), Some(false));
}

#[test]
fn a_file_without_checksums_is_accepted_at_every_level() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("plain");
    fs::write(&path, data(50_000)).expect("written");
    for level in LEVELS {
        let at_once = CachedFile::open_now(&path, 50_000, level, sys::medium(&path)).expect("there");
        assert!(at_once.is_some_and(|file| file.read_now(7, 9).is_some()), "a file just written is at hand");
        assert_eq!(read(&path, 50_000, level, 100, 40_000).expect("read"), data(50_000)[100..40_100]);
    }
}

#[test]
fn checksums_do_not_depend_on_how_the_data_lies() {
    let data = data(100_000);
    let whole = checksums(&[Bytes::copy_from_slice(&data)]);
    assert_eq!(whole.len(), sums_bytes(data.len()));
    assert_eq!(whole[..4], crc32c::crc32c(&data[..32768]).to_be_bytes());
    for step in [1, 1000, 32_768, 50_000] {
        let parts: Vec<_> = data.chunks(step).map(Bytes::copy_from_slice).collect();
        assert_eq!(checksums(&parts), whole, "parts of {step}");
    }
}

/// A read that noted its time would wait for the journal of a disk that hangs, though the bytes are at hand.
#[test]
fn a_use_is_noted_once_a_day_and_never_by_reading() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = file_of(&dir, &data(1000));
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
    let hours_ago = |hours: u64| now - Duration::from_secs(hours * 3600);
    let set = |used: u64, written: u64| {
        let times = fs::FileTimes::new().set_accessed(hours_ago(used)).set_modified(hours_ago(written));
        File::options().write(true).open(&path).and_then(|file| file.set_times(times)).expect("set");
    };
    let used = || fs::metadata(&path).and_then(|meta| meta.accessed()).expect("a time");
    let file = open(&path, 1000, ChecksumLevel::Full).expect("opened");
    // The kernel itself would note a read after this.
    set(30, 20);
    assert_eq!(file.read(0, 1000).expect("read"), data(1000));
    assert!(file.read_now(0, 1000).is_some());
    if let Some(quick) = CachedFile::open_now(&path, 1000, ChecksumLevel::Full, sys::medium(&path)).expect("opened") {
        assert!(quick.read_now(0, 1000).is_some());
    }
    assert_eq!(used(), hours_ago(30));
    // A day old; younger; not used since it was written, as far as is known.
    for (at, written, is_noted) in [(30, 40, true), (2, 3, false), (3, 2, true)] {
        set(at, written);
        file.note_use(2_000_000_000);
        assert_eq!(used() != hours_ago(at), is_noted, "used {at} hours ago, written {written}");
    }
}

fn flip(path: &Path, at: usize) {
    let file = File::options().read(true).write(true).open(path).expect("opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).expect("read");
    file.write_all_at(&[byte[0] ^ 4], at as u64).expect("written");
}

/// ADR 0014: what was compared counts while the kernel holds it, for a minute, and in the same opening.
#[test]
fn what_was_verified_counts_until_the_disk_is_asked_a_minute_passes_or_it_is_opened_again() {
    const SIZE: usize = 100 << 10;
    const EXTEND: ChecksumLevel = ChecksumLevel::Extend;
    let dir = tempfile::tempdir().expect("a directory");
    let sound = data(SIZE);
    for forgotten_by in ["the disk", "a hint", "time", "opening"] {
        let path = file_of(&dir, &sound);
        let file = open(&path, SIZE, EXTEND).expect("opened");
        // Damage before the first read of a piece is always seen.
        flip(&path, 40_000);
        assert_eq!(file.read_now(50_000, 10), None);
        assert_eq!(file.read_now(100, 10).expect("sound"), sound[100..110]);
        // Of what was compared only what is asked for is read: damage elsewhere in the piece, in the same minute, is not met.
        flip(&path, 20_000);
        assert_eq!(file.read_now(300, 4096).expect("at hand"), sound[300..4396]);
        // What lies partly in a piece that was not compared is compared whole.
        assert_eq!(file.read_now(32_000, 2000), None);
        let file = match forgotten_by {
            "the disk" => {
                assert_eq!(file.read(70_000, 10).expect("another piece"), sound[70_000..70_010]);
                file
            }
            "a hint" => {
                file.will_need();
                file
            }
            "time" => {
                file.verified.end_period(Duration::from_secs(61));
                file
            }
            _ => open(&path, SIZE, EXTEND).expect("opened"),
        };
        assert_eq!(file.read_now(300, 4096), None, "forgotten by {forgotten_by}");
        assert_eq!(file.read(300, 4096).expect_err("damage").kind(), io::ErrorKind::InvalidData);
    }
}
