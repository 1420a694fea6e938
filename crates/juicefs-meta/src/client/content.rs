//! Opening files, their slices, and what changes their length.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use juicefs_core::{
    Caller,
    attr::{Attr, Timestamp},
    errno::Errno,
    error::{MetaError, MetaResult},
    ids::{ChunkIndex, Ino, SessionId, SliceId},
    meta::{ChunkRecords, Compacted, Copied, FallocateMode, Freed, NewSlice, OpenFlags, Written},
    slice::{CompactionPlan, plan_compaction},
};

use super::{AtimeMode, Client};
use crate::{
    opens::OpenTable,
    ops::{
        compact::CommitCompaction,
        copy_range::CopyRange,
        fallocate::Fallocate,
        open::may_open,
        sustained::Release,
        truncate::{Truncate, Truncated},
        write::{Write, length_with},
    },
    record::Key,
};

/// Replaced files that are freed side by side.
const PARALLEL_RELEASES: usize = 16;

/// An open that is counted but not yet granted.
pub(super) struct CountedOpen {
    table: Arc<OpenTable>,
    ino: Ino,
    granted: bool,
}

impl CountedOpen {
    /// The open is granted: from now on it ends with a close.
    pub(super) fn keep(mut self) {
        self.granted = true;
    }
}

impl Drop for CountedOpen {
    fn drop(&mut self) {
        if !self.granted {
            self.table.cancel(self.ino);
        }
    }
}

impl Client {
    /// Counts the open of a file that is just being made.
    pub(super) fn count_new_open(&self, ino: Ino) -> CountedOpen {
        self.opens.open_new(ino);
        CountedOpen { table: Arc::clone(&self.opens), ino, granted: false }
    }

    pub(super) async fn open_file(&self, cx: &Caller, ino: Ino, flags: OpenFlags) -> MetaResult<Attr> {
        if flags.write || flags.truncate || flags.append {
            self.writable()?;
        }
        self.opens.open(ino).await;
        let opened = CountedOpen { table: Arc::clone(&self.opens), ino, granted: false };
        let reading = self.looks.begin_reading();
        let judged = self.look(vec![Key::Node(ino)], |read| {
            let attr = read.node(ino).ok_or(Errno::ENOENT)?;
            may_open(read, cx, attr, flags)?;
            Ok(attr.clone())
        });
        let attr = match judged.await {
            Ok(attr) => attr,
            Err(error) => {
                // The file may have been removed while it was counted as open.
                opened.keep();
                if let Err(error) = self.close_file(ino).await {
                    tracing::warn!(%ino, %error, "cannot free a removed file; the end of the session does");
                }
                return Err(error);
            }
        };
        opened.keep();
        self.looks.remember(reading, ino, &attr);
        Ok(self.touch_atime(ino, Some(&attr)).await.unwrap_or(attr))
    }

    pub(super) async fn close_file(&self, ino: Ino) -> MetaResult<Option<Freed>> {
        let Some(hold) = self.opens.close(ino).await else { return Ok(None) };
        let sid = self.sid();
        match self.run(Release { scope: self.scope(&Caller::root()), sid, ino, hold: Some(hold) }).await {
            // Whoever ended the session has freed the file.
            Err(MetaError::Fenced) => Ok(None),
            released => released,
        }
    }

    /// Frees the files that were replaced long enough ago and are not open. What cannot be freed goes with the session.
    pub(super) async fn free_replaced(&self) -> Vec<Freed> {
        let sid = self.sid();
        let release = |(ino, hold)| Release { scope: self.scope(&Caller::root()), sid, ino, hold: Some(hold) };
        let due = self.opens.replaced_before(self.config.keep_replaced).into_iter().map(release);
        let mut released = stream::iter(due).map(|release| self.run(release)).buffer_unordered(PARALLEL_RELEASES);
        let mut freed = Vec::new();
        while let Some(one) = released.next().await {
            match one {
                Ok(one) => freed.extend(one),
                // Whoever ended the session has freed it.
                Err(MetaError::Fenced) => {}
                Err(error) => tracing::warn!(%error, "a replaced file is left to the end of the session"),
            }
        }
        freed
    }

    pub(super) async fn chunk_records(&self, ino: Ino, index: ChunkIndex) -> MetaResult<ChunkRecords> {
        let atime = self.config.atime_mode != AtimeMode::NoAtime && !self.config.read_only;
        let mut keys = vec![Key::Chunk(ino, index)];
        if atime {
            keys.push(Key::Node(ino));
        }
        let mut read = self.transactor.fetch(&keys).await?;
        let records = read.chunk(ino, index).to_vec();
        if records.is_empty() {
            if !atime {
                read = self.transactor.fetch(&[Key::Node(ino)]).await?;
            }
            if !read.node(ino).ok_or(Errno::ENOENT)?.is_file() {
                return Err(Errno::EPERM.into());
            }
        }
        if atime {
            self.touch_atime(ino, read.node(ino)).await;
        }
        Ok(ChunkRecords { records })
    }

    pub(super) async fn commit_slices(
        &self,
        session: SessionId,
        ino: Ino,
        slices: Vec<NewSlice>,
        mtime: Timestamp,
    ) -> MetaResult<Written> {
        self.writable()?;
        let writer = Some(session).filter(|session| session.0 != 0);
        let (scope, slices): (_, Arc<[NewSlice]>) = (self.scope(&Caller::root()), slices.into());
        let op = |allowed| Write { scope: scope.clone(), ino, slices: Arc::clone(&slices), mtime, allowed };
        let claimed = self.books.usage.claimed(ino);
        self.run_growing(writer, ino, claimed, |attr| length_with(attr.length, &slices), op).await
    }

    pub(super) async fn set_length(&self, cx: &Caller, ino: Ino, length: u64, opened: bool) -> MetaResult<Attr> {
        self.writable()?;
        let scope = self.scope(cx);
        let mut swept = None;
        loop {
            let op = |allowed| Truncate { scope: scope.clone(), ino, length, opened, allowed, swept: swept.clone() };
            match self.run_growing(self.writer_for(cx), ino, 0, |_| length, op).await? {
                Truncated::Done(attr) => return Ok(attr),
                Truncated::Partly(step) => swept = step,
            }
        }
    }

    pub(super) async fn allocate(
        &self,
        cx: &Caller,
        ino: Ino,
        mode: FallocateMode,
        off: u64,
        size: u64,
    ) -> MetaResult<Attr> {
        self.writable()?;
        let scope = self.scope(cx);
        let keeps = match mode {
            FallocateMode::Allocate { keep_size } | FallocateMode::ZeroRange { keep_size } => keep_size,
            FallocateMode::PunchHole => true,
        };
        let new_length = |attr: &Attr| if keeps { attr.length } else { attr.length.max(off.saturating_add(size)) };
        let free_bytes = self.known_usage().available_bytes;
        let mut upto = u64::MAX;
        loop {
            let op = |allowed| Fallocate { scope: scope.clone(), ino, mode, off, size, upto, allowed, free_bytes };
            match self.run_growing(self.writer_for(cx), ino, 0, new_length, op).await? {
                (attr, None) => return Ok(attr),
                (_, Some(left)) => upto = left,
            }
        }
    }

    pub(super) async fn copy_range(
        &self,
        cx: &Caller,
        (from, from_off): (Ino, u64),
        (to, to_off): (Ino, u64),
        size: u64,
    ) -> MetaResult<Copied> {
        self.writable()?;
        let scope = self.scope(cx);
        let op = |allowed| CopyRange { scope: scope.clone(), from, from_off, to, to_off, size, allowed };
        // How much the source has is only known inside; what it needs is told by the first try.
        self.run_growing(self.writer_for(cx), to, 0, |attr| attr.length, op).await
    }

    pub(super) async fn take_slice_id(&self) -> MetaResult<SliceId> {
        self.writable()?;
        Ok(SliceId(self.slices.take().await?))
    }

    pub(super) async fn compaction_plan(&self, ino: Ino, index: ChunkIndex) -> MetaResult<Option<CompactionPlan>> {
        let read = self.transactor.fetch(&[Key::Chunk(ino, index)]).await?;
        Ok(plan_compaction(read.chunk(ino, index), self.engine.caps().max_compact_records))
    }

    pub(super) async fn compact(
        &self,
        ino: Ino,
        index: ChunkIndex,
        plan: &CompactionPlan,
        slice: SliceId,
    ) -> MetaResult<Compacted> {
        self.writable()?;
        let (trash, now) = (self.setting().has_trash(), self.config.clock.now());
        self.run(CommitCompaction { ino, index, plan: plan.clone(), slice, trash, now }).await
    }
}
