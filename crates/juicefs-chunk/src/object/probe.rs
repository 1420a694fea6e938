//! `format` and `mount --check-storage` try a store with these functions before they trust it (format: data.md §1.5).
//!
//! Each takes the store of a volume as [`super::open_storage`] returns it, with keys relative to the volume.

use std::time::Duration;

use bytes::Bytes;
use juicefs_core::{ObjectStorage, Segments, StorageError};
use rand::{Rng, distr::Alphanumeric};

/// The key of the object that names the volume.
pub const UUID_KEY: &str = "juicefs_uuid";

const PROBE_BYTES: usize = 100;
/// The waits between tries.
const PROBE_WAITS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];

/// Puts, reads and deletes an object below `testing/`, and makes the bucket if it is missing. Tries up to three times.
///
/// # Errors
/// The error of the last try. An object that cannot be deleted is only logged.
pub async fn selftest(store: &dyn ObjectStorage) -> Result<(), StorageError> {
    let mut waits = PROBE_WAITS.iter();
    for attempt in 1.. {
        let error = match probe(store).await {
            Ok(()) => break,
            Err(error) => error,
        };
        tracing::warn!("try {attempt} of {} of {} failed: {error}", PROBE_WAITS.len() + 1, store.describe());
        match (&error, waits.next()) {
            (StorageError::Permanent(_) | StorageError::Keys(_) | StorageError::NoSpace(_), _) | (_, None) => {
                return Err(error);
            }
            (StorageError::NotFound(_) | StorageError::Transient(_), Some(wait)) => tokio::time::sleep(*wait).await,
        }
    }
    Ok(())
}

async fn probe(store: &dyn ObjectStorage) -> Result<(), StorageError> {
    let name: String = rand::rng().sample_iter(Alphanumeric).take(10).map(char::from).collect();
    let key = format!("testing/{name}");
    let mut data = vec![0; PROBE_BYTES];
    rand::rng().fill(&mut data[..]);
    let body = Segments::from_iter([Bytes::from(data.clone())]);
    if let Err(e) = store.put(&key, body.clone()).await {
        if matches!(e, StorageError::NoSpace(_)) || e.to_string().to_lowercase().contains("denied") {
            return Err(e);
        }
        // The bucket may not be there yet; what making it says is less telling than the second put.
        if let Err(why) = store.create().await {
            tracing::debug!("{} cannot be made: {why}", store.describe());
        }
        store.put(&key, body).await?;
    }
    let got = store.get(&key, None).await?.concat();
    for doomed in [key.as_str(), "testing/"] {
        if let Err(e) = store.delete(doomed).await {
            tracing::warn!("cannot delete {doomed} from {}: {e}", store.describe());
        }
    }
    if got != data {
        return Err(StorageError::Permanent(format!("{} returns other bytes than it was given", store.describe())));
    }
    Ok(())
}

/// Checks that the store holds nothing of a volume yet.
///
/// # Errors
/// `Permanent`, with a sentence for the user, when there is a non-empty object other than below `testing`.
pub async fn check_empty(store: &dyn ObjectStorage) -> Result<(), StorageError> {
    const PAGE: usize = 1000;
    let mut after = String::new();
    loop {
        let page = store.list("", &after, PAGE).await?;
        let foreign = |key: &str| !(key == "testing" || key.starts_with("testing/"));
        if let Some(found) = page.iter().find(|o| o.size > 0 && !o.key.ends_with('/') && foreign(&o.key)) {
            return Err(StorageError::Permanent(format!(
                "{} is not empty (it holds {}); choose another volume name or bucket",
                store.describe(),
                found.key
            )));
        }
        match page.last() {
            Some(last) if page.len() == PAGE => after.clone_from(&last.key),
            _ => return Ok(()),
        }
    }
}

/// Stores the identity of the volume.
///
/// # Errors
/// Those of the PUT.
pub async fn write_uuid(store: &dyn ObjectStorage, uuid: &str) -> Result<(), StorageError> {
    store.put(UUID_KEY, Segments::from_iter([Bytes::copy_from_slice(uuid.as_bytes())])).await
}

/// Reads the identity of the volume that the store belongs to. Returns `None` when it was never written.
///
/// # Errors
/// Those of the GET, except for a missing object.
pub async fn read_uuid(store: &dyn ObjectStorage) -> Result<Option<String>, StorageError> {
    match store.get(UUID_KEY, None).await {
        Ok(body) => Ok(Some(String::from_utf8_lossy(&body.concat()).into_owned())),
        Err(StorageError::NotFound(_)) => Ok(None),
        Err(e) => Err(e),
    }
}
