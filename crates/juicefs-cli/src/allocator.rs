//! The allocator of the process (`docs/adr/0006-allocator.md`). It is the allocator of the system with few arenas, or
//! mimalloc with the feature of that name, to compare.

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many arenas the allocator of the system has. Each keeps freed memory of its own, and readers rarely allocate at
/// the same time.
#[cfg(all(target_env = "gnu", not(feature = "mimalloc")))]
const MOST_ARENAS: usize = 4;

/// Bounds how much freed memory the allocator of the system holds back. It is to be called before the first thread starts.
pub(crate) fn tune() {
    #[cfg(all(target_env = "gnu", not(feature = "mimalloc")))]
    if std::env::var_os("MALLOC_ARENA_MAX").is_none() {
        let cpus = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let arenas = libc::c_int::try_from(cpus.clamp(2, MOST_ARENAS)).unwrap_or(2);
        // SAFETY: takes two integers; only reads and writes settings of the allocator, and no other thread exists yet.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, arenas) };
    }
}
