//! Where a Redis is, how to log in, and the options of its URL.
//!
//! `redis[s]://[user:pass@]host[:6379]/[db][?options]`; several hosts separated by commas are a Cluster, and when the
//! first comma comes before the first colon, the first of them is the name of a master that the others, Sentinels,
//! know. `unix://[user:pass@]/path/of/socket[?db=N]`.

mod options;
mod passwords;
#[cfg(test)]
mod tests;

use std::{fmt, path::PathBuf, time::Duration};

use juicefs_core::error::{MetaError, MetaResult};
use percent_encoding::percent_decode_str;

pub(crate) use options::{ClientCache, Options, ReplicaRoute, TlsFiles};
pub use passwords::Passwords;
pub(crate) use passwords::Secret;

/// What one retry is worth.
const RETRY_TIME: Duration = Duration::from_secs(6);
const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// A parsed URL. Neither `Debug` nor [`Self::describe`] shows a password.
#[derive(Clone)]
pub(crate) struct Address {
    place: Place,
    user: Option<Vec<u8>>,
    password: Option<Secret>,
    sentinel_password: Option<Secret>,
    database: u32,
    tls: Option<TlsFiles>,
    options: Options,
    described: String,
}

/// What the host part of the URL names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// One server, which may turn out to be a node of a cluster.
    Host(Host),
    /// A server behind a socket file.
    Socket(PathBuf),
    /// The master that Sentinels know by this name.
    Sentinel {
        /// Name of the master.
        master: String,
        /// The Sentinels, in the order of the URL.
        sentinels: Vec<Host>,
    },
    /// Some nodes of a cluster.
    Cluster(Vec<Host>),
}

/// A TCP end point.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Host {
    /// Name or address, IPv6 without brackets.
    pub(crate) name: String,
    /// Its port.
    pub(crate) port: u16,
}

impl Address {
    /// Reads what follows `driver://`, where the driver is `redis`, `rediss` (TLS) or `unix`.
    ///
    /// # Errors
    /// `Setting` with one sentence that names the bad value and what would be right; never a password.
    pub(crate) fn parse(driver: &str, rest: &str) -> MetaResult<Self> {
        let (before_query, query) = rest.split_once('?').map_or((rest, ""), |(before, query)| (before, query));
        let authority_end = if driver == "unix" { before_query.len() } else { authority_end(before_query) };
        // A socket path may hold an '@' of its own, which is then preceded by a '/'.
        let at = match (driver, before_query.starts_with('/')) {
            ("unix", true) => None,
            ("unix", false) => before_query.find("@/"),
            _ => before_query[..authority_end].rfind('@'),
        };
        let login = at.map_or("", |at| &before_query[..at]);
        let located = &before_query[at.map_or(0, |at| at + 1)..];
        let (user, password) = login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));

        // What was taken for a host or an option may be a part of the password.
        let guarded = |bad| {
            if at.is_none() && rest.contains('@') { MetaError::Setting(ESCAPE_PASSWORD.to_owned()) } else { bad }
        };
        let (options, database_option) = options::parse(driver, query).map_err(guarded)?;
        let (place, path) = if driver == "unix" {
            (socket(located, at.is_none())?, "")
        } else {
            let (hosts, path) = located.split_at(authority_end - at.map_or(0, |at| at + 1));
            (place(hosts).map_err(guarded)?, path)
        };
        if at.is_none() && path.contains('@') {
            return Err(MetaError::Setting(ESCAPE_PASSWORD.to_owned()));
        }
        let database = database(path, database_option)?;

        let masked = if password.is_some_and(|password| !password.is_empty()) { ":****" } else { "" };
        let described = match at {
            Some(at) => format!("{driver}://{user}{masked}{}", &rest[at..]),
            None => format!("{driver}://{rest}"),
        };
        let tls = (driver == "rediss").then(|| options.tls.clone());
        Ok(Self {
            place,
            user: (!user.is_empty()).then(|| percent_decode_str(user).collect()),
            password: password.and_then(|text| Secret::new(percent_decode_str(text).collect())),
            sentinel_password: None,
            database,
            tls,
            options,
            described,
        })
    }

    /// Takes the passwords that the URL does not have from elsewhere.
    ///
    /// # Errors
    /// `Setting` when a file that should have the password cannot be read.
    pub(crate) fn complete(mut self, passwords: &Passwords) -> MetaResult<Self> {
        if self.password.is_none() {
            self.password = passwords.for_redis()?;
        }
        self.sentinel_password = passwords.for_sentinel();
        Ok(self)
    }

    /// Sets how long a server that is away is waited for: with `--io-retries` of 10 it is a minute.
    pub(crate) fn with_retries(mut self, retries: u32) -> Self {
        self.options.retry_budget = (RETRY_TIME * retries).max(self.options.first_budget);
        self
    }

    /// The URL with the password as `****`.
    pub(crate) fn describe(&self) -> String {
        self.described.clone()
    }

    /// Number of the database; in a cluster, the `N` of the hash tag `{N}`.
    pub(crate) fn database(&self) -> u32 {
        self.database
    }

    /// What the host part names.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// User to log in as, with a password only.
    pub(crate) fn user(&self) -> Option<&[u8]> {
        self.user.as_deref()
    }

    /// Password of the server.
    pub(crate) fn password(&self) -> Option<&Secret> {
        self.password.as_ref()
    }

    /// Password of the Sentinels.
    pub(crate) fn sentinel_password(&self) -> Option<&Secret> {
        self.sentinel_password.as_ref()
    }

    /// Certificates and the like, when connections use TLS.
    pub(crate) fn tls(&self) -> Option<&TlsFiles> {
        self.tls.as_ref()
    }

    /// Time limits and the like.
    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// The options, to be changed before the address is used.
    #[cfg(test)]
    pub(crate) fn options_mut(&mut self) -> &mut Options {
        &mut self.options
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Address").field(&self.described).finish()
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            write!(f, "[{}]:{}", self.name, self.port)
        } else {
            write!(f, "{}:{}", self.name, self.port)
        }
    }
}

const ESCAPE_PASSWORD: &str =
    "the metadata URL cannot be read: write '/' in a password as %2F, '?' as %3F, '@' as %40 and '%' as %25";

/// Where user, password and hosts end and the path begins.
fn authority_end(text: &str) -> usize {
    text.find('/').unwrap_or(text.len())
}

fn socket(path: &str, bare: bool) -> MetaResult<Place> {
    if path.starts_with('/') {
        return Ok(Place::Socket(PathBuf::from(path)));
    }
    // Without a path, all of it may be a password.
    let shown = if bare && path.contains([':', '@']) { "" } else { path };
    Err(MetaError::Setting(format!(
        "\"{shown}\" is no socket of Redis: write unix:// and an absolute path, as in unix:///run/redis/redis.sock?db=1"
    )))
}

fn place(hosts: &str) -> MetaResult<Place> {
    let Some(comma) = hosts.find(',') else {
        return Ok(Place::Host(host(hosts, REDIS_PORT)?));
    };
    if hosts.find(':').is_none_or(|colon| comma < colon) {
        return sentinel(&hosts[..comma], &hosts[comma + 1..]);
    }
    let nodes = hosts.split(',').map(|text| listed(text, hosts, REDIS_PORT)).collect::<MetaResult<_>>()?;
    Ok(Place::Cluster(nodes))
}

/// A port that is given at the last Sentinel goes for those before it that have none.
fn sentinel(master: &str, list: &str) -> MetaResult<Place> {
    if master.is_empty() {
        return Err(MetaError::Setting(format!(
            "\",{list}\" lacks the name of the master before the first comma: MASTER,sentinel1,sentinel2:26379"
        )));
    }
    let last = list.rsplit(',').next().unwrap_or(list);
    let port = listed(last, list, SENTINEL_PORT)?.port;
    let sentinels = list.split(',').map(|text| listed(text, list, port)).collect::<MetaResult<_>>()?;
    Ok(Place::Sentinel { master: master.to_owned(), sentinels })
}

/// One host of a list, in which none may be empty.
fn listed(text: &str, list: &str, port: u16) -> MetaResult<Host> {
    if text.is_empty() {
        return Err(MetaError::Setting(format!("\"{list}\" has an empty host between its commas")));
    }
    host(text, port)
}

/// `host[:port]`; an empty host is this one.
fn host(text: &str, default_port: u16) -> MetaResult<Host> {
    let bad = |why: &str| MetaError::Setting(format!("\"{text}\" is no address of a Redis: {why}"));
    let (name, port) = if let Some(bracketed) = text.strip_prefix('[') {
        let (name, after) = bracketed.split_once(']').ok_or_else(|| bad("the bracket is not closed"))?;
        if name.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(bad("only an IPv6 address is written in brackets"));
        }
        match after.strip_prefix(':') {
            Some(port) => (name, Some(port)),
            None if after.is_empty() => (name, None),
            None => return Err(bad("after the bracket comes :PORT")),
        }
    } else {
        match text.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err(bad("write an IPv6 address in brackets, as in [::1]:6379"));
            }
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        }
    };
    if name.contains(|c: char| c.is_whitespace() || c.is_control() || "%#\\\"<>^`{|}".contains(c)) {
        return Err(bad("the host is a name or an address"));
    }
    let port = match port {
        None | Some("") => default_port,
        Some(port) => match port.parse() {
            Ok(port) if port > 0 => port,
            _ => return Err(bad("the port is a number from 1 to 65535")),
        },
    };
    let name = if name.is_empty() { "localhost" } else { name };
    Ok(Host { name: name.to_owned(), port })
}

/// The path of the URL, or else the option `db`, as a number.
fn database(path: &str, option: Option<String>) -> MetaResult<u32> {
    let text = path.trim_matches('/');
    let text = match option {
        Some(option) if text.is_empty() => option,
        _ => text.to_owned(),
    };
    if text.is_empty() {
        return Ok(0);
    }
    match text.parse() {
        // What a server can hold.
        Ok(number) if number <= i32::MAX as u32 => Ok(number),
        _ => Err(MetaError::Setting(format!(
            "\"{text}\" is no database of Redis: give its number, as in redis://host:6379/1"
        ))),
    }
}
