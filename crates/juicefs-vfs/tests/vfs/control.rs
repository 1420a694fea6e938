//! Jobs asked for through `.control`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use juicefs_core::{ChunkError, Errno, Ino};
use juicefs_testkit::{mem_meta::MemMeta, unsteady::Unsteady};
use juicefs_vfs::VfsConfig;
use parking_lot::Mutex;

use crate::mount::Mount;

const CONTROL: Ino = Ino(0x7FFF_FFFF_0000_0002);

/// An open control file, read as clients do: at the position where their request ended.
struct Control<'a> {
    mount: &'a Mount,
    fh: u64,
    at: u64,
}

impl<'a> Control<'a> {
    async fn open(mount: &'a Mount) -> Self {
        Self { mount, fh: mount.open(CONTROL, libc::O_RDWR).await.fh, at: 0 }
    }

    async fn ask(&mut self, command: u32, body: &[u8]) -> Result<(), Errno> {
        let request = [&command.to_be_bytes(), &(body.len() as u32).to_be_bytes(), body].concat();
        self.mount.write(CONTROL, self.fh, self.at, &request).await?;
        self.at += request.len() as u64;
        Ok(())
    }

    /// What is there of the reply.
    async fn take(&mut self) -> Vec<u8> {
        let bytes = self.mount.read(CONTROL, self.fh, self.at, 1 << 20).await.expect("read");
        self.at += bytes.len() as u64;
        bytes
    }

    /// The whole reply: all reports of progress, and what follows.
    async fn reply(&mut self) -> (Vec<(u64, u64)>, Vec<u8>) {
        let (mut reports, mut bytes) = (Vec::new(), Vec::new());
        for _ in 0..10_000 {
            bytes.extend(self.take().await);
            while bytes.len() >= 17 && bytes[0] == 0xFE {
                let number = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
                reports.push((number(1), number(9)));
                bytes.drain(..17);
            }
            if !bytes.is_empty() && bytes[0] != 0xFE {
                return (reports, bytes);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no end of the reply: {reports:?} {bytes:?}");
    }
}

fn json(reply: &[u8]) -> serde_json::Value {
    assert_eq!(reply[0], 0xFF);
    assert_eq!(u32::from_be_bytes(reply[1..5].try_into().expect("a length")) as usize, reply.len() - 5);
    serde_json::from_slice(&reply[5..]).expect("JSON")
}

fn removal(parent: Ino, name: &str) -> Vec<u8> {
    [&parent.0.to_be_bytes()[..], &[name.len() as u8], name.as_bytes()].concat()
}

async fn tree(m: &Mount) -> Ino {
    let top = m.vfs.mkdir(&m.cx, Ino::ROOT, b"top", 0o755, 0).await.expect("mkdir").ino;
    let deep = m.vfs.mkdir(&m.cx, top, b"deep", 0o755, 0).await.expect("mkdir").ino;
    m.vfs.mknod(&m.cx, deep, b"file", libc::S_IFREG | 0o644, 0, 0).await.expect("mknod");
    top
}

#[tokio::test(start_paused = true)]
async fn a_removed_tree_is_forgotten_by_the_kernel_before_the_reply() {
    let m = Mount::new();
    let forgotten: Arc<Mutex<Vec<(Ino, Bytes)>>> = Arc::default();
    let list = Arc::clone(&forgotten);
    m.vfs.on_forget(move |parent, name, then| {
        list.lock().push((parent, name));
        then();
    });
    let top = tree(&m).await;
    let listing = m.vfs.opendir(&m.cx, top).await.expect("opened").fh;
    assert_eq!(m.vfs.readdir(&m.cx, top, listing, 0, 100, false).await.expect("listed").len(), 3);
    let mut control = Control::open(&m).await;
    control.ask(1002, &removal(Ino::ROOT, "top")).await.expect("written");
    assert_eq!(control.reply().await, (vec![(3, 0)], vec![0]));
    assert_eq!(*forgotten.lock(), [(Ino::ROOT, Bytes::from_static(b"top"))]);
    assert_eq!(m.vfs.lookup(&m.cx, Ino::ROOT, b"top").await.map(|e| e.ino), Err(Errno::ENOENT));
    let names = m.vfs.readdir(&m.cx, top, listing, 0, 100, false).await.unwrap_or_default();
    assert!(!names.iter().any(|item| item.name == "deep"), "an open listing does not show what is gone");
    // Several requests on one handle.
    control.ask(1002, &removal(Ino::ROOT, "top")).await.expect("written");
    assert_eq!(control.reply().await, (vec![], vec![2]));
    control.ask(1002, &removal(Ino::ROOT, ".stats")).await.expect("written");
    assert_eq!(control.reply().await.1, [1]);
}

#[tokio::test(start_paused = true)]
async fn progress_is_told_and_closing_stops_the_job() {
    let m = Mount::new();
    let (ino, _) = m.create("a").await;
    m.meta.hold(true);
    for released in [false, true] {
        let mut control = Control::open(&m).await;
        control.ask(1005, &ino.0.to_be_bytes()).await.expect("written");
        tokio::time::sleep(Duration::from_millis(1000)).await;
        let reports = control.take().await;
        assert_eq!((reports.len(), reports[0]), (3 * 17, 0xFE), "every 300 ms");
        assert_eq!(control.ask(1005, &ino.0.to_be_bytes()).await, Err(Errno::EBUSY));
        if released {
            m.vfs.release(CONTROL, control.fh).await.expect("released");
            wait_for(&m.meta, 2).await;
            continue;
        }
        m.vfs.flush(&m.cx, CONTROL, control.fh, 0).await.expect("flushed");
        let (_, reply) = control.reply().await;
        let info = json(&reply);
        assert_eq!(info["Failed"], true);
        assert_eq!(info["Reason"], Errno::EINTR.to_string());
    }
}

/// Both jobs have begun and none is left.
async fn wait_for(meta: &MemMeta, jobs: u64) {
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(meta.calls("summarize"), jobs);
}

#[tokio::test(start_paused = true)]
async fn jobs_are_bounded_and_end_with_the_mount() {
    let m = Mount::started(VfsConfig::standard(), 1 << 20);
    let (ino, fh) = m.create("a").await;
    m.close(ino, fh).await.expect("closed");
    m.meta.hold(true);
    let mut running = Vec::new();
    for _ in 0..32 {
        let mut control = Control::open(&m).await;
        control.ask(1007, &ino.0.to_be_bytes()).await.expect("written");
        running.push(control);
    }
    let mut one_more = Control::open(&m).await;
    one_more.ask(1007, &ino.0.to_be_bytes()).await.expect("written");
    assert_eq!(one_more.reply().await, (vec![], vec![Errno::EAGAIN.0 as u8]));
    m.vfs.shutdown().await.expect("the jobs end");
}

#[tokio::test(start_paused = true)]
async fn requests_that_make_no_sense_are_refused() {
    let m = Mount::new();
    let mut control = Control::open(&m).await;
    for (command, body, errno) in [
        (4711, &b""[..], Errno::EINVAL),
        (1005, b"abc", Errno::EIO),
        (1006, b"", Errno::EIO),
        (1002, b"\0", Errno::EIO),
    ] {
        control.ask(command, body).await.expect("written");
        assert_eq!(control.reply().await, (vec![], vec![errno.0 as u8]), "{command}");
    }
    control.ask(1005, &Ino(4711).0.to_be_bytes()).await.expect("written");
    let info = json(&control.reply().await.1);
    assert_eq!((&info["Failed"], &info["Reason"]), (&true.into(), &Errno::ENOENT.to_string().into()));
}

#[tokio::test(start_paused = true)]
async fn info_names_the_parts_of_a_file() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    m.write(ino, fh, 0, &[1; 5000]).await.expect("written");
    m.flush(ino, fh).await.expect("flushed");
    m.write(ino, fh, 6000, &[2; 10]).await.expect("written");
    m.flush(ino, fh).await.expect("flushed");
    let mut control = Control::open(&m).await;
    control.ask(1005, &[&ino.0.to_be_bytes()[..], &[0, 1, 0]].concat()).await.expect("written");
    let info = json(&control.reply().await.1);
    assert_eq!(info["Ino"], ino.0);
    let lens: Vec<_> = info["Chunks"].as_array().expect("a list").iter().map(|c| c["Len"].as_u64()).collect();
    assert_eq!(lens, [Some(5000), Some(1000), Some(10)]);
    assert_eq!(info["Chunks"][1]["Id"], 0, "the hole between");
    for empty in ["Objects", "PLocks", "FLocks"] {
        assert!(info[empty].is_null(), "{empty}");
    }
    // Old clients get a text behind its length, and no progress.
    control.ask(1003, &ino.0.to_be_bytes()).await.expect("written");
    let reply = control.reply().await.1;
    let text = String::from_utf8_lossy(&reply[4..]);
    assert_eq!(u32::from_be_bytes(reply[..4].try_into().expect("a length")) as usize, reply.len() - 4);
    assert!(text.contains("   dirs: 0\n") && text.contains(&format!("  inode: {ino}\n")), "{text}");
}

#[tokio::test(start_paused = true)]
async fn compaction_that_is_asked_for_happens_at_once() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    for n in 0..10u64 {
        m.write(ino, fh, n * 100, &[n as u8; 100]).await.expect("written");
        m.flush(ino, fh).await.expect("flushed");
    }
    assert_eq!(m.meta.live_slices().len(), 10);
    let mut control = Control::open(&m).await;
    control.ask(1008, &[&Ino::ROOT.0.to_be_bytes()[..], &[0, 4]].concat()).await.expect("written");
    assert_eq!(control.reply().await, (vec![(1, 1)], vec![0]));
    assert_eq!(m.meta.live_slices().len(), 1);
    let wanted: Vec<u8> = (0..10).flat_map(|n| [n; 100]).collect();
    assert_eq!(m.read(ino, fh, 0, 1000).await.expect("read"), wanted);
    // What cannot be read is left as it is, and the answer says so.
    m.write(ino, fh, 0, &[7; 10]).await.expect("written");
    m.flush(ino, fh).await.expect("flushed");
    m.chunks.fail_gets(|_| Some(ChunkError::Closed));
    control.ask(1008, &[&ino.0.to_be_bytes()[..], &[0, 4]].concat()).await.expect("written");
    assert_eq!(control.reply().await, (vec![(1, 1)], vec![Errno::EIO.0 as u8]));
    m.chunks.heal();
    assert_eq!(m.read(ino, fh, 0, 20).await.expect("read"), [[7; 10], [0; 10]].concat());
}

#[tokio::test(start_paused = true)]
async fn a_chunk_is_compacted_once_whatever_the_listing_repeats() {
    for anew_after in 0..4 {
        let m = Mount::new();
        for n in 0..9u8 {
            let (ino, fh) = m.create(&format!("f{n}")).await;
            for piece in 0..2u64 {
                m.write(ino, fh, piece * 100, &[n; 100]).await.expect("written");
                m.flush(ino, fh).await.expect("flushed");
            }
            m.close(ino, fh).await.expect("closed");
        }
        m.meta.list(Unsteady { page_len: 3, anew_after });
        let mut control = Control::open(&m).await;
        control.ask(1008, &[&Ino::ROOT.0.to_be_bytes()[..], &[0, 4]].concat()).await.expect("written");
        let (reports, answer) = control.reply().await;
        assert_eq!((reports.last(), answer), (Some(&(9, 9)), vec![0]), "anew after {anew_after}");
        assert_eq!(m.meta.live_slices().len(), 9);
    }
}
