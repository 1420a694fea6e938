//! A layer between SQLite and the operating system that writes a commit to the log with one call.
//!
//! SQLite writes each page of a commit to its write-ahead log with two calls, which was a third of the cost of a small
//! transaction. This VFS passes everything through but writes to the log file of the connection that uses it: they are
//! gathered, and go out together when SQLite asks for the log to be synced, which it does once all pages of a commit are
//! written and before any connection can see them. That sync is what `synchronous=FULL` adds to `NORMAL`: it is
//! asked for here only to be told the moment, and a failed write fails the commit. Syncs that `NORMAL` has too (the log's
//! header, checkpoints) are marked by `checkpoint_fullfsync` and are passed on. See `docs/adr/0002-driving-sqlite.md`.

use std::{
    ffi::{CStr, c_int, c_void},
    mem::size_of,
    ptr,
    sync::{
        OnceLock,
        atomic::{AtomicPtr, Ordering},
    },
};

use rusqlite::ffi::{self, sqlite3_file, sqlite3_int64, sqlite3_io_methods, sqlite3_vfs};

/// Gathered bytes beyond this go out at once.
const GATHER_BYTES: usize = 256 << 10;
/// Most bytes of one write: the base VFS takes less than 128 KiB at a time.
const WRITE_BYTES: usize = 64 << 10;
/// Memory kept between commits.
const KEPT_BYTES: usize = 64 << 10;
/// The end of a commit is filled up to this, so that the file system need not read the block that it ends in. What
/// follows the last commit of a log is never looked at.
const BLOCK_BYTES: usize = 4096;

const NAME: &CStr = c"juicefs-gathered-log";

/// The VFS that SQLite uses by itself.
static BASE: AtomicPtr<sqlite3_vfs> = AtomicPtr::new(ptr::null_mut());

/// Registers the VFS. Returns its name for opening a connection, `None` when SQLite does not take it.
pub(super) fn vfs() -> Option<&'static CStr> {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    REGISTERED.get_or_init(register).then_some(NAME)
}

fn register() -> bool {
    // SAFETY: SQLite is initialised by the first call; the base VFS lives as long as the process, and so does ours,
    // which is leaked. Apart from opening it is a copy of the base, whose functions work on the copied fields.
    unsafe {
        let base = ffi::sqlite3_vfs_find(ptr::null());
        if base.is_null() {
            return false;
        }
        BASE.store(base, Ordering::Release);
        let size = (*base).szOsFile.max(size_of::<LogFile>() as c_int);
        let ours =
            sqlite3_vfs { szOsFile: size, pNext: ptr::null_mut(), zName: NAME.as_ptr(), xOpen: Some(open), ..*base };
        ffi::sqlite3_vfs_register(Box::into_raw(Box::new(ours)), 0) == ffi::SQLITE_OK
    }
}

/// What SQLite holds for an open log.
#[repr(C)]
struct LogFile {
    methods: *const sqlite3_io_methods,
    log: *mut Log,
}

/// An open log and what was not written to it yet.
struct Log {
    /// The file of the base VFS, in memory of its alignment.
    file: Box<[u64]>,
    gathered: Vec<u8>,
    /// Where in the log the gathered bytes belong.
    start: sqlite3_int64,
    /// End of what this commit has written so far.
    reached: sqlite3_int64,
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    // Version 1: a log is never mapped, and shared memory belongs to the database file.
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

unsafe extern "C" fn open(
    _: *mut sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    let base = BASE.load(Ordering::Acquire);
    // SAFETY: `register` stored the base before SQLite could call this. `file` is memory of our `szOsFile`, enough for
    // a file of the base and for a `LogFile`.
    unsafe {
        let Some(base_open) = (*base).xOpen else { return ffi::SQLITE_CANTOPEN };
        if flags & ffi::SQLITE_OPEN_WAL == 0 {
            return base_open(base, name, file, flags, out);
        }
        let words = usize::try_from((*base).szOsFile).unwrap_or(0).div_ceil(size_of::<u64>());
        let mut log = Box::new(Log { file: vec![0; words].into(), gathered: Vec::new(), start: 0, reached: 0 });
        // Without methods SQLite does not close what could not be opened.
        (*file).pMethods = ptr::null();
        let code = base_open(base, name, log.file(), flags, out);
        if code != ffi::SQLITE_OK {
            log.close();
            return code;
        }
        let file = file.cast::<LogFile>();
        (*file).log = Box::into_raw(log);
        (*file).methods = &raw const METHODS;
        ffi::SQLITE_OK
    }
}

/// Calls a method of the base file.
macro_rules! base {
    ($log:expr, $method:ident $(, $arg:expr)*) => {{
        let file = $log.file();
        // SAFETY: the base file is open, and the arguments are those of SQLite's own call or point to live memory.
        unsafe {
            match (*file).pMethods.as_ref().and_then(|methods| methods.$method) {
                Some(method) => method(file $(, $arg)*),
                None => ffi::SQLITE_IOERR,
            }
        }
    }};
}

impl Log {
    fn file(&mut self) -> *mut sqlite3_file {
        self.file.as_mut_ptr().cast()
    }

    fn end(&self) -> sqlite3_int64 {
        self.start + self.gathered.len() as sqlite3_int64
    }

    fn gather(&mut self, bytes: &[u8], at: sqlite3_int64) -> c_int {
        if at != self.end() || self.gathered.len() + bytes.len() > GATHER_BYTES {
            let code = self.write_out();
            if code != ffi::SQLITE_OK {
                return code;
            }
            self.start = at;
        }
        self.gathered.extend_from_slice(bytes);
        ffi::SQLITE_OK
    }

    /// Writes what was gathered. After a failure it is forgotten: SQLite undoes the transaction.
    fn write_out(&mut self) -> c_int {
        if self.gathered.is_empty() {
            return ffi::SQLITE_OK;
        }
        let (start, end) = (self.start, self.end());
        let bytes = std::mem::take(&mut self.gathered);
        let mut code = ffi::SQLITE_OK;
        let mut at = start;
        for piece in bytes.chunks(WRITE_BYTES) {
            code = base!(self, xWrite, piece.as_ptr().cast(), piece.len() as c_int, at);
            if code != ffi::SQLITE_OK {
                break;
            }
            at += piece.len() as sqlite3_int64;
        }
        self.gathered = bytes;
        self.gathered.clear();
        self.gathered.shrink_to(KEPT_BYTES);
        self.start = end;
        self.reached = self.reached.max(end);
        code
    }

    /// Writes the end of a commit.
    fn write_commit(&mut self) -> c_int {
        let end = self.end();
        // Only where nothing of this commit follows.
        if !self.gathered.is_empty() && end >= self.reached {
            let beyond = usize::try_from(end).unwrap_or(0) % BLOCK_BYTES;
            if beyond != 0 {
                self.gathered.resize(self.gathered.len() + BLOCK_BYTES - beyond, 0);
            }
        }
        let code = self.write_out();
        self.start = end;
        self.reached = 0;
        code
    }

    fn close(&mut self) -> c_int {
        let file = self.file();
        // SAFETY: the base file is open, or has no methods because it never was.
        unsafe {
            match (*file).pMethods.as_ref().and_then(|methods| methods.xClose) {
                Some(close) => close(file),
                None => ffi::SQLITE_OK,
            }
        }
    }
}

/// The log of a file that [`open`] made.
///
/// # Safety
/// `file` must be such a file, open, and not in use by another call: SQLite makes one call at a time on a file.
unsafe fn log<'file>(file: *mut sqlite3_file) -> &'file mut Log {
    // SAFETY: by the contract of this function.
    unsafe { &mut *(*file.cast::<LogFile>()).log }
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    // SAFETY: SQLite closes a file once; `log` came from a box. What is still gathered belongs to no commit.
    unsafe {
        let mut log = Box::from_raw((*file.cast::<LogFile>()).log);
        (*file).pMethods = ptr::null();
        log.close()
    }
}

unsafe extern "C" fn read(file: *mut sqlite3_file, into: *mut c_void, length: c_int, at: sqlite3_int64) -> c_int {
    // SAFETY: SQLite calls this on an open log.
    let log = unsafe { log(file) };
    match log.write_out() {
        ffi::SQLITE_OK => base!(log, xRead, into, length, at),
        failed => failed,
    }
}

unsafe extern "C" fn write(file: *mut sqlite3_file, from: *const c_void, length: c_int, at: sqlite3_int64) -> c_int {
    // SAFETY: SQLite calls this on an open log, with that many bytes.
    unsafe {
        let bytes = std::slice::from_raw_parts(from.cast::<u8>(), usize::try_from(length).unwrap_or(0));
        log(file).gather(bytes, at)
    }
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, size: sqlite3_int64) -> c_int {
    // SAFETY: SQLite calls this on an open log.
    let log = unsafe { log(file) };
    match log.write_out() {
        ffi::SQLITE_OK => base!(log, xTruncate, size),
        failed => failed,
    }
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: SQLite calls this on an open log.
    let log = unsafe { log(file) };
    // FULL marks the syncs that must reach the disk, NORMAL the end of a commit.
    if flags & 0xF != ffi::SQLITE_SYNC_FULL {
        return log.write_commit();
    }
    match log.write_out() {
        ffi::SQLITE_OK => base!(log, xSync, flags),
        failed => failed,
    }
}

unsafe extern "C" fn file_size(file: *mut sqlite3_file, size: *mut sqlite3_int64) -> c_int {
    // SAFETY: SQLite calls this on an open log.
    let log = unsafe { log(file) };
    match log.write_out() {
        ffi::SQLITE_OK => base!(log, xFileSize, size),
        failed => failed,
    }
}

/// Methods that have nothing to do with what was gathered.
macro_rules! passed_on {
    ($($name:ident $method:ident ($($arg:ident: $kind:ty),*);)*) => {
        $(unsafe extern "C" fn $name(file: *mut sqlite3_file $(, $arg: $kind)*) -> c_int {
            // SAFETY: SQLite calls this on an open log.
            let log = unsafe { log(file) };
            base!(log, $method $(, $arg)*)
        })*
    };
}

passed_on! {
    lock xLock(level: c_int);
    unlock xUnlock(level: c_int);
    check_reserved_lock xCheckReservedLock(out: *mut c_int);
    file_control xFileControl(operation: c_int, argument: *mut c_void);
    sector_size xSectorSize();
    device_characteristics xDeviceCharacteristics();
}
