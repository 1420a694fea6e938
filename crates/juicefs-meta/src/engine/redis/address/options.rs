//! What stands behind the `?` of a URL.

use std::{path::PathBuf, time::Duration};

use juicefs_core::{
    error::{MetaError, MetaResult},
    values,
};
use url::form_urlencoded;

/// Options of a Redis URL, with their defaults, and limits that have no option.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Wait before the first repetition of a request or connection; doubled with each.
    pub(crate) min_retry_backoff: Duration,
    /// Longest such wait.
    pub(crate) max_retry_backoff: Duration,
    /// A connection that owes a reply and has sent nothing for this long is broken.
    pub(crate) read_timeout: Duration,
    /// A connection that takes no byte for this long is broken.
    pub(crate) write_timeout: Duration,
    /// To set a connection up, until the first reply.
    pub(crate) connect_timeout: Duration,
    /// A request is repeated until this long after it was given.
    pub(crate) retry_budget: Duration,
    /// The same for all until a connection has been set up for the first time.
    pub(crate) first_budget: Duration,
    /// Which server a client that never writes reads from, with Sentinels or in a cluster.
    pub(crate) route_read: Option<ReplicaRoute>,
    /// Caching with the help of the server.
    pub(crate) client_cache: ClientCache,
    pub(super) tls: TlsFiles,
}

/// Choice of a node to read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplicaRoute {
    /// Any.
    Random,
    /// The nearest.
    Latency,
    /// Any replica.
    Replica,
}

/// Caching with the help of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientCache {
    pub(crate) enabled: bool,
    /// Most entries.
    pub(crate) size: u64,
    /// Entries are forgotten after this long.
    pub(crate) expire: Duration,
    /// Entries to fetch at the start.
    pub(crate) preload: u64,
}

/// How TLS checks the server and identifies the client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    /// Certificate of the client and its key.
    pub(crate) client: Option<(PathBuf, PathBuf)>,
    /// Authorities to trust instead of those of the system.
    pub(crate) authorities: Option<PathBuf>,
    /// Name to expect in the certificate instead of that of the host.
    pub(crate) server_name: Option<String>,
    /// Whether any certificate will do.
    pub(crate) skip_verify: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            min_retry_backoff: Duration::from_millis(20),
            max_retry_backoff: Duration::from_secs(10),
            read_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            retry_budget: Duration::from_secs(60),
            first_budget: Duration::from_secs(5),
            route_read: None,
            client_cache: ClientCache { enabled: false, size: 12_800, expire: Duration::from_secs(60), preload: 0 },
            tls: TlsFiles::default(),
        }
    }
}

/// Settings of the other client's connection pool: taken, since this client keeps two connections whatever they say.
const POOL: &[&str] = &[
    "client-name",
    "conn-max-idle-time",
    "conn-max-lifetime",
    "conn-max-lifetime-jitter",
    "dial-timeout",
    "idle-check-frequency",
    "idle-timeout",
    "max-active-conns",
    "max-concurrent-dials",
    "max-conn-age",
    "max-idle-conns",
    "max-retries",
    "min-idle-conns",
    "pool-fifo",
    "pool-size",
    "pool-timeout",
    "protocol",
];

const KNOWN: &str = "min-retry-backoff, max-retry-backoff, read-timeout, write-timeout, route-read, client-cache, \
                     client-cache-size, client-cache-expire, client-cache-preload, db, and with rediss:// \
                     tls-cert-file, tls-key-file, tls-ca-cert-file, tls-server-name and insecure-skip-verify";

/// The options, and the database if one is given among them. Names may be written with underscores.
pub(super) fn parse(driver: &str, query: &str) -> MetaResult<(Options, Option<String>)> {
    let mut options = Options::default();
    let mut database = None;
    let (mut certificate, mut key) = (None, None);
    let mut tls_option = None;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let dashed = name.replace('_', "-");
        let value = value.as_ref();
        match dashed.as_str() {
            "db" => database = Some(value.to_owned()),
            "min-retry-backoff" => set_duration(&mut options.min_retry_backoff, &dashed, value),
            "max-retry-backoff" => set_duration(&mut options.max_retry_backoff, &dashed, value),
            "read-timeout" => set_duration(&mut options.read_timeout, &dashed, value),
            "write-timeout" => set_duration(&mut options.write_timeout, &dashed, value),
            "route-read" => options.route_read = route(value),
            "client-cache" => options.client_cache.enabled = !matches!(value, "false" | ""),
            "client-cache-size" => set_number(&mut options.client_cache.size, &dashed, value),
            "client-cache-expire" => set_duration(&mut options.client_cache.expire, &dashed, value),
            "client-cache-preload" => set_number(&mut options.client_cache.preload, &dashed, value),
            "tls-cert-file" => certificate = path(value),
            "tls-key-file" => key = path(value),
            "tls-ca-cert-file" => options.tls.authorities = path(value),
            "tls-server-name" => options.tls.server_name = (!value.is_empty()).then(|| value.to_owned()),
            "insecure-skip-verify" | "skip-verify" => options.tls.skip_verify = !matches!(value, "false" | "0" | "no"),
            pool if POOL.contains(&pool) => tracing::debug!("option {name} of the metadata URL has no effect"),
            _ => {
                return Err(MetaError::Setting(format!(
                    "\"{name}\" is no option of a {driver}:// URL; there are {KNOWN}"
                )));
            }
        }
        if dashed.starts_with("tls-") || dashed.ends_with("skip-verify") {
            tls_option = Some(dashed);
        }
    }
    if let (Some(name), true) = (tls_option, driver != "rediss") {
        tracing::warn!("option {name} has no effect, since {driver}:// does not use TLS; rediss:// does");
    }
    options.tls.client = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => {
            return Err(MetaError::Setting(
                "tls-cert-file and tls-key-file belong together: give both or none".to_owned(),
            ));
        }
    };
    options.max_retry_backoff = options.max_retry_backoff.max(options.min_retry_backoff);
    Ok((options, database))
}

fn path(value: &str) -> Option<PathBuf> {
    (!value.is_empty()).then(|| PathBuf::from(value))
}

fn route(value: &str) -> Option<ReplicaRoute> {
    match value {
        "" => None,
        "random" => Some(ReplicaRoute::Random),
        "latency" => Some(ReplicaRoute::Latency),
        "replica" => Some(ReplicaRoute::Replica),
        _ => {
            tracing::warn!(
                "route-read={value} is not possible: reading from the master; use random, latency or replica"
            );
            None
        }
    }
}

/// What is no number leaves the default, as it does in JuiceFS (Go): what people have in their scripts has to mount.
fn set_number(field: &mut u64, name: &str, value: &str) {
    match values::integer(value) {
        Ok(number) => *field = u64::try_from(number).unwrap_or(0),
        Err(_) if value.is_empty() => {}
        Err(why) => tracing::warn!("{name}={value} of the metadata URL is ignored: {why}"),
    }
}

/// Zero and nothing leave the default, and so does what is no duration.
fn set_duration(field: &mut Duration, name: &str, value: &str) {
    match values::duration(value) {
        Ok(Duration::ZERO) => {}
        Ok(duration) => *field = duration,
        Err(why) => tracing::warn!("{name}={value} of the metadata URL is ignored: {why}"),
    }
}
