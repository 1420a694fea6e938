//! Sizes from nothing to a terabyte, holes included.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, MetadataExt},
    },
    thread,
    time::Duration,
};

use e2e::{Owner, Pattern, Rest, Volume};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const PIECE: usize = 8192;

fn seek(file: &File, offset: u64, whence: i32) -> io::Result<u64> {
    // SAFETY: lseek(2) takes plain numbers, and the descriptor is open for as long as `file` is borrowed.
    let found = unsafe { libc::lseek(file.as_raw_fd(), i64::try_from(offset).unwrap(), whence) };
    u64::try_from(found).map_err(|_| io::Error::last_os_error())
}

/// The places of a sparse file of this size that hold data: its ends, its middle, and the edges of blocks and chunks.
fn places(size: u64) -> Vec<u64> {
    let piece = PIECE as u64;
    let wanted = [0, 4 * MIB - 100, 64 * MIB - 4096, GIB + 1, size / 2 + 17, size - piece];
    let mut places: Vec<u64> = wanted.into_iter().filter(|&at| at + piece <= size).collect();
    places.sort_unstable();
    places.dedup_by(|later, earlier| *later < *earlier + piece);
    places
}

fn piece(size: u64, at: u64) -> Vec<u8> {
    Pattern::of(Owner { run: size, file: at, version: 1 }).bytes(PIECE)
}

fn check_sparse(file: &File, size: u64) {
    let places = places(size);
    assert_eq!(file.metadata().unwrap().len(), size);
    let mut data = vec![0; PIECE];
    for &at in &places {
        file.read_exact_at(&mut data, at).unwrap();
        assert!(data == piece(size, at), "wrong bytes at {at} of a file of {size}");
        assert_eq!(seek(file, at, libc::SEEK_DATA).unwrap(), at, "data at {at} of {size} is not seen as data");
    }
    // Between two pieces is a hole, and the end of a file counts as one.
    for pair in places.windows(2) {
        let hole = pair[0] + PIECE as u64;
        let length = usize::try_from((pair[1] - hole).min(MIB)).unwrap();
        let mut gap = vec![1; length];
        file.read_exact_at(&mut gap, hole).unwrap();
        assert!(gap.iter().all(|&byte| byte == 0), "the hole at {hole} of {size} is not zeroes");
        let next = seek(file, pair[0], libc::SEEK_HOLE).unwrap();
        assert!(next >= hole && next <= size, "SEEK_HOLE at {} of {size} answers {next}", pair[0]);
    }
    assert_eq!(file.read_at(&mut data, size).unwrap(), 0, "bytes past the end");
    assert_eq!(seek(file, size, libc::SEEK_DATA).unwrap_err().raw_os_error(), Some(libc::ENXIO));
}

/// Small pieces of data are not joined over the holes between them, which would then be stored.
#[test]
fn holes_between_small_pieces_stay() {
    const PIECES: u64 = 20;
    const DISTANCE: u64 = 3 * PAGE;
    const PAGE: u64 = 4096;
    let volume = Volume::new();
    let mount = volume.mount();
    let file = File::options().read(true).write(true).create_new(true).open(mount.join("sparse")).unwrap();
    for at in 0..PIECES {
        file.write_all_at(&[7; PAGE as usize], at * DISTANCE).unwrap();
        file.sync_all().unwrap();
    }
    // Looking at the file is what makes a client join its pieces, which then takes a moment.
    for _ in 0..20 {
        for start in (0..PIECES).map(|at| at * DISTANCE) {
            assert_eq!(seek(&file, start, libc::SEEK_DATA).unwrap(), start);
            assert_eq!(seek(&file, start, libc::SEEK_HOLE).unwrap(), start + PAGE);
        }
        thread::sleep(Duration::from_millis(100));
    }
    let stored: u64 = volume.objects().iter().map(|(_, size)| size).sum();
    assert_eq!(stored, PIECES * PAGE);
    drop(file);
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}

#[test]
fn sparse_files_up_to_a_tebibyte() {
    let volume = Volume::new();
    let mount = volume.mount();
    let sizes = [64 * KIB, MIB + 1, 64 * MIB, 64 * MIB + 1, 5 * GIB, 100 * GIB, TIB];
    for size in sizes {
        let path = mount.join(format!("sparse-{size}"));
        let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
        file.set_len(size).unwrap();
        for at in places(size) {
            file.write_all_at(&piece(size, at), at).unwrap();
        }
        check_sparse(&file, size);
        file.sync_all().unwrap();
        check_sparse(&file, size);
    }
    mount.unmount();
    // The objects hold the pieces, not the holes. (Compaction may fill the holes within one chunk.)
    let stored: u64 = volume.objects().iter().map(|(_, size)| size).sum();
    assert!(stored < 512 * MIB, "the sparse files take {stored} bytes in the object store");
    let mount = volume.mount();
    for size in sizes {
        let path = mount.join(format!("sparse-{size}"));
        check_sparse(&File::open(&path).unwrap(), size);
        // Blocks count the length, as every client of such a volume shows it.
        assert_eq!(fs::metadata(&path).unwrap().blocks(), size.div_ceil(512));
    }
    mount.unmount();
}

#[test]
fn truncation_cuts_and_grows_with_zeroes() {
    let volume = Volume::new();
    let mount = volume.mount();
    let path = mount.join("cut");
    let content = Pattern::of(Owner { run: 1, file: 1, version: 1 }).bytes(9 * 1024 * 1024 + 77);
    fs::write(&path, &content).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    for keep in [9 * MIB, 8 * MIB + 1, 4 * MIB, 4 * MIB - 1, 4097, 1, 0] {
        let keep_usize = usize::try_from(keep).unwrap();
        file.set_len(keep).unwrap();
        file.set_len(keep + 3 * MIB).unwrap();
        let seen = fs::read(&path).unwrap();
        assert_eq!(seen.len() as u64, keep + 3 * MIB);
        assert!(seen[..keep_usize] == content[..keep_usize], "bytes before {keep} changed");
        assert!(seen[keep_usize..].iter().all(|&byte| byte == 0), "old bytes came back after {keep}");
        file.set_len(keep).unwrap();
    }
    drop(file);
    mount.unmount();
}

/// Lengths around every unit of the format, written in one go and read after a remount.
#[test]
fn lengths_around_the_edges_of_pages_blocks_and_chunks() {
    let volume = Volume::with(&["--trash-days", "0", "--block-size", "64K"]);
    let mount = volume.mount();
    let units = [1, 512, 4 * KIB, 64 * KIB, 128 * KIB, MIB, 64 * MIB];
    let lengths: Vec<u64> = units.into_iter().flat_map(|unit| [unit - 1, unit, unit + 1]).collect();
    let content =
        |length: u64| Pattern::of(Owner { run: 2, file: length, version: 1 }).bytes(usize::try_from(length).unwrap());
    for &length in &lengths {
        fs::write(mount.join(format!("len-{length}")), content(length)).unwrap();
    }
    mount.unmount();
    let mount = volume.mount();
    for &length in &lengths {
        let seen = fs::read(mount.join(format!("len-{length}"))).unwrap();
        assert!(seen == content(length), "the file of {length} bytes is wrong");
    }
    mount.unmount();
}
