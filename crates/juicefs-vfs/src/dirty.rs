//! The table of all files with dirty data, whatever a file is. It flushes them by age, and makes room when memory is short.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use juicefs_core::{Budget, Errno, Share};
use parking_lot::Mutex;
use tokio::time::Instant;

/// Slices older than this are closed and committed.
const OLD: Duration = Duration::from_secs(5);
/// Slices that nobody wrote to for this long are closed and committed.
const IDLE: Duration = Duration::from_secs(1);
/// Slices that the store did not take are sent again after this long, whether or not somebody asks for it, because
/// others need the memory that they hold.
const AGAIN: Duration = Duration::from_secs(5);

/// A file that may have dirty data.
#[async_trait]
pub(crate) trait Dirty: Send + Sync {
    /// Bytes of open slices that closing them would set free.
    fn open_bytes(&self) -> usize;
    /// Closes all slices and starts to upload them. Returns the bytes that will be free then.
    fn close_all(self: Arc<Self>) -> usize;
    /// Closes slices that are older than `old` or idle for `idle`, and lets those go on that failed `again` ago.
    fn age_out(self: Arc<Self>, now: Instant, old: Duration, idle: Duration, again: Duration);
    /// Gives up data that the store or the metadata engine does not take, and notes the error.
    fn give_up(&self);
    /// Makes everything that was accepted so far durable. It fails with the error of data that is lost or not taken now.
    async fn flush(self: Arc<Self>) -> Result<(), Errno>;
}

/// Files that have pending slices. They are told apart by address, not by inode: one that is about to end stays apart
/// from another of the same inode that was opened meanwhile.
#[derive(Default)]
pub(crate) struct DirtyFiles {
    /// The files by address, which nothing else has for as long as the file is here.
    files: Mutex<HashMap<usize, Arc<dyn Dirty>>>,
}

impl DirtyFiles {
    /// Takes a file in.
    pub(crate) fn add(&self, file: Arc<dyn Dirty>) {
        self.files.lock().insert(Arc::as_ptr(&file).addr(), file);
    }

    /// Takes a file out.
    pub(crate) fn remove(&self, file: &dyn Dirty) {
        self.files.lock().remove(&std::ptr::from_ref(file).addr());
    }

    /// All dirty files of this moment.
    pub(crate) fn list(&self) -> Vec<Arc<dyn Dirty>> {
        self.files.lock().values().cloned().collect()
    }

    /// Makes one background pass, which closes what is old or idle and revives drains that nobody polls.
    pub(crate) fn age_out(&self) {
        let now = Instant::now();
        for file in self.list() {
            file.age_out(now, OLD, IDLE, AGAIN);
        }
    }

    /// Closes open slices, the largest files first, if they hold so much of the memory of writers that the uploads
    /// under way would not free `need` bytes soon.
    pub(crate) fn relieve(&self, budget: &Budget, need: usize) {
        let sized = |file: Arc<dyn Dirty>| (file.open_bytes(), file);
        let mut open: Vec<_> = self.list().into_iter().map(sized).collect();
        let total: usize = open.iter().map(|(bytes, _)| bytes).sum();
        if total < budget.used_by(Share::Write) / 2 {
            return;
        }
        open.sort_unstable_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        let goal = need.max(budget.cap_bytes() / 4);
        let mut freed = 0;
        for (_, file) in open {
            if freed >= goal {
                break;
            }
            freed += file.close_all();
        }
    }

    /// Closes everything. This is for the case that nothing moved although somebody waits for memory.
    pub(crate) fn close_all(&self) {
        for file in self.list() {
            file.close_all();
        }
    }
}
