//! Requests as bytes in, answers as bytes out, over the toy file system.

use std::{os::unix::net::UnixDatagram, time::Duration};

use proptest::prelude::*;
use tokio::runtime::Runtime;

use super::*;
use crate::{
    abi::{
        self, AttrOut, CreateIn, EntryOut, FlushIn, IoctlIn, MkdirIn, MknodIn, ReadIn, RenameIn, Wire, bytes_of, split,
    },
    device::{
        Device,
        tests::{device, message},
    },
    tests::toy::Toy,
    transport::dev::{DevRequest, page_buf::PageBufPool},
};

struct Kernel {
    dispatcher: Dispatcher<Toy>,
    device: Arc<Device>,
    socket: UnixDatagram,
    pool: Arc<PageBufPool>,
    rt: Runtime,
}

impl Kernel {
    fn new() -> Self {
        let (device, socket) = device();
        let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let nowhere = std::fs::OpenOptions::new().write(true).open("/dev/null").expect("a device");
        let (notifier, _) = Notifier::start(Arc::new(Device::new(nowhere.into()))).expect("a thread");
        let dispatcher = Dispatcher {
            ops: Toy::new(),
            settings: Settings { default_permissions: false, xattr: true, setxattr_ext: false },
            callers: Callers::new(false, None, None),
            deferred: Arc::new(Deferred::new(1 << 20)),
            let_go: Arc::default(),
            notifier,
            rt: rt.handle().clone(),
        };
        Self { dispatcher, device, socket, pool: PageBufPool::new(128 << 10), rt }
    }

    fn send(&self, opcode: u32, unique: u64, node: u64, args: &[u8]) {
        let len = (size_of::<InHeader>() + args.len()) as u32;
        let header = InHeader { len, opcode, unique, nodeid: node, uid: 1000, ..Default::default() };
        let bytes = [bytes_of(&header), args].concat();
        let mut buf = self.pool.take().expect("a buffer");
        buf.request_room()[..bytes.len()].copy_from_slice(&bytes);
        let _context = self.rt.enter();
        let mut request = match DevRequest::new(buf, bytes.len()) {
            Ok(request) => request,
            Err((malformed, _)) => panic!("{malformed:?}"),
        };
        let begun = self.dispatcher.begin(&mut request);
        drop(request);
        self.dispatcher.end(begun, Reply::new(unique, Arc::clone(&self.device)));
    }

    /// Sends and takes the one answer: error and body.
    fn ask(&self, opcode: u32, node: u64, args: &[u8]) -> (i32, Vec<u8>) {
        self.send(opcode, 77, node, args);
        self.dispatcher.deferred.wait_idle(Duration::from_secs(60));
        let (unique, error, body) = message(&self.socket).expect("an answer");
        assert_eq!(unique, 77);
        assert_eq!(message(&self.socket), None, "only one");
        (-error, body)
    }

    fn make(&self, name: &str) -> u64 {
        let head = CreateIn { mode: 0o100_644, ..Default::default() };
        let (error, body) = self.ask(opcode::CREATE, 1, &with_name(&head, name));
        assert_eq!(error, 0);
        assert_eq!(body.len(), 144);
        split::<EntryOut>(&body).expect("an entry").0.nodeid
    }
}

fn with_name<T: Wire>(head: &T, name: &str) -> Vec<u8> {
    [bytes_of(head), name.as_bytes(), b"\0"].concat()
}

fn write(fh: u64, off: u64, data: &[u8]) -> Vec<u8> {
    let head = WriteIn { fh, offset: off, size: data.len() as u32, ..Default::default() };
    [bytes_of(&head), data].concat()
}

#[test]
fn content_goes_in_and_comes_out() {
    let kernel = Kernel::new();
    let node = kernel.make("f");
    // Large enough to be handed on in its buffer, and small enough to be copied.
    for len in [100_000, 10] {
        let data: Vec<u8> = (0..len).map(|i| (i * 7 + len) as u8).collect();
        let (error, body) = kernel.ask(opcode::WRITE, node, &write(node, 3, &data));
        assert_eq!((error, &body[..4]), (0, &(len as u32).to_ne_bytes()[..]));
        let read = ReadIn { fh: node, offset: 3, size: len as u32, ..Default::default() };
        assert_eq!(kernel.ask(opcode::READ, node, bytes_of(&read)), (0, data));
    }
}

#[test]
fn deferred_work_is_answered_too() {
    let kernel = Kernel::new();
    kernel.dispatcher.ops.slow.store(true, std::sync::atomic::Ordering::Relaxed);
    let node = kernel.make("f");
    let (error, body) = kernel.ask(opcode::GETATTR, node, bytes_of(&abi::GetattrIn::default()));
    assert_eq!((error, split::<AttrOut>(&body).expect("attributes").0.attr.mode), (0, 0o100_644));
    assert_eq!(kernel.ask(opcode::LOOKUP, 1, b"none\0").0, libc::ENOENT);
}

/// A node that is gone is stale, so that the kernel looks its name up again; a name that is gone is not there.
#[test]
fn a_node_that_is_gone_is_stale() {
    let kernel = Kernel::new();
    for (code, args) in [
        (opcode::OPEN, bytes_of(&abi::OpenIn::default())),
        (opcode::GETATTR, bytes_of(&abi::GetattrIn::default())),
        (opcode::SETATTR, bytes_of(&abi::SetattrIn::default())),
        (opcode::READLINK, &[]),
    ] {
        assert_eq!(kernel.ask(code, 4711, args).0, libc::ESTALE, "opcode {code}");
    }
    assert_eq!(kernel.ask(opcode::UNLINK, 1, b"none\0").0, libc::ENOENT);
}

#[test]
fn names_are_taken_apart_in_order() {
    let kernel = Kernel::new();
    let node = kernel.make("from");
    let args = [bytes_of(&RenameIn { newdir: 1 }), b"from\0to\0"].concat();
    assert_eq!(kernel.ask(opcode::RENAME, 1, &args).0, 0);
    let (error, body) = kernel.ask(opcode::LOOKUP, 1, b"to\0");
    assert_eq!((error, split::<EntryOut>(&body).expect("an entry").0.nodeid), (0, node));
    assert_eq!(kernel.ask(opcode::SYMLINK, 1, b"link\0some/where\0").0, 0);
    assert_eq!(kernel.ask(opcode::READLINK, node + 1, b""), (0, b"some/where".to_vec()));
    assert_eq!(kernel.ask(opcode::MKNOD, 1, &with_name(&MknodIn { mode: 0o010_600, ..Default::default() }, "p")).0, 0);
    assert_eq!(kernel.ask(opcode::MKDIR, 1, &with_name(&MkdirIn { mode: 0o755, umask: 0 }, "to")).0, libc::EEXIST);
}

#[test]
fn what_does_not_decode_is_invalid_and_what_is_unknown_unsupported() {
    let kernel = Kernel::new();
    assert_eq!(kernel.ask(opcode::LOOKUP, 1, b"no end").0, libc::EINVAL);
    assert_eq!(kernel.ask(opcode::LOOKUP, 1, b"\0").0, libc::EINVAL);
    assert_eq!(kernel.ask(opcode::GETATTR, 1, &[0; 15]).0, libc::EINVAL);
    assert_eq!(kernel.ask(opcode::RENAME, 1, &[&[0; 8][..], b"one\0two"].concat()).0, libc::EINVAL);
    let mut short = write(1, 0, b"data");
    short.pop();
    assert_eq!(kernel.ask(opcode::WRITE, 1, &short).0, libc::EINVAL);
    for unknown in [0, 7, 19, 37, 40, 48, 50, 52, 54, 4096, u32::MAX] {
        assert_eq!(kernel.ask(unknown, 1, &[0; 64]).0, libc::ENOSYS, "opcode {unknown}");
    }
}

#[test]
fn a_panic_is_an_io_error_and_the_next_request_is_served() {
    let kernel = Kernel::new();
    let args = IoctlIn::default();
    assert_eq!(kernel.ask(opcode::IOCTL, 1, bytes_of(&args)).0, libc::EIO);
    let args = IoctlIn { cmd: 1, in_size: 2, out_size: 2, ..Default::default() };
    let (error, body) = kernel.ask(opcode::IOCTL, 1, &[bytes_of(&args), b"ab"].concat());
    assert_eq!((error, &body[16..]), (0, &b"ab"[..]));
}

fn lock(kind: i32, lk_flags: u32) -> Vec<u8> {
    let lk = abi::FileLock { start: 3, end: 9, type_: kind.cast_unsigned(), pid: 8 };
    bytes_of(&abi::LkIn { fh: 2, owner: 5, lk, lk_flags, padding: 0 }).to_vec()
}

#[test]
fn locks_are_granted_refused_and_shown() {
    let kernel = Kernel::new();
    for flags in [0, abi::LK_FLOCK] {
        assert_eq!(kernel.ask(opcode::SETLK, 1, &lock(libc::F_WRLCK, flags)), (0, vec![]));
        assert_eq!(kernel.ask(opcode::SETLKW, 1, &lock(libc::F_RDLCK, flags)), (0, vec![]));
        assert_eq!(kernel.ask(opcode::SETLK, 1, &lock(7, flags)).0, libc::EINVAL);
    }
    let (error, body) = kernel.ask(opcode::GETLK, 1, &lock(libc::F_WRLCK, 0));
    let free = split::<abi::LkOut>(&body).expect("a lock").0.lk;
    assert_eq!((error, free.type_, free.start, free.end, free.pid), (0, libc::F_UNLCK as u32, 0, 0, 0));
    kernel.dispatcher.ops.stuck.store(true, std::sync::atomic::Ordering::Relaxed);
    let held = split::<abi::LkOut>(&kernel.ask(opcode::GETLK, 1, &lock(libc::F_WRLCK, 0)).1).expect("a lock").0.lk;
    assert_eq!((held.type_, held.start, held.end, held.pid), (libc::F_WRLCK as u32, 3, 9, 9));
    assert_eq!(kernel.ask(opcode::SETLK, 1, &lock(libc::F_WRLCK, 0)).0, libc::EAGAIN);
}

#[test]
fn who_waits_for_a_lock_is_let_go_by_any_signal_and_by_the_end() {
    let kernel = Kernel::new();
    kernel.dispatcher.ops.stuck.store(true, std::sync::atomic::Ordering::Relaxed);
    for (unique, flags) in [(7, 0), (8, abi::LK_FLOCK)] {
        kernel.send(opcode::SETLKW, unique, 1, &lock(libc::F_WRLCK, flags));
        assert_eq!((message(&kernel.socket), kernel.dispatcher.deferred.len()), (None, 1));
        kernel.send(opcode::INTERRUPT, 99, 1, bytes_of(&InterruptIn { unique }));
        kernel.dispatcher.deferred.wait_idle(Duration::from_secs(60));
        assert_eq!(message(&kernel.socket), Some((unique, -libc::EINTR, vec![])));
    }
    kernel.send(opcode::SETLKW, 9, 1, &lock(libc::F_WRLCK, 0));
    kernel.dispatcher.deferred.interrupt_all();
    kernel.dispatcher.deferred.wait_idle(Duration::from_secs(60));
    assert_eq!(message(&kernel.socket), Some((9, -libc::EINTR, vec![])));
}

#[test]
fn forgetting_and_interrupting_have_no_answer() {
    let kernel = Kernel::new();
    for (code, args) in [
        (opcode::FORGET, &[1; 8][..]),
        (opcode::BATCH_FORGET, &[1; 24]),
        (opcode::FORGET, &[]),
        (opcode::INTERRUPT, &[9; 8]),
        (opcode::INTERRUPT, &[]),
    ] {
        kernel.send(code, 5, 1, args);
        assert_eq!(message(&kernel.socket), None);
    }
    assert_eq!(kernel.ask(opcode::DESTROY, 1, &[]), (0, vec![]));
}

#[test]
fn settings_refuse_whole_families() {
    let mut kernel = Kernel::new();
    kernel.dispatcher.settings = Settings { default_permissions: true, xattr: false, setxattr_ext: false };
    for code in [opcode::ACCESS, opcode::GETXATTR, opcode::SETXATTR, opcode::LISTXATTR, opcode::REMOVEXATTR] {
        assert_eq!(kernel.ask(code, 1, &[0; 16]).0, libc::ENOSYS);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever arrives, there is one answer, or none where the protocol has none.
    #[test]
    fn any_bytes_are_answered_once(
        code in 0u32..60,
        node in 0u64..4,
        args in prop::collection::vec(prop_oneof![3 => Just(0u8), 2 => 0u8..8, 1 => any::<u8>()], 0..160),
    ) {
        thread_local!(static KERNEL: Kernel = {
            let kernel = Kernel::new();
            kernel.make("a");
            kernel
        });
        let silent = [opcode::FORGET, opcode::BATCH_FORGET, opcode::INTERRUPT, opcode::NOTIFY_REPLY].contains(&code);
        KERNEL.with(|kernel| {
            kernel.send(code, 99, node, &args);
            kernel.dispatcher.deferred.wait_idle(Duration::from_secs(60));
            let answer = message(&kernel.socket);
            prop_assert_eq!(answer.as_ref().map(|a| a.0), (!silent).then_some(99));
            prop_assert_eq!(message(&kernel.socket), None);
            Ok(())
        })?;
    }
}

#[test]
fn flush_release_and_statfs_answer() {
    let kernel = Kernel::new();
    let node = kernel.make("f");
    assert_eq!(kernel.ask(opcode::FLUSH, node, bytes_of(&FlushIn::default())), (0, vec![]));
    assert_eq!(kernel.ask(opcode::RELEASE, node, bytes_of(&abi::ReleaseIn::default())), (0, vec![]));
    assert_eq!(kernel.ask(opcode::STATFS, 1, &[]).1.len(), 80);
}

/// An entry of a ring: the header and the arguments lie apart from the data, and the reply takes their place.
struct RingEntry {
    header: InHeader,
    args: Vec<u8>,
    payload: Vec<u8>,
    committed: std::sync::mpsc::Sender<(u64, i32, Vec<u8>)>,
}

impl Request for RingEntry {
    fn header(&self) -> &InHeader {
        &self.header
    }

    fn args(&self) -> Args<'_> {
        Args::new(&self.args)
    }

    fn take_payload(&mut self, size: u32) -> Result<bytes::Bytes, Errno> {
        let data = self.payload.get(..size as usize).ok_or(Errno::EINVAL)?;
        Ok(bytes::Bytes::copy_from_slice(data))
    }
}

impl ReplySink for RingEntry {
    fn send(mut self, unique: u64, error: i32, body: &[&[u8]]) {
        self.payload.clear();
        body.iter().for_each(|piece| self.payload.extend_from_slice(piece));
        self.committed.send((unique, error, self.payload)).expect("somebody reads the ring");
    }
}

#[test]
fn a_ring_entry_is_request_and_reply_in_turn() {
    let kernel = Kernel::new();
    let node = kernel.make("f");
    let (committed, replies) = std::sync::mpsc::channel();
    let ask = |opcode: u32, unique: u64, args: &[u8], payload: &[u8]| {
        let header = InHeader { opcode, unique, nodeid: node, ..Default::default() };
        let mut entry =
            RingEntry { header, args: args.to_vec(), payload: payload.to_vec(), committed: committed.clone() };
        let _context = kernel.rt.enter();
        let begun = kernel.dispatcher.begin(&mut entry);
        kernel.dispatcher.end(begun, Reply::new(unique, entry));
        replies.recv_timeout(Duration::from_secs(60)).expect("a reply")
    };
    for slow in [false, true] {
        kernel.dispatcher.ops.slow.store(slow, std::sync::atomic::Ordering::Relaxed);
        let head = WriteIn { fh: node, offset: 2, size: 3, ..Default::default() };
        let (unique, error, body) = ask(opcode::WRITE, 4, bytes_of(&head), b"abc");
        assert_eq!((unique, error, &body[..4]), (4, 0, &3_u32.to_ne_bytes()[..]));
        let read = ReadIn { fh: node, offset: 2, size: 9, ..Default::default() };
        assert_eq!(ask(opcode::READ, 6, bytes_of(&read), b""), (6, 0, b"abc".to_vec()));
        assert_eq!(ask(opcode::LOOKUP, 8, b"none\0", b""), (8, -libc::ENOENT, vec![]));
    }
}
