//! What trees hold, from the statistics of directories where they are kept (format: metadata.md §6.22), and where nodes are.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use juicefs_core::{
    Caller,
    attr::{Attr, FileType},
    errno::Errno,
    error::MetaResult,
    ids::Ino,
    limits::ENTRY_SPACE,
    listing::Listing,
    meta::DirEntry,
    tree::{Progress, Summary, TreeDetail, TreeSummary},
};

use super::{Walk, is};
use crate::{
    client::Client,
    ops::{
        access::{R, TRASH_NAME, X},
        account::entry_stat,
        ascent::{Ascent, Step},
    },
    record::{AccountKey, DirStat, Key},
};

/// Directories looked at side by side.
const THREADS: usize = 32;
/// Entries that a summary shows in all, so that what is deep and wide does not fill the memory: below what comes too late
/// only sums are kept.
const MAX_ROWS: usize = 1 << 16;

/// A count under way.
struct Counting<'a> {
    walk: Walk<'a>,
    caller: &'a Caller,
    strict: bool,
    /// Entries that are kept to be shown.
    rows: AtomicUsize,
}

impl<'a> Counting<'a> {
    fn new(caller: &'a Caller, strict: bool, progress: &'a Progress) -> Self {
        Self { walk: Walk::new(THREADS, progress), caller, strict, rows: AtomicUsize::new(0) }
    }
}

/// What the entries of a directory hold, of which only some can be shown.
struct Children {
    dirs: Vec<TreeSummary>,
    /// The largest.
    files: Vec<TreeSummary>,
    /// All other files.
    rest: Option<Summary>,
}

/// A directory itself, without what is in it.
const DIRECTORY: Summary = Summary { length_bytes: 0, size_bytes: ENTRY_SPACE, files: 0, dirs: 1 };

/// What a node counts on its own.
fn of_node(attr: &Attr) -> Summary {
    if attr.is_dir() {
        return DIRECTORY;
    }
    let length_bytes = if attr.is_file() { attr.length } else { 0 };
    Summary { length_bytes, size_bytes: attr.used_space(), files: 1, dirs: 0 }
}

/// What an entry counts; one whose node is missing counts as an empty file, as in the statistics.
fn of_entry(entry: &DirEntry) -> Summary {
    match &entry.attr {
        Some(attr) => of_node(attr),
        None if entry.kind == FileType::Directory => DIRECTORY,
        None => Summary { files: 1, size_bytes: entry_stat(None).space.unsigned_abs(), ..Summary::default() },
    }
}

/// Statistics that can be true.
fn usable(stat: &DirStat) -> Option<(u64, u64, u64)> {
    let number = |value: i64| u64::try_from(value).ok();
    Some((number(stat.length)?, number(stat.space)?, number(stat.inodes)?))
}

impl Client {
    pub(in crate::client) async fn summarize_whole(
        &self,
        cx: &Caller,
        ino: Ino,
        recursive: bool,
        strict: bool,
        progress: &Progress,
    ) -> MetaResult<Summary> {
        let attr = self.attributes(ino).await?;
        self.may_look_into(cx, ino, &attr).await?;
        let mut sum = of_node(&attr);
        if !attr.is_dir() {
            count(progress, &sum);
            return Ok(sum);
        }
        if !strict {
            // What this client has done itself should count.
            self.write_stats(true).await?;
        }
        let job = Counting::new(cx, strict, progress);
        sum.add(self.count_directory(&job, ino, recursive).await?);
        progress.add_second(ENTRY_SPACE);
        Ok(sum)
    }

    /// EACCES unless the caller may read the node, and search it if it is a directory.
    async fn may_look_into(&self, cx: &Caller, ino: Ino, attr: &Attr) -> MetaResult<()> {
        if !cx.check_permission {
            return Ok(());
        }
        self.check_access(cx, ino, if attr.is_dir() { R | X } else { R }).await
    }

    /// What is in a directory, without itself. EACCES unless the caller may read it.
    fn count_directory<'a>(
        &'a self,
        job: &'a Counting<'a>,
        dir: Ino,
        recursive: bool,
    ) -> BoxFuture<'a, MetaResult<Summary>> {
        async move {
            job.walk.progress.go_on()?;
            let (mut sum, below) = match self.kept_statistics(job, dir).await? {
                Some((sum, below)) => (sum, below),
                None => self.counted_entries(dir).await?,
            };
            count(job.walk.progress, &sum);
            if recursive && !below.is_empty() {
                let lent = job.walk.lend(below.len());
                let count_next = |dir| async move {
                    if job.caller.check_permission {
                        self.check_access(job.caller, dir, R | X).await?;
                    }
                    self.count_directory(job, dir, true).await
                };
                let steps = stream::iter(below).map(count_next);
                let mut steps = steps.buffer_unordered(1 + lent.steps);
                while let Some(counted) = steps.next().await {
                    match counted {
                        Ok(counted) => sum.add(counted),
                        // It was removed meanwhile.
                        Err(error) if is(&error, Errno::ENOENT) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            Ok(sum)
        }
        .boxed()
    }

    /// What the statistics of a directory say, and the directories in it; `None` where none are kept.
    async fn kept_statistics(&self, job: &Counting<'_>, dir: Ino) -> MetaResult<Option<(Summary, Vec<Ino>)>> {
        if job.strict || dir.is_trash() || !self.setting().dir_stats {
            return Ok(None);
        }
        let read = self.transactor.fetch(&[Key::Account(AccountKey::DirStat(dir)), Key::Node(dir)]).await?;
        let Some((length_bytes, size_bytes, inodes)) = read.dir_stat(dir).and_then(usable) else { return Ok(None) };
        // By its links a directory tells that there is nothing to look for.
        let alone = read.node(dir).is_some_and(|attr| attr.nlink == 2);
        let below = if alone { Vec::new() } else { self.directories_in(dir).await? };
        let dirs = below.len() as u64;
        Ok(Some((Summary { length_bytes, size_bytes, files: inodes.saturating_sub(dirs), dirs }, below)))
    }

    async fn directories_in(&self, dir: Ino) -> MetaResult<Vec<Ino>> {
        let (mut found, mut listing) = (Vec::new(), Listing::of(dir));
        while let Some(entries) = listing.next(&self.transactor).await? {
            let dirs = entries.iter().filter(|entry| entry.kind == FileType::Directory);
            found.extend(dirs.map(|entry| entry.ino));
        }
        Ok(found)
    }

    async fn counted_entries(&self, dir: Ino) -> MetaResult<(Summary, Vec<Ino>)> {
        let (mut sum, mut below) = (Summary::default(), Vec::new());
        let mut listing = Listing::of(dir).with_attrs();
        while let Some(entries) = listing.next(&self.transactor).await? {
            for entry in &entries {
                sum.add(of_entry(entry));
                if entry.kind == FileType::Directory {
                    below.push(entry.ino);
                }
            }
        }
        Ok((sum, below))
    }

    pub(in crate::client) async fn summarize_parts(
        &self,
        cx: &Caller,
        ino: Ino,
        detail: TreeDetail,
        progress: &Progress,
    ) -> MetaResult<TreeSummary> {
        let attr = self.attributes(ino).await?;
        self.may_look_into(cx, ino, &attr).await?;
        let summary = of_node(&attr);
        count(progress, &summary);
        let tree = TreeSummary { ino, path: Vec::new(), kind: attr.kind, summary, children: Vec::new() };
        if !attr.is_dir() {
            return Ok(tree);
        }
        if !detail.strict {
            self.write_stats(true).await?;
        }
        let job = Counting::new(cx, detail.strict, progress);
        self.fill_summary(&job, tree, detail).await
    }

    /// Adds what is in a directory to its summary, and what its entries hold, `detail.depth` levels down.
    fn fill_summary<'a>(
        &'a self,
        job: &'a Counting<'a>,
        mut tree: TreeSummary,
        detail: TreeDetail,
    ) -> BoxFuture<'a, MetaResult<TreeSummary>> {
        async move {
            job.walk.progress.go_on()?;
            // The top was looked at before.
            if job.caller.check_permission && !tree.path.is_empty() {
                self.check_access(job.caller, tree.ino, R | X).await?;
            }
            let full = job.rows.load(Ordering::Relaxed) >= MAX_ROWS;
            let Some(depth) = detail.depth.checked_sub(1).filter(|_| !full) else {
                let below = self.count_directory(job, tree.ino, true).await?;
                tree.summary.add(below);
                return Ok(tree);
            };
            let detail = TreeDetail { depth, ..detail };
            let Children { dirs, files: mut children, rest } = self.children_of(job, &tree, detail).await?;
            let lent = job.walk.lend(dirs.len());
            let steps = stream::iter(dirs).map(|child| self.fill_summary(job, child, detail));
            let mut steps = steps.buffer_unordered(1 + lent.steps);
            while let Some(filled) = steps.next().await {
                children.push(filled?);
            }
            children.iter().for_each(|child| tree.summary.add(child.summary));
            rest.iter().for_each(|rest| tree.summary.add(*rest));
            let rest = keep_largest(job, &mut children, rest, usize::from(detail.entries));
            children.extend(rest.map(|summary| others(&tree.path, summary)));
            tree.children = children;
            Ok(tree)
        }
        .boxed()
    }

    async fn children_of(&self, job: &Counting<'_>, tree: &TreeSummary, detail: TreeDetail) -> MetaResult<Children> {
        let mut children = Children { dirs: Vec::new(), files: Vec::new(), rest: None };
        let mut listing = Listing::of(tree.ino).with_attrs();
        while let Some(entries) = listing.next(&self.transactor).await? {
            for entry in entries {
                let summary = of_entry(&entry);
                count(job.walk.progress, &summary);
                let path = joined(&tree.path, entry.name.as_bytes());
                let child = TreeSummary { ino: entry.ino, path, kind: entry.kind, summary, children: Vec::new() };
                job.rows.fetch_add(1, Ordering::Relaxed);
                let kind = if entry.kind == FileType::Directory { &mut children.dirs } else { &mut children.files };
                kind.push(child);
            }
            children.rest = keep_largest(job, &mut children.files, children.rest, usize::from(detail.entries));
        }
        Ok(children)
    }

    pub(in crate::client) async fn paths_of(&self, ino: Ino, limit: usize) -> MetaResult<Vec<Vec<u8>>> {
        let mut paths = self.paths_to(ino, limit).await?;
        for path in paths.iter_mut().filter(|path| path.is_empty()) {
            path.push(b'/');
        }
        Ok(paths)
    }

    /// Paths of a node without the slash at the end; the root's is empty.
    async fn paths_to(&self, ino: Ino, limit: usize) -> MetaResult<Vec<Vec<u8>>> {
        if ino == self.root || ino.is_trash() {
            return Ok(self.path_below(self.root, ino).await?.into_iter().collect());
        }
        if ino == Ino::ROOT {
            // Above the root of this mount.
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for (parent, names) in self.parents_of(ino).await? {
            let Some(above) = self.path_below(self.root, parent).await? else { continue };
            for name in self.names_in(parent, ino, names).await? {
                found.push([above.as_slice(), b"/", &name].concat());
                if found.len() >= limit {
                    return Ok(found);
                }
            }
        }
        Ok(found)
    }

    /// The path that leads from `top`, or from the root of the trash, to a directory; empty for `top` itself. `None` when none
    /// does, as in a volume that is damaged.
    pub(in crate::client) async fn path_below(&self, top: Ino, dir: Ino) -> MetaResult<Option<Vec<u8>>> {
        let (mut names, mut way, mut at) = (Vec::new(), Ascent::default(), dir);
        while at != top {
            if at == Ino::TRASH_ROOT {
                names.push(TRASH_NAME.to_vec());
                break;
            }
            // The hours of the trash lie below it, whatever else is damaged.
            if !at.is_trash() && way.step(at) != Step::Up {
                return Ok(None);
            }
            let Some(attr) = self.node(at).await? else { return Ok(None) };
            let parent = if at.is_trash() { Ino::TRASH_ROOT } else { attr.parent };
            let Some(name) = self.names_in(parent, at, 1).await?.pop() else { return Ok(None) };
            names.push(name);
            at = parent;
        }
        Ok(Some(names.iter().rev().flat_map(|name| [&b"/"[..], name].concat()).collect()))
    }

    /// The `names` names that a directory has for a node.
    async fn names_in(&self, dir: Ino, ino: Ino, names: u64) -> MetaResult<Vec<Vec<u8>>> {
        let (mut found, mut listing) = (Vec::new(), Listing::of(dir));
        while let Some(entries) = listing.next(&self.transactor).await? {
            let mine = entries.iter().filter(|entry| entry.ino == ino);
            found.extend(mine.map(|entry| entry.name.as_bytes().to_vec()));
            if found.len() as u64 >= names {
                break;
            }
        }
        Ok(found)
    }
}

/// Files and bytes that were found.
fn count(progress: &Progress, sum: &Summary) {
    progress.add_first(sum.files);
    progress.add_second(sum.size_bytes);
}

fn joined(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

/// Keeps the `shown` largest in their order, and adds all others to `rest`.
fn keep_largest(
    job: &Counting<'_>,
    children: &mut Vec<TreeSummary>,
    rest: Option<Summary>,
    shown: usize,
) -> Option<Summary> {
    children.sort_by(|a, b| b.summary.size_bytes.cmp(&a.summary.size_bytes).then_with(|| a.path.cmp(&b.path)));
    let small = children.drain(shown.min(children.len())..);
    small.fold(rest, |rest, child| {
        job.rows.fetch_sub(rows(&child), Ordering::Relaxed);
        let mut rest = rest.unwrap_or_default();
        rest.add(child.summary);
        Some(rest)
    })
}

/// How many entries a summary shows, itself included.
fn rows(tree: &TreeSummary) -> usize {
    1 + tree.children.iter().filter(|child| child.ino != Ino(0)).map(rows).sum::<usize>()
}

/// The entry that stands for many.
fn others(path: &[u8], summary: Summary) -> TreeSummary {
    TreeSummary { ino: Ino(0), path: joined(path, b"..."), kind: FileType::File, summary, children: Vec::new() }
}
