use std::{
    io::{Read, Write},
    net::TcpListener,
    time::Instant,
};

use super::*;

/// A server that answers every request with the body that it was sent, or with 1000 letters.
struct Echo {
    port: u16,
    seen: Arc<AtomicU64>,
}

impl Echo {
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let seen = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&seen);
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let Ok(Some(request)) = Request::read(&stream, &|_| {}) else { continue };
                count.fetch_add(1, Ordering::SeqCst);
                let at = request.bytes.windows(4).position(|part| part == b"\r\n\r\n").expect("a head") + 4;
                let body = if request.method == "PUT" { request.bytes[at..].to_vec() } else { vec![b'a'; 1000] };
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                let _ = (&stream).write_all(&[head.as_bytes(), &body].concat());
            }
        });
        Self { port, seen }
    }

    fn seen(&self) -> u64 {
        self.seen.load(Ordering::SeqCst)
    }
}

/// The status and the body of the answer; 0 without one.
fn ask(proxy: &HttpProxy, method: &str, headers: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(2))).expect("a limit");
    let head = format!("{method} /bkt/key HTTP/1.1\r\nhost: h\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
    let mut answer = Vec::new();
    // A broken connection leaves what came before.
    let _ = stream.write_all(&[head.as_bytes(), body].concat()).and_then(|()| stream.read_to_end(&mut answer));
    let status = answer.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok()).unwrap_or(0);
    let at = answer.windows(4).position(|part| part == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
    (status, answer.split_off(at))
}

#[test]
fn each_fault_does_what_it_says() {
    let server = Echo::start();
    let proxy = HttpProxy::start(server.port, 7);
    let whole = vec![b'a'; 1000];
    assert_eq!(ask(&proxy, "GET", "", b""), (200, whole.clone()));
    assert_eq!(ask(&proxy, "PUT", "", &[5; 300_000]), (200, vec![5; 300_000]));
    assert_eq!(server.seen(), 2);
    let mut flipped = whole.clone();
    flipped[500] ^= 1;
    for (fault, status, body, seen) in [
        (HttpFault::Refused(507, "InsufficientCapacity"), 507, None, 2),
        (HttpFault::ResetBefore, 0, Some(vec![]), 2),
        (HttpFault::ResetAfter, 0, Some(vec![]), 3),
        (HttpFault::BodyCut, 200, Some(whole[..500].to_vec()), 4),
        (HttpFault::BodyFlipped, 200, Some(flipped), 5),
        (HttpFault::Hung, 0, Some(vec![]), 5),
        (HttpFault::Latency(Duration::from_millis(50)), 200, Some(whole.clone()), 6),
    ] {
        let slow = fault == HttpFault::Latency(Duration::from_millis(50));
        proxy.fail_next("PUT", HttpFault::ResetBefore);
        proxy.fail_next("GET", fault.clone());
        let begun = Instant::now();
        let (got, text) = ask(&proxy, "GET", "", b"");
        assert!(!slow || begun.elapsed() >= Duration::from_millis(50));
        assert_eq!((got, server.seen()), (status, seen), "{fault:?}");
        match body {
            Some(body) => assert_eq!(text, body, "{fault:?}"),
            None => assert!(String::from_utf8_lossy(&text).contains("<Code>InsufficientCapacity</Code>")),
        }
        proxy.calm();
    }
    let counts = proxy.counts();
    assert_eq!((counts.requests, counts.get, counts.put), (9, 8, 1));
    assert_eq!((counts.faults(), counts.delayed), (6, 1));
}

#[test]
fn parts_of_objects_are_not_damaged_unseen() {
    let server = Echo::start();
    let proxy = HttpProxy::start(server.port, 7);
    proxy.fail_always("GET", HttpFault::BodyFlipped);
    assert_eq!(ask(&proxy, "GET", "Range: bytes=0-9\r\n", b"").1, vec![b'a'; 1000]);
    assert_ne!(ask(&proxy, "GET", "", b"").1, vec![b'a'; 1000]);
    assert_eq!(proxy.counts().flipped, 1);
}

#[test]
fn rates_and_bandwidth_hold() {
    let server = Echo::start();
    let proxy = HttpProxy::start(server.port, 7);
    proxy.rates(HttpRates { unavailable: 100, reset_before: 100, body_cut: 100, ..HttpRates::default() });
    let whole = (0..200).filter(|_| ask(&proxy, "GET", "", b"").1 == vec![b'a'; 1000]).count() as u64;
    assert_eq!(whole, 200 - proxy.counts().faults());
    assert!((30..100).contains(&proxy.counts().faults()), "{:?}", proxy.counts());
    proxy.calm();
    proxy.bandwidth(1_000_000);
    let begun = Instant::now();
    assert_eq!(ask(&proxy, "PUT", "", &[5; 200_000]).0, 200);
    assert!(begun.elapsed() >= Duration::from_millis(390), "{:?}", begun.elapsed());
}

#[test]
fn it_ends_while_a_client_waits() {
    let server = Echo::start();
    let proxy = HttpProxy::start(server.port, 7);
    proxy.fail_always("", HttpFault::Hung);
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).expect("connected");
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    let begun = Instant::now();
    drop(proxy);
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
}
