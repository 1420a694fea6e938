//! What an operation reads ([`ReadSet`]), what it wants changed ([`Effects`]), and the shape of an operation itself.
//!
//! An operation is pure: `keys` says what it must see, `decide` turns what was seen into an answer and effects. It has no
//! clock and does no I/O; the time and fresh numbers come with its arguments. It is run in whatever atomic way suits the
//! engine: inside a transaction, or optimistically by checking the read set when the effects are applied.

mod effect;
mod effects;
mod node;
mod operation;
mod read_set;
mod usage;

pub use self::{
    effect::{
        AccountEffect, ChunkEffect, EdgeEffect, Effect, LockEffect, NodeEffect, SessionEffect, SliceEffect,
        VolumeEffect,
    },
    effects::{Applied, Effects, Move},
    node::{NodeGuard, NodePatch, Wrote},
    operation::{Decision, Operation, PendingOp, Step, Unbooked, judge, shielded, unread},
    read_set::ReadSet,
    usage::Usage,
};
