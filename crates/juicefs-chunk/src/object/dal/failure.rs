//! Errors of OpenDAL are sorted by what the caller must do.

use std::{error::Error, io};

use juicefs_core::StorageError;
use opendal::ErrorKind;

use crate::object::http::{Outcome, Refusal};

/// Sorts an error. `key` names what was asked for, and `place` the store that was asked.
pub(in crate::object) fn failure(e: &opendal::Error, key: &str, place: &str) -> StorageError {
    if let Some(refusal) = find::<Refusal>(e) {
        return refusal.error(key, place);
    }
    if let Some(why) = find::<rustls::Error>(e) {
        return certificate(why, place);
    }
    if let Some(sign) = find::<reqsign_core::Error>(e) {
        return unsigned(sign, place);
    }
    if find::<reqwest::Error>(e).is_some() {
        return StorageError::Transient(format!("{place} cannot be reached for {key}: {}", root(e)));
    }
    let text = format!("{key}: {e}");
    match e.kind() {
        ErrorKind::NotFound => StorageError::NotFound(text),
        ErrorKind::PermissionDenied
        | ErrorKind::Unsupported
        | ErrorKind::ConfigInvalid
        | ErrorKind::IsADirectory
        | ErrorKind::NotADirectory => StorageError::Permanent(text),
        _ if is_full(e) => StorageError::NoSpace(text),
        _ => StorageError::Transient(text),
    }
}

/// Whether a range may have been refused because it passes the end of the object.
pub(super) fn may_be_past_the_end(e: &opendal::Error) -> bool {
    match find::<Refusal>(e) {
        Some(refusal) => refusal.outcome() == Outcome::Range,
        None => {
            matches!(e.kind(), ErrorKind::RangeNotSatisfied | ErrorKind::Unexpected)
                && find::<reqwest::Error>(e).is_none()
        }
    }
}

impl Refusal {
    /// Finds the refusal that an error comes from.
    pub(in crate::object) fn of(e: &opendal::Error) -> Option<&Self> {
        find(e)
    }
}

/// Sorts an error of TLS: some will not go away however often it is tried, and others are broken connections.
fn certificate(why: &rustls::Error, place: &str) -> StorageError {
    match why {
        rustls::Error::InvalidCertificate(why) => StorageError::Permanent(format!(
            "the certificate of {place} is not trusted: {why}; ca-certs in --bucket names its authority"
        )),
        rustls::Error::InvalidMessage(_) => {
            StorageError::Permanent(format!("{place} does not speak TLS; use http:// for it"))
        }
        other => StorageError::Transient(format!("TLS with {place} failed: {other}")),
    }
}

/// Sorts the error that there are no keys. A service of this machine that gives them out may do so later, and it is only
/// from there that keys can be missing. A mount must live through such a gap.
pub(in crate::object) fn unsigned(why: &reqsign_core::Error, place: &str) -> StorageError {
    let text = format!("there are no keys for {place}: give them with --access-key and --secret-key ({why})");
    match why.kind() {
        reqsign_core::ErrorKind::ConfigInvalid => StorageError::Permanent(text),
        _ => StorageError::Transient(text),
    }
}

/// The first cause of type `T`, also inside of I/O errors.
fn find<'a, T: Error + 'static>(e: &'a opendal::Error) -> Option<&'a T> {
    let mut cause: Option<&'a (dyn Error + 'static)> = e.source();
    while let Some(inner) = cause {
        if let Some(found) = inner.downcast_ref::<T>() {
            return Some(found);
        }
        cause = match inner.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => inner.source(),
        };
    }
    None
}

/// The last cause, which is what people need to know.
fn root(e: &opendal::Error) -> String {
    let mut last: &dyn Error = e;
    while let Some(inner) = last.source() {
        last = inner;
    }
    last.to_string()
}

/// Whether an I/O error at the root of `e` says that the disk is full.
fn is_full(e: &opendal::Error) -> bool {
    find::<io::Error>(e)
        .is_some_and(|io| matches!(io.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
}
