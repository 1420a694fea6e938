//! Redis and what speaks its protocol.
#![expect(dead_code, reason = "the engine on top of the connection follows")]

pub(crate) mod address;
pub(crate) mod link;
