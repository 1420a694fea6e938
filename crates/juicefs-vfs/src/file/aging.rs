//! A file with dirty data, as the table of such files handles it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use juicefs_core::Errno;
use tokio::time::Instant;

use super::File;
use crate::dirty::Dirty;

#[async_trait]
impl Dirty for File {
    fn open_bytes(&self) -> usize {
        self.writer.lock().open_bytes()
    }

    fn close_all(self: Arc<Self>) -> usize {
        let freed = self.writer.lock().freeze(|_, _| true);
        if freed.is_some() {
            self.kick();
        }
        freed.unwrap_or(0)
    }

    fn age_out(self: Arc<Self>, now: Instant, old: Duration, idle: Duration, again: Duration) {
        Self::age_out(&self, now, old, idle, again);
    }

    fn give_up(&self) {
        Self::give_up(self);
    }

    async fn flush(self: Arc<Self>) -> Result<(), Errno> {
        Self::flush(&self).await
    }
}
