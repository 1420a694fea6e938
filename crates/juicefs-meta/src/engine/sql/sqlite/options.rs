//! What follows `sqlite3://` in a URL: a path, then options as the Go driver takes them.

use std::{path::PathBuf, time::Duration};

use juicefs_core::error::{MetaError, MetaResult};

/// A database and how to use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Options {
    /// The file.
    pub path: PathBuf,
    /// Goes between `jfs_` and the names of tables; empty for none.
    pub table_prefix: String,
    /// `PRAGMA journal_mode`.
    pub journal: String,
    /// `PRAGMA synchronous`.
    pub synchronous: String,
    /// How long a statement that reads waits for a lock.
    pub busy_timeout: Duration,
    /// How long a job waits for another client to let go of the write lock.
    pub lock_deadline: Duration,
    /// Nothing is written.
    pub read_only: bool,
    /// Nobody writes, by the word of the user: the file is read without locks and without files beside it.
    pub immutable: bool,
    /// Most connections that read at once.
    pub max_readers: usize,
}

/// Connections that read at once unless `max_open_conns` says otherwise. A read holds one for microseconds.
const DEFAULT_READERS: usize = 16;

/// The write lock is waited for as long as this many statements would wait for it.
const LOCK_TRIES: u32 = 6;

/// Options of the Go driver that change nothing here: pools, modes of one process, and pragmas on features not used.
const WITHOUT_EFFECT: &[&str] = &[
    "cache",
    "max_idle_conns",
    "max_idle_time",
    "max_life_time",
    "_txlock",
    "_mutex",
    "_loc",
    "_foreign_keys",
    "_fk",
    "_cache_size",
    "_auto_vacuum",
    "_vacuum",
    "_secure_delete",
    "_case_sensitive_like",
    "_cslike",
];

fn refuse(sentence: String) -> MetaError {
    MetaError::Setting(sentence)
}

impl Options {
    /// Parses `path[?option=value&...]`. An option that this client does not know is passed over with a warning, as
    /// the same URL serves other clients.
    ///
    /// # Errors
    /// `Setting` with a sentence for the user.
    pub(super) fn parse(address: &str) -> MetaResult<Self> {
        let (path, query) = address.split_once('?').unwrap_or((address, ""));
        let path = path.strip_prefix("file:").unwrap_or(path);
        if path.is_empty() || path.contains(":memory:") || path.contains('\0') {
            return Err(refuse(format!("\"sqlite3://{address}\" must name a file: sqlite3://PATH[?OPTIONS]")));
        }
        let mut options = Self {
            path: PathBuf::from(path),
            table_prefix: String::new(),
            journal: "WAL".to_owned(),
            synchronous: "NORMAL".to_owned(),
            busy_timeout: Duration::from_millis(5000),
            lock_deadline: Duration::ZERO,
            read_only: false,
            immutable: false,
            max_readers: DEFAULT_READERS,
        };
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            options.set(&key, &value)?;
        }
        options.lock_deadline = options.busy_timeout * LOCK_TRIES;
        Ok(options)
    }

    fn set(&mut self, key: &str, value: &str) -> MetaResult<()> {
        let bad = |right: &str| refuse(format!("sqlite3 option {key} is \"{value}\", but must be {right}"));
        let upper = value.to_ascii_uppercase();
        match key {
            "table_prefix" => {
                if !value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
                    return Err(bad("of letters, digits, '-' and '_'"));
                }
                value.clone_into(&mut self.table_prefix);
            }
            "_journal" | "_journal_mode" => match upper.as_str() {
                "WAL" | "DELETE" | "TRUNCATE" | "PERSIST" => self.journal = upper,
                "MEMORY" | "OFF" => {
                    tracing::warn!("sqlite3 option {key}={value} would lose the volume in a crash: using WAL");
                    "WAL".clone_into(&mut self.journal);
                }
                _ => return Err(bad("WAL, DELETE, TRUNCATE or PERSIST")),
            },
            "_sync" | "_synchronous" => {
                self.synchronous = match upper.as_str() {
                    "0" | "OFF" => "OFF",
                    "1" | "NORMAL" => "NORMAL",
                    "2" | "FULL" => "FULL",
                    "3" | "EXTRA" => "EXTRA",
                    _ => return Err(bad("OFF, NORMAL, FULL or EXTRA")),
                }
                .to_owned();
            }
            "_timeout" | "_busy_timeout" => {
                let millis: i64 = value.parse().map_err(|_| bad("a number of milliseconds"))?;
                // SQLite takes them as 32 bits, and what is below zero as none.
                let millis = millis.clamp(0, i64::from(i32::MAX)).unsigned_abs();
                self.busy_timeout = Duration::from_millis(millis);
            }
            "max_open_conns" => {
                let most: i64 = value.parse().map_err(|_| bad("a number"))?;
                if let Ok(most @ 1..) = usize::try_from(most) {
                    self.max_readers = most.min(64);
                }
            }
            "mode" => match value {
                "ro" => self.read_only = true,
                "rw" | "rwc" => {}
                // The Go driver passes over this option unless the path begins with `file:`.
                _ => tracing::warn!("sqlite3 option mode={value} has no effect: it can be ro, rw or rwc"),
            },
            "immutable" => {
                self.immutable = matches!(value, "1" | "true" | "yes" | "on");
                self.read_only |= self.immutable;
            }
            "_locking" | "_locking_mode" if upper == "NORMAL" => {}
            "_locking" | "_locking_mode" if upper == "EXCLUSIVE" => {
                tracing::warn!("sqlite3 option {key}={value} would shut out other clients: using NORMAL");
            }
            "_locking" | "_locking_mode" => return Err(bad("NORMAL")),
            _ if WITHOUT_EFFECT.contains(&key) => {}
            _ => tracing::warn!(option = key, "this sqlite3 option is not known and has no effect"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_go_client() {
        let options = Options::parse("/a/meta.db").expect("a path");
        assert_eq!(options.path, PathBuf::from("/a/meta.db"));
        assert_eq!((options.journal.as_str(), options.synchronous.as_str()), ("WAL", "NORMAL"));
        assert_eq!(options.busy_timeout, Duration::from_secs(5));
        assert!(!options.read_only && options.table_prefix.is_empty());
    }

    #[test]
    fn options_are_taken() {
        let options =
            Options::parse("m.db?_timeout=100&table_prefix=p&_journal=delete&_sync=2&cache=shared&mode=ro&x=y")
                .expect("valid");
        assert_eq!(options.busy_timeout, Duration::from_millis(100));
        assert_eq!((options.journal.as_str(), options.synchronous.as_str()), ("DELETE", "FULL"));
        assert!(options.read_only && options.table_prefix == "p");
    }

    /// Each form with which a volume mounts in JuiceFS (Go), by what it means here.
    #[test]
    fn what_would_be_unsafe_is_taken_as_what_is_safe() {
        let same = [
            ("_journal=OFF", "_journal=WAL"),
            ("_journal_mode=memory", "_journal=WAL"),
            ("_locking=EXCLUSIVE", ""),
            ("_locking_mode=normal", ""),
            ("mode=memory", ""),
            ("_timeout=-1", "_timeout=0"),
            ("_busy_timeout=99999999999", "_timeout=2147483647"),
            ("max_open_conns=-1", "max_open_conns=0"),
            ("max_idle_conns=3&max_idle_time=10&max_life_time=10&_txlock=immediate&_query_only=0", ""),
        ];
        for (given, plain) in same {
            let parsed = |query: &str| Options::parse(&format!("m.db?{query}")).expect("valid");
            assert_eq!(parsed(given), parsed(plain), "{given}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_a_sentence() {
        for bad in [
            "",
            "?x=1",
            ":memory:",
            "a?_timeout=soon",
            "a?_journal=NONE",
            "a?_sync=maybe",
            "a?_locking=SHARED",
            "a?max_open_conns=many",
            "a?table_prefix=a`b",
        ] {
            let error = Options::parse(bad).expect_err(bad);
            assert!(matches!(error, MetaError::Setting(_)), "{bad}: {error}");
        }
    }
}
