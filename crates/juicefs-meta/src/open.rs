//! From a URL to an engine.

use std::sync::Arc;

use juicefs_core::error::{MetaError, MetaResult};

use crate::engine::{
    Engine,
    redis::{
        RedisEngine,
        address::{Address, Passwords},
    },
    sql::sqlite::SqliteEngine,
};

/// Kinds of stores that a URL may name and that are not served yet.
const PLANNED: &[&str] = &["mysql", "postgres", "badger", "tikv", "etcd", "fdb", "memkv"];
/// `--io-retries` when nothing is said.
pub const USUAL_RETRIES: u32 = 10;
const SUPPORTED: &str = "redis://, rediss://, unix://, sqlite3://";

/// [`open_with`] for a URL that has its password, if one is needed.
///
/// # Errors
/// As [`open_with`].
pub fn open(url: &str) -> MetaResult<Arc<dyn Engine>> {
    open_with(url, &Passwords::default(), false, USUAL_RETRIES)
}

/// An engine for `DRIVER://ADDRESS`; text without `://` means Redis. A password that the URL lacks is taken from
/// `passwords`. Whoever says `read_only` never writes, and may be given an engine that cannot. A server that is away is waited for
/// for six seconds per one of `retries`, and for five at least. Connects lazily and creates nothing before [`Engine::prepare`].
///
/// # Errors
/// `Setting` with a sentence for the user: an unknown driver, a bad option, a directory that is not there.
pub fn open_with(url: &str, passwords: &Passwords, read_only: bool, retries: u32) -> MetaResult<Arc<dyn Engine>> {
    let (driver, address) = url.split_once("://").unwrap_or(("redis", url));
    match driver {
        "sqlite3" => Ok(Arc::new(SqliteEngine::open(address)?)),
        "redis" | "rediss" | "unix" => {
            let address = Address::parse(driver, address)?.complete(passwords)?.with_retries(retries);
            Ok(Arc::new(RedisEngine::new(address, read_only)))
        }
        _ if PLANNED.contains(&driver) => {
            Err(MetaError::Setting(format!("{driver}:// is not supported by this build yet; supported: {SUPPORTED}")))
        }
        _ => Err(MetaError::Setting(format!("\"{driver}\" is no metadata engine; supported: {SUPPORTED}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        match open(url) {
            Err(MetaError::Setting(sentence)) => sentence,
            Err(other) => panic!("{url}: {other}"),
            Ok(engine) => panic!("{url} opened {}", engine.describe()),
        }
    }

    #[test]
    fn other_engines_are_named_in_the_refusal() {
        assert!(refused("tikv://pd/prefix").contains("tikv://"));
        assert!(refused("sqlite://x").contains("\"sqlite\" is no metadata engine"));
    }

    #[test]
    fn a_missing_directory_is_named() {
        assert!(refused("sqlite3:///nowhere/at/all/meta.db").contains("/nowhere/at/all"));
        assert!(refused("sqlite3:///tmp").contains("is a directory"));
    }
}
