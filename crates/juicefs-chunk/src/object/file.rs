//! This store keeps objects as files below a directory (format: data.md §1.9).
//!
//! An object appears by rename, so that a reader sees all of it or none. Nothing is fsynced: a crash of the process loses
//! nothing, and a crash of the machine loses what the kernel had not written. Small objects are read and written on the
//! calling thread, because that takes a few microseconds in the page cache, which is less than a hop to another thread.
//! Larger objects, and reads that would wait for the disk, go to the blocking pool.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io,
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
    time::UNIX_EPOCH,
};

use async_trait::async_trait;
use bytes::Bytes;
use juicefs_core::{ObjectStorage, Segments, StorageError, Timestamp, buffer::segments_len, store::ObjectInfo};

use crate::{pool::PoolBuf, sys};

mod listing;

/// Objects up to this size are handled on the calling thread.
const INLINE_BYTES: usize = 128 << 10;
/// A temporary name keeps this much of the object's name.
const TEMP_NAME_BYTES: usize = 200;

/// Keeps objects as files below one directory.
#[derive(Debug)]
pub struct FileStorage {
    root: String,
}

impl FileStorage {
    /// Makes a store below `root`: in that directory when it ends in `/`, otherwise in all paths that begin with it.
    #[must_use]
    pub fn new(root: &str) -> Self {
        Self { root: root.to_owned() }
    }

    fn path(&self, key: &str) -> Result<PathBuf, StorageError> {
        let mut depth = 0_i64;
        for part in Path::new(key).components() {
            match part {
                Component::Normal(_) => depth += 1,
                Component::ParentDir => depth -= 1,
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
            if depth < 0 {
                return Err(StorageError::Permanent(format!("key {key} leaves the directory {}", self.root)));
            }
        }
        Ok(PathBuf::from([&self.root, key.trim_start_matches('/')].concat()))
    }
}

#[async_trait]
impl ObjectStorage for FileStorage {
    fn describe(&self) -> String {
        format!("file://{}", self.root)
    }

    async fn create(&self) -> Result<(), StorageError> {
        let root = Path::new(&self.root);
        let dir = if self.root.ends_with('/') { root } else { root.parent().unwrap_or(root) };
        fs::create_dir_all(dir).map_err(|e| failure(&e, dir))
    }

    async fn get(&self, key: &str, range: Option<(u64, u64)>) -> Result<Segments, StorageError> {
        let path = self.path(key)?;
        let file = File::open(&path).map_err(|e| failure(&e, &path))?;
        let meta = file.metadata().map_err(|e| failure(&e, &path))?;
        let size = if meta.is_dir() { 0 } else { meta.len() };
        let (off, len) = range.unwrap_or((0, size));
        let len = usize::try_from(len.min(size.saturating_sub(off)))
            .map_err(|_| StorageError::Permanent(format!("{} is too large", path.display())))?;
        if len == 0 {
            return Ok(Segments::new());
        }
        let mut buf = PoolBuf::with_capacity(len);
        // Cached pages come at once; whatever would wait for the disk does so elsewhere.
        if len <= INLINE_BYTES {
            sys::read_cached(&file, buf.as_mut_vec(), len, off);
        }
        if buf.len() < len {
            buf = blocking(move || {
                sys::read_rest(&file, buf.as_mut_vec(), len, off).map_err(|e| failure(&e, &path))?;
                Ok(buf)
            })
            .await?;
        }
        Ok(Segments::from_iter([Bytes::from_owner(buf)]))
    }

    async fn put(&self, key: &str, body: Segments) -> Result<(), StorageError> {
        let path = self.path(key)?;
        if key.ends_with('/') {
            return fs::create_dir_all(&path).map_err(|e| failure(&e, &path));
        }
        if segments_len(&body) <= INLINE_BYTES {
            store(&path, &body).map_err(|e| failure(&e, &path))
        } else {
            blocking(move || store(&path, &body).map_err(|e| failure(&e, &path))).await
        }
    }

    fn file_path(&self, key: &str) -> Option<PathBuf> {
        self.path(key).ok()
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        let path = self.path(key)?;
        blocking(move || {
            let done = match fs::remove_file(&path) {
                Err(e) if e.kind() == io::ErrorKind::IsADirectory => fs::remove_dir(&path),
                other => other,
            };
            match done {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failure(&e, &path)),
                _ => Ok(()),
            }
        })
        .await
    }

    async fn head(&self, key: &str) -> Result<ObjectInfo, StorageError> {
        let path = self.path(key)?;
        let meta = fs::metadata(&path).map_err(|e| failure(&e, &path))?;
        Ok(info(key.to_owned(), &meta))
    }

    async fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<ObjectInfo>, StorageError> {
        self.path(prefix)?;
        let (root, prefix, after) = (self.root.clone(), prefix.to_owned(), after.to_owned());
        blocking(move || listing::list(&root, &prefix, &after, limit)).await
    }
}

/// Does `work` on the blocking pool.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) => Err(StorageError::Transient(format!("file task: {e}"))),
    }
}

/// Writes the body beside `path` and renames it over, making missing directories.
fn store(path: &Path, body: &[Bytes]) -> io::Result<()> {
    let temp = temp_path(path);
    let done = create(&temp).and_then(|mut file| {
        sys::write_all(&mut file, body)?;
        sys::close(file)?;
        fs::rename(&temp, path)
    });
    if done.is_err() {
        let _ = fs::remove_file(&temp);
    }
    done
}

fn create(temp: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    match options.open(temp) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            if let Some(dir) = temp.parent() {
                fs::create_dir_all(dir)?;
            }
            options.open(temp)
        }
        other => other,
    }
}

fn temp_path(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let name = &name[..name.len().min(TEMP_NAME_BYTES)];
    let random = rand::random::<u32>().to_string();
    path.with_file_name(OsStr::from_bytes(&[b".jfs.", name, b".tmp.", random.as_bytes()].concat()))
}

/// Sorts an error by what the caller must do.
fn failure(e: &io::Error, path: &Path) -> StorageError {
    let text = format!("{}: {e}", path.display());
    match e.kind() {
        io::ErrorKind::NotFound => StorageError::NotFound(text),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StorageError::NoSpace(text),
        io::ErrorKind::PermissionDenied
        | io::ErrorKind::ReadOnlyFilesystem
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::InvalidFilename
        | io::ErrorKind::FileTooLarge => StorageError::Permanent(text),
        _ => StorageError::Transient(text),
    }
}

fn info(key: String, meta: &fs::Metadata) -> ObjectInfo {
    let mtime = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let nanos = i128::try_from(mtime.as_nanos()).unwrap_or_default();
    ObjectInfo { key, size: if meta.is_dir() { 0 } else { meta.len() }, mtime: Timestamp::from_nanos(nanos) }
}

#[cfg(test)]
mod tests;
