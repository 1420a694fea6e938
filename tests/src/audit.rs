//! Whether the records of a volume fit together, read from its metadata engine beside all clients.
//!
//! It shares no code with the client: keys, tables and counting rules are those of the format. The readers
//! ([`sqlite`], [`redis`]) know how an engine stores records; the rules ([`records`]) hold for all of them.

mod records;
mod redis;
mod sqlite;

use crate::volume::Volume;

pub(crate) use records::Records;
pub(crate) use redis::load as of_redis;
pub(crate) use sqlite::load as of_sqlite;

/// How the volume came to rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// All clients ended well: everything must fit.
    Clean,
    /// A client was killed: objects without a slice may be left, its session and copies that it was making too, and the counters and the statistics
    /// of directories may lack what it did in its last seconds, as with every client of this format.
    Crashed,
}

/// Everything that is wrong with the records and objects of an unmounted volume, one sentence each.
pub(crate) fn faults(mut records: Records, volume: &Volume, rest: Rest) -> Vec<String> {
    records.check_tree();
    records.check_attachments();
    if rest == Rest::Clean {
        records.check_detached();
        records.check_counters();
        records.check_dir_stats();
        if records.locks > 0 {
            records.fault(format!("{} locks are left", records.locks));
        }
    }
    records.check_slices();
    records.check_objects(volume, rest);
    records.faults
}
