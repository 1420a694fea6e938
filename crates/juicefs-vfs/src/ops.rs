//! The operations of [`Vfs`](crate::Vfs), sorted by what they work on.

mod attrs;
mod dirs;
mod files;
mod flags;
mod layout;
mod leaving;
mod locks;
mod names;
mod set_id;
mod xattrs;

use juicefs_core::{Errno, limits::MAX_NAME_BYTES};

/// Fails with ENAMETOOLONG for names that no directory can hold.
fn check_name(name: &[u8]) -> Result<(), Errno> {
    if name.len() > MAX_NAME_BYTES { Err(Errno::ENAMETOOLONG) } else { Ok(()) }
}
