use clap::{CommandFactory, Parser};
use proptest::prelude::*;

use super::*;
use crate::config::args::{self, Cli};

fn app() -> Command {
    let mut app = Cli::command();
    app.build();
    app
}

fn run(line: &str) -> Result<Vec<String>, UsageError> {
    let words = line.split_whitespace().map(OsString::from).collect();
    Ok(normalise(&app(), words)?.into_iter().map(|word| word.to_string_lossy().into_owned()).collect())
}

fn joined(line: &str) -> String {
    run(line).expect("a good line").join(" ")
}

#[test]
fn one_and_two_dashes_are_equal_and_flags_stand_anywhere() {
    let wanted = "juicefs format --capacity=10 --force -- sqlite3://m.db vol";
    for line in [
        "juicefs format --capacity 10 --force sqlite3://m.db vol",
        "juicefs format sqlite3://m.db -capacity 10 vol -force",
        "juicefs format sqlite3://m.db vol --capacity=10 --force=true",
        "juicefs format -capacity=10 sqlite3://m.db --force=1 vol",
        "juicefs format --force=false sqlite3://m.db vol --capacity 10 --force",
    ] {
        assert_eq!(joined(line), wanted, "{line}");
    }
}

#[test]
fn global_flags_stand_before_and_after_the_command() {
    let wanted = "juicefs status --log-id=x --verbose -- sqlite3://m.db";
    assert_eq!(joined("juicefs --log-id x -v status sqlite3://m.db"), wanted);
    assert_eq!(joined("juicefs status --log-id=x sqlite3://m.db --debug"), wanted);
    assert_eq!(joined("juicefs -V"), "juicefs --version");
    assert_eq!(joined("juicefs mount --help"), "juicefs mount --help");
}

#[test]
fn booleans_take_a_value_only_after_an_equals_sign() {
    assert_eq!(joined("juicefs mount -d=false u m"), "juicefs mount -- u m");
    assert_eq!(joined("juicefs config u --dir-stats=false"), "juicefs config --dir-stats=false -- u");
    assert_eq!(joined("juicefs config --dir-stats u"), "juicefs config --dir-stats=true -- u");
    assert_eq!(
        run("juicefs mount --background=maybe u m"),
        Err(UsageError::NotBoolean("background".into(), "maybe".into()))
    );
}

#[test]
fn values_may_start_with_a_dash_and_o_repeats() {
    assert_eq!(joined("juicefs mount -o ro -o allow_other u m"), "juicefs mount -o=ro -o=allow_other -- u m");
    assert_eq!(joined("juicefs format u n --trash-days -1"), "juicefs format --trash-days=-1 -- u n");
    assert_eq!(joined("juicefs umount -- -odd"), "juicefs umount -- -odd");
    assert_eq!(joined("juicefs umount -"), "juicefs umount -- -");
}

#[test]
fn what_is_not_understood_is_named() {
    let text = |line: &str| run(line).expect_err("refused").to_string();
    assert_eq!(text("juicefs umount --bla x"), "unknown option \"--bla\" for `juicefs umount`");
    assert!(text("juicefs mount --cache-sise 5 u m").ends_with("(did you mean --cache-size?)"));
    assert_eq!(text("juicefs mount u m --cache-size"), "option \"--cache-size\" requires a value");
    assert_eq!(text("juicefs bla"), "unknown command \"bla\": see `juicefs --help`");
    assert_eq!(
        text("juicefs umount"),
        "ERROR: This command requires at least 1 arguments\nUSAGE:\n   juicefs umount [command options] MOUNTPOINT"
    );
    assert!(text("juicefs umount a b").starts_with("ERROR: This command accepts at most 1 arguments but got [a b]"));
}

#[test]
fn the_mount_helper_speaks_mount() {
    let turn = |line: &str| {
        let argv: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        from_mount_helper(&app(), &argv)
            .map(|words| words.iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" "))
    };
    let cases = [
        ("no-usage-report", "--no-usage-report u m"),
        ("no-usage-report=true", "--no-usage-report=true u m"),
        ("verbose", "--verbose u m"),
        ("debug", "--debug -o debug u m"),
        ("_netdev,nofail,rw,defaults,background,attrcacheto=3", "--attr-cache=3 -o rw u m"),
        ("remount,ro", "--remount -o ro u m"),
        ("cache-size=204800,allow_other,ro,max_read=99", "--cache-size=204800 -o allow_other,ro,max_read=99 u m"),
    ];
    for (options, wanted) in cases {
        let line = format!("/sbin/mount.juicefs u m -o {options}");
        assert_eq!(turn(&line), Ok(format!("juicefs mount --background --via-mount {wanted}")));
    }
    assert_eq!(turn("/sbin/mount.juicefs u m -o cache-size"), Err(UsageError::MissingValue("cache-size".into())));
    assert_eq!(
        turn("/sbin/mount.juicefs u m -n -v -t juicefs"),
        Ok("juicefs mount --background --via-mount u m".into())
    );
    assert!(is_mount_helper("/sbin/mount.juicefs".as_ref()) && !is_mount_helper("juicefs".as_ref()));
}

#[test]
fn clap_takes_what_comes_out() {
    let words = normalise(
        &app(),
        "juicefs mount u m -d --cache-size 0 --root-squash 1000: -o ro -o nonempty --umask 022 --heartbeat 3s --max-deletes -1"
            .split_whitespace()
            .map(OsString::from)
            .collect(),
    )
    .expect("a good line");
    let args::Command::Mount(mount) = Cli::try_parse_from(words).expect("parsed").command else {
        panic!("not mount");
    };
    assert!(mount.process.background);
    assert_eq!(mount.fuse.options, ["ro", "nonempty"]);
    assert_eq!((mount.cache.cache_size, mount.data.max_deletes), (0, -1));
}

#[test]
fn no_two_flags_of_a_command_share_a_name() {
    let app = app();
    for command in app.get_subcommands() {
        let mut all: Vec<String> = command.get_arguments().filter(|arg| !arg.is_positional()).flat_map(names).collect();
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count, "{}", command.get_name());
    }
    Cli::command().debug_assert();
}

proptest! {
    #[test]
    fn no_line_panics(words in proptest::collection::vec("(-{0,2}[a-z-]{0,8}=?[a-z0-9]{0,4})|mount|format", 0..6)) {
        let argv = std::iter::once("juicefs".to_owned()).chain(words).map(OsString::from).collect();
        if let Ok(words) = normalise(&app(), argv) {
            let _ = Cli::try_parse_from(words);
        }
    }
}
