//! As much of the Redis protocol as a test needs to look at a server without the client.

use std::{
    io::{self, BufRead, BufReader, Error, ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

/// What a server answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// A simple string such as `OK`.
    Status(String),
    /// An error, with its code as the first word.
    Error(String),
    /// A number.
    Int(i64),
    /// A string of bytes.
    Bulk(Vec<u8>),
    /// There is nothing.
    Nil,
    /// A list.
    Array(Vec<Reply>),
}

impl Reply {
    /// The bytes of a string.
    ///
    /// # Panics
    ///
    /// If it is no string.
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        match self {
            Self::Bulk(bytes) => bytes,
            Self::Status(text) => text.into_bytes(),
            other => panic!("not a string: {other:?}"),
        }
    }

    /// The text of a string or of a status.
    ///
    /// # Panics
    ///
    /// If it is neither, or no UTF-8.
    #[must_use]
    pub fn text(self) -> String {
        String::from_utf8(self.bytes()).expect("a reply in UTF-8")
    }

    /// The number.
    ///
    /// # Panics
    ///
    /// If it is none.
    #[must_use]
    pub fn int(self) -> i64 {
        match self {
            Self::Int(n) => n,
            other => panic!("not a number: {other:?}"),
        }
    }

    /// The items of a list.
    ///
    /// # Panics
    ///
    /// If it is none.
    #[must_use]
    pub fn items(self) -> Vec<Self> {
        match self {
            Self::Array(items) => items,
            other => panic!("not a list: {other:?}"),
        }
    }
}

/// A blocking connection, one request at a time.
#[derive(Debug)]
pub struct Wire {
    stream: BufReader<UnixStream>,
}

impl Wire {
    pub(super) fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends a command and waits for its answer.
    ///
    /// # Panics
    ///
    /// If the connection is lost or the answer is an error.
    pub fn call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Reply {
        match self.try_call(args) {
            Ok(Reply::Error(error)) => {
                panic!("{}: {error}", String::from_utf8_lossy(args.first().map_or(b"", AsRef::as_ref)))
            }
            Ok(reply) => reply,
            Err(e) => panic!("the connection to the Redis server is lost: {e}"),
        }
    }

    /// Sends a command and waits for its answer, which may be an error.
    ///
    /// # Errors
    ///
    /// If the connection is lost or 30 seconds bring no answer.
    pub fn try_call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> io::Result<Reply> {
        let mut request = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args {
            let arg = arg.as_ref();
            request.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
            request.extend_from_slice(arg);
            request.extend_from_slice(b"\r\n");
        }
        self.stream.get_mut().write_all(&request)?;
        self.reply()
    }

    /// All keys of the database that match `pattern`, sorted.
    pub fn keys(&mut self, pattern: &str) -> Vec<Vec<u8>> {
        let mut keys: Vec<Vec<u8>> = self.call(&["KEYS", pattern]).items().into_iter().map(Reply::bytes).collect();
        keys.sort();
        keys
    }

    fn reply(&mut self) -> io::Result<Reply> {
        let line = self.line()?;
        let (kind, rest) = line.split_at_checked(1).ok_or_else(|| malformed(&line))?;
        let number = || rest.parse::<i64>().map_err(|_| malformed(&line));
        Ok(match kind {
            "+" => Reply::Status(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Int(number()?),
            "$" | "*" if number()? < 0 => Reply::Nil,
            "$" => {
                let mut bytes = vec![0; number()? as usize + 2];
                self.stream.read_exact(&mut bytes)?;
                bytes.truncate(bytes.len() - 2);
                Reply::Bulk(bytes)
            }
            "*" => Reply::Array((0..number()?).map(|_| self.reply()).collect::<io::Result<_>>()?),
            _ => return Err(malformed(&line)),
        })
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }
}

fn malformed(line: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("not a Redis reply: {line:?}"))
}
