//! The `juicefs` command.
#![allow(dead_code, reason = "wip")]
mod argv;
mod config;
mod daemon;
mod fstab;
mod local_time;
mod mounts;
mod process;
mod secrets;
mod table;
mod telemetry;
mod terminal;
fn main() {}
