//! The load of `objbench`. Blocks and small objects are written, read, listed, looked at and removed.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use indicatif::ProgressBar;
use juicefs_core::{ObjectStorage, Segments};
use nix::unistd::{chown, geteuid};
use tokio::task::JoinSet;

use super::functional::{nobody, set_mtime};
use crate::config::args::ObjbenchArgs;

/// How many keys one listing has at most.
const LISTED: u64 = 1000;

/// The lines of the table, in the order in which they are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    PutSmall,
    GetSmall,
    Upload,
    Download,
    List,
    Head,
    SetTime,
    SetMode,
    SetOwner,
    Delete,
}

impl Step {
    pub(super) const ALL: [Self; 10] = [
        Self::PutSmall,
        Self::GetSmall,
        Self::Upload,
        Self::Download,
        Self::List,
        Self::Head,
        Self::SetTime,
        Self::SetMode,
        Self::SetOwner,
        Self::Delete,
    ];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::PutSmall => "put small objects",
            Self::GetSmall => "get small objects",
            Self::Upload => "upload objects",
            Self::Download => "download objects",
            Self::List => "list objects",
            Self::Head => "head objects",
            Self::SetTime => "update mtime",
            Self::SetMode => "change permissions",
            Self::SetOwner => "change owner/group",
            Self::Delete => "delete objects",
        }
    }

    fn is_about_files(self) -> bool {
        matches!(self, Self::SetTime | Self::SetMode | Self::SetOwner)
    }
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Done {
    Seconds(f64),
    NotSupported,
    Skipped,
    Failed,
}

/// Blocks that the big object is written as.
pub(super) fn blocks(args: &ObjbenchArgs) -> u32 {
    u32::try_from(args.big_object_size.div_ceil(args.block_size)).unwrap_or(u32::MAX)
}

/// What all steps share. Keys are numbers: first the small objects, then the blocks.
#[derive(Clone)]
pub(super) struct Load {
    store: Arc<dyn ObjectStorage>,
    pub(super) threads: u32,
    pub(super) small_objects: u32,
    pub(super) blocks: u32,
    small: Bytes,
    block: Bytes,
}

impl Load {
    pub(super) fn new(store: Arc<dyn ObjectStorage>, args: &ObjbenchArgs, threads: u32) -> Self {
        let random = |bytes: u64| {
            let mut data = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)];
            rand::RngCore::fill_bytes(&mut rand::rng(), &mut data);
            Bytes::from(data)
        };
        Self {
            store,
            threads,
            small_objects: args.small_objects,
            blocks: blocks(args),
            small: random(args.small_object_size),
            block: random(args.block_size),
        }
    }

    /// Bytes of a block.
    pub(super) fn block_bytes(&self) -> usize {
        self.block.len()
    }

    /// How many requests a step makes.
    pub(super) fn count(&self, step: Step) -> u64 {
        match step {
            Step::PutSmall | Step::GetSmall => self.small_objects.into(),
            Step::Upload | Step::Download => self.blocks.into(),
            Step::List => self.threads.into(),
            _ => u64::from(self.small_objects) + u64::from(self.blocks),
        }
    }

    /// Keys that a listing returns.
    pub(super) fn listed(&self) -> u64 {
        (u64::from(self.small_objects) + u64::from(self.blocks)).min(LISTED)
    }

    /// Does a step on all of its objects, as many at once as there are threads.
    pub(super) async fn run(&self, step: Step, bar: &ProgressBar) -> Done {
        if step.is_about_files() && self.store.file_path("0").is_none() {
            return Done::NotSupported;
        }
        if step == Step::SetOwner && !geteuid().is_root() {
            tracing::warn!("{}: only root can try this", step.title());
            return Done::Skipped;
        }
        let next = Arc::new(AtomicU64::new(0));
        let started = Instant::now();
        let mut tasks = JoinSet::new();
        for _ in 0..self.threads {
            let (load, next, bar, count) = (self.clone(), Arc::clone(&next), bar.clone(), self.count(step));
            tasks.spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return Ok(());
                    }
                    load.once(step, number).await?;
                    bar.inc(1);
                }
            });
        }
        let mut result = Ok(());
        while let Some(ended) = tasks.join_next().await {
            result = result.and(ended.map_err(anyhow::Error::from).and_then(|done| done));
        }
        match result {
            Ok(()) => Done::Seconds(started.elapsed().as_secs_f64()),
            Err(error) => {
                tracing::error!("{} failed: {error:#}", step.title());
                Done::Failed
            }
        }
    }

    async fn once(&self, step: Step, number: u64) -> Result<()> {
        let first_block = u64::from(self.small_objects);
        let store = self.store.as_ref();
        match step {
            Step::PutSmall => store.put(&number.to_string(), turned(&self.small, number)).await?,
            Step::Upload => store.put(&(first_block + number).to_string(), turned(&self.block, number)).await?,
            Step::GetSmall => self.fetch(number, &self.small, number).await?,
            Step::Download => self.fetch(first_block + number, &self.block, number).await?,
            Step::List => {
                let found = store.list("", "", usize::try_from(LISTED).unwrap_or(usize::MAX)).await?.len() as u64;
                ensure!(found == self.listed(), "{found} keys of {} are listed", self.listed());
            }
            Step::Head => drop(store.head(&number.to_string()).await?),
            Step::Delete => store.delete(&number.to_string()).await?,
            Step::SetTime | Step::SetMode | Step::SetOwner => self.change(step, number)?,
        }
        Ok(())
    }

    async fn fetch(&self, key: u64, sample: &Bytes, number: u64) -> Result<()> {
        let got = self.store.get(&key.to_string(), None).await?;
        ensure!(got.concat() == turned(sample, number).concat(), "the content of object {key} is not what was put");
        Ok(())
    }

    /// Makes one system call on the file of an object.
    fn change(&self, step: Step, number: u64) -> Result<()> {
        let path = self.store.file_path(&number.to_string()).context("the object is no file")?;
        match step {
            Step::SetTime => {
                #[allow(clippy::disallowed_methods, reason = "any time does")]
                let now = SystemTime::now();
                set_mtime(&path, now)?;
            }
            Step::SetMode => fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?,
            _ => {
                let nobody = nobody()?;
                chown(&path, Some(nobody.uid), Some(nobody.gid))?;
            }
        }
        Ok(())
    }

    /// Removes what failed steps may have left, and the directory itself if there is one.
    pub(super) async fn clean_up(&self) {
        match self.store.list("", "", usize::MAX >> 1).await {
            Ok(left) => {
                for object in left {
                    if let Err(error) = self.store.delete(&object.key).await {
                        tracing::warn!("{} stays in {}: {error}", object.key, self.store.describe());
                    }
                }
            }
            Err(error) => tracing::warn!("cannot look for what is left in {}: {error}", self.store.describe()),
        }
        if let Err(error) = self.store.delete("").await {
            tracing::debug!("{} stays: {error}", self.store.describe());
        }
    }
}

/// A body that differs from that of other numbers, without a copy.
fn turned(sample: &Bytes, number: u64) -> Segments {
    let at = usize::try_from(number % sample.len() as u64).unwrap_or_default();
    Segments::from_iter([sample.slice(at..), sample.slice(..at)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_differ_and_have_one_size() {
        let sample = Bytes::from_static(b"abcd");
        let bodies: Vec<_> = (0..5).map(|number| turned(&sample, number).concat()).collect();
        assert_eq!(bodies, [b"abcd", b"bcda", b"cdab", b"dabc", b"abcd"]);
    }
}
