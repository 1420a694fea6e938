//! The follower, by which a running mount takes up what `config` changes: the object storage with its keys and class,
//! and the bandwidths.
//!
//! It reads the setting with each heartbeat, and at once when the storage refuses, because keys are mostly withdrawn
//! right after they were replaced.

use std::sync::{Arc, Weak};

use juicefs_chunk::Store;
use juicefs_core::Format;
use juicefs_meta::Client;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::settings;
use crate::{config::resolved::MountConfig, volume::open_blocks};

/// The task that follows the setting.
pub(super) struct Follower {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Follower {
    /// Starts to follow the setting; `used` is the one that `store` was opened with, as this client uses it. Needs a runtime
    /// around it.
    pub(super) fn start(meta: Arc<Client>, store: &Arc<Store>, config: MountConfig, used: Format) -> Self {
        let following = Arc::new(Following { meta, store: Arc::downgrade(store), config, used: Mutex::new(used) });
        let refused = Arc::clone(&following);
        store.renew_by(Box::new(move || Box::pin(Arc::clone(&refused).look())));
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            stopped.run_until_cancelled(following.follow()).await;
        });
        Self { stop, task }
    }

    /// Ends the task and waits for its end.
    pub(super) async fn end(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!("following the setting ended early: {error}");
        }
    }
}

/// The state of the follower.
struct Following {
    meta: Arc<Client>,
    /// The store. It is weak, because the store owns this follower as its way to look for new keys.
    store: Weak<Store>,
    config: MountConfig,
    /// The setting that the store is opened with.
    used: Mutex<Format>,
}

impl Following {
    async fn follow(self: Arc<Self>) {
        let mut setting = self.meta.watch_setting();
        // It may have changed since the store was opened.
        setting.mark_changed();
        while setting.changed().await.is_ok() {
            setting.mark_unchanged();
            self.take_up();
        }
    }

    /// Reads the setting now.
    async fn look(self: Arc<Self>) {
        match self.meta.reload_setting().await {
            Ok(()) => self.take_up(),
            // The heartbeat sees it too, and knows what to do.
            Err(error) => tracing::warn!("the setting cannot be read: {error}"),
        }
    }

    /// Puts in force what is new in the setting. If that cannot be used, things stay as they are.
    fn take_up(&self) {
        let Some(store) = self.store.upgrade() else { return };
        // One at a time, and the setting is asked for within: the later one must be the one that stays.
        let mut used = self.used.lock();
        let stored = Arc::clone(&self.meta.watch_setting().borrow());
        let format = match settings::overridden(&stored, &self.config.overrides) {
            Ok(format) => format,
            Err(error) => return tracing::error!("the changed setting is not taken up: {error:#}"),
        };
        let (upload, download) = settings::limits(&self.config, &format);
        if settings::limits(&self.config, &used) != (upload, download) {
            tracing::info!(
                "bandwidths are now {upload} Mbps for uploads and {download} Mbps for downloads, 0 for no limit"
            );
            store.set_limits(upload, download);
        }
        if !is_same_place(&used, &format) {
            match open_blocks(&format) {
                Ok(blocks) => {
                    tracing::info!("the setting has changed: requests go to {} from now on", blocks.describe());
                    store.use_storage(&format.storage, blocks);
                }
                Err(error) => {
                    tracing::error!("the changed object storage cannot be used, the former stays: {error:#}");
                    // A later setting is compared with the one in force.
                    let (up, down) = (format.upload_limit, format.download_limit);
                    (used.upload_limit, used.download_limit) = (up, down);
                    return;
                }
            }
        }
        *used = format;
    }
}

/// Whether both settings lead to the same objects by the same keys, and store new ones in the same way.
fn is_same_place(a: &Format, b: &Format) -> bool {
    let place = |f: &Format| {
        let texts = [&f.name, &f.storage, &f.bucket, &f.access_key, &f.secret_key, &f.session_token, &f.storage_class];
        (texts.map(Clone::clone), f.shards, f.tiers.clone())
    };
    place(a) == place(b)
}
