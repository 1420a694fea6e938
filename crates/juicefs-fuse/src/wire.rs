//! How answers of the VFS look in the kernel's structures.

use std::time::Duration;

use juicefs_core::{Attr, FileType, Ino};
use juicefs_vfs::{AttrReply, DirItem, Entry, Opened, StatFs};

use crate::abi::{self, AttrOut, Dirent, EntryOut, Kstatfs, OpenOut, bytes_of, fopen};

/// The value of `st_blksize`, by which programs choose the size of their buffers.
const BLOCK_SIZE_BYTES: u32 = 65536;
/// The generation of every inode: numbers are never used again for another inode.
const GENERATION: u64 = 1;

/// Attributes as `stat` shows them.
pub(crate) fn attr(ino: Ino, attr: &Attr) -> abi::Attr {
    let size = match attr.kind {
        FileType::File | FileType::Directory | FileType::Symlink => attr.length,
        FileType::Fifo | FileType::BlockDevice | FileType::CharDevice | FileType::Socket => 0,
    };
    let rdev = match attr.kind {
        FileType::BlockDevice | FileType::CharDevice => attr.rdev,
        _ => 0,
    };
    abi::Attr {
        ino: ino.0,
        size,
        blocks: size.div_ceil(512),
        atime: attr.atime.secs.cast_unsigned(),
        mtime: attr.mtime.secs.cast_unsigned(),
        ctime: attr.ctime.secs.cast_unsigned(),
        atimensec: attr.atime.nanos,
        mtimensec: attr.mtime.nanos,
        ctimensec: attr.ctime.nanos,
        mode: attr.st_mode(),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev,
        blksize: BLOCK_SIZE_BYTES,
        flags: 0,
    }
}

/// The answer to GETATTR and SETATTR.
pub(crate) fn attr_out(reply: &AttrReply) -> AttrOut {
    let (attr_valid, attr_valid_nsec) = ttl(reply.attr_ttl);
    AttrOut { attr_valid, attr_valid_nsec, dummy: 0, attr: attr(reply.ino, &reply.attr) }
}

/// The answer to a request that finds or makes a name. Inode 0 says that there is no such name.
pub(crate) fn entry_out(entry: &Entry) -> EntryOut {
    let (entry_valid, entry_valid_nsec) = ttl(entry.entry_ttl);
    if entry.ino == Ino(0) {
        return EntryOut { entry_valid, entry_valid_nsec, ..EntryOut::default() };
    }
    let (attr_valid, attr_valid_nsec) = ttl(entry.attr_ttl);
    EntryOut {
        nodeid: entry.ino.0,
        generation: GENERATION,
        entry_valid,
        attr_valid,
        entry_valid_nsec,
        attr_valid_nsec,
        attr: attr(entry.ino, &entry.attr),
    }
}

/// The answer to OPEN, OPENDIR and, behind an entry, CREATE.
pub(crate) fn open_out(opened: &Opened) -> OpenOut {
    let bit = |set: bool, bit: u32| if set { bit } else { 0 };
    OpenOut {
        fh: opened.fh,
        open_flags: bit(opened.direct_io, fopen::DIRECT_IO)
            | bit(opened.keep_cache, fopen::KEEP_CACHE)
            | bit(opened.cache_dir, fopen::CACHE_DIR)
            | bit(opened.noflush, fopen::NOFLUSH)
            | bit(opened.parallel_direct_writes, fopen::PARALLEL_DIRECT_WRITES),
        passthrough: 0,
    }
}

/// The answer to STATFS.
pub(crate) fn statfs_out(st: &StatFs) -> Kstatfs {
    Kstatfs {
        blocks: st.blocks,
        bfree: st.bfree,
        bavail: st.bavail,
        files: st.files,
        ffree: st.ffree,
        bsize: st.bsize,
        namelen: st.namelen,
        frsize: st.frsize,
        ..Kstatfs::default()
    }
}

/// The entries of a reply to READDIR or READDIRPLUS, filled up to the size that the kernel has room for.
pub(crate) struct ReaddirReply {
    bytes: Vec<u8>,
    room_bytes: usize,
    plus: bool,
}

impl ReaddirReply {
    /// Bytes that an entry with a name of common length takes.
    fn usual_entry_bytes(plus: bool) -> usize {
        size_of::<Dirent>() + 16 + if plus { size_of::<EntryOut>() } else { 0 }
    }

    /// How many entries are worth asking for when `room_bytes` are to be filled.
    pub(crate) fn entries_for(room_bytes: usize, plus: bool) -> usize {
        (room_bytes / Self::usual_entry_bytes(plus)).max(1)
    }

    /// A reply without entries.
    pub(crate) fn new(room_bytes: usize, plus: bool) -> Self {
        Self { bytes: Vec::new(), room_bytes, plus }
    }

    /// Appends an entry; `false` when it does not fit any more.
    pub(crate) fn push(&mut self, item: &DirItem) -> bool {
        let head = size_of::<Dirent>() + if self.plus { size_of::<EntryOut>() } else { 0 };
        let bytes = (head + item.name.len()).next_multiple_of(8);
        if bytes > self.room_bytes - self.bytes.len() {
            return false;
        }
        if self.bytes.capacity() == 0 {
            self.bytes.reserve(self.room_bytes.min(4096));
        }
        if self.plus {
            self.bytes.extend_from_slice(bytes_of(&plus_entry(item)));
        }
        let dirent = Dirent {
            ino: item.ino.0,
            off: item.cookie,
            namelen: u32::try_from(item.name.len()).unwrap_or(u32::MAX),
            type_: item.kind.mode_bits() >> 12,
        };
        self.bytes.extend_from_slice(bytes_of(&dirent));
        self.bytes.extend_from_slice(&item.name);
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        true
    }

    /// Whether nothing was appended.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes of the answer.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// The entry in front of a name in READDIRPLUS. With node id 0 the kernel looks the name up when somebody wants it.
fn plus_entry(item: &DirItem) -> EntryOut {
    match &item.entry {
        Some(entry) if item.name != b"."[..] && item.name != b".."[..] => entry_out(entry),
        _ => EntryOut {
            generation: GENERATION,
            attr: abi::Attr { ino: item.ino.0, mode: item.kind.mode_bits(), ..abi::Attr::default() },
            ..EntryOut::default()
        },
    }
}

fn ttl(ttl: Duration) -> (u64, u32) {
    (ttl.as_secs(), ttl.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use juicefs_core::Timestamp;

    use super::*;

    fn item(name: &'static str, ino: u64, entry: bool) -> DirItem {
        let attr = Attr { length: 5, nlink: 1, mode: 0o644, ..Attr::default() };
        let second = Duration::from_secs(1);
        let entry = entry.then_some(Entry { ino: Ino(ino), attr, attr_ttl: second, entry_ttl: second });
        DirItem {
            name: Bytes::from_static(name.as_bytes()),
            ino: Ino(ino),
            kind: FileType::File,
            cookie: ino + 1,
            entry,
        }
    }

    #[test]
    fn times_before_the_epoch_survive() {
        let old = Attr { mtime: Timestamp { secs: -2, nanos: 3 }, ..Attr::default() };
        let out = attr(Ino(9), &old);
        assert_eq!((out.mtime.cast_signed(), out.mtimensec), (-2, 3));
    }

    #[test]
    fn only_device_nodes_have_a_device_number_and_only_content_a_size() {
        let node = |kind| attr(Ino(9), &Attr { kind, rdev: 7, length: 600, ..Attr::default() });
        assert_eq!((node(FileType::CharDevice).rdev, node(FileType::CharDevice).size), (7, 0));
        assert_eq!((node(FileType::File).rdev, node(FileType::File).size, node(FileType::File).blocks), (0, 600, 2));
    }

    #[test]
    fn a_listing_stops_where_the_room_ends() {
        let mut list = ReaddirReply::new(70, false);
        assert!(list.push(&item("a", 2, false)));
        assert!(list.push(&item("12345678", 3, false)));
        assert!(!list.push(&item("c", 4, false)));
        let bytes = list.into_bytes();
        assert_eq!(bytes.len(), 64);
        let (first, rest) = abi::split::<Dirent>(&bytes).expect("a dirent");
        assert_eq!((first.ino, first.off, first.namelen, first.type_), (2, 3, 1, 8));
        assert_eq!(&rest[..8], b"a\0\0\0\0\0\0\0");
    }

    #[test]
    fn a_plus_listing_names_nodes_only_where_they_are_fresh() {
        let mut list = ReaddirReply::new(4096, true);
        assert!(list.push(&item(".", 1, true)) && list.push(&item("f", 2, true)) && list.push(&item("g", 3, false)));
        let bytes = list.into_bytes();
        let nodes: Vec<_> = bytes.chunks(160).map(|b| abi::split::<EntryOut>(b).expect("an entry").0).collect();
        assert_eq!(nodes.iter().map(|n| n.nodeid).collect::<Vec<_>>(), [0, 2, 0]);
        assert_eq!(nodes[2].attr.ino, 3);
    }
}
