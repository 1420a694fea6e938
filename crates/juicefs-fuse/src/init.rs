//! INIT: what this client and the kernel agree on when a mount begins.

use juicefs_core::limits::MAX_FUSE_IO_BYTES;

use crate::{
    abi::{InitIn, InitIn2, InitOut, MAJOR, MINOR, MINOR_MIN, init_flag as flag},
    request::Args,
};

/// How many requests the kernel may have outstanding that no process waits for: read-ahead, writeback, direct AIO.
const MAX_BACKGROUND: u16 = 128;
/// How many such requests may be outstanding before the kernel holds new ones back.
const CONGESTION: u16 = 96;
/// The kernel's page size for the purpose of request sizes.
const PAGE_BYTES: usize = 4096;

/// What every mount asks for, where the kernel offers it.
///
/// Some capabilities are left out on purpose: ATOMIC_O_TRUNC, because truncation comes as SETATTR; HANDLE_KILLPRIV,
/// because the kernel clears set-id bits by SETATTR; NO_OPENDIR_SUPPORT, because handles carry state.
const ALWAYS: u64 = flag::ASYNC_READ
    | flag::EXPORT_SUPPORT
    | flag::BIG_WRITES
    | flag::DO_READDIRPLUS
    | flag::READDIRPLUS_AUTO
    | flag::ASYNC_DIO
    | flag::PARALLEL_DIROPS
    | flag::ABORT_ERROR
    | flag::MAX_PAGES
    | flag::CACHE_SYMLINKS
    | flag::INIT_EXT;

/// What a mount wants of the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// Largest READ and WRITE in bytes.
    pub(crate) max_io_bytes: usize,
    /// The kernel gathers small writes (and loses close-to-open freshness for them).
    pub(crate) writeback_cache: bool,
    /// The kernel evaluates ACLs, which come as xattrs.
    pub(crate) acl: bool,
    /// The kernel leaves the umask to us.
    pub(crate) own_umask: bool,
    /// Locks of flock(2) come to us. Otherwise the kernel keeps them, for this mount alone.
    pub(crate) flock: bool,
    /// Locks of fcntl(2) come to us, likewise.
    pub(crate) posix_locks: bool,
}

/// How INIT goes on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Negotiation {
    /// Both sides agree, and this is the answer.
    Agreed(Agreed),
    /// The kernel speaks a newer protocol, and is to be made to ask again in ours.
    AskAgain,
    /// The two sides have no common protocol.
    Refused {
        /// What the kernel speaks.
        major: u32,
        /// Its minor version.
        minor: u32,
    },
    /// The request does not decode.
    Malformed,
}

/// The agreed parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Agreed {
    minor: u32,
    max_readahead: u32,
    max_write: u32,
    /// Bits of [`flag`] that are on.
    pub(crate) flags: u64,
}

/// Decides on the arguments of an INIT request.
pub(crate) fn negotiate(mut args: Args<'_>, wanted: Wanted) -> Negotiation {
    let Ok(init) = args.fixed::<InitIn>() else { return Negotiation::Malformed };
    if init.major > MAJOR {
        return Negotiation::AskAgain;
    }
    if init.major < MAJOR || init.minor < MINOR_MIN {
        return Negotiation::Refused { major: init.major, minor: init.minor };
    }
    let mut offered = u64::from(init.flags);
    if offered & flag::INIT_EXT != 0
        && let Ok(more) = args.fixed::<InitIn2>()
    {
        offered |= u64::from(more.flags2) << 32;
    }
    let mut flags = ALWAYS;
    // With its own dirty pages the kernel is the authority on size and mtime: it must not drop pages by ours.
    flags |= if wanted.writeback_cache { flag::WRITEBACK_CACHE } else { flag::AUTO_INVAL_DATA };
    if wanted.acl {
        // The extended SETXATTR says when a new ACL takes set-gid away: only the kernel knows all groups of the caller.
        flags |= flag::POSIX_ACL | flag::DONT_MASK | flag::SETXATTR_EXT;
    }
    if wanted.own_umask {
        flags |= flag::DONT_MASK;
    }
    if wanted.flock {
        flags |= flag::FLOCK_LOCKS;
    }
    if wanted.posix_locks {
        flags |= flag::POSIX_LOCKS;
    }
    Negotiation::Agreed(Agreed {
        minor: init.minor.min(MINOR),
        max_readahead: init.max_readahead,
        max_write: u32::try_from(io_bytes(wanted.max_io_bytes)).unwrap_or(u32::MAX),
        flags: flags & offered,
    })
}

/// The size of requests when `asked` bytes are wanted. It is whole pages, within what kernel and buffers allow.
pub(crate) fn io_bytes(asked: usize) -> usize {
    asked.clamp(PAGE_BYTES, MAX_FUSE_IO_BYTES).next_multiple_of(PAGE_BYTES)
}

impl Agreed {
    /// The answer to INIT.
    pub(crate) fn out(&self) -> InitOut {
        InitOut {
            major: MAJOR,
            minor: self.minor,
            max_readahead: self.max_readahead,
            flags: (self.flags & u64::from(u32::MAX)) as u32,
            max_background: MAX_BACKGROUND,
            congestion_threshold: CONGESTION,
            max_write: self.max_write,
            time_gran: 1,
            max_pages: u16::try_from(self.max_write as usize / PAGE_BYTES).unwrap_or(u16::MAX),
            map_alignment: 0,
            flags2: (self.flags >> 32) as u32,
            unused: [0; 7],
        }
    }
}

/// The answer that makes a kernel of a newer protocol ask again.
pub(crate) fn ask_again() -> InitOut {
    InitOut { major: MAJOR, minor: MINOR, ..InitOut::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::bytes_of;

    const PLAIN: Wanted = Wanted {
        max_io_bytes: 1 << 20,
        writeback_cache: false,
        acl: false,
        own_umask: false,
        flock: false,
        posix_locks: false,
    };

    fn ask(init: InitIn, flags2: u32, wanted: Wanted) -> Negotiation {
        let bytes = [bytes_of(&init), bytes_of(&InitIn2 { flags2, ..Default::default() })].concat();
        negotiate(Args::new(&bytes), wanted)
    }

    fn kernel(flags: u32) -> InitIn {
        InitIn { major: 7, minor: 45, max_readahead: 131_072, flags }
    }

    fn agreed(flags: u32, wanted: Wanted) -> Agreed {
        match ask(kernel(flags), u32::MAX, wanted) {
            Negotiation::Agreed(agreed) => agreed,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_what_is_offered_and_wanted_is_on() {
        assert_eq!(agreed(0, PLAIN).flags, 0);
        let all = agreed(u32::MAX, PLAIN);
        assert_eq!(all.flags, ALWAYS | flag::AUTO_INVAL_DATA);
        let out = all.out();
        assert_eq!((out.max_write, out.max_pages, out.max_background, out.minor), (1 << 20, 256, 128, 45));
        assert_eq!(out.flags2, 0, "bits above 31 that we do not know stay off");
    }

    #[test]
    fn options_choose_their_bits() {
        let flags = agreed(u32::MAX, Wanted { writeback_cache: true, acl: true, ..PLAIN }).flags;
        assert_eq!(
            flags & (flag::WRITEBACK_CACHE | flag::POSIX_ACL | flag::DONT_MASK | flag::SETXATTR_EXT),
            flags & !ALWAYS
        );
        assert_eq!(flags & flag::AUTO_INVAL_DATA, 0);
        let locks = flag::POSIX_LOCKS | flag::FLOCK_LOCKS;
        assert_eq!(agreed(u32::MAX, Wanted { flock: true, ..PLAIN }).flags & locks, flag::FLOCK_LOCKS);
        assert_eq!(agreed(u32::MAX, Wanted { posix_locks: true, ..PLAIN }).flags & locks, flag::POSIX_LOCKS);
        assert_eq!(agreed(u32::MAX, Wanted { own_umask: true, ..PLAIN }).flags & flag::DONT_MASK, flag::DONT_MASK);
    }

    #[test]
    fn other_protocols_are_told_apart() {
        assert_eq!(ask(InitIn { major: 8, ..kernel(0) }, 0, PLAIN), Negotiation::AskAgain);
        assert_eq!(ask(InitIn { minor: 19, ..kernel(0) }, 0, PLAIN), Negotiation::Refused { major: 7, minor: 19 });
        assert_eq!(negotiate(Args::new(&[7; 15]), PLAIN), Negotiation::Malformed);
    }

    #[test]
    fn request_sizes_are_whole_pages_within_bounds() {
        assert_eq!([0, 4097, 128 << 10, 9 << 20].map(io_bytes), [4096, 8192, 128 << 10, 1 << 20]);
    }
}
