use std::{collections::HashMap, time::Duration};

use juicefs_core::error::MetaError;

use super::*;

fn parse(url: &str) -> Address {
    let (driver, rest) = url.split_once("://").expect("a URL");
    Address::parse(driver, rest).unwrap_or_else(|error| panic!("{url}: {error}"))
}

fn refused(url: &str) -> String {
    let (driver, rest) = url.split_once("://").expect("a URL");
    match Address::parse(driver, rest) {
        Err(MetaError::Setting(sentence)) => sentence,
        other => panic!("{url}: {other:?}"),
    }
}

fn hosts(address: &Address) -> Vec<String> {
    match address.place() {
        Place::Host(host) => vec![host.to_string()],
        Place::Cluster(hosts) | Place::Sentinel { sentinels: hosts, .. } => hosts.iter().map(Host::to_string).collect(),
        Place::Socket(path) => vec![path.display().to_string()],
    }
}

fn password(address: &Address) -> &[u8] {
    address.password().map_or(b"", Secret::reveal)
}

#[test]
fn one_server() {
    let cases = [
        ("redis://h", "h:6379", 0),
        ("redis://h/", "h:6379", 0),
        ("redis://h:7000/3", "h:7000", 3),
        ("redis://h:/3", "h:6379", 3),
        ("redis:///1", "localhost:6379", 1),
        ("redis://:7000/1", "localhost:7000", 1),
        ("redis://10.0.0.1/15?read-timeout=3s", "10.0.0.1:6379", 15),
        ("redis://[::1]/1", "[::1]:6379", 1),
        ("redis://[fe80::1]:7000/1", "[fe80::1]:7000", 1),
        ("redis://h?db=4", "h:6379", 4),
        ("redis://h/5?db=4", "h:6379", 5),
        ("rediss://h.example:1/2", "h.example:1", 2),
    ];
    for (url, host, database) in cases {
        let address = parse(url);
        assert!(matches!(address.place(), Place::Host(_)), "{url}");
        assert_eq!((hosts(&address), address.database()), (vec![host.to_owned()], database), "{url}");
        assert_eq!(address.tls().is_some(), url.starts_with("rediss"), "{url}");
        assert_eq!(address.describe(), url);
    }
}

#[test]
fn several_servers() {
    let cluster = parse("redis://a:7000,b:7001,[::1],d/2");
    assert!(matches!(cluster.place(), Place::Cluster(_)));
    assert_eq!(hosts(&cluster), ["a:7000", "b:7001", "[::1]:6379", "d:6379"]);
    assert_eq!(cluster.database(), 2);

    let cases: &[(&str, &[&str])] = &[
        ("redis://m,s1,s2:5000/1", &["s1:5000", "s2:5000"]),
        ("redis://m,s1,s2/1", &["s1:26379", "s2:26379"]),
        ("redis://m,s1:1,s2,s3:3/1", &["s1:1", "s2:3", "s3:3"]),
        ("redis://m,[::1],[::2]:7/1", &["[::1]:7", "[::2]:7"]),
        ("rediss://u:p@m,s1:1/1", &["s1:1"]),
    ];
    for (url, sentinels) in cases {
        let address = parse(url);
        assert!(matches!(address.place(), Place::Sentinel { master, .. } if master == "m"), "{url}");
        assert_eq!(hosts(&address), *sentinels, "{url}");
    }
}

#[test]
fn sockets() {
    let cases = [
        ("unix:///run/redis.sock?db=3", "/run/redis.sock", 3, ""),
        ("unix:///run/redis.sock", "/run/redis.sock", 0, ""),
        ("unix://u:p%40@/run/a@b/redis.sock?db=1", "/run/a@b/redis.sock", 1, "p@"),
        ("unix:///run/a@/redis.sock", "/run/a@/redis.sock", 0, ""),
    ];
    for (url, path, database, secret) in cases {
        let address = parse(url);
        assert_eq!(hosts(&address), [path], "{url}");
        assert_eq!((address.database(), password(&address)), (database, secret.as_bytes()), "{url}");
    }
}

#[test]
fn logins_are_decoded_and_masked() {
    let cases: &[(&str, &str, &str, &str)] = &[
        ("redis://:secret@h/1", "", "secret", "redis://:****@h/1"),
        ("redis://u:secret@h/1?db=2", "u", "secret", "redis://u:****@h/1?db=2"),
        ("redis://u@h/1", "u", "", "redis://u@h/1"),
        ("redis://u:@h/1", "u", "", "redis://u@h/1"),
        ("redis://a%3Ab:s%2F%3f%40%25x@h/1", "a:b", "s/?@%x", "redis://a%3Ab:****@h/1"),
        ("redis://:a@b:c@h/1", "", "a@b:c", "redis://:****@h/1"),
        ("rediss://:100%@h1:1,h2:2/1", "", "100%", "rediss://:****@h1:1,h2:2/1"),
        ("unix://:secret@/sock?db=1", "", "secret", "unix://:****@/sock?db=1"),
    ];
    for (url, user, secret, shown) in cases {
        let address = parse(url);
        assert_eq!(address.user().unwrap_or_default(), user.as_bytes(), "{url}");
        assert_eq!(password(&address), secret.as_bytes(), "{url}");
        assert_eq!(address.describe(), *shown);
        assert_eq!(format!("{address:?}"), format!("Address({shown:?})"));
        assert!(!format!("{:?} {:?}", address.password(), address.options()).contains("secret"));
    }
}

#[test]
fn options_have_defaults_and_two_spellings() {
    let plain = parse("redis://h/1");
    let options = plain.options();
    assert_eq!(options.min_retry_backoff, Duration::from_millis(20));
    assert_eq!(options.max_retry_backoff, Duration::from_secs(10));
    assert_eq!(options.read_timeout, Duration::from_secs(30));
    assert_eq!(options.write_timeout, Duration::from_secs(5));
    assert_eq!((options.route_read, options.client_cache.enabled), (None, false));
    assert_eq!((options.client_cache.size, options.client_cache.preload), (12_800, 0));
    assert_eq!(options.client_cache.expire, Duration::from_secs(60));

    let address = parse(
        "redis://h/1?min-retry-backoff=5ms&max_retry_backoff=1m1.5s&read_timeout=1h&write-timeout=500us&route-read=replica\
         &client-cache=bcast&client-cache-size=7&client-cache-expire=2m&client-cache-preload=9&pool_size=10",
    );
    let options = address.options();
    assert_eq!(options.min_retry_backoff, Duration::from_millis(5));
    assert_eq!(options.max_retry_backoff, Duration::from_millis(61_500));
    assert_eq!(options.read_timeout, Duration::from_secs(3600));
    assert_eq!(options.write_timeout, Duration::from_micros(500));
    assert_eq!(options.route_read, Some(ReplicaRoute::Replica));
    assert!(options.client_cache.enabled);
    assert_eq!((options.client_cache.size, options.client_cache.preload), (7, 9));
    assert_eq!(options.client_cache.expire, Duration::from_secs(120));

    assert!(!parse("redis://h?client-cache=false").options().client_cache.enabled);
    assert_eq!(parse("redis://h?read-timeout=0").options().read_timeout, Duration::from_secs(30));
    let odd = parse("redis://h?min-retry-backoff=20s");
    assert_eq!(odd.options().max_retry_backoff, Duration::from_secs(20), "never less than the least");
}

/// `min-retry max-retry read write`, in milliseconds, and the cache.
fn shown(query: &str) -> String {
    let address = parse(&format!("redis://h/1?{query}"));
    let Options { min_retry_backoff, max_retry_backoff, read_timeout, write_timeout, .. } = address.options();
    let times = [min_retry_backoff, max_retry_backoff, read_timeout, write_timeout].map(Duration::as_millis);
    let ClientCache { enabled, size, expire, preload } = address.options().client_cache;
    format!("{times:?} {enabled} {size} {expire:?} {preload} {:?}", address.options().route_read)
}

/// Every option in each form with which a volume mounts in JuiceFS (Go).
#[test]
fn plain_numbers_are_seconds_and_what_is_not_understood_leaves_the_default() {
    let same = [
        ("read-timeout=3&write-timeout=1&max-retry-backoff=3", "read-timeout=3s&write-timeout=1s&max-retry-backoff=3s"),
        ("read_timeout=3&write_timeout=1", "read-timeout=3s&write-timeout=1s"),
        ("min-retry-backoff=0.5", "min-retry-backoff=500ms"),
        ("read-timeout=1.5h", "read-timeout=90m"),
        ("read-timeout=1d", "read-timeout=24h"),
        ("read-timeout=%2B3s", "read-timeout=3s"),
        ("client-cache-expire=30", "client-cache-expire=30s"),
        ("client-cache-size=0x10", "client-cache-size=16"),
        ("client-cache=", "client-cache=false"),
        ("client-cache=true", "client-cache=bcast"),
        ("client-cache-preload=-1", "client-cache-preload=0"),
        // These leave the default.
        ("read-timeout=soon", ""),
        ("read-timeout=-1s", ""),
        ("read-timeout=-1", ""),
        ("write_timeout=5x", ""),
        ("max-retry-backoff=", ""),
        ("min-retry-backoff=0", ""),
        ("client-cache-size=big", ""),
        ("client-cache-preload=1.5", ""),
        ("client-cache-expire=never", ""),
        ("route-read=nearest", ""),
        // Of the connection pool of JuiceFS (Go).
        ("pool_size=10&pool_fifo=true&dial_timeout=5&idle_timeout=1m&max_retries=3&protocol=3&client_name=x", ""),
        ("max_concurrent_dials=3&conn_max_lifetime_jitter=5s&min_idle_conns=1&max_active_conns=9", ""),
    ];
    for (given, plain) in same {
        assert_eq!(shown(given), shown(plain), "{given}");
    }
    assert!(parse("rediss://h/1?skip_verify=true").tls().is_some_and(|tls| tls.skip_verify));
}

#[test]
fn retries_say_how_long_a_server_is_waited_for() {
    let seconds = |retries| parse("redis://h/1").with_retries(retries).options().retry_budget.as_secs();
    assert_eq!([0, 1, 2, 10, 100].map(seconds), [5, 6, 12, 60, 600]);
    assert_eq!(parse("redis://h/1").options().retry_budget, Duration::from_secs(60), "the usual one");
    // No number makes it overflow.
    assert!(parse("redis://h/1").with_retries(u32::MAX).options().retry_budget > Duration::from_secs(600));
}

#[test]
fn tls_options() {
    let address = parse(
        "rediss://h/1?tls-cert-file=/c.pem&tls-key-file=%2Fk.pem&tls-ca-cert-file=/ca.pem&tls-server-name=n&insecure-skip-verify=true",
    );
    let expected = TlsFiles {
        client: Some(("/c.pem".into(), "/k.pem".into())),
        authorities: Some("/ca.pem".into()),
        server_name: Some("n".to_owned()),
        skip_verify: true,
    };
    assert_eq!(address.tls(), Some(&expected));
    assert_eq!(parse("rediss://h").tls(), Some(&TlsFiles::default()));
    let verified = parse("rediss://h?insecure-skip-verify=false");
    assert!(verified.tls().is_some_and(|tls| !tls.skip_verify));
    assert_eq!(parse("redis://h?insecure-skip-verify=true").tls(), None);
}

#[test]
fn what_is_wrong_is_named() {
    let cases = [
        ("redis://h:x/1", "\"h:x\" is no address of a Redis: the port is a number"),
        ("redis://h:70000/1", "the port is a number from 1 to 65535"),
        ("redis://h:0/1", "the port is a number from 1 to 65535"),
        ("redis://::1/1", "write an IPv6 address in brackets"),
        ("redis://[::1/1", "the bracket is not closed"),
        ("redis://[h]/1", "only an IPv6 address"),
        ("redis://[::1]7000/1", "after the bracket comes :PORT"),
        ("redis://a b/1", "\"a b\""),
        ("redis://h/one", "\"one\" is no database of Redis"),
        ("redis://h/-1", "\"-1\""),
        ("redis://h/1/2", "\"1/2\""),
        ("redis://h?db=x", "\"x\""),
        ("redis://h/9999999999", "\"9999999999\""),
        ("redis://a:1,,b:2/1", "empty host"),
        ("redis://m,/1", "empty host"),
        ("redis://,a,b/1", "lacks the name of the master"),
        ("unix://run/redis.sock", "\"run/redis.sock\" is no socket"),
        ("unix://", "is no socket"),
        ("redis://h/1?color=red", "\"color\" is no option of a redis:// URL; there are min-retry-backoff"),
        ("rediss://h/1?tls-cert-file=/c", "tls-cert-file and tls-key-file belong together"),
    ];
    for (url, part) in cases {
        let sentence = refused(url);
        assert!(sentence.contains(part), "{url}: {sentence}");
        assert!(!sentence.contains('\n'), "{url}: {sentence}");
    }
}

#[test]
fn no_sentence_holds_a_password() {
    let cases = [
        "redis://:hus/hed@h/1",
        "redis://u:hus?hed@h/1",
        "redis://:hushed/x@h:1/1",
        "redis://u:hushed@h:port/1",
        "redis://u:hushed@h/x",
        "redis://u:hushed@h/1?color=red",
        "unix://:hushed@sock",
        "unix://u:hushed@h:1/run/redis.sock",
    ];
    for url in cases {
        let sentence = refused(url);
        assert!(!sentence.contains("hus") && !sentence.contains("hed"), "{url}: {sentence}");
    }
    assert!(refused("redis://:hus/hed@h/1").contains("%2F"));
}

#[test]
fn passwords_come_from_the_first_place_that_has_one() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "from-file\n").expect("written");
    let path = file.path().to_str().expect("a path").to_owned();
    let given = |pairs: &[(&str, &str)]| {
        let variables: HashMap<String, String> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Passwords::from_variables(move |name| variables.get(name).cloned())
    };
    let all = [
        ("REDIS_PASSWORD", "from-redis"),
        ("META_PASSWORD", "from-meta"),
        ("META_PASSWORD_FILE", path.as_str()),
        ("SENTINEL_PASSWORD", "from-sentinel"),
    ];
    let check = |url: &str, variables: &[(&str, &str)], expected: &str| {
        let address = parse(url).complete(&given(variables)).expect("complete");
        assert_eq!(password(&address), expected.as_bytes(), "{url} {variables:?}");
    };
    check("redis://:in-url@h", &all, "in-url");
    check("redis://u@h", &all, "from-redis");
    check("redis://h", &all[1..], "from-meta");
    check("redis://h", &[("REDIS_PASSWORD", ""), all[2]], "from-file");
    check("redis://h", &[], "");
    let address = parse("redis://m,s").complete(&given(&all)).expect("complete");
    assert_eq!(address.sentinel_password().map(Secret::reveal), Some(&b"from-sentinel"[..]));

    let missing = given(&[("META_PASSWORD_FILE", "/nowhere/password")]);
    assert!(parse("redis://:in-url@h").complete(&missing).is_ok(), "it is not needed");
    match parse("redis://h").complete(&missing) {
        Err(MetaError::Setting(sentence)) => assert!(sentence.contains("/nowhere/password"), "{sentence}"),
        other => panic!("{other:?}"),
    }
    assert!(!format!("{:?}", given(&all)).contains("from-"));
}
