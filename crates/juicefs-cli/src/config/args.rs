//! The command line as clap sees it: every flag with its type, unit and default. What flags mean together is resolved
//! elsewhere (`config/resolved.rs`).
//!
//! Flags that an existing volume keeps when they are absent are `Option`s here.

use clap::{Args, Parser, Subcommand};

pub(crate) mod groups;
pub(crate) mod trees;
pub(crate) mod volume;

pub(crate) use groups::{
    DataCacheArgs, DataStorageArgs, ManagementArgs, MetaArgs, MetaCacheArgs, MetricsArgs, StorageArgs,
};
pub(crate) use trees::{CloneArgs, CompactArgs, InfoArgs, RmrArgs, SummaryArgs};
pub(crate) use volume::{ConfigArgs, FormatArgs, MountArgs};

use crate::config::values::{bounded, size_g, size_k, size_m};

/// A POSIX file system on FUSE that stores data in objects and metadata in a database
#[derive(Parser, Debug)]
#[command(name = "juicefs", disable_version_flag = true, disable_help_subcommand = true, args_override_self = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command takes, anywhere on the line.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// Log at debug level
    #[arg(long, short = 'v', visible_alias = "debug", global = true)]
    pub(crate) verbose: bool,
    /// Log only warnings and errors
    #[arg(long, short = 'q', global = true)]
    pub(crate) quiet: bool,
    /// Log at trace level
    #[arg(long, global = true)]
    pub(crate) trace: bool,
    /// Log level: trace, debug, info, warn, error, fatal or panic
    #[arg(long, global = true, hide = true)]
    pub(crate) log_level: Option<String>,
    /// Prefix each log line with this id; `random` makes one
    #[arg(long, global = true)]
    pub(crate) log_id: Option<String>,
    /// Do not start the debug agent (there is none yet)
    #[arg(long, global = true)]
    pub(crate) no_agent: bool,
    /// Server for continuous profiles (not supported)
    #[arg(long, global = true)]
    pub(crate) pyroscope: Option<String>,
    /// No colours
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
    /// Print the version
    #[arg(long, short = 'V', global = true)]
    pub(crate) version: bool,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Format a volume
    Format(Box<FormatArgs>),
    /// Show or change the setting of a volume
    Config(Box<ConfigArgs>),
    /// Limit what directories, users and groups may use
    Quota(QuotaArgs),
    /// Move removed files out of the trash
    Restore(RestoreArgs),
    /// Show the setting, sessions and use of a volume
    Status(StatusArgs),
    /// Mount a volume
    Mount(Box<MountArgs>),
    /// Unmount a volume
    Umount(UmountArgs),
    /// Show what a mount knows of files and directories
    Info(InfoArgs),
    /// Show what the parts of a directory hold
    Summary(SummaryArgs),
    /// Remove directories with everything in them
    Rmr(RmrArgs),
    /// Copy a file or directory without copying data
    Clone(CloneArgs),
    /// Join the slices of files that were written in small pieces
    Compact(CompactArgs),
    /// Run a benchmark in a directory
    Bench(BenchArgs),
    /// Test an object storage, and run a benchmark on it
    Objbench(ObjbenchArgs),
    /// Show the version
    Version,
}

/// `restore`.
#[derive(Args, Debug, Clone)]
pub(crate) struct RestoreArgs {
    /// Address of the metadata engine
    #[arg(value_name = "META-URL")]
    pub(crate) meta_url: String,
    /// Directories of the trash, like 2023-05-10-01
    #[arg(value_name = "HOUR", required = true)]
    pub(crate) hours: Vec<String>,
    /// Move everything to where it was; otherwise trees are put together again in the trash
    #[arg(long)]
    pub(crate) put_back: bool,
    /// Entries moved side by side
    #[arg(long, default_value = "10", value_parser = bounded::<1, 65535, u16>, value_name = "N")]
    pub(crate) threads: u16,
}

/// What `quota` does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum QuotaAction {
    Set,
    Get,
    Delete,
    List,
    Check,
}

impl QuotaAction {
    /// Parses the word that says what `quota` is to do.
    ///
    /// # Errors
    /// A sentence that says which words there are.
    fn parse(word: &str) -> Result<Self, String> {
        match word {
            "set" => Ok(Self::Set),
            "get" => Ok(Self::Get),
            "delete" | "del" => Ok(Self::Delete),
            "list" | "ls" => Ok(Self::List),
            "check" => Ok(Self::Check),
            _ => Err("quota takes set, get, delete, list or check".to_owned()),
        }
    }
}

/// `quota`.
#[derive(Args, Debug, Clone)]
pub(crate) struct QuotaArgs {
    /// set, get, delete (del), list (ls) or check
    #[arg(value_name = "COMMAND", value_parser = QuotaAction::parse)]
    pub(crate) action: QuotaAction,
    /// Address of the metadata engine
    #[arg(value_name = "META-URL")]
    pub(crate) meta_url: String,
    /// Full path of the directory within the volume
    #[arg(long, value_name = "PATH")]
    pub(crate) path: Option<std::ffi::OsString>,
    /// Make the directory if it is missing
    #[arg(long)]
    pub(crate) create: bool,
    /// Most space (default unit GiB), 0 for no limit; absent: unchanged
    #[arg(long, value_parser = size_g, value_name = "SIZE")]
    pub(crate) capacity: Option<u64>,
    /// Most inodes, 0 for no limit; absent: unchanged
    #[arg(long, value_name = "N")]
    pub(crate) inodes: Option<u64>,
    /// Store what a check has counted
    #[arg(long)]
    pub(crate) repair: bool,
    /// Count the directory anew also when its quota is only changed
    #[arg(long)]
    pub(crate) strict: bool,
    /// User
    #[arg(long, value_name = "UID")]
    pub(crate) uid: Option<u64>,
    /// Group
    #[arg(long, value_name = "GID")]
    pub(crate) gid: Option<u64>,
}

/// `status`.
#[derive(Args, Debug, Clone)]
pub(crate) struct StatusArgs {
    /// Address of the metadata engine
    #[arg(value_name = "META-URL")]
    pub(crate) meta_url: String,
    /// Show one session with its sustained inodes and locks
    #[arg(long, short = 's', default_value_t = 0)]
    pub(crate) session: u64,
    /// Also count trash and pending data (slow)
    #[arg(long, short = 'm')]
    pub(crate) more: bool,
}

/// `umount`.
#[derive(Args, Debug, Clone)]
pub(crate) struct UmountArgs {
    /// Where the volume is mounted
    #[arg(value_name = "MOUNTPOINT")]
    pub(crate) mountpoint: std::path::PathBuf,
    /// Detach a busy mount now and let it end when nobody uses it any more
    #[arg(long, short = 'f')]
    pub(crate) force: bool,
    /// Wait until all staged data is uploaded
    #[arg(long)]
    pub(crate) flush: bool,
}

/// `bench`.
#[derive(Args, Debug, Clone)]
pub(crate) struct BenchArgs {
    /// A directory, on a mounted volume or elsewhere
    #[arg(value_name = "PATH")]
    pub(crate) path: std::path::PathBuf,
    /// Size of one read or write (default unit MiB)
    #[arg(long, value_parser = size_m, default_value = "1M", value_name = "SIZE")]
    pub(crate) block_size: u64,
    /// Size of a big file (default unit MiB), 0 to skip
    #[arg(long, value_parser = size_m, default_value = "1G", value_name = "SIZE")]
    pub(crate) big_file_size: u64,
    /// Size of a small file (default unit KiB), 0 to skip
    #[arg(long, value_parser = size_k, default_value = "128K", value_name = "SIZE")]
    pub(crate) small_file_size: u64,
    /// Small files per thread, 0 to skip
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) small_file_count: u32,
    /// Threads
    #[arg(long, short = 'p', default_value_t = 1, value_name = "N")]
    pub(crate) threads: u32,
}

/// `objbench`.
#[derive(Args, Debug, Clone)]
pub(crate) struct ObjbenchArgs {
    /// Bucket or directory
    #[arg(value_name = "ENDPOINT")]
    pub(crate) endpoint: String,
    /// Kind of the object storage
    #[arg(long, default_value = "file", value_name = "NAME")]
    pub(crate) storage: String,
    /// Access key [env: ACCESS_KEY]
    #[arg(long, value_name = "KEY")]
    pub(crate) access_key: Option<String>,
    /// Secret key [env: SECRET_KEY]
    #[arg(long, value_name = "KEY")]
    pub(crate) secret_key: Option<String>,
    /// Session token [env: SESSION_TOKEN]
    #[arg(long, value_name = "TOKEN")]
    pub(crate) session_token: Option<String>,
    /// Number of buckets, with %d in the endpoint
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) shards: u32,
    /// Size of a block that the big object is stored as (default unit KiB)
    #[arg(long, value_parser = size_k, default_value = "4M", value_name = "SIZE")]
    pub(crate) block_size: u64,
    /// Size of the big object (default unit MiB)
    #[arg(long, value_parser = size_m, default_value = "1G", value_name = "SIZE")]
    pub(crate) big_object_size: u64,
    /// Size of a small object (default unit KiB)
    #[arg(long, value_parser = size_k, default_value = "128K", value_name = "SIZE")]
    pub(crate) small_object_size: u64,
    /// Small objects
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) small_objects: u32,
    /// Only run the benchmark
    #[arg(long)]
    pub(crate) skip_functional_tests: bool,
    /// Requests at once
    #[arg(long, short = 'p', default_value_t = 4, value_name = "N")]
    pub(crate) threads: u32,
    /// Storage class of objects
    #[arg(long, visible_alias = "sc", value_name = "CLASS")]
    pub(crate) storage_class: Option<String>,
}
