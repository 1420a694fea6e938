//! Ways in which requests arrive. `/dev/fuse` works everywhere.

pub(crate) mod dev;

use std::{io, sync::Arc, thread::JoinHandle};

use tokio_util::sync::CancellationToken;

use crate::{dispatch::Dispatcher, ops::Operations};

/// A source of requests with the threads that read it.
pub(crate) trait Transport {
    /// Starts the threads. They end when the kernel ends the session; the last one to end cancels `ended`.
    fn start<O: Operations>(
        self,
        dispatcher: &Arc<Dispatcher<O>>,
        ended: &CancellationToken,
    ) -> io::Result<Vec<JoinHandle<()>>>;
}
