use std::io::{Read, Write};

use super::*;
use crate::redis::RedisServer;

const REQUEST: &[u8] = b"*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n";

struct Bench {
    server: RedisServer,
    proxy: FaultProxy,
}

impl Bench {
    fn new() -> Self {
        let server = RedisServer::new();
        let proxy = FaultProxy::start(server.port(), 7);
        Self { server, proxy }
    }

    /// Sends one INCR over a new connection; what came back before the connection ended or 4 bytes were there.
    fn incr(&self) -> Vec<u8> {
        let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.proxy.port())) else { return vec![] };
        let mut reply = vec![];
        if stream.write_all(REQUEST).is_ok() {
            let mut byte = [0];
            while reply.len() < 4 && matches!(stream.read(&mut byte), Ok(1)) {
                reply.push(byte[0]);
            }
        }
        reply
    }

    fn stored(&self) -> String {
        self.server.cli(&["GET", "n"])
    }
}

#[test]
fn each_fault_does_what_it_says() {
    let bench = Bench::new();
    assert_eq!(bench.incr(), b":1\r\n");
    for (fault, reply, stored) in [
        (Fault::ResetBefore, &b""[..], "1"),
        (Fault::ReplyDropped, b"", "2"),
        (Fault::ReplyTorn, b":3", "3"),
        (Fault::Latency(Duration::from_millis(30)), b":4\r\n", "4"),
        (Fault::Stall(Duration::from_millis(30)), b":5\r\n", "5"),
    ] {
        bench.proxy.fail_next(b"INCR", fault);
        bench.proxy.fail_next(b"another request", Fault::ResetBefore);
        let begun = Instant::now();
        assert_eq!(bench.incr(), reply, "{fault:?}");
        assert_eq!(bench.stored(), stored, "{fault:?}");
        if let Fault::Latency(least) | Fault::Stall(least) = fault {
            assert!(begun.elapsed() >= least);
        }
        assert_eq!(bench.proxy.queued(), 1);
        bench.proxy.calm();
    }
    let counts = bench.proxy.counts();
    assert_eq!((counts.requests, counts.faults(), counts.latency), (6, 4, 1));
}

#[test]
fn a_cut_ends_connections_and_refuses_new_ones_for_its_time() {
    let bench = Bench::new();
    let mut old = TcpStream::connect((Ipv4Addr::LOCALHOST, bench.proxy.port())).expect("connected");
    old.write_all(REQUEST).expect("sent");
    old.read_exact(&mut [0; 4]).expect("answered");
    bench.proxy.cut(Duration::from_secs(60));
    assert!(matches!(old.read(&mut [0]), Ok(0) | Err(_)));
    assert_eq!(bench.incr(), b"");
    bench.proxy.calm();
    assert_eq!(bench.incr(), b":2\r\n");
    let counts = bench.proxy.counts();
    assert_eq!((counts.cut, counts.refused, counts.connections), (1, 1, 2));
}

#[test]
fn rates_hold_and_replies_are_lost_only_after_the_effect() {
    let bench = Bench::new();
    bench.proxy.faults(Faults { reply_dropped: 150, reset_before: 150, reply_torn: 100, ..Faults::default() });
    let whole = (0..300).filter(|_| bench.incr().len() == 4).count() as u64;
    let counts = bench.proxy.counts();
    assert_eq!(counts.requests, 300);
    assert_eq!(whole, 300 - counts.faults());
    assert!((60..180).contains(&counts.faults()), "{counts:?}");
    assert_eq!(bench.stored(), (300 - counts.reset_before).to_string());
}

#[test]
fn it_ends_while_a_client_waits_in_a_stall() {
    let bench = Bench::new();
    bench.proxy.stall(Duration::from_secs(600));
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, bench.proxy.port())).expect("connected");
    stream.write_all(REQUEST).expect("sent");
    let begun = Instant::now();
    drop(bench.proxy);
    assert!(begun.elapsed() < Duration::from_secs(30));
    assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
}
