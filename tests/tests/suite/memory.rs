//! The memory of a client is bounded, whatever is asked of it, and nobody waits for good for some.

use std::{
    fs::{self, File},
    io::Write,
    path::PathBuf,
    sync::{Barrier, mpsc},
    thread,
    time::Duration,
};

use e2e::{Mount, Owner, Pattern, Rest, Volume, children_of, full};

const MIB: usize = 1 << 20;
const WRITERS: u64 = 200;
const BUFFER_MIB: usize = 64;
/// What a client takes beside its buffers.
const BESIDE_MIB: usize = 100;

fn content(file: u64, length: usize) -> Vec<u8> {
    Pattern::of(Owner { run: 64, file, version: 1 }).bytes(length)
}

/// The largest value of a line of `/proc/PID/status` of a process and its children, in KiB.
fn largest_kib(pid: u32, line: &str) -> usize {
    let value = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|found| found.strip_prefix(line));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
    };
    std::iter::once(pid).chain(children_of(pid)).map(value).max().unwrap_or(0)
}

/// The most memory that a process or a child of it ever had resident, or since [`forget_peak`], in KiB.
///
/// # Panics
/// If that is not known.
pub(crate) fn peak_kib(pid: u32) -> usize {
    let peak = largest_kib(pid, "VmHWM:");
    assert!(peak > 0, "the memory of process {pid} is not known");
    peak
}

/// Begins anew to look for the most memory of a process and its children; what is resident now, in KiB.
pub(crate) fn forget_peak(pid: u32) -> usize {
    for pid in std::iter::once(pid).chain(children_of(pid)) {
        fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
    }
    largest_kib(pid, "VmRSS:")
}

/// Many writers at once, through a store that takes far less than they have: they wait, all of them get done, nothing is
/// lost, and the memory stays below the buffers and a little more.
#[test]
fn two_hundred_writers_share_the_buffers() {
    let length = if full() { 8 * MIB } else { 2 * MIB };
    let volume = Volume::with(&["--trash-days", "0"]);
    let buffer = BUFFER_MIB.to_string();
    let flags = ["--buffer-size", buffer.as_str(), "--cache-size", "0", "--upload-limit", "400"];
    let mount = volume.mount_with("mnt", &flags);
    let start = Barrier::new(usize::try_from(WRITERS).unwrap());
    thread::scope(|scope| {
        for number in 0..WRITERS {
            let (start, path) = (&start, mount.join(format!("f{number}")));
            scope.spawn(move || {
                let data = content(number, length);
                start.wait();
                let mut file = File::create(path).unwrap();
                // In pieces small and large, so that all of them are somewhere in the middle.
                for piece in data.chunks(if number % 2 == 0 { 100_000 } else { MIB }) {
                    file.write_all(piece).unwrap();
                }
                file.sync_all().unwrap();
            });
        }
    });
    let peak = peak_kib(mount.pid()) >> 10;
    println!("{WRITERS} writers of {} MiB each: {peak} MiB at most", length / MIB);
    assert!(peak < BUFFER_MIB + BESIDE_MIB, "{peak} MiB resident with buffers of {BUFFER_MIB} MiB");
    mount.unmount();
    let mount = volume.mount_with("second", &["--cache-size", "0"]);
    for number in 0..WRITERS {
        let seen = fs::read(mount.join(format!("f{number}"))).unwrap();
        assert!(seen == content(number, length), "file {number} is damaged");
    }
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}

/// Writes a file of slices of these lengths in bytes.
fn write_slices(mount: &Mount, name: &str, number: u64, lengths: &[usize]) -> PathBuf {
    let (path, data) = (mount.join(name), content(number, lengths.iter().sum()));
    let (mut file, mut rest) = (File::create(&path).unwrap(), &data[..]);
    for length in lengths {
        let (slice, others) = rest.split_at(*length);
        file.write_all(slice).unwrap();
        file.sync_all().unwrap();
        rest = others;
    }
    path
}

/// Reads files at once, each from its beginning to its end. One that hangs is left to itself.
fn read_all_at_once(files: Vec<(u64, PathBuf)>) {
    let (count, (done, read)) = (files.len(), mpsc::channel());
    for (number, path) in files {
        let done = done.clone();
        thread::spawn(move || {
            let seen = fs::read(&path).unwrap();
            done.send((seen == content(number, seen.len()), path)).unwrap();
        });
    }
    for at in 0..count {
        let (is_whole, path) = read
            .recv_timeout(Duration::from_secs(90))
            .unwrap_or_else(|_| panic!("{} of {count} reads wait for good", count - at));
        assert!(is_whole, "{} is not what was written", path.display());
    }
}

/// What is read ahead lies in blocks of which only a part is wanted, and takes memory for the whole of them. (A client whose
/// objects are files has little of it.)
#[test]
fn readers_do_not_wait_for_what_others_read_ahead() {
    let volume = Volume::with(&["--trash-days", "0"]);
    let mount = volume.mount();
    // So many small slices that they are compacted while the file is read, and again as its views go.
    let mut lengths = vec![49 * MIB];
    lengths.extend((1..12).map(|n| n * 70_001));
    write_slices(&mount, "compacted", 0, &lengths);
    for number in 1..=10 {
        write_slices(&mount, &format!("beside-{number}"), number, &[5 * MIB + 1, 5 * MIB, 5 * MIB, 3 * MIB]);
    }
    mount.unmount();
    let mount = volume.mount_with("mnt", &["--cache-size", "0"]);
    read_all_at_once(vec![(0, mount.join("compacted"))]);
    read_all_at_once((1..=10).map(|number| (number, mount.join(format!("beside-{number}")))).collect());
    mount.unmount();
    volume.assert_sound(Rest::Clean);
}
