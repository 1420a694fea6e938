//! The access log: one line for every operation, for whoever reads `.accesslog` (format: data.md §5.7).

use std::{
    fmt::{self, Write as _},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use juicefs_core::{Attr, Caller, Errno, Ino, Timestamp, civil::CivilTime};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::{Entry, local_time};

/// How many lines wait for a slow reader. Further ones are lost.
const MAX_LINES: usize = 10240;
/// How long a read waits for lines to fill its buffer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Operations that take longer are logged by the program itself too.
const SLOW: Duration = Duration::from_secs(10);

/// The access log, with those who read it.
#[derive(Default)]
pub(crate) struct AccessLog {
    readers: Mutex<Vec<mpsc::Sender<Bytes>>>,
    count: AtomicUsize,
}

/// One open `.accesslog`.
pub(super) struct LogReader {
    lines: tokio::sync::Mutex<Pending>,
    log: Arc<AccessLog>,
}

struct Pending {
    queue: mpsc::Receiver<Bytes>,
    /// What did not fit into the last read.
    rest: Bytes,
}

impl AccessLog {
    pub(super) fn subscribe(self: &Arc<Self>) -> LogReader {
        let (send, queue) = mpsc::channel(MAX_LINES);
        self.readers.lock().push(send);
        self.count.fetch_add(1, Ordering::AcqRel);
        LogReader { lines: tokio::sync::Mutex::new(Pending { queue, rest: Bytes::new() }), log: Arc::clone(self) }
    }

    /// Whether a line about an operation that took `spent` would be read or logged by anyone.
    pub(crate) fn wants(&self, spent: Duration) -> bool {
        self.count.load(Ordering::Relaxed) > 0 || spent >= SLOW
    }

    /// Writes the line of one operation. `args` appends arguments and result to the operation's name.
    pub(crate) fn line(
        &self,
        now: Timestamp,
        cx: &Caller,
        spent: Duration,
        failed: Option<Errno>,
        name: &str,
        args: impl FnOnce(&mut String) -> fmt::Result,
    ) {
        let mut line = String::with_capacity(160);
        let written = write!(line, "{} [uid:{},gid:{},pid:{}] {name} ", LocalTime(now), cx.uid, cx.gid, cx.pid)
            .and_then(|()| args(&mut line))
            .and_then(|()| writeln!(line, " - {} <{:.6}>", Outcome(failed), spent.as_secs_f64()));
        // Writing into a string cannot fail.
        debug_assert!(written.is_ok());
        if cx.pid != 0 && spent >= SLOW {
            tracing::info!("slow operation: {}", line.trim_end());
        }
        let line = Bytes::from(line);
        for reader in self.readers.lock().iter() {
            // A slow reader loses lines; it must not hold up operations.
            let _ = reader.try_send(line.clone());
        }
    }
}

impl Drop for LogReader {
    fn drop(&mut self) {
        self.lines.get_mut().queue.close();
        self.log.readers.lock().retain(|reader| !reader.is_closed());
        self.log.count.fetch_sub(1, Ordering::AcqRel);
    }
}

impl LogReader {
    /// Reads up to `size` bytes of lines, and waits up to a second to fill the buffer. The result is `#` alone when
    /// nothing happened.
    pub(super) async fn read(&self, size: usize) -> Bytes {
        let mut pending = self.lines.lock().await;
        let mut out = BytesMut::with_capacity(size.min(64 << 10));
        let patience = tokio::time::sleep(PATIENCE);
        tokio::pin!(patience);
        loop {
            let take = pending.rest.remaining().min(size - out.len());
            out.extend_from_slice(&pending.rest.split_to(take));
            if out.len() == size {
                break;
            }
            tokio::select! {
                biased;
                line = pending.queue.recv() => match line {
                    Some(line) => pending.rest = line,
                    None => break,
                },
                () = &mut patience => break,
            }
        }
        if out.is_empty() {
            out.extend_from_slice(&b"#\n"[..size.min(2)]);
        }
        out.freeze()
    }
}

/// `YYYY.MM.DD hh:mm:ss.uuuuuu` in local time.
struct LocalTime(Timestamp);

impl fmt::Display for LocalTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CivilTime { date: (y, mo, d), time: (h, mi, s), nanos, .. } = local_time(self.0);
        write!(f, "{y:04}.{mo:02}.{d:02} {h:02}:{mi:02}:{s:02}.{:06}", nanos / 1000)
    }
}

/// `OK` or the description of the error, in lower case as tools expect it.
struct Outcome(Option<Errno>);

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("OK"),
            Some(Errno::EIO) => f.write_str("input/output error"),
            Some(errno) => f.write_str(&errno.to_string().to_lowercase()),
        }
    }
}

/// A name or path as lines show it. It is escaped if it could not stand in a line as it is.
pub(crate) struct Text<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(self.0) {
            Ok(text) if !text.chars().any(|c| (c.is_control() && c != '\t') || c == '`' || c == '\u{feff}') => {
                f.write_str(text)
            }
            Ok(text) => {
                for c in text.chars() {
                    match c {
                        '"' | '\\' => write!(f, "\\{c}")?,
                        '\n' => f.write_str("\\n")?,
                        '\r' => f.write_str("\\r")?,
                        '\t' => f.write_str("\\t")?,
                        c if c.is_control() => write!(f, "\\x{:02x}", u32::from(c))?,
                        c => f.write_char(c)?,
                    }
                }
                Ok(())
            }
            Err(_) => write!(f, "{}", self.0.escape_ascii()),
        }
    }
}

/// A node as lines show it, with its number and attributes.
pub(crate) struct EntryText<'a>(pub(crate) Option<(Ino, &'a Attr)>);

impl<'a> EntryText<'a> {
    pub(crate) fn entry(entry: Result<&'a Entry, &Errno>) -> Self {
        Self(entry.ok().map(|entry| (entry.ino, &entry.attr)))
    }
}

impl fmt::Display for EntryText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((ino, attr)) = self.0 else { return Ok(()) };
        let mode = attr.st_mode();
        write!(
            f,
            " ({ino},[{}:0{mode:06o},{},{},{},{},{},{},{}])",
            Mode(mode),
            attr.nlink,
            attr.uid,
            attr.gid,
            attr.atime.secs,
            attr.mtime.secs,
            attr.ctime.secs,
            attr.length
        )
    }
}

/// A mode as `ls` shows it, such as `-rwxr-xr-x`.
pub(crate) struct Mode(pub(crate) u32);

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.0 & libc::S_IFMT {
            libc::S_IFSOCK => 's',
            libc::S_IFLNK => 'l',
            libc::S_IFREG => '-',
            libc::S_IFBLK => 'b',
            libc::S_IFDIR => 'd',
            libc::S_IFCHR => 'c',
            libc::S_IFIFO => 'f',
            _ => '?',
        };
        f.write_char(kind)?;
        for (shift, special, mark) in [(6, libc::S_ISUID, 's'), (3, libc::S_ISGID, 's'), (0, libc::S_ISVTX, 't')] {
            let bits = self.0 >> shift;
            f.write_char(if bits & 4 != 0 { 'r' } else { '-' })?;
            f.write_char(if bits & 2 != 0 { 'w' } else { '-' })?;
            f.write_char(match (self.0 & special != 0, bits & 1 != 0) {
                (true, true) => mark,
                (true, false) => mark.to_ascii_uppercase(),
                (false, true) => 'x',
                (false, false) => '-',
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use juicefs_core::FileType;

    use super::*;

    #[test]
    fn modes_read_as_ls_has_them() {
        let show = |mode| Mode(mode).to_string();
        assert_eq!(show(libc::S_IFREG | 0o4755), "-rwsr-xr-x");
        assert_eq!(show(libc::S_IFDIR | 0o1776), "drwxrwxrwT");
        assert_eq!(show(libc::S_IFIFO | 0o2640), "frw-r-S---");
        assert_eq!(show(0o7000), "?--S--S--T");
    }

    #[test]
    fn entries_show_what_parsers_look_for() {
        let attr = Attr { kind: FileType::File, mode: 0o644, nlink: 1, length: 5, ..Attr::default() };
        assert_eq!(EntryText(Some((Ino(3), &attr))).to_string(), " (3,[-rw-r--r--:0100644,1,0,0,0,0,0,5])");
        assert_eq!(Text(b"a\nb").to_string(), "a\\nb");
        assert_eq!(Text("ä b".as_bytes()).to_string(), "ä b");
    }

    #[tokio::test(start_paused = true)]
    async fn long_lines_go_on_in_the_next_read() {
        let log = Arc::new(AccessLog::default());
        assert!(!log.wants(Duration::ZERO));
        let reader = log.subscribe();
        let cx = Caller { uid: 1, gid: 2, pid: 3, ..Caller::default() };
        let args = |line: &mut String| line.write_str("(17,8,9,3)");
        log.line(Timestamp::from_secs(0), &cx, Duration::from_micros(10), None, "write", args);
        let first = reader.read(30).await;
        let rest = reader.read(4096).await;
        let line = String::from_utf8([first.as_ref(), rest.as_ref()].concat()).expect("text");
        assert!(line.ends_with(" [uid:1,gid:2,pid:3] write (17,8,9,3) - OK <0.000010>\n"), "{line}");
        assert_eq!(reader.read(4096).await, "#\n");
        drop(reader);
        assert!(!log.wants(Duration::ZERO));
    }
}
