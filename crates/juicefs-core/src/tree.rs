//! What operations on whole trees take and give. Such operations take long, tell how far they are, and can be stopped.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::{
    attr::FileType,
    errno::Errno,
    ids::{Ino, Name},
    meta::names::Removed,
};

/// How far a long operation has come, and whether it is asked to stop. Whoever does it and whoever watches it share this.
#[derive(Debug, Default)]
pub struct Progress {
    first: AtomicU64,
    second: AtomicU64,
    stopped: AtomicBool,
}

impl Progress {
    /// Adds to the first number. The operation says what it counts.
    pub fn add_first(&self, more: u64) {
        self.first.fetch_add(more, Ordering::Relaxed);
    }

    /// Adds to the second number.
    pub fn add_second(&self, more: u64) {
        self.second.fetch_add(more, Ordering::Relaxed);
    }

    /// Both numbers.
    #[must_use]
    pub fn get(&self) -> (u64, u64) {
        (self.first.load(Ordering::Relaxed), self.second.load(Ordering::Relaxed))
    }

    /// Asks the operation to stop. It answers EINTR before its next step.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// Fails once [`Progress::stop`] was called.
    ///
    /// # Errors
    /// EINTR.
    pub fn go_on(&self) -> Result<(), Errno> {
        if self.stopped.load(Ordering::Acquire) { Err(Errno::EINTR) } else { Ok(()) }
    }
}

/// Learns of each name that the removal of a tree takes away. It is called from any thread.
pub trait RemovalWatch: Send + Sync {
    /// Takes note that `name` of `parent` is gone. `removed` says what it named, and which data is to be deleted.
    fn removed(&self, parent: Ino, name: &Name, removed: Removed);
}

/// How a tree is removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TreeRemoval {
    /// Nothing goes into the trash. EPERM for all but root.
    pub skip_trash: bool,
    /// Steps done side by side, at least 1.
    pub threads: usize,
}

/// How a tree is cloned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cloning {
    /// The copy has owner, group, mode and times of the source. For a caller who is not root it keeps owner and group
    /// only where they are those of the caller, and set-id bits only with them.
    pub preserve: bool,
    /// The caller's umask, for what is not preserved.
    pub umask: u16,
    /// Steps done side by side, at least 1.
    pub threads: usize,
}

/// What a node, or a tree, holds. Hard links count once for each name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Bytes of regular files.
    pub length_bytes: u64,
    /// Bytes that nodes count in used space.
    pub size_bytes: u64,
    /// Nodes that are no directories.
    pub files: u64,
    /// Directories, the top included.
    pub dirs: u64,
}

impl Summary {
    /// Adds another one.
    pub fn add(&mut self, other: Self) {
        self.length_bytes += other.length_bytes;
        self.size_bytes += other.size_bytes;
        self.files += other.files;
        self.dirs += other.dirs;
    }
}

/// What the parts of a tree hold, the largest first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TreeSummary {
    /// The node, or 0 for an entry that stands for many nodes.
    pub ino: Ino,
    /// The names from the top down to here, joined by `/`. It is empty at the top. The last name is `...` for the entry
    /// that stands for many nodes.
    pub path: Vec<u8>,
    /// Its kind.
    pub kind: FileType,
    /// All that is here and below.
    pub summary: Summary,
    /// The largest entries, and one for all others.
    pub children: Vec<TreeSummary>,
}

/// How deep and wide a [`TreeSummary`] is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TreeDetail {
    /// Levels below the top that are shown.
    pub depth: u8,
    /// Entries of a directory that are shown one by one.
    pub entries: u8,
    /// Counts every node instead of trusting the statistics that directories keep.
    pub strict: bool,
}

/// A number of bytes for people, in the largest unit and as it is: `1.50 KiB (1536 Bytes)`.
#[must_use]
pub fn long_bytes_text(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} Bytes");
    }
    // Cut to whole units of the next smaller size, as other clients show it.
    let (mut value, mut unit) = (bytes, 0);
    while value >= 1 << 20 && unit < 5 {
        (value, unit) = (value >> 10, unit + 1);
    }
    format!("{:.2} {}iB ({bytes} Bytes)", value as f64 / 1024.0, ["K", "M", "G", "T", "P", "E"][unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_with_their_bytes() {
        assert_eq!(long_bytes_text(1023), "1023 Bytes");
        assert_eq!(long_bytes_text(1536), "1.50 KiB (1536 Bytes)");
        assert_eq!(long_bytes_text(1_358_576), "1.29 MiB (1358576 Bytes)");
        assert_eq!(long_bytes_text(5 << 40), "5.00 TiB (5497558138880 Bytes)");
    }

    #[test]
    fn progress_goes_on_until_it_is_stopped() {
        let progress = Progress::default();
        progress.add_first(2);
        progress.add_second(3);
        assert_eq!((progress.get(), progress.go_on()), ((2, 3), Ok(())));
        progress.stop();
        assert_eq!(progress.go_on(), Err(Errno::EINTR));
    }
}
