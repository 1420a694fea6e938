//! `juicefs version` shows the version.

use juicefs_core::version::CLIENT_VERSION;

/// The version as users and scripts read it.
pub(crate) fn text() -> String {
    format!("juicefs version {CLIENT_VERSION}")
}
