//! End-to-end tests on real mounts. One binary, so that the harness is linked once; a module per promise.
//!
//! They need root, `/dev/fuse` and the tools that `scripts/test.sh` installs. Nothing is skipped: what is missing
//! fails. The only exception says so by name: tests marked `ignored` need another client and are run by hand.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod acl;
mod allocation;
mod apps;
mod arrows;
mod cache_disks;
mod caching;
mod changed_settings;
mod cli;
mod concurrent;
mod control;
mod control_rights;
mod crash;
mod differential;
mod encryption;
mod faults;
mod fencing;
mod file_flags;
mod full_buffers;
mod full_disk;
mod golden;
mod interop;
mod large_directory;
mod links;
mod locks;
mod ltp;
mod memory;
mod mount_again;
mod mount_options;
mod names;
mod objbench;
mod outages;
mod paths;
mod posix;
mod promises;
mod quota;
mod random_io;
mod random_writes;
mod redis_audit;
mod redis_cache;
mod redis_cli;
mod redis_cluster;
mod redis_faults;
mod redis_golden;
mod redis_together;
mod renames;
mod s3;
mod s3_faults;
mod semantics;
mod sizes;
mod squash;
mod stress;
mod trash;
mod trips;
mod two_mounts;
mod xfstests;
