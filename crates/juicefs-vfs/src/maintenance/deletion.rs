//! How the data of removed files and slices is deleted.

use std::sync::Arc;

use futures_util::StreamExt;
use juicefs_core::{MetaError, SliceKey};
use tokio::sync::{Semaphore, mpsc};

use crate::{context::Context, upkeep::Garbage};

/// How many slices of one file are deleted side by side.
const PARALLEL_SLICES: usize = 8;

impl Context {
    /// Deletes what is queued, `--max-deletes` at a time.
    pub(super) async fn deletions(self: Arc<Self>, mut queue: mpsc::Receiver<Garbage>) {
        let slots = Arc::new(Semaphore::new(self.upkeep.max_deletes));
        while let Some(garbage) = queue.recv().await {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let cx = Arc::clone(&self);
            self.tasks.spawn_until_stopped("deletion", async move {
                cx.delete(garbage).await;
                drop(slot);
            });
        }
    }

    /// Queues something, and waits while the queue is full, so that the hourly jobs go on no faster than the deletion.
    pub(super) async fn queue_garbage(&self, garbage: Garbage) {
        if self.upkeep.max_deletes > 0 {
            // The receiver ends with the mount only.
            let _ = self.upkeep.garbage.send(garbage).await;
        }
    }

    pub(super) async fn delete(&self, garbage: Garbage) {
        match garbage {
            Garbage::File(file) => match self.meta.delete_file_data(file).await {
                Ok(slices) => {
                    futures_util::stream::iter(slices)
                        .for_each_concurrent(PARALLEL_SLICES, |slice| self.delete_dead(slice))
                        .await;
                }
                Err(MetaError::Fenced) => {}
                Err(error) => tracing::warn!(ino = %file.ino, %error, "data of a removed file is left for later"),
            },
            Garbage::Dead(slice) => self.delete_dead(slice).await,
            Garbage::Uncommitted(slice) => {
                if let Err(error) = self.chunks.remove(slice).await {
                    tracing::warn!(id = %slice.id, %error, "objects of an unused slice are left for gc");
                }
            }
        }
    }

    /// Deletes a slice. The record goes last, so that a failure in between is found again.
    pub(super) async fn delete_dead(&self, slice: SliceKey) {
        if let Err(error) = self.chunks.remove(slice).await {
            tracing::warn!(id = %slice.id, %error, "objects of a deleted slice are left for later");
            return;
        }
        match self.meta.forget_slice(slice).await {
            Ok(()) | Err(MetaError::Fenced) => {}
            Err(error) => tracing::warn!(id = %slice.id, %error, "record of a deleted slice is left for later"),
        }
    }
}
