//! The internal files, which the client itself serves: `.accesslog`, `.control`, `.stats`, `.config` (format: data.md §5.6).

mod access_log;
mod control;
mod stats;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use juicefs_core::{Attr, Caller, Errno, FileType, Ino, Segments, Timestamp};

use self::access_log::LogReader;
pub(crate) use self::access_log::{AccessLog, EntryText, Mode, Text};
use self::control::ReplyRoom;
pub(crate) use self::control::{Command, Control, Malformed, Reply, Request};
use crate::{VfsConfig, context::Context};

/// Inode numbers from here on are internal. The root of the trash and its directories lie here too, but are kept as
/// metadata.
const FIRST: u64 = 0x7FFF_FFFF_0000_0000;

/// One internal file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Node {
    AccessLog,
    Control,
    Stats,
    Config,
}

impl Node {
    const ALL: [Self; 4] = [Self::AccessLog, Self::Control, Self::Stats, Self::Config];
    /// The files that a listing of the root shows. The access log is not among them: it never ends, so that a program
    /// which copies or searches a whole tree would hang there.
    const LISTED: [Self; 2] = [Self::Stats, Self::Config];

    pub(crate) fn ino(self) -> Ino {
        Ino(FIRST
            + match self {
                Self::AccessLog => 1,
                Self::Control => 2,
                Self::Stats => 3,
                Self::Config => 4,
            })
    }

    fn of(ino: Ino) -> Option<Self> {
        Self::ALL.into_iter().find(|node| node.ino() == ino)
    }

    fn name(self) -> &'static str {
        match self {
            Self::AccessLog => "accesslog",
            Self::Control => "control",
            Self::Stats => "stats",
            Self::Config => "config",
        }
    }

    fn mode(self) -> u16 {
        match self {
            Self::AccessLog | Self::Config => 0o400,
            Self::Control => 0o666,
            Self::Stats => 0o444,
        }
    }
}

/// What a name of the internal table means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Special {
    File(Node),
    Trash,
}

impl Special {
    pub(crate) fn ino(self) -> Ino {
        match self {
            Self::File(node) => node.ino(),
            Self::Trash => Ino::TRASH_ROOT,
        }
    }
}

/// Whether `ino` is an internal file, the trash root or one of its hourly directories.
pub(crate) fn is_special(ino: Ino) -> bool {
    ino.0 >= FIRST
}

/// The internal files of one mount.
pub(crate) struct Internal {
    pub(crate) log: Arc<AccessLog>,
    prefix: &'static str,
    uid: u32,
    gid: u32,
    started: Timestamp,
    config: Bytes,
    trash_shown: bool,
    /// Room for replies that nobody has read yet.
    replies: Arc<ReplyRoom>,
}

impl Internal {
    pub(crate) fn new(config: &VfsConfig, started: Timestamp) -> Self {
        Self {
            log: Arc::default(),
            prefix: if config.prefix_internal { ".jfs." } else { "." },
            uid: config.mount_uid,
            gid: config.mount_gid,
            started,
            config: indented(&config.config_json),
            trash_shown: !config.subdir,
            replies: Arc::default(),
        }
    }

    /// The internal node that `name` in `parent` means. `.control` is found everywhere, the others in the root.
    pub(crate) fn find(&self, parent: Ino, name: &[u8]) -> Option<Special> {
        let name = name.strip_prefix(self.prefix.as_bytes())?;
        if name == Node::Control.name().as_bytes() {
            return Some(Special::File(Node::Control));
        }
        if parent != Ino::ROOT {
            return None;
        }
        if self.trash_shown && name == b"trash" {
            return Some(Special::Trash);
        }
        Node::ALL.into_iter().find(|node| node.name().as_bytes() == name).map(Special::File)
    }

    /// Whether `name` may not be made, removed or renamed because it is internal.
    pub(crate) fn reserves(&self, parent: Ino, name: &[u8]) -> bool {
        parent == Ino::ROOT && self.find(parent, name).is_some()
    }

    /// Names that a listing of the root shows.
    pub(crate) fn listed(&self) -> Vec<(Bytes, Special)> {
        let files = Node::LISTED.into_iter().map(|node| (node.name(), Special::File(node)));
        let trash = self.trash_shown.then_some(("trash", Special::Trash));
        files.chain(trash).map(|(name, special)| (Bytes::from(format!("{}{name}", self.prefix)), special)).collect()
    }

    /// Attributes of an internal file; `None` for any other inode.
    pub(crate) fn attr(&self, ino: Ino) -> Option<Attr> {
        let node = Node::of(ino)?;
        Some(Attr {
            kind: FileType::File,
            mode: node.mode(),
            uid: self.uid,
            gid: self.gid,
            atime: self.started,
            mtime: self.started,
            ctime: self.started,
            nlink: 1,
            length: if node == Node::Config { self.config.len() as u64 } else { 0 },
            parent: Ino::ROOT,
            ..Attr::default()
        })
    }

    /// Fails with EACCES unless the mode bits of an internal file grant `mask`. Uid 0 always passes.
    pub(crate) fn access(&self, cx: &Caller, attr: &Attr, mask: u8) -> Result<(), Errno> {
        let shift = if cx.uid == attr.uid {
            6
        } else if cx.in_group(attr.gid) {
            3
        } else {
            0
        };
        let granted = (attr.mode >> shift) & 7;
        if cx.uid == 0 || u16::from(mask) & !granted == 0 { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// Opens an internal file, or fails with EACCES. The mode bits are checked here because the kernel does not do so
    /// on every mount, and lets a squashed root pass. Only `.control` can be opened for writing.
    pub(crate) fn open(&self, cx: &Caller, ino: Ino, flags: i32) -> Result<Arc<InternalHandle>, Errno> {
        let node = Node::of(ino).ok_or(Errno::EACCES)?;
        let attr = self.attr(ino).ok_or(Errno::EACCES)?;
        let mask = match flags & libc::O_ACCMODE {
            libc::O_RDONLY => 4,
            libc::O_WRONLY => 2,
            _ => 6,
        };
        self.access(cx, &attr, mask)?;
        if node != Node::Control && flags & libc::O_ACCMODE != libc::O_RDONLY {
            return Err(Errno::EACCES);
        }
        let content = match node {
            Node::AccessLog => Content::Log(self.log.subscribe()),
            Node::Control => Content::Control(Arc::new(Control::new(Arc::clone(&self.replies)))),
            Node::Stats => Content::Stats(OnceLock::new()),
            Node::Config => Content::Fixed(self.config.clone()),
        };
        Ok(Arc::new(InternalHandle { node, content }))
    }
}

/// An open internal file.
pub(crate) struct InternalHandle {
    node: Node,
    content: Content,
}

enum Content {
    Log(LogReader),
    Control(Arc<Control>),
    /// The text, which the first read captures.
    Stats(OnceLock<Bytes>),
    Fixed(Bytes),
}

impl InternalHandle {
    pub(crate) fn ino(&self) -> Ino {
        self.node.ino()
    }

    /// Whether operations on it appear in the access log: reading the log must not fill it.
    pub(crate) fn is_log(&self) -> bool {
        self.node == Node::AccessLog
    }

    pub(crate) async fn read(&self, cx: &Context, open_inodes: usize, off: u64, size: u32) -> Result<Segments, Errno> {
        let bytes = match &self.content {
            Content::Log(reader) => reader.read(size as usize).await,
            Content::Control(control) => control.read(off, size)?,
            Content::Stats(text) => cut(text.get_or_init(|| stats::render(cx, open_inodes).into()), off, size),
            Content::Fixed(text) => cut(text, off, size),
        };
        let mut out = Segments::new();
        if !bytes.is_empty() {
            out.push(bytes);
        }
        Ok(out)
    }

    /// Takes a piece of a control request, and gives the request once it is complete. EBADF for any other file, EBUSY while
    /// a job runs.
    pub(crate) fn write(&self, data: &[u8]) -> Result<Option<(&Arc<Control>, Request)>, Errno> {
        match &self.content {
            Content::Control(control) => Ok(control.write(data)?.map(|request| (control, request))),
            Content::Log(_) | Content::Stats(_) | Content::Fixed(_) => Err(Errno::EBADF),
        }
    }

    /// Stops the job that runs for whoever had the file open, because they close it.
    pub(crate) fn close(&self) {
        if let Content::Control(control) = &self.content {
            control.cancel();
        }
    }
}

/// The part of `text` that a read of `size` bytes at `off` gets.
fn cut(text: &Bytes, off: u64, size: u32) -> Bytes {
    let from = usize::try_from(off).unwrap_or(usize::MAX).min(text.len());
    let to = from.saturating_add(size as usize).min(text.len());
    text.slice(from..to)
}

/// JSON with an indentation of one blank, as tools expect `.config`.
fn indented(value: &serde_json::Value) -> Bytes {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    match serde::Serialize::serialize(value, &mut serializer) {
        Ok(()) => out.into(),
        // Writing a JSON value into memory cannot fail; an empty file would be the harmless answer.
        Err(_) => Bytes::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_depend_on_place_and_prefix() {
        let plain = Internal::new(&VfsConfig::standard(), Timestamp::default());
        assert_eq!(plain.find(Ino(5), b".control"), Some(Special::File(Node::Control)));
        assert_eq!(plain.find(Ino(5), b".stats"), None);
        assert_eq!(plain.find(Ino::ROOT, b".trash"), Some(Special::Trash));
        let config = VfsConfig { prefix_internal: true, subdir: true, ..VfsConfig::standard() };
        let prefixed = Internal::new(&config, Timestamp::default());
        assert_eq!(prefixed.find(Ino::ROOT, b".stats"), None);
        assert_eq!(prefixed.find(Ino::ROOT, b".jfs.stats"), Some(Special::File(Node::Stats)));
        assert_eq!(prefixed.find(Ino::ROOT, b".jfs.trash"), None);
    }

    #[test]
    fn opening_asks_the_mode_bits() {
        let internal = Internal::new(&VfsConfig { mount_uid: 7, ..VfsConfig::standard() }, Timestamp::default());
        let open = |uid, node: Node, flags| {
            let cx = Caller { uid, gid: 9, ..Caller::default() };
            internal.open(&cx, node.ino(), flags).map(drop)
        };
        for node in [Node::AccessLog, Node::Config] {
            assert_eq!(open(8, node, libc::O_RDONLY), Err(Errno::EACCES), "{node:?}");
            assert_eq!((open(7, node, libc::O_RDONLY), open(0, node, libc::O_RDONLY)), (Ok(()), Ok(())), "{node:?}");
            assert_eq!(open(0, node, libc::O_WRONLY), Err(Errno::EACCES), "{node:?}");
        }
        assert_eq!(open(8, Node::Stats, libc::O_RDONLY), Ok(()));
        assert_eq!(open(8, Node::Stats, libc::O_RDWR), Err(Errno::EACCES));
        assert_eq!(open(8, Node::Control, libc::O_RDWR), Ok(()));
    }

    #[test]
    fn owner_and_others_get_what_the_mode_says() {
        let internal = Internal::new(&VfsConfig { mount_uid: 7, ..VfsConfig::standard() }, Timestamp::default());
        let config = internal.attr(Node::Config.ino()).expect("an internal file");
        let who = |uid| Caller { uid, gid: 9, ..Caller::default() };
        assert_eq!(internal.access(&who(7), &config, 4), Ok(()));
        assert_eq!(internal.access(&who(8), &config, 4), Err(Errno::EACCES));
        assert_eq!(internal.access(&who(0), &config, 6), Ok(()));
    }
}
