//! Metadata of a volume: what every file-system operation means (`ops`), written once, and the engines that store it.
//!
//! `record` names what is stored, `txn` how an operation reads and changes it, `layout` maps records to keys, bytes and
//! rows, `engine` runs operations atomically, and `client` puts it together as [`juicefs_core::Meta`].

pub mod client;
pub mod engine;
mod layout;
mod open;
mod opens;
pub mod ops;
pub mod record;
pub mod txn;

pub use client::{AtimeMode, Client, ClientConfig, QuotaCheck, Restored};
pub use engine::{Engine, redis::address::Passwords};
pub use open::{USUAL_RETRIES, open, open_with};
