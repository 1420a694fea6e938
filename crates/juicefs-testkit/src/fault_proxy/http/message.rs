//! Requests and answers of HTTP as bytes, with the little that the proxy must know of them.

use std::{
    io::{self, Read},
    net::TcpStream,
};

/// How long the head of a request may be.
const HEAD_BYTES: usize = 64 << 10;

/// A request in the form in which it goes to the server, over a connection that ends with its answer.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    target: String,
    /// Whether only a part of an object is asked for.
    ranged: bool,
    pub(super) bytes: Vec<u8>,
}

impl Request {
    /// Takes in the next request of a connection, `None` at its end. `slow` is told of bytes as they come.
    pub(super) fn read(mut client: &TcpStream, slow: &dyn Fn(usize)) -> io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        let mut more = |bytes: &mut Vec<u8>| {
            let len = client.read(&mut buffer)?;
            slow(len);
            bytes.extend_from_slice(&buffer[..len]);
            io::Result::Ok(len > 0)
        };
        let head = loop {
            if let Some(end) = end_of_head(&bytes) {
                break end;
            }
            if !more(&mut bytes)? {
                return Ok(None);
            }
            if bytes.len() > HEAD_BYTES {
                return Err(io::ErrorKind::InvalidData.into());
            }
        };
        let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
        let length: usize = header(&text, "content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
        while bytes.len() < head + length {
            if !more(&mut bytes)? {
                return Ok(None);
            }
        }
        let mut words = text.split(' ');
        let (method, target) =
            (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
        let ranged = header(&text, "range").is_some();
        Ok(Some(Self { method, target, ranged, bytes: closing(&text, &bytes[head..]) }))
    }

    /// Whether it asks for the bytes of an object.
    pub(super) fn is_get_of_object(&self) -> bool {
        self.method == "GET" && !self.target.contains('?')
    }

    /// Whether it asks for all of them.
    pub(super) fn is_get_of_whole(&self) -> bool {
        self.is_get_of_object() && !self.ranged
    }
}

/// The request with a header which says that its connection ends with the answer. No signature covers that header.
fn closing(head: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(head.len() + body.len() + 32);
    for line in head.split_inclusive("\r\n").filter(|line| *line != "\r\n") {
        if !line.to_ascii_lowercase().starts_with("connection:") {
            bytes.extend_from_slice(line.as_bytes());
        }
    }
    bytes.extend_from_slice(b"connection: close\r\n\r\n");
    bytes.extend_from_slice(body);
    bytes
}

/// An answer in the form in which it goes to the client.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) bytes: Vec<u8>,
}

impl Response {
    /// What an S3 server says when it refuses.
    pub(super) fn refusal(status: u16, code: &str) -> Self {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>said by the proxy</Message></Error>"
        );
        let head = format!(
            "HTTP/1.1 {status} Refused\r\ncontent-type: application/xml\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        Self { bytes: (head + &body).into_bytes() }
    }

    /// Takes in what the server says until it ends the connection.
    pub(super) fn read(mut server: &TcpStream) -> io::Result<Self> {
        let mut bytes = Vec::new();
        server.read_to_end(&mut bytes)?;
        if bytes.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(Self { bytes }) }
    }

    /// The first half of the answer, or the answer with the first half of its body if it has one.
    pub(super) fn cut(mut self) -> Vec<u8> {
        let head = end_of_head(&self.bytes).unwrap_or(0);
        let body = self.bytes.len() - head;
        let kept = if body == 0 { head / 2 } else { head + body / 2 };
        self.bytes.truncate(kept);
        self.bytes
    }

    /// The answer with a wrong byte in the middle of its body, if it has one.
    pub(super) fn flipped(mut self) -> Vec<u8> {
        let head = end_of_head(&self.bytes).unwrap_or(self.bytes.len());
        let at = head + (self.bytes.len() - head) / 2;
        if let Some(byte) = self.bytes.get_mut(at) {
            *byte ^= 1;
        }
        self.bytes
    }
}

/// Where the head ends and the body begins.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|part| part == b"\r\n\r\n").map(|at| at + 4)
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
