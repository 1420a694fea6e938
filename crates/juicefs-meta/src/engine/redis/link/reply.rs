//! Replies as they come over the wire.

use std::collections::VecDeque;

use bytes::{Buf, BytesMut};
use redis::Value;

/// What a server may nest; deeper is not a Redis.
const MAX_DEPTH: usize = 64;
/// Longest line and bulk string that a server may send.
const MAX_LINE: usize = 64 << 10;
const MAX_BULK: usize = 512 << 20;

/// A complete reply.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) value: Value,
    /// Whether an error is in it, at any depth.
    pub(super) has_error: bool,
}

/// Bytes that are no reply of a Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotRedis;

/// Turns bytes into replies, however they are cut. Each byte is looked at once, also in replies of many megabytes.
///
/// Of RESP3 it knows what a server sends to who watches keys: maps become flat arrays, sets and messages of the server's
/// own accord plain ones.
#[derive(Default)]
pub(super) struct Parser {
    /// Arrays that are not complete, outermost first, and how many elements each still lacks.
    open: Vec<(Vec<Value>, usize)>,
    /// Bytes from the front of the buffer that are known to have no line end.
    searched: usize,
    has_error: bool,
}

impl Parser {
    /// Takes all that is complete out of `bytes` and adds the replies to `replies`.
    pub(super) fn feed(&mut self, bytes: &mut BytesMut, replies: &mut VecDeque<Reply>) -> Result<(), NotRedis> {
        while let Some(value) = self.element(bytes)? {
            let mut value = value;
            loop {
                let Some((elements, lacking)) = self.open.last_mut() else {
                    replies.push_back(Reply { value, has_error: std::mem::take(&mut self.has_error) });
                    break;
                };
                elements.push(value);
                *lacking -= 1;
                if *lacking > 0 {
                    break;
                }
                value = Value::Array(std::mem::take(elements));
                self.open.pop();
            }
        }
        Ok(())
    }

    /// The next value that is not an array with elements; such a one is opened instead.
    fn element(&mut self, bytes: &mut BytesMut) -> Result<Option<Value>, NotRedis> {
        loop {
            let Some(&kind) = bytes.first() else { return Ok(None) };
            if !matches!(kind, b'+' | b'-' | b':' | b'$' | b'*' | b'%' | b'~' | b'>' | b'_') {
                return Err(NotRedis);
            }
            let Some(end) = self.line_end(bytes)? else { return Ok(None) };
            let line = &bytes[1..end];
            let value = match kind {
                b'+' if line == b"OK" => Value::Okay,
                b'+' => Value::SimpleString(String::from_utf8_lossy(line).into_owned()),
                b':' => Value::Int(integer(line)?),
                b'_' => Value::Nil,
                b'-' => {
                    self.has_error = true;
                    // The type of the error has no public constructor.
                    let text = format!("-{}\r\n", String::from_utf8_lossy(line));
                    redis::parse_redis_value(text.as_bytes()).map_err(|_| NotRedis)?
                }
                b'$' => match usize::try_from(integer(line)?) {
                    Err(_) => Value::Nil,
                    Ok(length) if length > MAX_BULK => return Err(NotRedis),
                    Ok(length) => {
                        let start = end + 2;
                        if bytes.len() < start + length + 2 {
                            bytes.reserve(start + length + 2 - bytes.len());
                            // The header is looked at again with the last bytes.
                            return Ok(None);
                        }
                        let string = bytes[start..start + length].to_vec();
                        if &bytes[start + length..start + length + 2] != b"\r\n" {
                            return Err(NotRedis);
                        }
                        bytes.advance(start + length + 2);
                        self.searched = 0;
                        return Ok(Some(Value::BulkString(string)));
                    }
                },
                _ => match usize::try_from(integer(line)?) {
                    Err(_) => Value::Nil,
                    Ok(0) => Value::Array(Vec::new()),
                    Ok(count) => {
                        let count = if kind == b'%' { count.saturating_mul(2) } else { count };
                        if self.open.len() == MAX_DEPTH {
                            return Err(NotRedis);
                        }
                        // Not more than the server has to fill.
                        self.open.push((Vec::with_capacity(count.min(4096)), count));
                        bytes.advance(end + 2);
                        self.searched = 0;
                        continue;
                    }
                },
            };
            bytes.advance(end + 2);
            self.searched = 0;
            return Ok(Some(value));
        }
    }

    /// Where the first line ends, without its end mark.
    fn line_end(&mut self, bytes: &[u8]) -> Result<Option<usize>, NotRedis> {
        let from = self.searched;
        match bytes[from..].windows(2).position(|pair| pair == b"\r\n") {
            Some(at) => Ok(Some(from + at)),
            None if bytes.len() > MAX_LINE => Err(NotRedis),
            None => {
                self.searched = bytes.len().saturating_sub(1);
                Ok(None)
            }
        }
    }
}

fn integer(digits: &[u8]) -> Result<i64, NotRedis> {
    std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or(NotRedis)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] =
        b"+OK\r\n:-42\r\n$5\r\nhe\r\no\r\n$-1\r\n*-1\r\n*0\r\n*3\r\n*2\r\n:1\r\n-WRONGTYPE no\r\n$0\r\n\r\n\
                            +PONG\r\n-ERR bad thing\r\n$3\r\nend\r\n";

    fn parse(pieces: &[&[u8]]) -> Result<Vec<Reply>, NotRedis> {
        let (mut parser, mut bytes, mut replies) = (Parser::default(), BytesMut::new(), VecDeque::new());
        for piece in pieces {
            bytes.extend_from_slice(piece);
            parser.feed(&mut bytes, &mut replies)?;
        }
        assert!(bytes.is_empty(), "{bytes:?} is left");
        Ok(replies.into())
    }

    fn check(replies: &[Reply]) {
        assert_eq!(replies.len(), 9);
        assert_eq!(replies[0].value, Value::Okay);
        assert_eq!(replies[1].value, Value::Int(-42));
        assert_eq!(replies[2].value, Value::BulkString(b"he\r\no".to_vec()));
        assert_eq!(replies[3].value, Value::Nil);
        assert_eq!(replies[4].value, Value::Nil);
        assert_eq!(replies[5].value, Value::Array(vec![]));
        let Value::Array(outer) = &replies[6].value else { panic!("{:?}", replies[6]) };
        let [Value::Array(inner), Value::BulkString(empty), Value::SimpleString(pong)] = &outer[..] else {
            panic!("{outer:?}")
        };
        assert!(matches!(&inner[1], Value::ServerError(error) if error.code() == "WRONGTYPE"));
        assert!(empty.is_empty() && pong == "PONG");
        assert!(matches!(&replies[7].value, Value::ServerError(error) if error.details() == Some("bad thing")));
        assert_eq!(replies[8].value, Value::BulkString(b"end".to_vec()));
        let errors: Vec<_> = replies.iter().map(|reply| reply.has_error).collect();
        assert_eq!(errors, [false, false, false, false, false, false, true, true, false]);
    }

    #[test]
    fn replies_are_the_same_wherever_they_are_cut() {
        check(&parse(&[STREAM]).expect("replies"));
        for cut in 0..=STREAM.len() {
            check(&parse(&[&STREAM[..cut], &STREAM[cut..]]).expect("replies"));
        }
        let bytes: Vec<_> = STREAM.chunks(1).collect();
        check(&parse(&bytes).expect("replies"));
    }

    #[test]
    fn agrees_with_the_parser_of_the_redis_crate() {
        let mut rest = STREAM;
        let mut parser = redis::Parser::new();
        for reply in parse(&[STREAM]).expect("replies") {
            let value = parser.parse_value(&mut rest).expect("a value");
            assert_eq!(reply.value, value);
        }
    }

    #[test]
    fn maps_and_messages_are_arrays() {
        let replies =
            parse(&[b"%1\r\n+a\r\n:1\r\n>2\r\n$10\r\ninvalidate\r\n~1\r\n$2\r\ni7\r\n_\r\n"]).expect("replies");
        let values: Vec<_> = replies.into_iter().map(|reply| reply.value).collect();
        let bulk = |text: &str| Value::BulkString(text.into());
        let message = vec![bulk("invalidate"), Value::Array(vec![bulk("i7")])];
        let map = vec![Value::SimpleString("a".to_owned()), Value::Int(1)];
        assert_eq!(values, [Value::Array(map), Value::Array(message), Value::Nil]);
    }

    #[test]
    fn what_is_no_redis_is_noticed() {
        for text in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"SSH-2.0-x\r\n",
            b":x\r\n",
            b"$x\r\n",
            b"$3\r\nabcde",
            b"\x15\x03\x01",
        ] {
            assert_eq!(parse(&[text]).map(|_| ()), Err(NotRedis), "{text:?}");
        }
        let deep: Vec<u8> = b"*1\r\n".repeat(MAX_DEPTH + 1);
        assert_eq!(parse(&[&deep]).map(|_| ()), Err(NotRedis));
        assert_eq!(parse(&[b"+", &vec![b'x'; MAX_LINE + 1]]).map(|_| ()), Err(NotRedis));
    }
}
