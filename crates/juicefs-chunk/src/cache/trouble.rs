//! Tests let operations on a cache disk go wrong with this.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

/// Comes before every operation on a disk: it may take long, or fail in its place.
#[derive(Clone)]
pub(crate) struct Trouble(pub(super) Arc<dyn Fn() -> io::Result<()> + Send + Sync>);

impl fmt::Debug for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trouble")
    }
}

/// Tests run side by side, each with directories of its own.
static BY_ROOT: Mutex<Vec<(PathBuf, Trouble)>> = Mutex::new(Vec::new());

/// Caches over `root` that are opened from now on have this trouble.
pub(crate) fn set(root: &Path, trouble: impl Fn() -> io::Result<()> + Send + Sync + 'static) {
    BY_ROOT.lock().push((root.to_owned(), Trouble(Arc::new(trouble))));
}

pub(super) fn of(root: &Path) -> Option<Trouble> {
    BY_ROOT.lock().iter().find(|(known, _)| known == root).map(|(_, trouble)| trouble.clone())
}
