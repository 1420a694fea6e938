//! The setting and counters as others change them, and the deletion of what nothing refers to.

use std::{ops::Range, sync::Arc};

use juicefs_core::{
    attr::Timestamp,
    error::{MetaError, MetaResult},
    ids::{ChunkIndex, Ino, SliceKey},
    limits::CHUNK_SIZE,
    meta::{Freed, Job},
    slice::SliceRecord,
};

use super::{Client, quotas::TellQuotas, setting, trash::Stuck, usage::TellUsage};
use crate::{
    engine::Scan,
    ops::{
        counter::SetIfOlder,
        file_data::DropChunk,
        slices::{ForgetSlice, ReleaseDelayed},
    },
    record::{CHUNKS_BEYOND, Counter, Key, NoteKey, Value},
    txn::Usage,
};

/// Delayed slices read from the engine at once.
const DELAYED_PAGE: usize = 1000;
/// Slice lists of a removed file read at once.
const CHUNK_PAGE: usize = 256;

impl Client {
    /// Takes up the setting as it is stored now.
    ///
    /// # Errors
    /// `Setting` when the volume is gone or replaced; one that cannot be read says neither, and is `Corrupt`. Those of the
    /// engine.
    pub async fn reload_setting(&self) -> MetaResult<()> {
        let _loading = self.loading.lock().await;
        let stored = setting::load(self.engine.as_ref()).await.map_err(|error| match error {
            MetaError::Setting(why) => MetaError::Corrupt { what: "volume setting".to_owned(), why },
            other => other,
        })?;
        let format = stored.ok_or_else(setting::unformatted)?;
        let old = self.setting();
        setting::check_same_volume(&old, &format)?;
        if *old != format {
            setting::tell_change(&old, &format, self.config.read_only);
            self.format.send_replace(Arc::new(format));
        }
        Ok(())
    }

    /// Takes up what others may have changed: the setting, what is used, quotas. One that cannot be read keeps none of the
    /// others back.
    pub(super) async fn take_up(&self) -> MetaResult<()> {
        let setting = self.reload_setting().await;
        if let Err(error @ MetaError::Setting(_)) = setting {
            // What else there is belongs to another volume.
            return Err(error);
        }
        let usage = self.load_usage().await;
        let quotas = self.load_quotas().await;
        setting.and(usage).and(quotas)
    }

    /// Tells the engine what was used, with `all` also what is told less often. What a client has not told when it is taken
    /// for dead stays untold.
    pub(super) async fn write_stats(&self, all: bool) -> MetaResult<()> {
        if self.writable().is_err() {
            return Ok(());
        }
        match self.tell_stats(all).await {
            Err(MetaError::Fenced) => Ok(()),
            told => told,
        }
    }

    async fn tell_stats(&self, all: bool) -> MetaResult<()> {
        {
            let _turn = self.counters.lock().await;
            let delta = self.books.usage.pending();
            if delta != Usage::default() {
                self.run(TellUsage { delta, books: Arc::clone(&self.books) }).await?;
            }
            let charges = self.books.quotas.untold(all);
            if !charges.is_empty() {
                self.run(TellQuotas { charges, books: Arc::clone(&self.books) }).await?;
            }
        }
        self.books.dir_stats.flush(&self.transactor, self.writer()).await
    }

    pub(super) async fn claim_job(&self, job: Job, interval_secs: u64) -> MetaResult<bool> {
        self.writable()?;
        let counter = match job {
            Job::StaleSessions => Counter::LastCleanupSessions,
            Job::DeletedFiles => Counter::LastCleanupFiles,
            Job::Slices => Counter::NextCleanupSlices,
            Job::Trash => Counter::LastCleanupTrash,
        };
        let interval_secs = i64::try_from(interval_secs).unwrap_or(i64::MAX);
        self.run(SetIfOlder { counter, now_secs: self.config.clock.now().secs, interval_secs }).await
    }

    pub(super) async fn removed_files(&self, before: Timestamp, limit: usize) -> MetaResult<Vec<Freed>> {
        let page = self.engine.scan(Scan::DelFiles { before_secs: before.secs }, None, limit).await?;
        let files = page.into_iter().filter_map(|(key, value)| match (key, value) {
            (Key::Note(NoteKey::DelFile(ino, _)), Value::DelFile(file)) => Some(Freed { ino, length: file.length }),
            _ => None,
        });
        Ok(files.collect())
    }

    /// Chunk by chunk, each in a transaction of its own; the note of the removal goes with the last.
    pub(super) async fn drop_file_data(&self, Freed { ino, length }: Freed) -> MetaResult<Vec<SliceKey>> {
        self.writable()?;
        let mut chunks = self.chunks_of(ino, length).await?;
        // Backwards: an engine without an index of chunks sees by those within the file that it was cut and has chunks
        // beyond, also when all of this has to be begun anew.
        chunks.sort_unstable();
        let mut dead = Vec::new();
        loop {
            let index = chunks.pop();
            let last = chunks.is_empty();
            let Some(slices) = self.run(DropChunk { ino, length, index, last }).await? else {
                tracing::error!(%ino, "data of a file that exists is noted for deletion; it is kept");
                return Ok(dead);
            };
            dead.extend(slices);
            if last {
                return Ok(dead);
            }
        }
    }

    /// The chunks of a removed file of this length that have a list. An engine without an index of chunks is asked for those
    /// that a file of this length has, and, when one of them shows that it was cut, for those that it may have had before.
    async fn chunks_of(&self, ino: Ino, length: u64) -> MetaResult<Vec<ChunkIndex>> {
        let mut indexes = Vec::new();
        if self.engine.caps().indexes_chunks {
            self.add_chunks(ino, 0..ChunkIndex::MAX, &mut indexes).await?;
            return Ok(indexes);
        }
        // With the one that the end is in, even if nothing of it belongs to the file: there the cut shows.
        let end = ChunkIndex::try_from(length / CHUNK_SIZE).unwrap_or(ChunkIndex::MAX).saturating_add(1);
        if self.add_chunks(ino, 0..end, &mut indexes).await? {
            self.add_chunks(ino, end..end.saturating_add(CHUNKS_BEYOND), &mut indexes).await?;
        }
        Ok(indexes)
    }

    /// Adds the chunks of a range that have a list. Whether one of these shows that the file was cut.
    async fn add_chunks(&self, ino: Ino, range: Range<ChunkIndex>, indexes: &mut Vec<ChunkIndex>) -> MetaResult<bool> {
        let (scan, mut after, mut cut) = (Scan::Chunks { ino, from: range.start, to: range.end }, None, false);
        loop {
            let page = self.transactor.scan(scan, after, CHUNK_PAGE).await?;
            let last = page.len() < CHUNK_PAGE;
            after = page.last().map(|(key, _)| key.clone());
            for (key, value) in page {
                if let (Key::Chunk(_, index), Value::Chunk(list)) = (key, value) {
                    indexes.push(index);
                    cut |= list.iter().any(SliceRecord::tells_cut);
                }
            }
            if last {
                return Ok(cut);
            }
        }
    }

    pub(super) async fn slices_without_use(&self, limit: usize) -> MetaResult<Vec<SliceKey>> {
        let page = self.engine.scan(Scan::DeadSlices, None, limit).await?;
        let slices = page.into_iter().filter_map(|(key, _)| match key {
            Key::SliceRef(slice) => Some(slice),
            _ => None,
        });
        Ok(slices.collect())
    }

    pub(super) async fn forget(&self, slice: SliceKey) -> MetaResult<()> {
        self.writable()?;
        self.run(ForgetSlice { slice }).await
    }

    /// Goes through about `limit` records of delayed slices, past those that cannot be dealt with. Whether there are more
    /// is told too.
    pub(super) async fn release_delayed(&self, before: Timestamp, limit: usize) -> MetaResult<(Vec<SliceKey>, bool)> {
        self.writable()?;
        let page_size = limit.clamp(1, DELAYED_PAGE);
        let (mut dead, mut left, mut after, mut stuck) = (Vec::new(), limit.max(1), None, Stuck::default());
        let more = loop {
            let page = self.engine.scan(Scan::DelaySlices { before_secs: before.secs }, after, page_size).await?;
            let last = page.len() < page_size;
            after = page.last().map(|(key, _)| key.clone());
            for (key, _) in page {
                let Key::Note(NoteKey::DelaySlices(id, since_secs)) = key else { continue };
                match self.run(ReleaseDelayed { id, since_secs }).await {
                    Ok(slices) => {
                        dead.extend(slices);
                        left = left.saturating_sub(1);
                    }
                    Err(error) => stuck.note(error, || format!("those of the compaction that made {id}"))?,
                }
            }
            if last || left == 0 {
                break !last;
            }
        };
        stuck.report("delayed slices cannot be released");
        Ok((dead, more))
    }
}
