//! What the tests of several crates share: things that fail on purpose, servers to test with, and models that know the
//! right answer.

pub mod fault_proxy;

pub mod fault_store;

pub mod mem_chunks;

pub mod mem_meta;

pub mod clock;

pub mod redis;

mod process;

pub mod s3;

pub mod unsteady;
