//! Flags of the commands that ask a mount about its files, or to change them.

use std::path::PathBuf;

use clap::Args;

use crate::config::values::{bounded, removers};

/// `info`.
#[derive(Args, Debug, Clone)]
pub(crate) struct InfoArgs {
    /// Paths in a mount; inode numbers with --inode
    #[arg(value_name = "PATH/INODE", required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// The arguments are inode numbers of the mount that the current directory lies in
    #[arg(long, short = 'i')]
    pub(crate) inode: bool,
    /// Count everything below a directory
    #[arg(long, short = 'r')]
    pub(crate) recursive: bool,
    /// Show slices instead of objects
    #[arg(long)]
    pub(crate) raw: bool,
    /// Count every node instead of trusting the statistics of directories (may be slow)
    #[arg(long)]
    pub(crate) strict: bool,
}

/// `summary`.
#[derive(Args, Debug, Clone)]
pub(crate) struct SummaryArgs {
    /// A directory in a mount
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    /// Levels that are shown, at most 10
    #[arg(long, short = 'd', default_value_t = 2, value_name = "N")]
    pub(crate) depth: u32,
    /// Entries of a directory that are shown, at most 100
    #[arg(long, short = 'e', default_value_t = 10, value_name = "N")]
    pub(crate) entries: u32,
    /// Count every node instead of trusting the statistics of directories (may be slow)
    #[arg(long)]
    pub(crate) strict: bool,
    /// Print comma-separated values
    #[arg(long)]
    pub(crate) csv: bool,
}

/// `rmr`.
#[derive(Args, Debug, Clone)]
pub(crate) struct RmrArgs {
    /// Paths in a mount
    #[arg(value_name = "PATH", required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// Put nothing into the trash (root only)
    #[arg(long)]
    pub(crate) skip_trash: bool,
    /// Entries removed side by side, 1 to 255
    #[arg(long, short = 'p', default_value = "50", value_parser = removers, value_name = "N")]
    pub(crate) threads: u8,
}

/// `clone`.
#[derive(Args, Debug, Clone)]
pub(crate) struct CloneArgs {
    /// What is copied
    #[arg(value_name = "SRC")]
    pub(crate) source: PathBuf,
    /// The copy, which must not exist; with a slash at the end the directory that it goes into
    #[arg(value_name = "DST")]
    pub(crate) target: PathBuf,
    /// Keep owner, group, mode and times
    #[arg(long, short = 'p')]
    pub(crate) preserve: bool,
    /// Entries copied side by side, 1 to 255
    #[arg(long, default_value = "4", value_parser = bounded::<1, 255, u8>, value_name = "N")]
    pub(crate) threads: u8,
}

/// `compact`.
#[derive(Args, Debug, Clone)]
pub(crate) struct CompactArgs {
    /// Paths in a mount
    #[arg(value_name = "PATH", required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// Chunks compacted side by side, 1 to 65535
    #[arg(long, short = 'p', default_value = "10", value_parser = bounded::<1, 65535, u16>, value_name = "N")]
    pub(crate) threads: u16,
}
