//! Transports: the ways in which requests come from the kernel and their replies go back.
//!
//! A transport owns the threads that wait for requests, the memory that requests lie in, and the way back. It shows them to
//! dispatch as a [`Request`] and a [`ReplySink`], by static dispatch.
//!
//! `/dev/fuse` ([`dev`]) works everywhere. FUSE over io_uring (Linux 6.14) fits the same two traits: there a request
//! arrives in a registered buffer, and its reply is written into the same ring entry and committed with it. The entry
//! is the `Request` during [`Dispatcher::begin`], which ends every use of it, and the `ReplySink` afterwards. A
//! deferred reply is sent from a thread of the runtime, so the sink hands the entry back to the thread of its ring.
//! FORGET, INTERRUPT, INIT and notifications stay on `/dev/fuse` with either transport.
//!
//! [`Request`]: crate::request::Request
//! [`ReplySink`]: crate::reply::ReplySink

pub(crate) mod dev;

use std::{io, sync::Arc, thread::JoinHandle};

use tokio_util::sync::CancellationToken;

use crate::{dispatch::Dispatcher, ops::Operations};

/// A source of requests with the threads that receive them.
///
/// For each request its thread calls [`Dispatcher::begin`], gives up the request, and calls [`Dispatcher::end`].
/// Neither waits, so a few threads serve any number of requests.
pub(crate) trait Transport {
    /// Starts the threads. They end when the kernel ends the session; the last one to end cancels `ended`.
    fn start<O: Operations>(
        self,
        dispatcher: &Arc<Dispatcher<O>>,
        ended: &CancellationToken,
    ) -> io::Result<Vec<JoinHandle<()>>>;
}
