//! The arguments and answers of operations on the content of files.

use crate::{
    attr::Attr,
    ids::{ChunkIndex, SliceKey},
    slice::SliceRecord,
};

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenFlags {
    /// Content will be read.
    pub read: bool,
    /// Content will be written.
    pub write: bool,
    /// Every write goes to the end.
    pub append: bool,
    /// The file will be truncated by a setattr that follows.
    pub truncate: bool,
    /// The file is opened to be executed.
    pub exec: bool,
    /// Reading leaves the access time alone, which is for owners to ask for.
    pub no_atime: bool,
}

/// What fallocate(2) is to do with a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FallocateMode {
    /// Reserve; `keep_size` leaves the length alone.
    Allocate {
        /// Do not extend the file.
        keep_size: bool,
    },
    /// Make a hole; never extends.
    PunchHole,
    /// Make a range read as zeros.
    ZeroRange {
        /// Do not extend the file.
        keep_size: bool,
    },
}

/// The raw list of a chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChunkRecords {
    /// Records, oldest first; see [`crate::slice::resolve`].
    pub records: Vec<SliceRecord>,
}

/// A slice to be committed, and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewSlice {
    /// The slice shows in this chunk as the record says.
    At(ChunkIndex, SliceRecord),
    /// The whole slice shows where the file ends at that moment, whoever made it longer.
    End(SliceKey),
}

/// The answer to a commit of slices.
#[derive(Clone, Debug)]
pub struct Written {
    /// Attributes of the file afterwards. If nothing here made it longer, its length is at least this.
    pub attr: Attr,
    /// Offset in the file of each slice, in the order in which they were given.
    pub offsets: Vec<u64>,
    /// The chunks that show the slices, in ascending order, with the number of records that their lists have now. It
    /// decides about compaction.
    pub chunks: Vec<(ChunkIndex, usize)>,
}

/// The answer to copy_file_range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Bytes copied: less than asked at the end of the source.
    pub bytes: u64,
    /// Length of the target afterwards.
    pub length: u64,
}

/// How a compaction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compacted {
    /// The new slice is in place; these slices lost their last reference.
    Done(Vec<SliceKey>),
    /// The list was changed meanwhile, so that the new slice is garbage and must be deleted.
    Lost,
}
