//! Civil time in the time zone of this machine, for logs and for what people read.

use juicefs_core::{Timestamp, civil::CivilTime};

/// The moment `at` as clocks in the time zone of this machine show it.
#[must_use]
pub fn local_time(at: Timestamp) -> CivilTime {
    let mut zoned = std::mem::MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are to live values of the right type. localtime_r is thread-safe; when it fails it leaves zero
    // bytes, which are a valid value of integers and a pointer that may be null, and stand for UTC.
    let offset_secs = unsafe {
        libc::localtime_r(&raw const at.secs, zoned.as_mut_ptr());
        zoned.assume_init().tm_gmtoff
    };
    CivilTime::at(at, offset_secs)
}
