//! One suite for all engines: scenarios with known outcomes, random histories against an independent model of POSIX and
//! against the in-memory engine, invariants over all records, and concurrent operations against every serial order.

mod concurrent;
mod differential;
mod endings;
mod faults;
mod history;
mod interleaving;
mod invariants;
mod leaks;
mod locks;
mod model;
mod scenarios;
mod snapshot;
mod toy;
mod unsteady;
mod volume;
