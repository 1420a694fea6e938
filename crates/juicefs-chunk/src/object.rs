//! Object stores keep the objects of a volume. [`open_storage`] makes one from the setting of the volume.
//!
//! A store is made of layers, from the outside in: key prefix (the volume's name) → sharding → backend (format: data.md
//! §1.1). So whoever holds what [`open_storage`] returns speaks of `chunks/…`, `juicefs_uuid` and `testing/…`, while backends
//! see complete keys, and the shard of an object is chosen by its complete key. Of an encrypted volume these are the
//! encrypted objects. [`Encrypted`] goes around them for everybody but the data path, which encrypts blocks itself.
//! Retries, deadlines and slots are those of the data path ([`crate::store`]), and not of the stores.

mod dal;
mod encrypted;
mod file;
mod http;
mod open;
mod opening;
mod prefix;
mod probe;
mod s3;
#[cfg(feature = "all-storage")]
mod services;
mod shard;
mod table;

pub use dal::DalStorage;
pub use encrypted::Encrypted;
pub use file::FileStorage;
pub use open::{open_storage, open_storage_with};
pub use opening::Variables;
pub use prefix::Prefixed;
pub use probe::{UUID_KEY, check_empty, read_uuid, selftest, write_uuid};
pub use shard::Sharded;
pub use table::{storage_name, supported};

#[cfg(test)]
mod tests;
