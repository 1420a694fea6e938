//! A TCP proxy before a server that loses, delays and tears what passes through it.
//!
//! It knows no protocol: what a client sends in one go counts as one request, and what comes back as its reply. The
//! seed and the order of requests decide which of them meet a fault; requests of several connections have no fixed
//! order.

mod acceptor;
mod connection;
pub mod http;

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use rand::{Rng, SeedableRng, rngs::StdRng};

use self::{acceptor::Acceptor, connection::Connection};

/// How many connections there are at once at most. More are refused.
const MAX_CONNECTIONS: usize = 256;

/// What goes wrong with one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It arrives this much later.
    Latency(Duration),
    /// The connection is reset and the request never arrives.
    ResetBefore,
    /// The request is passed on and the connection reset at once.
    ResetAfter,
    /// The request is passed on, the server answers, the answer is swallowed and the connection closed.
    ReplyDropped,
    /// As `ReplyDropped`, but the first half of the answer gets through.
    ReplyTorn,
    /// All connections are reset, and none is accepted for this long.
    Cut(Duration),
    /// No byte gets through in either direction for this long. Connections stay.
    Stall(Duration),
}

/// How often each fault happens on its own, per thousand requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Faults {
    /// [`Fault::Latency`] of up to `latency_max`.
    pub latency: u32,
    /// Longest delay of a request.
    pub latency_max: Duration,
    /// [`Fault::ResetBefore`].
    pub reset_before: u32,
    /// [`Fault::ResetAfter`].
    pub reset_after: u32,
    /// [`Fault::ReplyDropped`].
    pub reply_dropped: u32,
    /// [`Fault::ReplyTorn`].
    pub reply_torn: u32,
    /// [`Fault::Cut`] for `cut_for`.
    pub cut: u32,
    /// How long a cut lasts.
    pub cut_for: Duration,
    /// [`Fault::Stall`] for `stall_for`.
    pub stall: u32,
    /// How long a stall lasts.
    pub stall_for: Duration,
}

/// What the proxy has seen and done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Connections accepted.
    pub connections: u64,
    /// Connections refused, during a cut or for want of a server.
    pub refused: u64,
    /// Requests seen.
    pub requests: u64,
    /// Requests delayed.
    pub latency: u64,
    /// Connections reset before a request.
    pub reset_before: u64,
    /// Connections reset after a request.
    pub reset_after: u64,
    /// Replies swallowed.
    pub reply_dropped: u64,
    /// Replies torn.
    pub reply_torn: u64,
    /// Cuts.
    pub cut: u64,
    /// Stalls.
    pub stall: u64,
}

impl Counts {
    /// All that went wrong, delays aside.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.reset_before + self.reset_after + self.reply_dropped + self.reply_torn + self.cut + self.stall
    }
}

#[derive(Debug)]
struct State {
    rng: StdRng,
    faults: Faults,
    /// Faults for the next requests that contain these bytes.
    queued: VecDeque<(Vec<u8>, Fault)>,
    counts: Counts,
    refuse_until: Instant,
    stall_until: Instant,
    connections: HashMap<u64, Arc<Connection>>,
}

/// What the threads share.
#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    state: Mutex<State>,
    /// Told when the proxy ends, so that nobody sleeps through it.
    ended: Condvar,
    ending: AtomicBool,
}

/// A running proxy; its threads end with it.
#[derive(Debug)]
pub struct FaultProxy {
    shared: Arc<Shared>,
    acceptor: Acceptor,
}

impl FaultProxy {
    /// Starts a proxy before the server on this port of 127.0.0.1, calm at first, and prints the seed.
    ///
    /// # Panics
    ///
    /// If it cannot listen.
    #[must_use]
    pub fn start(server_port: u16, seed: u64) -> Self {
        println!("fault proxy: seed {seed}");
        let now = Instant::now();
        let state = State {
            rng: StdRng::seed_from_u64(seed),
            faults: Faults::default(),
            queued: VecDeque::new(),
            counts: Counts::default(),
            refuse_until: now,
            stall_until: now,
            connections: HashMap::new(),
        };
        let shared = Arc::new(Shared {
            server: (Ipv4Addr::LOCALHOST, server_port).into(),
            state: Mutex::new(state),
            ended: Condvar::new(),
            ending: AtomicBool::new(false),
        });
        let mut next = 0;
        let acceptor = Acceptor::start("fault-proxy", {
            let shared = Arc::clone(&shared);
            move |client| {
                next += 1;
                accept(&shared, client, next)
            }
        });
        Self { shared, acceptor }
    }

    /// The port of 127.0.0.1 that clients are to use.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.acceptor.port()
    }

    /// Sets how often things go wrong from now on.
    pub fn faults(&self, faults: Faults) {
        self.shared.state.lock().faults = faults;
    }

    /// Lets nothing go wrong any more: rates become zero, queued faults are forgotten, cuts and stalls end.
    pub fn calm(&self) {
        let mut state = self.shared.state.lock();
        let now = Instant::now();
        state.faults = Faults::default();
        state.queued.clear();
        (state.refuse_until, state.stall_until) = (now, now);
        self.shared.ended.notify_all();
    }

    /// Lets the next request that contains these bytes and meets no earlier such fault meet this one.
    pub fn fail_next(&self, containing: &[u8], fault: Fault) {
        self.shared.state.lock().queued.push_back((containing.to_vec(), fault));
    }

    /// How many of the faults given to [`fail_next`](Self::fail_next) still wait for their request.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.shared.state.lock().queued.len()
    }

    /// Resets all connections and accepts none for this long.
    pub fn cut(&self, how_long: Duration) {
        self.shared.cut(how_long);
    }

    /// Lets no byte through for this long.
    pub fn stall(&self, how_long: Duration) {
        self.shared.stall(how_long);
    }

    /// What it has seen and done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.state.lock().counts
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Release);
        let state = self.shared.state.lock();
        self.shared.ended.notify_all();
        state.connections.values().for_each(|connection| connection.close());
    }
}

impl Shared {
    /// Picks the fault of a request and counts both.
    fn pick(&self, request: &[u8]) -> Option<Fault> {
        let state = &mut *self.state.lock();
        state.counts.requests += 1;
        let contains = |needle: &[u8]| needle.is_empty() || request.windows(needle.len()).any(|part| part == needle);
        let queued = state.queued.iter().position(|(needle, _)| contains(needle));
        let fault = match queued.and_then(|at| state.queued.remove(at)) {
            Some((_, fault)) => Some(fault),
            None => state.faults.roll(&mut state.rng),
        };
        let counts = &mut state.counts;
        match fault? {
            Fault::Latency(_) => counts.latency += 1,
            Fault::ResetBefore => counts.reset_before += 1,
            Fault::ResetAfter => counts.reset_after += 1,
            Fault::ReplyDropped => counts.reply_dropped += 1,
            Fault::ReplyTorn => counts.reply_torn += 1,
            // Counted where they are done, for tests ask for them too.
            Fault::Cut(_) | Fault::Stall(_) => {}
        }
        fault
    }

    fn cut(&self, how_long: Duration) {
        let mut state = self.state.lock();
        state.counts.cut += 1;
        state.refuse_until = Instant::now() + how_long;
        state.connections.values().for_each(|connection| connection.reset());
    }

    fn stall(&self, how_long: Duration) {
        let mut state = self.state.lock();
        state.counts.stall += 1;
        state.stall_until = Instant::now() + how_long;
    }

    /// Waits until no stall is on.
    fn wait_for_stall(&self) {
        let mut state = self.state.lock();
        while !self.is_ending() && Instant::now() < state.stall_until {
            let until = state.stall_until;
            self.ended.wait_until(&mut state, until);
        }
    }

    /// Sleeps, or returns earlier if the proxy ends or calms.
    fn sleep(&self, how_long: Duration) {
        let mut state = self.state.lock();
        if !self.is_ending() {
            self.ended.wait_for(&mut state, how_long);
        }
    }

    fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }
}

impl Faults {
    fn roll(&self, rng: &mut StdRng) -> Option<Fault> {
        // One roll decides: each rate takes its share of the thousand.
        let mut roll = rng.random_range(0..1000i64);
        let mut hit = |rate: u32| {
            roll -= i64::from(rate);
            roll < 0
        };
        let shares = [
            (self.reset_before, Fault::ResetBefore),
            (self.reset_after, Fault::ResetAfter),
            (self.reply_dropped, Fault::ReplyDropped),
            (self.reply_torn, Fault::ReplyTorn),
            (self.cut, Fault::Cut(self.cut_for)),
            (self.stall, Fault::Stall(self.stall_for)),
        ];
        if let Some((_, fault)) = shares.into_iter().find(|(rate, _)| hit(*rate)) {
            return Some(fault);
        }
        hit(self.latency).then(|| Fault::Latency(self.latency_max.mul_f64(rng.random())))
    }
}

/// Serves one more connection; `None` once the proxy ends.
fn accept(shared: &Arc<Shared>, client: TcpStream, number: u64) -> Option<Vec<JoinHandle<()>>> {
    if shared.is_ending() {
        return None;
    }
    Some(match open(shared, client, number) {
        Ok(connection) => connection::serve(shared, &connection, number).into(),
        Err(_) => {
            // The client sees its connection closed.
            shared.state.lock().counts.refused += 1;
            Vec::new()
        }
    })
}

fn open(shared: &Shared, client: TcpStream, number: u64) -> io::Result<Arc<Connection>> {
    {
        let state = shared.state.lock();
        if Instant::now() < state.refuse_until || state.connections.len() >= MAX_CONNECTIONS {
            connection::reset(&client);
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
    }
    let server = TcpStream::connect_timeout(&shared.server, Duration::from_secs(5))?;
    let connection = Arc::new(Connection::new(client, server)?);
    let mut state = shared.state.lock();
    state.counts.connections += 1;
    state.connections.insert(number, Arc::clone(&connection));
    if shared.is_ending() {
        // The end went over the table before this connection was in it.
        connection.close();
    }
    Ok(connection)
}

#[cfg(test)]
mod tests;
