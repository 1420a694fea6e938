//! What a server says of itself.

use std::str::FromStr;

/// The oldest version that has what is needed.
const OLDEST: (u32, u32, u32) = (4, 0, 0);

/// The server, or the cluster, as the engine has to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    /// Version of Redis that it is, or whose protocol it has.
    pub(crate) version: (u32, u32, u32),
    /// Whether it is a cluster.
    pub(crate) cluster: bool,
    /// What all keys begin with: the hash tag of the database's number in a cluster, else nothing.
    pub(crate) key_prefix: String,
}

/// One life of a server process. Places in a walk through its keys or through a hash mean something to this process only:
/// each deals its keys out at random anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin(pub(crate) u64);

impl Origin {
    /// One like no other, of a server that does not say who it is.
    pub(super) fn unknown() -> Self {
        Self(rand::random())
    }

    /// From what the server replied to `INFO server`.
    pub(super) fn told(info: &Info<'_>) -> Option<Self> {
        // 40 hexadecimal digits, all of them random.
        let digits = info.field("run_id")?.get(..16)?;
        u64::from_str_radix(digits, 16).ok().map(Self)
    }
}

/// The reply to `INFO`.
pub(super) struct Info<'a>(&'a str);

impl<'a> Info<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self(text)
    }

    /// The value of a field.
    pub(super) fn field(&self, name: &str) -> Option<&'a str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    }

    /// The server's version, or the text of one that is too old.
    ///
    /// A server that may not be asked, or is something new, is taken for the oldest that will do.
    pub(super) fn version(&self) -> Result<(u32, u32, u32), &'a str> {
        let Some(text) = self.field("redis_version") else { return Ok(OLDEST) };
        let mut numbers = text.split('.').map(|part| {
            let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            u32::from_str(&part[..digits]).ok()
        });
        let Some(major) = numbers.next().flatten() else { return Ok(OLDEST) };
        let version = (major, numbers.next().flatten().unwrap_or(0), numbers.next().flatten().unwrap_or(0));
        if version < OLDEST { Err(text) } else { Ok(version) }
    }

    /// Whether it is a node of a cluster.
    pub(super) fn is_cluster(&self) -> bool {
        self.field("cluster_enabled") == Some("1")
    }

    /// Tells in the log what may cost data. Returns whether entries may be evicted.
    pub(super) fn warn(&self) -> bool {
        if self.field("aof_enabled") == Some("0") {
            tracing::warn!("AOF is not enabled, you may lose data if Redis is not shut down properly");
        }
        self.field("maxmemory_policy").is_some_and(|policy| policy != "noeviction")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let version = |text: &str| Info::new(&format!("# Server\r\nredis_version:{text}\r\nx:1\r\n")).version().ok();
        assert_eq!(version("7.0.15"), Some((7, 0, 15)));
        assert_eq!(version("4.0"), Some((4, 0, 0)));
        assert_eq!(version("8.0-rc1"), Some((8, 0, 0)));
        assert_eq!(version("255.255.255"), Some((255, 255, 255)));
        assert_eq!(version("3.2.12"), None);
        assert_eq!(version("unstable"), Some(OLDEST));
        assert_eq!(Info::new("").version(), Ok(OLDEST));
    }

    #[test]
    fn a_life_is_told_by_its_id() {
        let origin = |text: &str| Origin::told(&Info::new(text));
        let told = origin("# Server\r\nrun_id:00000000000000ff5b75b489c5da3c76763f5b63\r\n");
        assert_eq!(told, Some(Origin(255)));
        for other in ["", "run_id:\r\n", "run_id:12\r\n", "run_id:zzzzzzzzzzzzzzzzzzzz\r\n"] {
            assert_eq!(origin(other), None, "{other}");
        }
        assert_ne!(Origin::unknown(), Origin::unknown());
    }

    #[test]
    fn fields_are_whole_names() {
        let info =
            Info::new("cluster_enabled_x:1\r\ncluster_enabled:0\r\naof_enabled:1\r\nmaxmemory_policy:allkeys-lru\r\n");
        assert!(!info.is_cluster());
        assert!(info.warn());
    }
}
