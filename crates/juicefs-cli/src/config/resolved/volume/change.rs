//! The plan of `config`: the new setting, one line per change for the user, and the checks that a change calls for.

use std::time::Duration;

use anyhow::{Result, bail};
use juicefs_core::{
    Format,
    format::Tier,
    version::{CLIENT_VERSION, Version},
};

use super::{ACL_CLIENT, CANNOT_DISABLE_ACL, Surroundings, refuse_unbuilt, storage_kind, stored_bucket};
use crate::config::{
    args::ConfigArgs,
    values::{bytes_text, mbps_text, with_commas},
};

/// Changes to a setting.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// The setting afterwards.
    pub(crate) format: Format,
    /// `name: old -> new`, one per change.
    pub(crate) lines: Vec<String>,
    /// The storage must be tried.
    pub(crate) storage: bool,
    /// Capacity or inodes changed.
    pub(crate) limits: bool,
    /// The trash is to be turned off.
    pub(crate) trash_off: bool,
    /// Statistics of directories, which their quotas rest on, are to be turned off.
    pub(crate) dir_stats_off: bool,
    /// Users and groups are to be counted from now on.
    pub(crate) owners_on: bool,
    /// Clients may be shut out.
    pub(crate) client_versions: bool,
    /// A configured tier is replaced by this one.
    pub(crate) replaced_tier: Option<Tier>,
}

impl Change {
    fn note(&mut self, name: &str, old: &dyn std::fmt::Display, new: &dyn std::fmt::Display) {
        self.lines.push(format!("{name:>10}: {old} -> {new}"));
    }

    fn set<T: PartialEq + Clone>(
        &mut self,
        name: &str,
        field: fn(&mut Format) -> &mut T,
        new: Option<&T>,
        show: impl Fn(&T) -> String,
    ) -> bool {
        let Some(new) = new.filter(|new| *field(&mut self.format) != **new) else {
            return false;
        };
        let old = std::mem::replace(field(&mut self.format), new.clone());
        self.note(name, &show(&old), &show(new));
        true
    }

    /// Sets a secret. It counts as a change even if it is the old one, because nobody is to learn that.
    fn set_secret(&mut self, name: &str, field: fn(&mut Format) -> &mut String, new: Option<&String>) {
        if let Some(new) = new {
            field(&mut self.format).clone_from(new);
            self.lines.push(format!("{name:>10}: updated"));
            self.storage = true;
        }
    }

    fn require_client(&mut self, least: &str) {
        if is_older(&self.format.min_client_version, least) {
            let old = std::mem::replace(&mut self.format.min_client_version, least.to_owned());
            self.lines.push(format!("min-client-version: {old} -> {least}"));
            self.client_versions = true;
        }
    }
}

/// Works out what the flags change in `old`, whose secrets are in the clear. Nothing is stored.
///
/// # Errors
/// A sentence for the user.
pub(crate) fn plan(old: &Format, args: &ConfigArgs, here: &Surroundings) -> Result<Change> {
    refuse(args, old)?;
    let mut change = Change {
        format: old.clone(),
        lines: Vec::new(),
        storage: false,
        limits: false,
        trash_off: false,
        dir_stats_off: false,
        owners_on: false,
        client_versions: false,
        replaced_tier: None,
    };
    let management = &args.management;
    change.limits |= change.set("capacity", |f| &mut f.capacity, management.capacity.as_ref(), |n| bytes_text(*n));
    change.limits |= change.set("inodes", |f| &mut f.inodes, management.inodes.as_ref(), |n| with_commas(*n));
    let trash = change.set("trash-days", |f| &mut f.trash_days, management.trash_days.as_ref(), ToString::to_string);
    change.trash_off = trash && change.format.trash_days == 0;
    plan_storage(&mut change, args, here)?;
    change.set("upload-limit", |f| &mut f.upload_limit, args.upload_limit.as_ref(), |n| mbps_text(*n));
    change.set("download-limit", |f| &mut f.download_limit, args.download_limit.as_ref(), |n| mbps_text(*n));
    let stats = change.set("dir-stats", |f| &mut f.dir_stats, args.dir_stats.as_ref(), ToString::to_string);
    change.dir_stats_off = stats && !change.format.dir_stats;
    let owners = args.user_group_quota.as_ref();
    let owners = change.set("user-group-quota", |f| &mut f.user_group_quota, owners, ToString::to_string);
    change.owners_on = owners && change.format.user_group_quota;
    if change.set("enable-acl", |f| &mut f.enable_acl, args.management.enable_acl.as_ref(), ToString::to_string) {
        change.require_client(ACL_CLIENT);
    }
    plan_unbuilt(&mut change, args)?;
    plan_tier(&mut change, args)?;
    plan_versions(&mut change, args)?;
    Ok(change)
}

fn refuse(args: &ConfigArgs, old: &Format) -> Result<()> {
    if args.management.enable_acl == Some(false) && old.enable_acl {
        bail!(CANNOT_DISABLE_ACL);
    }
    refuse_unbuilt(&args.management)?;
    let storage = &args.storage;
    let multi_bucket = [&storage.bucket, &storage.access_key, &storage.secret_key, &storage.session_token];
    if args.tier.is_some() && multi_bucket.iter().any(|flag| flag.is_some()) {
        bail!("--tier goes with --storage-class and --tag only: tiers cannot have buckets or keys of their own");
    }
    if args.tier.is_some() && storage.storage_class.is_none() && storage.tag.is_none() {
        bail!("--tier needs --storage-class or --tag");
    }
    Ok(())
}

fn plan_storage(change: &mut Change, args: &ConfigArgs, here: &Surroundings) -> Result<()> {
    let storage = &args.storage;
    let kind = storage.storage.as_deref().map(storage_kind).transpose()?;
    change.storage |= change.set("storage", |f| &mut f.storage, kind.as_ref(), Clone::clone);
    let bucket =
        storage.bucket.as_ref().map(|bucket| stored_bucket(&change.format.storage, bucket, here)).transpose()?;
    change.storage |= change.set("bucket", |f| &mut f.bucket, bucket.as_ref(), Clone::clone);
    change.storage |= change.set("access-key", |f| &mut f.access_key, storage.access_key.as_ref(), Clone::clone);
    change.set_secret("secret-key", |f| &mut f.secret_key, storage.secret_key.as_ref());
    change.set_secret("session-token", |f| &mut f.session_token, storage.session_token.as_ref());
    Ok(())
}

/// Plans changes of features that this client does not serve yet. They can be turned off, not on.
fn plan_unbuilt(change: &mut Change, args: &ConfigArgs) -> Result<()> {
    if args.changelog == Some(true) {
        bail!("--changelog is not supported yet: leave it out");
    }
    change.set("changelog", |f| &mut f.change_log, args.changelog.as_ref(), ToString::to_string);
    let age = args.changelog_max_age.map(|age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
    let show_age = |secs: &i64| format!("{:?}", Duration::from_secs(u64::try_from(*secs).unwrap_or(0)));
    change.set("changelog-max-age", |f| &mut f.change_log_max_age, age.as_ref(), show_age);
    if let Some(lines) = args.changelog_max_lines.filter(|lines| *lines < 0) {
        bail!("--changelog-max-lines {lines} is below 0");
    }
    let lines = args.changelog_max_lines.as_ref();
    change.set("changelog-max-lines", |f| &mut f.change_log_max_lines, lines, ToString::to_string);
    Ok(())
}

/// Plans changes of class and tag, which belong to the tier that is named, else to tier 0.
fn plan_tier(change: &mut Change, args: &ConfigArgs) -> Result<()> {
    let (class, tag) = (&args.storage.storage_class, &args.storage.tag);
    if class.is_none() && tag.is_none() {
        return Ok(());
    }
    let id = args.tier.unwrap_or(0);
    let base = Tier { id: 0, storage_class: change.format.storage_class.clone(), tag: String::new() };
    let tiers = change.format.tiers.get_or_insert_with(|| [("0".to_owned(), base)].into());
    let old = tiers.get(&id.to_string()).cloned();
    let mut new = old.clone().unwrap_or(Tier { id, ..Tier::default() });
    new.storage_class = class.clone().unwrap_or(new.storage_class);
    new.tag = tag.clone().unwrap_or(new.tag);
    if old.as_ref() == Some(&new) {
        return Ok(());
    }
    tiers.insert(id.to_string(), new.clone());
    let before = old.clone().unwrap_or_default();
    let parts =
        [("storage-class", class, &before.storage_class, &new.storage_class), ("tag", tag, &before.tag, &new.tag)];
    for (name, given, before, after) in parts {
        match args.tier {
            _ if given.is_none() || (old.is_some() && before == after) => {}
            Some(id) => change.lines.push(format!("set tier {id} {name}: {after}")),
            None => change.note(name, before, after),
        }
    }
    change.storage = true;
    if args.tier.is_some() {
        change.replaced_tier = old;
        change.require_client("1.4.0-A");
    }
    Ok(())
}

fn plan_versions(change: &mut Change, args: &ConfigArgs) -> Result<()> {
    for version in [&args.min_client_version, &args.max_client_version].into_iter().flatten() {
        if Version::parse(version).is_none() {
            bail!("{version:?} is no version: it looks like 1.2.0");
        }
    }
    let Change { format, .. } = &change;
    if let Some(least) = &args.min_client_version
        && is_older(least, &format.min_client_version)
    {
        bail!("cannot lower min-client-version from {} to {least}", format.min_client_version);
    }
    if let Some(least) = &args.min_client_version {
        change.require_client(least);
    }
    let most = args.max_client_version.as_ref();
    change.client_versions |= change.set("max-client-version", |f| &mut f.max_client_version, most, Clone::clone);
    Ok(())
}

pub(super) fn is_older(a: &str, b: &str) -> bool {
    match (Version::parse(a), Version::parse(b)) {
        (Some(a), Some(b)) => a < b,
        (None, Some(_)) => true,
        _ => false,
    }
}

/// Whether a client of this version may open the volume. A text that is no version may.
pub(crate) fn admits(format: &Format, version: &str) -> bool {
    !is_older(version, &format.min_client_version)
        && (format.max_client_version.is_empty() || !is_older(&format.max_client_version, version))
}

/// Whether this very client may.
pub(crate) fn admits_us(format: &Format) -> bool {
    admits(format, CLIENT_VERSION)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::{
        argv,
        config::args::{Cli, Command},
    };

    fn args(line: &str) -> ConfigArgs {
        let mut app = Cli::command();
        app.build();
        let words = format!("juicefs config sqlite3://m.db {line}").split_whitespace().map(Into::into).collect();
        match Cli::try_parse_from(argv::normalise(&app, words).expect("a good line")).expect("parsed").command {
            Command::Config(args) => *args,
            other => panic!("not config: {other:?}"),
        }
    }

    fn volume() -> Format {
        Format {
            name: "vol".into(),
            storage: "file".into(),
            bucket: "/b/".into(),
            trash_days: 1,
            dir_stats: true,
            min_client_version: "1.1.0-A".into(),
            ..Format::default()
        }
    }

    fn planned(line: &str) -> Change {
        plan(&volume(), &args(line), &Surroundings::of_tests()).expect("good flags")
    }

    fn refused(line: &str) -> String {
        plan(&volume(), &args(line), &Surroundings::of_tests()).expect_err("refused").to_string()
    }

    #[test]
    fn lines_tell_old_and_new() {
        let change = planned("--capacity 10 --inodes 1000000 --trash-days 0 --bucket /c --upload-limit 100");
        let wanted = [
            "  capacity: 0 B -> 10 GiB",
            "    inodes: 0 -> 1,000,000",
            "trash-days: 1 -> 0",
            "    bucket: /b/ -> /c/",
            "upload-limit: 0.0 Mbps -> 100.0 Mbps",
        ];
        assert_eq!(change.lines, wanted);
        assert!(change.limits && change.trash_off && change.storage && !change.client_versions);
        assert_eq!(
            change.format,
            Format {
                capacity: 10 << 30,
                inodes: 1_000_000,
                trash_days: 0,
                bucket: "/c/".into(),
                upload_limit: 100,
                ..volume()
            }
        );
    }

    #[test]
    fn what_stays_the_same_is_no_change() {
        let change =
            planned("--trash-days 1 --bucket /b --dir-stats --capacity 0 --min-client-version 1.1.0-A --force");
        assert_eq!((change.lines, change.format), (Vec::new(), volume()));
    }

    #[test]
    fn secrets_are_not_shown() {
        let change = planned("--secret-key topsecret --dir-stats=false");
        assert_eq!(change.lines, ["secret-key: updated", " dir-stats: true -> false"]);
        assert_eq!(change.format.secret_key, "topsecret");
    }

    #[test]
    fn client_versions_only_rise() {
        assert_eq!(planned("--min-client-version 1.2.0").lines, ["min-client-version: 1.1.0-A -> 1.2.0"]);
        assert!(refused("--min-client-version 1.0.0").starts_with("cannot lower"));
        assert!(refused("--max-client-version one").contains("\"one\""));
        let change = planned("--max-client-version 1.3.0");
        assert!(change.client_versions && !admits_us(&change.format));
        assert!(admits(&change.format, "1.2.9") && admits(&change.format, "1.3.0") && !admits(&change.format, "1.0.4"));
        assert!(admits_us(&volume()));
    }

    #[test]
    fn tiers() {
        let change = planned("--tier 2 --storage-class GLACIER --tag a=b");
        let wanted =
            ["set tier 2 storage-class: GLACIER", "set tier 2 tag: a=b", "min-client-version: 1.1.0-A -> 1.4.0-A"];
        assert_eq!(change.lines, wanted);
        assert_eq!(change.format.tiers.as_ref().map(std::collections::BTreeMap::len), Some(2));
        assert!(change.replaced_tier.is_none());
        assert_eq!(planned("--storage-class IA").lines, ["storage-class:  -> IA"]);
        assert!(refused("--tier 1").contains("--storage-class"));
        assert!(refused("--tier 1 --tag a=b --bucket x").contains("buckets"));
    }

    #[test]
    fn what_is_not_built_is_refused() {
        for flag in ["--changelog", "--ranger-rest-url u"] {
            assert!(refused(flag).contains("not supported yet"), "{flag}");
        }
        assert!(refused("--storage ceph").contains("\"ceph\" is not supported"));
    }

    #[test]
    fn users_are_counted_when_asked() {
        let change = planned("--user-group-quota --dir-stats=false");
        assert_eq!(change.lines, [" dir-stats: true -> false", "user-group-quota: false -> true"]);
        assert!(change.owners_on && change.dir_stats_off && change.format.user_group_quota);
        let change = planned("--user-group-quota=false --dir-stats");
        assert!(change.lines.is_empty() && !change.owners_on && !change.dir_stats_off);
    }

    #[test]
    fn acls_are_turned_on_for_good() {
        let change = planned("--enable-acl");
        assert_eq!(change.lines, ["enable-acl: false -> true", "min-client-version: 1.1.0-A -> 1.2.0-A"]);
        assert!(change.client_versions && change.format.enable_acl);
        assert!(plan(&change.format, &args("--enable-acl=false"), &Surroundings::of_tests()).is_err());
        assert_eq!(planned("--enable-acl=false").lines, Vec::<String>::new());
    }

    #[test]
    fn commas() {
        let shown: Vec<String> = [0, 999, 1000, 1_234_567].iter().map(|n| with_commas(*n)).collect();
        assert_eq!(shown, ["0", "999", "1,000", "1,234,567"]);
    }
}
