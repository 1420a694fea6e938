//! What requests ask for. Fields at the end of a body may be missing, because older clients did not have them.

use bytes::{Buf, Bytes};
use juicefs_core::{
    Ino,
    tree::{Cloning, TreeDetail, TreeRemoval},
};

use super::Request;

/// Bit of the flags of a removal: nothing goes into the trash.
const SKIP_TRASH: u8 = 1;
/// Bit of the mode of a copy: attributes are preserved.
const PRESERVE: u8 = 2;
/// How many levels and entries of a summary can be asked for.
const MOST_DETAIL: (u8, u8) = (10, 100);
/// How many chunks are compacted side by side.
const MOST_WORKERS: u16 = 100;

/// A job.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Remove a tree.
    Remove { parent: Ino, name: Bytes, how: TreeRemoval },
    /// Copy a tree.
    Clone { source: Ino, to: Ino, name: Bytes, how: Cloning },
    /// Tell about a node, with `text` as a text for clients of long ago.
    Info { ino: Ino, recursive: bool, raw: bool, strict: bool, text: bool },
    /// Tell what the parts of a tree hold.
    Summary { ino: Ino, detail: TreeDetail },
    /// Join the slices of all chunks of a tree.
    Compact { ino: Ino, workers: u16 },
}

/// Why a request is no command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// Nobody here knows it.
    Unknown,
    /// Its body is cut short.
    Short,
}

/// The body as it is read.
struct Body(Bytes);

impl Body {
    fn has(&self, bytes: usize) -> Result<(), Malformed> {
        if self.0.len() < bytes { Err(Malformed::Short) } else { Ok(()) }
    }

    fn ino(&mut self) -> Result<Ino, Malformed> {
        self.has(8)?;
        Ok(Ino(self.0.get_u64()))
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        self.has(1)?;
        Ok(self.0.get_u8())
    }

    fn word(&mut self) -> Result<u16, Malformed> {
        self.has(2)?;
        Ok(self.0.get_u16())
    }

    fn name(&mut self) -> Result<Bytes, Malformed> {
        let len = usize::from(self.byte()?);
        self.has(len)?;
        Ok(self.0.split_to(len))
    }

    fn byte_or(&mut self, missing: u8) -> u8 {
        if self.0.is_empty() { missing } else { self.0.get_u8() }
    }
}

impl Command {
    /// Reads a request.
    pub(crate) fn read(request: Request) -> Result<Self, Malformed> {
        let mut body = Body(request.body.into());
        Ok(match request.command {
            1002 => {
                let (parent, name) = (body.ino()?, body.name()?);
                let skip_trash = body.byte_or(0) & SKIP_TRASH != 0;
                let threads = usize::from(body.byte_or(50)).max(1);
                Self::Remove { parent, name, how: TreeRemoval { skip_trash, threads } }
            }
            1003 | 1005 => {
                let ino = body.ino()?;
                let recursive = body.byte_or(1) != 0;
                let raw = body.byte_or(0) != 0;
                let text = request.command == 1003;
                Self::Info { ino, recursive, raw, strict: text || body.byte_or(0) != 0, text }
            }
            1006 => {
                let (source, _source_parent, to) = (body.ino()?, body.ino()?, body.ino()?);
                let (name, umask, mode) = (body.name()?, body.word()?, body.byte()?);
                let threads = usize::from(body.byte_or(4)).max(1);
                Self::Clone { source, to, name, how: Cloning { preserve: mode & PRESERVE != 0, umask, threads } }
            }
            1007 => {
                let ino = body.ino()?;
                let depth = body.byte_or(3).min(MOST_DETAIL.0);
                let entries = body.byte_or(10).min(MOST_DETAIL.1);
                Self::Summary { ino, detail: TreeDetail { depth, entries, strict: body.byte_or(0) != 0 } }
            }
            1008 => Self::Compact { ino: body.ino()?, workers: body.word()?.clamp(1, MOST_WORKERS) },
            _ => return Err(Malformed::Unknown),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(command: u32, body: &[&[u8]]) -> Result<Command, Malformed> {
        Command::read(Request { command, body: body.concat() })
    }

    #[test]
    fn fields_at_the_end_may_be_missing() {
        let seven = 7u64.to_be_bytes();
        let removal = |skip_trash, threads| Command::Remove {
            parent: Ino(7),
            name: Bytes::from_static(b"ab"),
            how: TreeRemoval { skip_trash, threads },
        };
        assert_eq!(read(1002, &[&seven, b"\x02ab"]), Ok(removal(false, 50)));
        assert_eq!(read(1002, &[&seven, b"\x02ab\x01"]), Ok(removal(true, 50)));
        assert_eq!(read(1002, &[&seven, b"\x02ab\x00\x00"]), Ok(removal(false, 1)));
        let info = |recursive, raw, strict, text| Command::Info { ino: Ino(7), recursive, raw, strict, text };
        assert_eq!(read(1003, &[&seven]), Ok(info(true, false, true, true)));
        assert_eq!(read(1005, &[&seven, &[0, 1, 1]]), Ok(info(false, true, true, false)));
        assert_eq!(read(1005, &[&seven]), Ok(info(true, false, false, false)));
        let detail = TreeDetail { depth: 3, entries: 10, strict: false };
        assert_eq!(read(1007, &[&seven]), Ok(Command::Summary { ino: Ino(7), detail }));
        assert_eq!(read(1008, &[&seven, &[0, 9]]), Ok(Command::Compact { ino: Ino(7), workers: 9 }));
    }

    #[test]
    fn nobody_gets_more_than_there_is() {
        let seven = 7u64.to_be_bytes();
        let detail = TreeDetail { depth: 10, entries: 100, strict: true };
        assert_eq!(read(1007, &[&seven, &[255, 255, 1]]), Ok(Command::Summary { ino: Ino(7), detail }));
        assert_eq!(read(1008, &[&seven, &[255, 255]]), Ok(Command::Compact { ino: Ino(7), workers: 100 }));
    }

    #[test]
    fn a_copy_carries_where_it_goes() {
        let inos = [3u64, 2, 9].map(u64::to_be_bytes).concat();
        let how = Cloning { preserve: true, umask: 0o22, threads: 4 };
        let wanted = Command::Clone { source: Ino(3), to: Ino(9), name: Bytes::from_static(b"x"), how };
        assert_eq!(read(1006, &[&inos, b"\x01x", &[0, 0o22, 2]]), Ok(wanted));
        assert_eq!(read(1006, &[&inos, b"\x01x"]), Err(Malformed::Short));
    }

    #[test]
    fn what_is_cut_short_or_unknown_is_said_so() {
        assert_eq!(read(1002, &[&7u64.to_be_bytes(), b"\x09ab"]), Err(Malformed::Short));
        assert_eq!(read(1005, &[b"abc"]), Err(Malformed::Short));
        assert_eq!(read(4711, &[]), Err(Malformed::Unknown));
    }
}
