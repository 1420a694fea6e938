//! Tools for the tests of this project: things that fail on purpose, things that know the right answer.

pub mod fault_proxy;

pub mod fault_store;

pub mod mem_chunks;

pub mod mem_meta;

pub mod clock;

pub mod redis;

mod process;

pub mod s3;

pub mod unsteady;
