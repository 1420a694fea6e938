//! The directories that are open. Whoever lists one learns of its changes, and keeps its attributes when it is removed.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use juicefs_core::{Attr, Ino};
use parking_lot::Mutex;

use crate::dir::{Change, DirHandle};

/// How many directories are remembered whose attributes were seen lately.
const RECENT: usize = 64;

/// Directories that are being listed.
#[derive(Default)]
pub(crate) struct OpenDirs {
    dirs: Mutex<HashMap<Ino, Vec<Arc<DirHandle>>>>,
    count: AtomicUsize,
    /// Attributes that were seen before the directory is opened. A directory is looked up just before that.
    recent: Mutex<HashMap<u64, (Ino, Attr)>>,
}

impl OpenDirs {
    pub(crate) fn add(&self, dir: &Arc<DirHandle>) {
        let recent = self.recent.lock().get(&(dir.ino.0 % RECENT as u64)).cloned();
        dir.set_last_attr(recent.filter(|(ino, _)| *ino == dir.ino).map(|(_, attr)| attr));
        self.dirs.lock().entry(dir.ino).or_default().push(Arc::clone(dir));
        self.count.fetch_add(1, Ordering::AcqRel);
    }

    /// Remembers the attributes of a directory.
    pub(crate) fn seen(&self, ino: Ino, attr: &Attr) {
        self.recent.lock().insert(ino.0 % RECENT as u64, (ino, attr.clone()));
        if self.count.load(Ordering::Acquire) > 0 {
            for dir in self.dirs.lock().get(&ino).into_iter().flatten() {
                dir.set_last_attr(Some(attr.clone()));
            }
        }
    }

    /// Attributes of a directory that was removed while it is open here.
    pub(crate) fn removed_attr(&self, ino: Ino) -> Option<Attr> {
        let dirs = self.dirs.lock();
        let attr = dirs.get(&ino)?.iter().find_map(|dir| dir.last_attr())?;
        Some(Attr { nlink: 0, ..attr })
    }

    pub(crate) fn remove(&self, dir: &Arc<DirHandle>) {
        let mut dirs = self.dirs.lock();
        if let Some(handles) = dirs.get_mut(&dir.ino) {
            handles.retain(|handle| !Arc::ptr_eq(handle, dir));
            if handles.is_empty() {
                dirs.remove(&dir.ino);
            }
            self.count.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Tells everyone who lists `dir` what became of `name`.
    pub(crate) fn changed(&self, dir: Ino, name: &[u8], change: Change) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let handles = self.dirs.lock().get(&dir).cloned().unwrap_or_default();
        if handles.is_empty() {
            return;
        }
        let name = Bytes::copy_from_slice(name);
        for handle in handles {
            handle.note(&name, change);
        }
    }
}
