//! Prepares the process of a mount: its descriptors, its priority, and that it is not killed for memory. It is no error
//! when some of that fails. It is done before any thread starts, because threads inherit it.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

const WANTED_FILES: u64 = 100_000;

/// Prepares the process that serves a mount.
pub(crate) fn prepare(disable_huge_pages: bool) {
    raise_file_limit();
    if nix::unistd::geteuid().is_root() {
        if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-1000") {
            tracing::debug!("cannot protect the process from the OOM killer: {error}");
        }
        set_io_flusher();
        if let Err(error) = rustix::process::setpriority_process(None, -19) {
            tracing::debug!("cannot raise the priority: {error}");
        }
    }
    if disable_huge_pages {
        // SAFETY: PR_SET_THP_DISABLE takes integers only and touches no memory of ours.
        let failed = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) } != 0;
        if failed {
            tracing::warn!("cannot turn off transparent huge pages: {}", std::io::Error::last_os_error());
        }
    }
}

fn raise_file_limit() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    // Root may raise the hard limit; others go as far as it allows.
    let tries = [(WANTED_FILES, hard.max(WANTED_FILES)), (hard.min(WANTED_FILES), hard)];
    if soft < WANTED_FILES && !tries.iter().any(|(soft, hard)| setrlimit(Resource::RLIMIT_NOFILE, *soft, *hard).is_ok())
    {
        tracing::warn!("cannot raise the limit of open files above {soft}");
    }
}

/// Tells the kernel that this process writes for others, so that it never waits for this very mount to free memory.
fn set_io_flusher() {
    const PR_SET_IO_FLUSHER: libc::c_int = 57;
    // SAFETY: takes integers only and touches no memory of ours.
    if unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) } != 0 {
        tracing::debug!("cannot become an I/O flusher: {}", std::io::Error::last_os_error());
    }
}
