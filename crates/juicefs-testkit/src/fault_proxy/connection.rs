//! One connection through the proxy. Two threads carry its bytes, each one way.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::net::sockopt::set_socket_linger;

use super::{Fault, Shared};

/// How long a server must be silent until its reply counts as whole.
const QUIET: Duration = Duration::from_millis(5);
/// How long a reply that is to be swallowed is waited for.
const REPLY_WITHIN: Duration = Duration::from_millis(500);

// What becomes of the next reply.
const PASS: u8 = 0;
const SWALLOW: u8 = 1;
const TEAR: u8 = 2;

#[derive(Debug)]
pub(super) struct Connection {
    client: TcpStream,
    server: TcpStream,
    reply: AtomicU8,
}

impl Connection {
    pub(super) fn new(client: TcpStream, server: TcpStream) -> io::Result<Self> {
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        Ok(Self { client, server, reply: AtomicU8::new(PASS) })
    }

    /// Ends both ways; the server still gets what was written to it.
    pub(super) fn close(&self) {
        // Either end may have gone by itself.
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
    }

    /// Ends both ways, and the client finds its connection reset once the last thread lets go of it.
    pub(super) fn reset(&self) {
        reset(&self.client);
        self.close();
    }
}

/// Makes the close of this stream reset the connection instead of ending it politely.
pub(super) fn reset(stream: &TcpStream) {
    // Refused only for a stream that is closed already.
    let _ = set_socket_linger(stream, Some(Duration::ZERO));
}

/// Starts the threads of a connection.
pub(super) fn serve(shared: &Arc<Shared>, connection: &Arc<Connection>, number: u64) -> [JoinHandle<()>; 2] {
    let spawn = |name: &str, carry: fn(&Shared, &Connection) -> io::Result<()>, forget: bool| {
        let (shared, connection) = (Arc::clone(shared), Arc::clone(connection));
        thread::Builder::new()
            .name(format!("proxy-{name}-{number}"))
            .spawn(move || {
                // A lost connection is what this is made for; there is nobody to tell.
                let _ = carry(&shared, &connection);
                connection.close();
                if forget {
                    shared.state.lock().connections.remove(&number);
                }
            })
            .expect("start a thread")
    };
    [spawn("up", requests, true), spawn("down", replies, false)]
}

/// Carries requests to the server.
fn requests(shared: &Shared, connection: &Connection) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 18];
    let (mut client, mut server) = (&connection.client, &connection.server);
    loop {
        let len = client.read(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        let request = &buffer[..len];
        shared.wait_for_stall();
        match shared.pick(request) {
            None => {}
            Some(Fault::Latency(how_long)) => shared.sleep(how_long),
            Some(Fault::ResetBefore) => {
                connection.reset();
                return Ok(());
            }
            Some(Fault::ResetAfter) => {
                server.write_all(request)?;
                connection.reset();
                return Ok(());
            }
            // Set before the request goes out, or its reply might come in between.
            Some(Fault::ReplyDropped) => connection.reply.store(SWALLOW, Ordering::Release),
            Some(Fault::ReplyTorn) => connection.reply.store(TEAR, Ordering::Release),
            Some(Fault::Cut(how_long)) => {
                shared.cut(how_long);
                return Ok(());
            }
            Some(Fault::Stall(how_long)) => {
                shared.stall(how_long);
                shared.wait_for_stall();
            }
        }
        server.write_all(request)?;
    }
}

/// Carries replies to the client.
fn replies(shared: &Shared, connection: &Connection) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 18];
    let (mut client, mut server) = (&connection.client, &connection.server);
    loop {
        let len = server.read(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        shared.wait_for_stall();
        match connection.reply.load(Ordering::Acquire) {
            PASS => client.write_all(&buffer[..len])?,
            TEAR => {
                client.write_all(&buffer[..len / 2])?;
                drain(server, &mut buffer)?;
                connection.close();
                return Ok(());
            }
            _ => {
                drain(server, &mut buffer)?;
                connection.reset();
                return Ok(());
            }
        }
    }
}

/// Takes in what the server still says, so that what it was asked is done before the connection ends.
fn drain(mut server: &TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    server.set_read_timeout(Some(QUIET))?;
    let mut waited = Duration::ZERO;
    while waited < REPLY_WITHIN {
        match server.read(buffer) {
            Ok(0) => break,
            Ok(_) => waited += QUIET,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
