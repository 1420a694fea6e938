//! A proxy for HTTP/1.1, whose faults are about requests: another answer than that of the server, a body that breaks
//! off or has a wrong byte, a request that is never answered, and a line that is slow.
//!
//! A request is read whole, then passed on over a connection of its own. The seed and the order of requests decide
//! which of them meet a fault.

mod message;

use std::{
    collections::{HashMap, VecDeque},
    io::{self, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{acceptor::Acceptor, connection::reset};
use message::{Request, Response};

/// What goes wrong with one request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HttpFault {
    /// It is passed on this much later.
    Latency(Duration),
    /// The server never sees it, and the answer is this status with this S3 error code.
    Refused(u16, &'static str),
    /// The connection is reset and the server never sees it.
    ResetBefore,
    /// The server does it, and the connection is reset instead of the answer.
    ResetAfter,
    /// The answer breaks off in the middle of its body.
    BodyCut,
    /// One byte of the body of the answer is wrong. Answers without a body, or with a part of an object only, pass as
    /// they are, because nobody could notice it there.
    BodyFlipped,
    /// It is neither answered nor passed on, and the connection stays.
    Hung,
}

/// How often each fault happens on its own, per thousand requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HttpRates {
    /// [`HttpFault::Latency`] of exactly `latency_for`, for GET only.
    pub get_latency: u32,
    /// How long that takes.
    pub latency_for: Duration,
    /// [`HttpFault::Refused`] with 503 SlowDown.
    pub unavailable: u32,
    /// [`HttpFault::ResetBefore`].
    pub reset_before: u32,
    /// [`HttpFault::ResetAfter`].
    pub reset_after: u32,
    /// [`HttpFault::BodyCut`].
    pub body_cut: u32,
    /// [`HttpFault::BodyFlipped`].
    pub body_flipped: u32,
    /// [`HttpFault::Hung`].
    pub hung: u32,
}

/// What the proxy has seen and done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HttpCounts {
    /// GET requests of objects.
    pub get: u64,
    /// PUT requests.
    pub put: u64,
    /// All requests.
    pub requests: u64,
    /// Requests delayed.
    pub delayed: u64,
    /// Requests that the server never saw, those not answered aside.
    pub refused: u64,
    /// Connections reset.
    pub reset: u64,
    /// Bodies that broke off.
    pub cut: u64,
    /// Bodies with another byte.
    pub flipped: u64,
    /// Requests without an answer.
    pub hung: u64,
}

impl HttpCounts {
    /// All that went wrong, delays aside.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.refused + self.reset + self.cut + self.flipped + self.hung
    }
}

#[derive(Debug)]
struct State {
    rng: StdRng,
    rates: HttpRates,
    /// Faults for the next requests of these methods.
    queued: VecDeque<(String, HttpFault)>,
    /// The fault for every request of this method.
    always: Option<(String, HttpFault)>,
    counts: HttpCounts,
    /// Open connections to clients and to the server.
    streams: HashMap<u64, TcpStream>,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    state: Mutex<State>,
    /// Told when the proxy calms or ends, so that nobody sleeps through it.
    changed: Condvar,
    /// Bytes a second of each connection, 0 for no limit.
    bandwidth: AtomicU64,
    ending: AtomicBool,
    next: AtomicU64,
}

/// A running proxy; its threads end with it.
#[derive(Debug)]
pub struct HttpProxy {
    shared: Arc<Shared>,
    acceptor: Acceptor,
}

impl HttpProxy {
    /// Starts a proxy before the server on this port of 127.0.0.1, calm at first, and prints the seed.
    ///
    /// # Panics
    ///
    /// If it cannot listen.
    #[must_use]
    pub fn start(server_port: u16, seed: u64) -> Self {
        println!("HTTP fault proxy: seed {seed}");
        let state = State {
            rng: StdRng::seed_from_u64(seed),
            rates: HttpRates::default(),
            queued: VecDeque::new(),
            always: None,
            counts: HttpCounts::default(),
            streams: HashMap::new(),
        };
        let shared = Arc::new(Shared {
            server: (Ipv4Addr::LOCALHOST, server_port).into(),
            state: Mutex::new(state),
            changed: Condvar::new(),
            bandwidth: AtomicU64::new(0),
            ending: AtomicBool::new(false),
            next: AtomicU64::new(0),
        });
        let acceptor = Acceptor::start("http-proxy", {
            let shared = Arc::clone(&shared);
            move |client| accept(&shared, client)
        });
        Self { shared, acceptor }
    }

    /// The port of 127.0.0.1 that clients are to use.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.acceptor.port()
    }

    /// What `--bucket` takes for a bucket behind this proxy.
    #[must_use]
    pub fn bucket_url(&self, bucket: &str) -> String {
        format!("http://127.0.0.1:{}/{bucket}", self.port())
    }

    /// Sets how often things go wrong from now on.
    pub fn rates(&self, rates: HttpRates) {
        self.shared.state.lock().rates = rates;
    }

    /// Lets the next request of this method (of any, if it is empty) meet a fault.
    pub fn fail_next(&self, method: &str, fault: HttpFault) {
        self.shared.state.lock().queued.push_back((method.to_owned(), fault));
    }

    /// Lets every request of this method (of any, if it is empty) meet a fault, until the proxy is calmed.
    pub fn fail_always(&self, method: &str, fault: HttpFault) {
        self.shared.state.lock().always = Some((method.to_owned(), fault));
    }

    /// Lets no connection carry more bytes a second than this, in each direction; 0 for no limit.
    pub fn bandwidth(&self, bytes_per_s: u64) {
        self.shared.bandwidth.store(bytes_per_s, Ordering::Relaxed);
    }

    /// Lets nothing go wrong any more. Requests that hang do so until their client gives up.
    pub fn calm(&self) {
        self.bandwidth(0);
        let mut state = self.shared.state.lock();
        state.rates = HttpRates::default();
        state.queued.clear();
        state.always = None;
        self.shared.changed.notify_all();
    }

    /// What it has seen and done so far.
    #[must_use]
    pub fn counts(&self) -> HttpCounts {
        self.shared.state.lock().counts
    }
}

impl Drop for HttpProxy {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Release);
        let state = self.shared.state.lock();
        self.shared.changed.notify_all();
        for stream in state.streams.values() {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Serves one more connection; `None` once the proxy ends.
fn accept(shared: &Arc<Shared>, client: TcpStream) -> Option<[JoinHandle<()>; 1]> {
    if shared.is_ending() {
        return None;
    }
    let shared = Arc::clone(shared);
    let serve = move || {
        // A lost connection is what this is made for; there is nobody to tell.
        let _ = serve(&shared, client);
    };
    Some([thread::Builder::new().name("http-proxy-line".into()).spawn(serve).expect("start a thread")])
}

/// A stream that is closed when the proxy ends.
struct Listed<'a> {
    shared: &'a Shared,
    number: u64,
}

impl<'a> Listed<'a> {
    fn add(shared: &'a Shared, stream: &TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        shared.state.lock().streams.insert(number, stream.try_clone()?);
        if shared.is_ending() {
            // The end went over the table before this stream was in it.
            stream.shutdown(Shutdown::Both)?;
        }
        Ok(Self { shared, number })
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.shared.state.lock().streams.remove(&self.number);
    }
}

/// Serves the request of one connection, which ends with its answer.
fn serve(shared: &Shared, client: TcpStream) -> io::Result<()> {
    let listed = Listed::add(shared, &client)?;
    let Some(request) = Request::read(&client, &|bytes| shared.slow_down(bytes))? else { return Ok(()) };
    let fault = shared.pick(&request);
    let answer = match &fault {
        Some(HttpFault::Refused(status, code)) => Response::refusal(*status, code),
        Some(HttpFault::ResetBefore) => return hang_up(client, listed),
        Some(HttpFault::Hung) => {
            shared.wait_for_end_of(&client);
            return Ok(());
        }
        Some(HttpFault::Latency(how_long)) => {
            shared.sleep(*how_long);
            shared.ask(&request)?
        }
        _ => shared.ask(&request)?,
    };
    let bytes = match fault {
        Some(HttpFault::ResetAfter) => return hang_up(client, listed),
        Some(HttpFault::BodyCut) => answer.cut(),
        Some(HttpFault::BodyFlipped) => answer.flipped(),
        _ => answer.bytes,
    };
    for part in bytes.chunks(64 << 10) {
        (&client).write_all(part)?;
        shared.slow_down(part.len());
    }
    client.shutdown(Shutdown::Both)
}

/// Resets a connection. The list holds a second descriptor of it, which must go first.
fn hang_up(client: TcpStream, listed: Listed<'_>) -> io::Result<()> {
    drop(listed);
    reset(&client);
    Ok(())
}

impl Shared {
    fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// Picks the fault of a request and counts both.
    fn pick(&self, request: &Request) -> Option<HttpFault> {
        let state = &mut *self.state.lock();
        let counts = &mut state.counts;
        counts.requests += 1;
        counts.get += u64::from(request.is_get_of_object());
        counts.put += u64::from(request.method == "PUT");
        let meets = |method: &String| method.is_empty() || *method == request.method;
        let queued = state.queued.iter().position(|(method, _)| meets(method));
        let fault = match queued.and_then(|at| state.queued.remove(at)) {
            Some((_, fault)) => Some(fault),
            None => match &state.always {
                Some((method, fault)) if meets(method) => Some(fault.clone()),
                _ => state.rates.roll(request, &mut state.rng),
            },
        };
        let fault = fault.filter(|fault| *fault != HttpFault::BodyFlipped || request.is_get_of_whole())?;
        match &fault {
            HttpFault::Latency(_) => counts.delayed += 1,
            HttpFault::Refused(..) => counts.refused += 1,
            HttpFault::ResetBefore | HttpFault::ResetAfter => counts.reset += 1,
            HttpFault::BodyCut => counts.cut += 1,
            HttpFault::BodyFlipped => counts.flipped += 1,
            HttpFault::Hung => counts.hung += 1,
        }
        Some(fault)
    }

    /// Lets the server answer.
    fn ask(&self, request: &Request) -> io::Result<Response> {
        let server = TcpStream::connect_timeout(&self.server, Duration::from_secs(5))?;
        let _listed = Listed::add(self, &server)?;
        (&server).write_all(&request.bytes)?;
        Response::read(&server)
    }

    /// Sleeps, or returns earlier if the proxy ends or calms.
    fn sleep(&self, how_long: Duration) {
        let mut state = self.state.lock();
        if !self.is_ending() {
            self.changed.wait_for(&mut state, how_long);
        }
    }

    /// Waits as long as `bytes` take on a line of this bandwidth.
    fn slow_down(&self, bytes: usize) {
        let bandwidth = self.bandwidth.load(Ordering::Relaxed);
        if let Some(micros) = (bytes as u64 * 1_000_000).checked_div(bandwidth) {
            self.sleep(Duration::from_micros(micros));
        }
    }

    /// Waits until the client gives up.
    fn wait_for_end_of(&self, client: &TcpStream) {
        let mut byte = [0];
        // Ended by the client, or by the end of the proxy.
        while matches!(io::Read::read(&mut &*client, &mut byte), Ok(n) if n > 0) {}
    }
}

impl HttpRates {
    fn roll(&self, request: &Request, rng: &mut StdRng) -> Option<HttpFault> {
        // One roll decides: each rate takes its share of the thousand.
        let mut roll = rng.random_range(0..1000i64);
        let mut hit = |rate: u32| {
            roll -= i64::from(rate);
            roll < 0
        };
        let shares = [
            (self.unavailable, HttpFault::Refused(503, "SlowDown")),
            (self.reset_before, HttpFault::ResetBefore),
            (self.reset_after, HttpFault::ResetAfter),
            (self.body_cut, HttpFault::BodyCut),
            (self.body_flipped, HttpFault::BodyFlipped),
            (self.hung, HttpFault::Hung),
            (if request.is_get_of_object() { self.get_latency } else { 0 }, HttpFault::Latency(self.latency_for)),
        ];
        shares.into_iter().find(|(rate, _)| hit(*rate)).map(|(_, fault)| fault)
    }
}

#[cfg(test)]
mod tests;
