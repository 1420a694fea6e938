//! The tokio runtimes of commands and of mounts.

use std::num::NonZero;

use anyhow::{Context, Result};
use tokio::runtime::{Builder, Runtime};

/// How many workers a runtime has at most. More only add hops, because the reader threads of the mount answer what is fast.
const MOST_WORKERS: usize = 4;
/// The size of a stack. Only pages that are touched count as memory.
const STACK_BYTES: usize = 2 << 20;

/// A runtime for a command that ends soon.
///
/// # Errors
/// When the system has no descriptors left.
pub(crate) fn of_command() -> Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("starting the runtime")
}

/// The runtime of a mount.
///
/// # Errors
/// When the system has no threads or descriptors left.
pub(crate) fn of_mount() -> Result<Runtime> {
    let cpus = std::thread::available_parallelism().map_or(2, NonZero::get);
    Builder::new_multi_thread()
        .worker_threads(cpus.clamp(1, MOST_WORKERS))
        .thread_stack_size(STACK_BYTES)
        .thread_name("juicefs-worker")
        .enable_all()
        .build()
        .context("starting the runtime")
}
