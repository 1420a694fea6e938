use clap::{CommandFactory, Parser};

use super::{features::LocalLocks, *};
use crate::{
    argv,
    config::args::{Cli, Command},
};

fn args(line: &str) -> MountArgs {
    let mut app = Cli::command();
    app.build();
    let words = format!("juicefs mount {line} sqlite3://m.db mnt").split_whitespace().map(Into::into).collect();
    let words = argv::normalise(&app, words).expect("a good line");
    match Cli::try_parse_from(words).expect("parsed").command {
        Command::Mount(args) => *args,
        other => panic!("not mount: {other:?}"),
    }
}

fn good(line: &str) -> MountConfig {
    let resolved = resolve(&args(line), &Surroundings::of_tests()).expect("good flags");
    assert_eq!(resolved.warnings, Vec::<String>::new(), "{line}");
    resolved.value
}

fn warned(line: &str) -> (MountConfig, String) {
    let resolved = resolve(&args(line), &Surroundings::of_tests()).expect("good flags");
    (resolved.value, resolved.warnings.join("; "))
}

#[test]
fn defaults_are_those_of_the_manual() {
    let config = good("");
    assert_eq!(config.meta_url, "sqlite3:///srv/m.db");
    assert_eq!(config.mountpoint, PathBuf::from("/srv/mnt"));
    assert_eq!(config.process.log, PathBuf::from("/var/log/juicefs.log"));
    assert!(!config.process.background);
    assert_eq!(config.meta.heartbeat, Duration::from_secs(12));
    assert_eq!(config.meta.atime, AtimeMode::NoAtime);
    assert_eq!(config.timeouts.attr, Duration::from_secs(1));
    assert_eq!(config.timeouts.negative, Duration::ZERO);
    assert_eq!(config.data.buffer_bytes, 300 << 20);
    assert_eq!(config.data.cache, CachePlace::Dirs(vec!["/var/jfsCache".into()]));
    assert_eq!((config.data.cache_bytes, config.data.cache_mode), (100 << 30, 0o600));
    assert_eq!((config.data.max_uploads, config.data.max_downloads, config.data.max_deletes), (20, 200, 10));
    assert!(config.features.allow_other);
}

#[test]
fn users_keep_their_things_at_home() {
    let here = Surroundings { is_root: false, ..Surroundings::of_tests() };
    let config = resolve(&args("-d"), &here).expect("good flags").value;
    assert_eq!(config.process.log, PathBuf::from("/home/u/.juicefs/juicefs.log"));
    assert_eq!(config.data.cache, CachePlace::Dirs(vec!["/home/u/.juicefs/cache".into()]));
    assert!(!config.features.allow_other);
    assert!(config.process.background);
}

#[test]
fn corrections_are_said() {
    let cases = [
        ("--heartbeat 0", "heartbeat"),
        ("--heartbeat 1h", "heartbeat"),
        ("--atime-mode always", "noatime"),
        ("--buffer-size 1", "32M"),
        ("--cache-size 0", "nothing is cached"),
        ("--max-deletes 0", "deletes no data"),
        ("--verify-cache-checksum md5", "extend"),
        ("--cache-eviction fifo", "2-random"),
        ("--cache-dir memory --cache-eviction lru", "2-random"),
        ("--cache-mode 99", "0600"),
        ("--cache-expire 100ms", "1s"),
        ("--tag nothing", "key=value"),
        ("--upload-delay 3", "--writeback"),
        ("--writeback --cache-dir memory", "--writeback is ignored"),
        ("--writeback --cache-size 0", "--writeback is ignored"),
        ("--writeback --upload-hours 25-3", "22-6"),
        ("--writeback --cache-partial-only", "stay in the cache"),
        ("--readdir-cache --skip-dir-mtime 0 --attr-cache 0", "--attr-cache"),
        ("--readdir-cache", "old listings"),
        ("--metrics 0.0.0.0:9567", ".stats"),
        ("--free-space-ratio 1.5", "nothing is cached"),
        ("--free-space-ratio -1", "all of the disk"),
        ("--backup-meta 1h", "not backed up"),
        ("--backup-skip-trash", "--backup-skip-trash"),
        ("--custom-labels a:b", "--custom-labels"),
        ("--open-cache 1s", "--open-cache"),
        ("--open-cache-limit 5", "--open-cache-limit"),
        ("--skip-dir-nlink 7", "--skip-dir-nlink"),
        ("--tag a=b", "--tag"),
    ];
    for (line, part) in cases {
        let (_, warnings) = warned(line);
        assert!(warnings.contains(part), "{line}: {warnings:?}");
    }
    assert_eq!(warned("--max-uploads 0 --max-downloads -1 --cache-size 0").0.data.prefetch, 0);
    assert_eq!(good("--max-uploads 0").data.max_uploads, 1);
    assert_eq!(good("--max-downloads -1").data.max_downloads, 200);
    assert_eq!(warned("--heartbeat 1h").0.meta.heartbeat, Duration::from_secs(600));
}

#[test]
fn bandwidth_is_limited_in_mbps() {
    let data = good("--upload-limit 100 --download-limit 1G").data;
    assert_eq!((data.upload_limit_mbps, data.download_limit_mbps), (100, 1000));
    let data = good("").data;
    assert_eq!((data.upload_limit_mbps, data.download_limit_mbps), (0, 0));
}

#[test]
fn what_is_not_built_is_refused_in_one_sentence() {
    let here = Surroundings::of_tests();
    let error = resolve(&args("--consul h:1"), &here).expect_err("refused").to_string();
    assert!(error.contains("not supported yet") && !error.contains('\n'), "{error}");
    assert!(resolve(&args("--backup-meta 60"), &here).expect_err("refused").to_string().contains("--backup-meta"));
    let mut root = args("");
    root.mountpoint = "/../".into();
    assert!(resolve(&root, &here).expect_err("refused").to_string().contains("root"));
}

#[test]
fn kernel_options_are_sorted_out() {
    let config = good("-o ro,allow_other,nonempty,fsname=x,max_read=99 -o writeback_cache");
    assert!(config.meta.read_only && config.features.writeback_cache);
    assert_eq!(config.features.fsname.as_deref(), Some("x"));
    assert_eq!(config.features.kernel_options, ["max_read=99"]);
    assert_eq!(good("--max-fuse-io 8M").features.max_io_bytes, 1 << 20);
    assert_eq!(good("").features.max_io_bytes, 1 << 20);
    assert_eq!(good("--max-fuse-io 64K").features.max_io_bytes, 64 << 10);
    let squash = good("--root-squash 1000: --all-squash 5:6 --non-default-permission").features;
    assert_eq!((squash.root_squash, squash.all_squash), (None, Some((Some(5), Some(6)))));
    assert!(!squash.default_permissions);
}

#[test]
fn the_last_atime_option_wins_over_the_flag() {
    let mode = |line| good(line).meta.atime;
    assert_eq!(mode("--atime-mode strictatime -o noatime"), AtimeMode::NoAtime);
    assert_eq!(mode("-o noatime,relatime"), AtimeMode::RelAtime);
    assert_eq!(mode("-o relatime -o strictatime,nodiratime"), AtimeMode::StrictAtime);
    assert_eq!(mode("--atime-mode relatime -o noatime,atime,nodiratime"), AtimeMode::RelAtime);
}

#[test]
fn locks_are_shared_unless_an_option_keeps_them_here() {
    let locks = |line| good(line).features.local_locks;
    let local = |flock, posix| LocalLocks { flock, posix };
    assert_eq!(locks(""), local(false, false));
    assert_eq!(locks("-o local_lock=flock"), local(true, false));
    assert_eq!(locks("-o local_lock=all,local_lock=posix"), local(false, true));
    assert_eq!(locks("-o local_lock=all"), local(true, true));
    assert!(good("-o local_lock=none").features.kernel_options.is_empty());
    let error = resolve(&args("-o local_lock=yes"), &Surroundings::of_tests()).expect_err("refused").to_string();
    assert!(error.contains("\"yes\"") && error.contains("none, flock, posix or all"), "{error}");
}

#[test]
fn waiting_time_comes_from_the_environment() {
    let mut here = Surroundings::of_tests();
    here.vars.insert("JFS_MOUNT_TIMEOUT".into(), "30".into());
    here.vars.insert("JFS_FOREGROUND".into(), "1".into());
    let config = resolve(&args("-d"), &here).expect("good flags").value;
    assert_eq!(config.process.ready_timeout, Duration::from_secs(30));
    assert!(!config.process.background);
    for text in ["soon", "0", "-1"] {
        here.vars.insert("JFS_MOUNT_TIMEOUT".into(), text.into());
        let resolved = resolve(&args("-d"), &here).expect("the usual time");
        assert_eq!(resolved.value.process.ready_timeout, Duration::from_secs(10), "{text}");
        assert!(matches!(&resolved.warnings[..], [one] if one.contains(text)), "{:?}", resolved.warnings);
    }
}

/// What scripts and /etc/fstab have for numbers, switches and sizes, and what the mount makes of it.
#[test]
fn every_form_of_a_value_that_mounts_elsewhere_mounts_here() {
    let shown = |line: &str| {
        let config = good(line);
        let (data, meta, timeouts) = (&config.data, &config.meta, &config.timeouts);
        format!("{data:?} {meta:?} {timeouts:?} {:?}", config.features)
    };
    let same = [
        ("--attr-cache 1.5", "--attr-cache=1.5s"),
        ("--attr-cache 0.5d", "--attr-cache 12h"),
        ("-attr-cache=+3", "--attr-cache 3s"),
        ("--entry-cache 1m1.5s", "--entry-cache 61500ms"),
        ("--dir-entry-cache=", "--dir-entry-cache 0"),
        ("--negative-entry-cache .5", "--negative-entry-cache 500ms"),
        ("--get-timeout 1e2", "--get-timeout 100s"),
        ("--put-timeout 5", "--put-timeout 5000ms"),
        ("--cache-expire 2d", "--cache-expire 48h"),
        ("--cache-scan-interval 0", "--cache-scan-interval -0s"),
        ("--cache-scan-interval -1", "--cache-scan-interval=-1h"),
        ("--heartbeat 10", "--heartbeat 10s"),
        ("--skip-dir-mtime 0.1", "--skip-dir-mtime 100ms"),
        ("--io-retries 0x0a", "--io-retries 10"),
        ("--io-retries -3", "--io-retries 0"),
        ("--prefetch -1", "--prefetch 0"),
        ("--prefetch 0b11", "--prefetch 3"),
        ("--max-uploads -5", "--max-uploads 1"),
        ("--max-uploads 1_0", "--max-uploads 10"),
        ("--max-downloads 0", "--max-downloads 200"),
        ("--max-downloads 010", "--max-downloads 8"),
        ("--cache-items -1", "--cache-items 0"),
        ("--cache-items 1_000", "--cache-items 1000"),
        ("--cache-size 100", "--cache-size 100m"),
        ("--cache-size 1.5g", "--cache-size 1536M"),
        ("--buffer-size 1e3", "--buffer-size 1000M"),
        ("--max-readahead=64", "--max-readahead 64M"),
        ("--max-fuse-io 131072", "--max-fuse-io 128k"),
        ("--writeback-threshold-size 4096", "--writeback-threshold-size 4K"),
        ("--upload-limit 0.1G", "--upload-limit 100"),
        ("--upload-limit -1", "--upload-limit 0"),
        ("--download-limit=", "--download-limit 0"),
        ("--free-space-ratio 1e-1", "--free-space-ratio .1"),
        ("--cache-mode 0600", "--cache-mode 600"),
        ("--umask 0022", "--umask 22"),
        ("--root-squash 1000:", "--root-squash 1000"),
        ("--enable-xattr=T", "--enable-xattr"),
        ("--enable-xattr=0", ""),
        ("--sort-dir=TRUE --sort-dir=False", ""),
        ("--hedge-get=f", "--hedge-get=false"),
    ];
    for (given, plain) in same {
        assert_eq!(shown(given), shown(plain), "{given}");
    }
}

/// With a warning for each, and their defaults in force.
#[test]
fn durations_that_are_none_are_left_out() {
    let mut app = Cli::command();
    app.build();
    let line = "mount --attr-cache soon --heartbeat=12x --get-timeout -5s --cache-scan-interval never --open-cache 3s \
                --negative-entry-cache 1y --entry-cache 2 -- redis://h/1 --attr-cache=x";
    let words = ["juicefs"].into_iter().chain(line.split_whitespace()).map(Into::into).collect();
    let words = argv::normalise(&app, words).expect("a good line");
    let (left, warnings) = argv::without_bad_durations(&app, words);
    let left: Vec<_> = left.iter().map(|word| word.to_string_lossy()).collect();
    let wanted = ["juicefs", "mount", "--open-cache=3s", "--entry-cache=2", "--", "redis://h/1", "--attr-cache=x"];
    assert_eq!(left, wanted);
    let named =
        ["--attr-cache is \"soon\"", "--heartbeat is \"12x\"", "--get-timeout is \"-5s\"", "\"never\"", "\"1y\""];
    assert_eq!(warnings.len(), named.len(), "{warnings:?}");
    for (warning, part) in warnings.iter().zip(named) {
        assert!(warning.contains(part) && warning.contains(": using ") && !warning.contains('\n'), "{warning}");
    }
    // Of other commands they are errors of clap, as ever.
    let words: Vec<_> = ["juicefs", "config", "--changelog-max-age=x", "--", "u"].map(Into::into).into();
    assert_eq!(argv::without_bad_durations(&app, words.clone()), (words, Vec::new()));
}

#[test]
fn cache_places() {
    assert_eq!(good("--cache-dir /a:b").data.cache, CachePlace::Dirs(vec!["/a".into(), "/srv/b".into()]));
    assert_eq!(good("--cache-dir memory").data.cache, CachePlace::Memory);
    assert_eq!(warned("--cache-size 0").0.data.cache, CachePlace::None);
}

#[test]
fn meta_urls() {
    let here = Surroundings::of_tests();
    let cases = [
        ("sqlite3://m.db?cache=shared", "sqlite3:///srv/m.db?cache=shared"),
        ("sqlite3:///a/m.db", "sqlite3:///a/m.db"),
        ("redis://h/1", "redis://h/1"),
        ("h/1", "h/1"),
    ];
    for (url, wanted) in cases {
        assert_eq!(absolute_meta_url(url, &here), wanted);
    }
}
