//! `juicefs quota` limits directories, users and groups (cli.md §5.3).

use std::{collections::BTreeMap, ffi::OsString, os::unix::ffi::OsStrExt, sync::Arc};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use juicefs_core::{Errno, Format, MetaError, SystemClock, quota::Quota, quota::QuotaSubject};
use juicefs_meta::{Client, Engine, QuotaCheck};

use crate::{
    config::{
        args::{QuotaAction, QuotaArgs},
        values::{bytes_text, with_commas},
    },
    table::draw,
    terminal,
    volume::{load_format, open_engine, open_reader, open_writer},
};

/// The directory, user or group that a command line names.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Path(OsString),
    User(u32),
    Group(u32),
    /// None in particular.
    All,
}

impl Target {
    /// Reads `--path`, `--uid` and `--gid`, of which one may be given.
    fn of(args: &QuotaArgs) -> Result<Self> {
        let id = |flag: &str, id: u64| match u32::try_from(id) {
            Ok(0) if flag == "uid" => bail!("Invalid --uid: 0 is not allowed"),
            Ok(id) => Ok(id),
            Err(_) => bail!("Invalid --{flag}: {id} exceeds maximum value {}", u32::MAX),
        };
        match (&args.path, args.uid, args.gid) {
            (None, Some(uid), None) => Ok(Self::User(id("uid", uid)?)),
            (None, None, Some(gid)) => Ok(Self::Group(id("gid", gid)?)),
            (Some(path), None, None) => Ok(Self::Path(path.clone())),
            (None, None, None) if matches!(args.action, QuotaAction::List | QuotaAction::Check) => Ok(Self::All),
            (None, None, None) => bail!(
                "Please specify the directory with `--path <dir>` option or specify user/group with `--uid <uid>`/`--gid <gid>` option"
            ),
            (_, Some(_), Some(_)) => bail!("Cannot specify both --uid and --gid at the same time"),
            (Some(_), Some(_), _) => bail!("Cannot specify both --uid and --path at the same time"),
            (Some(_), ..) => bail!("Cannot specify both --gid and --path at the same time"),
        }
    }

    /// The header of the first column.
    fn header(&self) -> &'static str {
        match self {
            Self::Path(_) => "Path",
            Self::User(_) => "User ID",
            Self::Group(_) => "Group ID",
            Self::All => "Path/ID",
        }
    }

    /// The subject of the quota that is meant, `None` for all quotas.
    async fn subject(&self, client: &Client, create: bool) -> Result<Option<QuotaSubject>> {
        Ok(match self {
            Self::User(uid) => Some(QuotaSubject::User(*uid)),
            Self::Group(gid) => Some(QuotaSubject::Group(*gid)),
            Self::All => None,
            Self::Path(path) => match client.resolve_directory(path.as_bytes(), create).await {
                Ok(ino) => Some(QuotaSubject::Dir(ino)),
                Err(MetaError::Posix(Errno::EPERM)) => bail!("no quota for any trash directory"),
                Err(error) => return Err(error).with_context(|| format!("resolve dir {}", path.display())),
            },
        })
    }

    /// The first cell of the row of the quota that is meant.
    fn label(&self) -> String {
        match self {
            Self::Path(path) => path.to_string_lossy().into_owned(),
            Self::User(id) | Self::Group(id) => id.to_string(),
            Self::All => String::new(),
        }
    }
}

/// Does what the sub-command says, and prints the quotas that it is about.
///
/// # Errors
/// A sentence for the user; also when a check finds something wrong and does not mend it.
pub(crate) async fn run(args: &QuotaArgs) -> Result<()> {
    let target = Target::of(args)?;
    let engine = open_engine(&args.meta_url, false).await?;
    let was = engine.load_setting().await.context("load setting")?.unwrap_or_default();
    let format = load_format(&engine).await?;
    let writes = matches!(args.action, QuotaAction::Set | QuotaAction::Delete) || args.repair;
    if matches!(args.action, QuotaAction::Set) {
        turn_on(&engine, was, format, &target).await?;
    }
    let client = if writes { open_writer(&engine).await? } else { open_reader(&engine).await? };
    let create = args.create && matches!(args.action, QuotaAction::Set);
    let subject = target.subject(&client, create).await?;
    let rows = match (args.action, subject) {
        (QuotaAction::Set, Some(subject)) => set(&client, args, &target, subject).await?,
        (QuotaAction::Get, Some(subject)) => {
            let quota = client.quota(subject).await.context("read the quota")?;
            quota.map(|quota| (target.label(), quota)).into_iter().collect()
        }
        (QuotaAction::Delete, Some(subject)) => {
            client.delete_quota(subject).await.context("delete the quota")?;
            BTreeMap::new()
        }
        (QuotaAction::Check, Some(subject @ QuotaSubject::Dir(_))) => check_directory(&client, args, subject).await?,
        (QuotaAction::Check, only) => check_owners(&client, args.repair, only).await?,
        (_, only) => list(&client, only).await?,
    };
    if !rows.is_empty() {
        terminal::print(shown(target.header(), &rows).trim_end())?;
    }
    Ok(())
}

/// Turns on what a quota needs to be counted. This happens with the first quota, and everything is counted once then.
async fn turn_on(engine: &Arc<dyn Engine>, mut was: Bytes, mut format: Format, target: &Target) -> Result<()> {
    let owners = matches!(target, Target::User(_) | Target::Group(_));
    loop {
        let wanted = Format {
            dir_stats: format.dir_stats || !owners,
            user_group_quota: format.user_group_quota || owners,
            ..format.clone()
        };
        if wanted == format {
            return Ok(());
        }
        if Client::replace_format(engine, &was, &wanted, &SystemClock).await.context("store the setting")? {
            if wanted.user_group_quota && !format.user_group_quota {
                count_owners(engine).await?;
            }
            return Ok(());
        }
        // Somebody else has changed it meanwhile.
        was = engine.load_setting().await.context("load setting")?.unwrap_or_default();
        format = load_format(engine).await?;
    }
}

/// Counts what every user and group has, on a volume where that was just turned on.
///
/// # Errors
/// When the volume cannot be read.
pub(crate) async fn count_owners(engine: &Arc<dyn Engine>) -> Result<()> {
    let client = open_writer(engine).await?;
    client.check_owners(true, None).await.context("count the use of users and groups")?;
    Ok(())
}

async fn set(
    client: &Client,
    args: &QuotaArgs,
    target: &Target,
    subject: QuotaSubject,
) -> Result<BTreeMap<String, Quota>> {
    let limit = |value: Option<u64>| value.map(|value| i64::try_from(value).unwrap_or(i64::MAX));
    let (space, inodes) = (limit(args.capacity), limit(args.inodes));
    let quota = client.set_quota(subject, space, inodes, args.strict).await.context("set the quota")?;
    Ok([(target.label(), quota)].into())
}

async fn list(client: &Client, only: Option<QuotaSubject>) -> Result<BTreeMap<String, Quota>> {
    let mut rows = BTreeMap::new();
    for (subject, quota) in client.quotas().await.context("list the quotas")? {
        if quota.is_set() && only.is_none_or(|only| only == subject) {
            rows.insert(name(client, subject).await?, quota);
        }
    }
    Ok(rows)
}

async fn name(client: &Client, subject: QuotaSubject) -> Result<String> {
    Ok(match subject {
        QuotaSubject::User(uid) => format!("uid:{uid}"),
        QuotaSubject::Group(gid) => format!("gid:{gid}"),
        QuotaSubject::Dir(ino) => {
            client.path_of(ino).await.context("find a directory")?.unwrap_or_else(|| format!("inode:{ino}"))
        }
    })
}

async fn check_directory(client: &Client, args: &QuotaArgs, subject: QuotaSubject) -> Result<BTreeMap<String, Quota>> {
    let path = args.path.clone().unwrap_or_default().to_string_lossy().into_owned();
    let check = match client.check_quota(subject, args.repair).await {
        Err(MetaError::Posix(Errno::ENODATA)) => bail!("no quota for path {path}"),
        check => check.context("count the directory")?,
    };
    if check.is_right() {
        tracing::info!("quota of {path} is consistent");
    } else {
        tracing::warn!("{path}: {}", difference(&check));
        if !args.repair {
            bail!("quota of {path} is inconsistent, please repair it with --repair flag");
        }
    }
    Ok([(path, check.mended())].into())
}

async fn check_owners(client: &Client, repair: bool, only: Option<QuotaSubject>) -> Result<BTreeMap<String, Quota>> {
    let checks = client.check_owners(repair, only).await.context("count the use of users and groups")?;
    let (mut rows, mut wrong) = (BTreeMap::new(), false);
    for (subject, check) in checks {
        let name = name(client, subject).await?;
        if !check.is_right() {
            wrong = true;
            tracing::warn!("{name}: {}", difference(&check));
        }
        rows.insert(name, check.mended());
    }
    if wrong && !repair {
        bail!("user/group quota is inconsistent, please repair it with --repair flag");
    }
    Ok(rows)
}

fn difference(check: &QuotaCheck) -> String {
    let text = |inodes: i64, space: i64| format!("({}, {})", with_commas(natural(inodes)), bytes_text(natural(space)));
    let counted = text(check.inodes, check.space);
    match check.stored {
        Some(stored) => format!("quota{} != summary{counted}", text(stored.used_inodes, stored.used_space)),
        None => format!("quota not found, actual usage{counted}"),
    }
}

fn natural(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// The table, sorted by its first column.
fn shown(header: &str, rows: &BTreeMap<String, Quota>) -> String {
    let header = [header, "Size", "Used", "Use%", "Inodes", "IUsed", "IUse%"];
    let share = |max: i64, used: i64| {
        let percent = u128::from(natural(used)) * 100 / u128::from(natural(max).max(1));
        if max > 0 { format!("{percent}%") } else { String::new() }
    };
    let limit = |max: i64, text: fn(u64) -> String| if max > 0 { text(natural(max)) } else { "unchanged".to_owned() };
    let row = |(name, quota): (&String, &Quota)| {
        for (what, used) in [("space", quota.used_space), ("inodes", quota.used_inodes)] {
            if used < 0 {
                tracing::warn!(
                    "Used {what} of {name} is negative ({used}), please run `juicefs quota check` to fix it"
                );
            }
        }
        let cells = [
            name.clone(),
            limit(quota.max_space, bytes_text),
            bytes_text(natural(quota.used_space)),
            share(quota.max_space, quota.used_space),
            limit(quota.max_inodes, with_commas),
            with_commas(natural(quota.used_inodes)),
            share(quota.max_inodes, quota.used_inodes),
        ];
        cells.iter().map(|cell| cell.as_str().into()).collect()
    };
    draw(&header, &rows.iter().map(row).collect::<Vec<_>>(), Some(0))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::{
        argv,
        config::args::{Cli, Command},
    };

    fn args(line: &str) -> QuotaArgs {
        let mut app = Cli::command();
        app.build();
        let words = format!("juicefs quota {line}").split_whitespace().map(Into::into).collect();
        match Cli::try_parse_from(argv::normalise(&app, words).expect("a good line")).expect("parsed").command {
            Command::Quota(args) => args,
            other => panic!("not quota: {other:?}"),
        }
    }

    #[test]
    fn one_target_is_meant() {
        let target = |line: &str| Target::of(&args(line)).map_err(|error| error.to_string());
        assert_eq!(target("set redis://h --path /d --capacity 1"), Ok(Target::Path("/d".into())));
        assert_eq!(target("get --uid 7 redis://h"), Ok(Target::User(7)));
        assert_eq!(target("--gid=0 del redis://h"), Ok(Target::Group(0)));
        assert_eq!((target("ls h"), target("check h")), (Ok(Target::All), Ok(Target::All)));
        for (line, part) in [
            ("set h", "Please specify"),
            ("get h --uid 0", "0 is not allowed"),
            ("get h --gid 4294967296", "exceeds maximum"),
            ("get h --uid 1 --gid 1", "both --uid and --gid"),
            ("get h --uid 1 --path /", "both --uid and --path"),
            ("list h --gid 1 --path /", "both --gid and --path"),
        ] {
            let refused = target(line).expect_err(line);
            assert!(refused.contains(part), "{line}: {refused}");
        }
        assert_eq!(args("set h --path / --capacity 1.5 --inodes 9").capacity, Some(3 << 29));
    }

    /// As JuiceFS (Go) printed it.
    #[test]
    fn the_table() {
        let quota =
            |max_space, used_space, max_inodes, used_inodes| Quota { max_space, max_inodes, used_space, used_inodes };
        let rows = BTreeMap::from([
            ("/quota/inner".to_owned(), quota(-1, 28 << 10, 77, 6)),
            ("/quota".to_owned(), quota(1 << 30, 88 << 10, 1000, 14)),
            ("uid:1000".to_owned(), quota(2 << 30, -5, 500, 9)),
        ]);
        assert_eq!(
            shown("Path/ID", &rows),
            "+--------------+-----------+--------+------+--------+-------+-------+\n\
             |    Path/ID   |    Size   |  Used  | Use% | Inodes | IUsed | IUse% |\n\
             +--------------+-----------+--------+------+--------+-------+-------+\n\
             | /quota       |   1.0 GiB | 88 KiB |   0% |  1,000 |    14 |    1% |\n\
             | /quota/inner | unchanged | 28 KiB |      |     77 |     6 |    7% |\n\
             | uid:1000     |   2.0 GiB |    0 B |   0% |    500 |     9 |    1% |\n\
             +--------------+-----------+--------+------+--------+-------+-------+\n"
        );
    }
}
