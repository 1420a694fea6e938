//! Known outcomes, on every engine.

mod appends;
mod compaction;
mod content;
mod contention;
mod damage;
mod giants;
mod limits;
mod liveness;
mod locks;
mod names;
mod nodes;
mod quotas;
mod sessions;
mod setting;
mod trash;
mod trees;
