//! The memory of a client is bounded, whatever is asked of it.

use std::{
    fs::{self, File},
    io::Write,
    sync::Barrier,
    thread,
};

use e2e::{Owner, Pattern, Rest, Volume, children_of, full};

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
