//! The thread of a proxy that takes connections.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread::{self, JoinHandle},
};

/// Takes connections on a free port of 127.0.0.1. To drop it waits for its thread and for those that serve connections.
#[derive(Debug)]
pub(super) struct Acceptor {
    name: &'static str,
    port: u16,
    thread: Option<JoinHandle<()>>,
}

impl Acceptor {
    /// Listens. `serve` starts the threads of each connection, and answers `None` once the proxy ends.
    ///
    /// # Panics
    ///
    /// If it cannot listen.
    pub(super) fn start<I: IntoIterator<Item = JoinHandle<()>>>(
        name: &'static str,
        serve: impl FnMut(TcpStream) -> Option<I> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen on a free port");
        let port = listener.local_addr().expect("the port just bound").port();
        let thread = thread::Builder::new()
            .name(name.into())
            .spawn(move || accept(name, &listener, serve))
            .expect("start a thread");
        Self { name, port, thread: Some(thread) }
    }

    /// The port of 127.0.0.1 that clients are to use.
    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        // Wakes the thread, which joins what it started.
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("{}: a thread panicked", self.name);
        }
    }
}

fn accept<I: IntoIterator<Item = JoinHandle<()>>>(
    name: &str,
    listener: &TcpListener,
    mut serve: impl FnMut(TcpStream) -> Option<I>,
) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    while let Ok((client, _)) = listener.accept() {
        threads.retain(|thread| !thread.is_finished());
        let Some(more) = serve(client) else { break };
        threads.extend(more);
    }
    for thread in threads {
        if thread.join().is_err() {
            eprintln!("{name}: a thread panicked");
        }
    }
}
