//! The counters of a mount: how often operations were called, how long they took, and how they failed.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use juicefs_core::Errno;

macro_rules! operations {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum $name { $($variant),* }

        impl $name {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in metrics and in the access log.
            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }
    };
}

operations! {
    /// The operations that front ends call.
    Op {
        Access = "access", CopyFileRange = "copy_file_range", Create = "create", Fallocate = "fallocate",
        Flock = "flock", Flush = "flush", Fsync = "fsync", Getattr = "getattr", Getlk = "getlk", Getxattr = "getxattr",
        Ioctl = "ioctl", Link = "link", Listxattr = "listxattr", Lookup = "lookup", Lseek = "lseek", Mkdir = "mkdir", Mknod = "mknod", Open = "open",
        Opendir = "opendir", Read = "read", Readdir = "readdir", Readlink = "readlink", Release = "release",
        Releasedir = "releasedir", Removexattr = "removexattr", Rename = "rename", Rmdir = "rmdir",
        Setattr = "setattr", Setlk = "setlk", Setxattr = "setxattr", Statfs = "statfs", Symlink = "symlink", Unlink = "unlink",
        Write = "write",
    }
}

operations! {
    /// The calls of the metadata service.
    MetaOp {
        Access = "Access", Close = "Close", CopyFileRange = "CopyFileRange", Create = "Create",
        Fallocate = "Fallocate", Flock = "Flock", GetAttr = "GetAttr", GetFacl = "GetFacl", GetXattr = "GetXattr",
        Getlk = "Getlk", Link = "Link", ListXattr = "ListXattr",
        Lookup = "Lookup", Mknod = "Mknod", Open = "Open", Read = "Read", ReadLink = "ReadLink", Readdir = "Readdir",
        RemoveXattr = "RemoveXattr", Rename = "Rename", Rmdir = "Rmdir", SetAttr = "SetAttr", SetFacl = "SetFacl",
        SetXattr = "SetXattr",
        Setlk = "Setlk", StatFS = "StatFS", Truncate = "Truncate", Unlink = "Unlink", Write = "Write",
    }
}

impl MetaOp {
    /// Whether the call changes metadata, so that it counts as a transaction.
    pub(crate) fn changes(self) -> bool {
        match self {
            Self::Access
            | Self::Close
            | Self::GetAttr
            | Self::GetFacl
            | Self::GetXattr
            | Self::Getlk
            | Self::ListXattr
            | Self::Lookup
            | Self::Open
            | Self::Read
            | Self::ReadLink
            | Self::Readdir
            | Self::StatFS => false,
            Self::CopyFileRange
            | Self::Create
            | Self::Fallocate
            | Self::Flock
            | Self::Link
            | Self::Mknod
            | Self::RemoveXattr
            | Self::Rename
            | Self::Rmdir
            | Self::SetAttr
            | Self::SetFacl
            | Self::SetXattr
            | Self::Setlk
            | Self::Truncate
            | Self::Unlink
            | Self::Write => true,
        }
    }
}

/// Count and sum of something.
#[derive(Default)]
pub(crate) struct Tally {
    count: AtomicU64,
    sum: AtomicU64,
}

impl Tally {
    fn add(&self, amount: u64) {
        self.count.fetch_add(1, Relaxed);
        self.sum.fetch_add(amount, Relaxed);
    }

    fn time(&self, spent: Duration) {
        self.add(u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    pub(crate) fn sum(&self) -> u64 {
        self.sum.load(Relaxed)
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.sum() as f64 / 1e9
    }
}

/// Error numbers from here on are counted as EIO. Linux has none.
const ERRNOS: usize = 134;

/// How often writes met a limit.
#[derive(Default)]
pub(crate) struct WritePressure {
    /// Slices that a random writer had left behind were closed.
    pub(crate) left_behind: AtomicU64,
    /// A write waited for all that was pending of its file.
    pub(crate) pending_full: AtomicU64,
    /// A write waited for memory.
    pub(crate) memory_full: AtomicU64,
}

/// All counters of one mount.
pub(crate) struct Metrics {
    pub(crate) started: Instant,
    pub(crate) ops: Vec<Tally>,
    pub(crate) meta: Vec<Tally>,
    pub(crate) errors: Vec<AtomicU64>,
    pub(crate) read: Tally,
    pub(crate) written: Tally,
    pub(crate) compacted: Tally,
    pub(crate) write_pressure: WritePressure,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            ops: Op::ALL.iter().map(|_| Tally::default()).collect(),
            meta: MetaOp::ALL.iter().map(|_| Tally::default()).collect(),
            errors: (0..ERRNOS).map(|_| AtomicU64::new(0)).collect(),
            read: Tally::default(),
            written: Tally::default(),
            compacted: Tally::default(),
            write_pressure: WritePressure::default(),
        }
    }

    /// Counts an operation.
    pub(crate) fn op_done(&self, op: Op, spent: Duration, failed: Option<Errno>) {
        self.ops[op as usize].time(spent);
        if let Some(errno) = failed {
            let at = usize::try_from(errno.0).ok().filter(|at| *at < ERRNOS).unwrap_or(libc::EIO as usize);
            self.errors[at].fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn meta_done(&self, op: MetaOp, spent: Duration) {
        self.meta[op as usize].time(spent);
    }

    pub(crate) fn read_bytes(&self, bytes: usize) {
        self.read.add(bytes as u64);
    }

    pub(crate) fn written_bytes(&self, bytes: usize) {
        self.written.add(bytes as u64);
    }

    pub(crate) fn compacted_bytes(&self, bytes: u64) {
        self.compacted.add(bytes);
    }
}
