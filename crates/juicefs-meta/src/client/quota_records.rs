//! Quotas as they are stored: loaded, shown, set, counted anew.

use std::collections::{BTreeMap, HashMap, HashSet};

use juicefs_core::{
    attr::{Attr, FileType},
    errno::Errno,
    error::{MetaError, MetaResult},
    ids::Ino,
    listing::Listing,
    meta::VolumeUsage,
    quota::{Quota, QuotaSubject},
};

use super::Client;
use crate::{
    engine::Scan,
    ops::{
        access::TRASH_NAME,
        account::entry_stat,
        ascent::{Ascent, Step},
        quota::{DeleteQuota, MendQuota, SetQuota},
    },
    record::{AccountKey, Key, Value},
    txn::Usage,
};

/// Quotas read from the engine at once.
const QUOTAS_PAGE: usize = 10_000;
/// How often a count is begun anew because the usage changed meanwhile.
const COUNT_TRIES: u32 = 3;

/// What a count of one quota has shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QuotaCheck {
    /// As it is stored; `None` for a user or group that has no record.
    pub stored: Option<Quota>,
    /// Bytes counted.
    pub space: i64,
    /// Inodes counted.
    pub inodes: i64,
}

impl QuotaCheck {
    /// What the stored usage lacks.
    fn missing(&self) -> Usage {
        let stored = self.stored.unwrap_or(Quota::UNSET);
        Usage { space: self.space - stored.used_space, inodes: self.inodes - stored.used_inodes }
    }

    /// Whether the stored usage is what was counted.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.missing() == Usage::default()
    }

    /// The quota with the usage that was counted.
    #[must_use]
    pub fn mended(&self) -> Quota {
        let stored = self.stored.unwrap_or(Quota::UNSET);
        Quota { used_space: self.space, used_inodes: self.inodes, ..stored }
    }
}

impl Client {
    /// The directory at an absolute path of the volume, made with what is missing of the path if `create` is set.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR; EPERM in the trash.
    pub async fn resolve_directory(&self, path: &[u8], create: bool) -> MetaResult<Ino> {
        let ino = self.enter(path, create).await?;
        if create {
            // Nobody else counts what was made: this client may have no session.
            self.write_stats(true).await?;
        }
        if ino.is_trash() { Err(Errno::EPERM.into()) } else { Ok(ino) }
    }

    /// One path that leads to a directory from the root of the volume; `None` when there is none.
    ///
    /// # Errors
    /// As the engine fails.
    pub async fn path_of(&self, dir: Ino) -> MetaResult<Option<String>> {
        let path = self.path_below(Ino::ROOT, dir).await?;
        // Of what is in the trash nothing is counted.
        let path = path.filter(|path| path.split(|b| *b == b'/').nth(1) != Some(TRASH_NAME));
        Ok(path.map(|path| if path.is_empty() { "/".to_owned() } else { String::from_utf8_lossy(&path).into_owned() }))
    }

    /// Every quota that is stored, those of users and groups that only count included.
    ///
    /// # Errors
    /// As the engine fails.
    pub async fn quotas(&self) -> MetaResult<BTreeMap<QuotaSubject, Quota>> {
        let (mut quotas, mut after) = (BTreeMap::new(), None);
        loop {
            let page = self.engine.scan(Scan::Quotas, after, QUOTAS_PAGE).await?;
            let last = page.len() < QUOTAS_PAGE;
            after = page.last().map(|(key, _)| key.clone());
            quotas.extend(page.into_iter().filter_map(|(key, value)| match (key, value) {
                (Key::Account(AccountKey::Quota(subject)), Value::Quota(quota)) => Some((subject, quota)),
                _ => None,
            }));
            if last {
                return Ok(quotas);
            }
        }
    }

    /// One quota as it is stored.
    ///
    /// # Errors
    /// As the engine fails.
    pub async fn quota(&self, subject: QuotaSubject) -> MetaResult<Option<Quota>> {
        let read = self.transactor.fetch(&[Key::Account(AccountKey::Quota(subject))]).await?;
        Ok(read.quota(subject).copied())
    }

    /// Sets limits, `None` leaving one as it is and 0 for none. A directory that had no quota is counted. Other clients
    /// enforce a new quota, and count for it, from their next heartbeat on; new limits of an old one at once.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR, EROFS.
    pub async fn set_quota(
        &self,
        subject: QuotaSubject,
        max_space: Option<i64>,
        max_inodes: Option<i64>,
        recount: bool,
    ) -> MetaResult<Quota> {
        self.writable()?;
        let (quota, new) = self.run(SetQuota { subject, max_space, max_inodes }).await?;
        self.load_quotas().await?;
        if let (QuotaSubject::Dir(_), true) = (subject, new || recount) {
            return Ok(self.check_quota(subject, true).await?.mended());
        }
        Ok(quota)
    }

    /// Takes limits away; false when there were none. Users and groups are still counted.
    ///
    /// # Errors
    /// EROFS.
    pub async fn delete_quota(&self, subject: QuotaSubject) -> MetaResult<bool> {
        self.writable()?;
        let deleted = self.run(DeleteQuota { subject }).await?;
        self.load_quotas().await?;
        Ok(deleted)
    }

    /// Counts what is below a directory with a quota and compares; with `repair` stores what was counted. A volume that
    /// changes meanwhile may be miscounted by those changes.
    ///
    /// # Errors
    /// ENODATA when there is no such quota, EINVAL for users and groups: see [`Client::check_owners`].
    pub async fn check_quota(&self, subject: QuotaSubject, repair: bool) -> MetaResult<QuotaCheck> {
        let QuotaSubject::Dir(dir) = subject else { return Err(Errno::EINVAL.into()) };
        let mut tries = 0;
        let check = loop {
            let before = self.quota(subject).await?.ok_or(Errno::ENODATA)?;
            let size = self.size_below(dir).await?;
            tries += 1;
            if self.quota(subject).await? == Some(before) || tries == COUNT_TRIES {
                break QuotaCheck { stored: Some(before), space: size.space, inodes: size.inodes };
            }
        };
        self.mend(subject, &check, repair).await?;
        Ok(check)
    }

    /// Counts what every user and group, or `only` one, has, in the trash and in files that are only held open too, and compares; with
    /// `repair` stores what was counted. Those that have nothing and of whom nothing is stored are left out.
    ///
    /// # Errors
    /// As the engine fails.
    pub async fn check_owners(
        &self,
        repair: bool,
        only: Option<QuotaSubject>,
    ) -> MetaResult<BTreeMap<QuotaSubject, QuotaCheck>> {
        let owners = async || {
            let mut stored = self.quotas().await?;
            stored.retain(|subject, _| !matches!(subject, QuotaSubject::Dir(_)));
            Ok::<_, MetaError>(stored)
        };
        let mut tries = 0;
        let (stored, counted) = loop {
            let before = owners().await?;
            let counted = self.count_owners().await?;
            tries += 1;
            if tries == COUNT_TRIES || owners().await? == before {
                break (before, counted);
            }
        };
        let subjects: HashSet<QuotaSubject> = stored.keys().chain(counted.keys()).copied().collect();
        let check = |subject: QuotaSubject| {
            let Usage { space, inodes } = counted.get(&subject).copied().unwrap_or_default();
            (subject, QuotaCheck { stored: stored.get(&subject).copied(), space, inodes })
        };
        let meant = |subject: &QuotaSubject| only.is_none_or(|only| only == *subject);
        let checks: BTreeMap<_, _> = subjects.into_iter().filter(meant).map(check).collect();
        for (subject, check) in &checks {
            self.mend(*subject, check, repair).await?;
        }
        Ok(checks)
    }

    async fn mend(&self, subject: QuotaSubject, check: &QuotaCheck, repair: bool) -> MetaResult<()> {
        if repair && !check.is_right() {
            self.writable()?;
            self.run(MendQuota { subject, delta: check.missing() }).await?;
        }
        Ok(())
    }

    /// Takes up which quotas there are.
    pub(super) async fn load_quotas(&self) -> MetaResult<()> {
        let format = self.setting();
        if !format.dir_stats && !format.user_group_quota {
            self.books.quotas.learn(HashMap::new(), false);
            return Ok(());
        }
        let _turn = self.counters.lock().await;
        let mut quotas: HashMap<_, _> = self.quotas().await?.into_iter().collect();
        quotas.retain(|subject, _| match subject {
            QuotaSubject::Dir(_) => format.dir_stats,
            QuotaSubject::User(_) | QuotaSubject::Group(_) => format.user_group_quota,
        });
        self.books.quotas.learn(quotas, format.user_group_quota);
        Ok(())
    }

    /// What is below a directory, itself not included: what its quota counts.
    pub(super) async fn size_below(&self, dir: Ino) -> MetaResult<Usage> {
        let mut sum = Usage::default();
        self.walk(vec![dir], |_, attr| {
            sum = sum.plus(Usage { space: entry_stat(attr).space, inodes: 1 });
        })
        .await?;
        Ok(sum)
    }

    async fn count_owners(&self) -> MetaResult<HashMap<QuotaSubject, Usage>> {
        let mut sums: HashMap<QuotaSubject, Usage> = HashMap::new();
        let mut count = |attr: &Attr| {
            let size = Usage { space: entry_stat(Some(attr)).space, inodes: 1 };
            for subject in [QuotaSubject::User(attr.uid), QuotaSubject::Group(attr.gid)] {
                let sum = sums.entry(subject).or_default();
                *sum = sum.plus(size);
            }
        };
        // A file counts once, whatever the number of its names.
        let mut linked = HashSet::new();
        self.walk(vec![Ino::ROOT, Ino::TRASH_ROOT], |ino, attr| {
            if let Some(attr) = attr
                && (attr.is_dir() || attr.nlink <= 1 || linked.insert(ino))
            {
                count(attr);
            }
        })
        .await?;
        for session in self.list_sessions().await? {
            for ino in session.sustained {
                if let Some(attr) = self.node(ino).await?.filter(|attr| attr.nlink == 0) {
                    count(&attr);
                }
            }
        }
        Ok(sums)
    }

    /// Visits every entry below these directories.
    async fn walk(&self, mut dirs: Vec<Ino>, mut visit: impl FnMut(Ino, Option<&Attr>)) -> MetaResult<()> {
        let mut seen: HashSet<Ino> = dirs.iter().copied().collect();
        while let Some(dir) = dirs.pop() {
            let mut listing = Listing::of(dir).with_attrs();
            while let Some(entries) = listing.next(&self.transactor).await? {
                for entry in entries {
                    visit(entry.ino, entry.attr.as_ref());
                    if entry.kind == FileType::Directory && seen.insert(entry.ino) {
                        dirs.push(entry.ino);
                    }
                }
            }
        }
        Ok(())
    }

    /// Use and limits as they are seen from a directory or file: those of the volume, and of the quotas above it (format:
    /// metadata.md §6.20).
    pub(super) async fn usage_seen_from(&self, ino: Ino) -> MetaResult<VolumeUsage> {
        let mut shown = self.volume_usage().await?;
        let Some((innermost, outer)) = self.quotas_above(ino).await?.split_first().map(|(a, b)| (*a, b.to_vec()))
        else {
            return Ok(shown);
        };
        let left = |max: i64, used: i64, available: u64| {
            if max > 0 { available.min(max.saturating_sub(used.max(0)).max(0).unsigned_abs()) } else { available }
        };
        for quota in [innermost].iter().chain(&outer) {
            shown.available_bytes = left(quota.max_space, quota.used_space, shown.available_bytes);
            shown.available_inodes = left(quota.max_inodes, quota.used_inodes, shown.available_inodes);
        }
        shown.total_bytes = shown.available_bytes.saturating_add(innermost.used_space.max(0).unsigned_abs());
        shown.used_inodes = innermost.used_inodes.max(0).unsigned_abs();
        Ok(shown)
    }

    /// The quotas of the directories above `ino`, and its own, the innermost first.
    async fn quotas_above(&self, ino: Ino) -> MetaResult<Vec<Quota>> {
        if !self.books.quotas.has_dirs() {
            return Ok(Vec::new());
        }
        let (mut dirs, mut way, mut at) = (Vec::new(), Ascent::default(), ino);
        loop {
            let step = way.step(at);
            if step != Step::Circle && !at.is_trash() && self.books.quotas.has_dir(at) {
                dirs.push(QuotaSubject::Dir(at));
            }
            if step != Step::Up {
                break;
            }
            let Some(attr) = self.node(at).await? else { break };
            at = attr.parent;
        }
        if dirs.is_empty() || self.config.fast_statfs {
            return Ok(dirs.into_iter().filter_map(|dir| self.books.quotas.seen(dir)).collect());
        }
        let read = self
            .transactor
            .fetch(&dirs.iter().copied().map(AccountKey::Quota).map(Key::Account).collect::<Vec<_>>())
            .await?;
        Ok(dirs.into_iter().filter_map(|dir| read.quota(dir).copied()).collect())
    }
}
