//! This crate stores the blocks of a JuiceFS volume: it has the object stores, compression and encryption, the local cache,
//! and the reading and writing of slices.
//!
//! [`open_storage`] makes the object store of a volume from its setting. [`Store`] is the data path above it and implements
//! [`juicefs_core::ChunkStore`]. Data travels as shared `Bytes`, and its memory is taken from one
//! [`juicefs_core::Budget`].

mod block;
mod body;
mod cache;
mod counters;
mod current;
mod fetcher;
mod hash;
mod hedge;
mod in_place;
mod lease;
mod limit;
mod pool;
mod remover;
mod request;
mod stager;
mod sys;
mod tasks;
mod uploader;
mod writer;

pub mod cipher;
pub mod codec;
pub mod config;
pub mod object;
pub mod store;

pub use cache::cache_dirs;
pub use cipher::{Cipher, CipherError, KeyError};
pub use codec::Compression;
pub use config::{
    CacheConfig, CachePlace, ChecksumLevel, ChunkConfig, ConfigError, Eviction, HealthRules, KeepWritten, UploadHours,
    Writeback,
};
pub use current::Renewal;
pub use object::{Encrypted, check_empty, open_storage, open_storage_with, selftest, storage_name, write_uuid};
pub use store::Store;
