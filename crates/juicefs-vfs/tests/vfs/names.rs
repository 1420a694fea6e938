//! Names, attributes, listings and the files of our own.

use std::time::Duration;

use bytes::Bytes;
use juicefs_core::{Attr, Caller, Errno, FileType, Ino, SetAttr};
use juicefs_vfs::{DirItem, VfsConfig};

use crate::mount::{Mount, at_once};

async fn list(m: &Mount, ino: Ino, fh: u64, limit: usize, plus: bool) -> Vec<DirItem> {
    let (mut all, mut off): (Vec<DirItem>, u64) = (Vec::new(), 0);
    loop {
        let part = m.vfs.readdir(&m.cx, ino, fh, off, limit, plus).await.expect("readdir");
        let Some(last) = part.last() else { return all };
        off = last.cookie;
        all.extend(part);
    }
}

fn names(items: &[DirItem]) -> Vec<String> {
    items.iter().map(|item| String::from_utf8_lossy(&item.name).into_owned()).collect()
}

#[tokio::test]
async fn the_root_lists_our_own_files_first() {
    let m = Mount::new();
    m.create("b").await;
    m.vfs.mkdir(&m.cx, Ino::ROOT, b"a", 0o755, 0o22).await.expect("mkdir");
    let fh = m.vfs.opendir(&m.cx, Ino::ROOT).await.expect("opendir").fh;
    for limit in [1, 2, 3, 100] {
        let items = list(&m, Ino::ROOT, fh, limit, false).await;
        assert_eq!(names(&items), [".stats", ".config", ".trash", ".", "..", "a", "b"]);
        assert!(items.windows(2).all(|pair| pair[0].cookie < pair[1].cookie));
    }
    let config = VfsConfig { hide_internal: true, prefix_internal: true, ..VfsConfig::standard() };
    let m = Mount::with(config, 1 << 20);
    let fh = m.vfs.opendir(&m.cx, Ino::ROOT).await.expect("opendir").fh;
    assert_eq!(names(&list(&m, Ino::ROOT, fh, 10, false).await), [".", ".."]);
    assert!(m.vfs.lookup(&m.cx, Ino::ROOT, b".jfs.stats").await.is_ok());
    assert_eq!(m.vfs.lookup(&m.cx, Ino::ROOT, b".stats").await.map(drop), Err(Errno::ENOENT));
}

#[tokio::test]
async fn listings_with_attributes_never_show_the_past() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    let dir = m.vfs.opendir(&m.cx, Ino::ROOT).await.expect("opendir").fh;
    let entry = |items: Vec<DirItem>| items.into_iter().find(|item| item.ino == ino).and_then(|item| item.entry);
    let fresh = entry(list(&m, Ino::ROOT, dir, 100, true).await).expect("an entry");
    assert_eq!(fresh.attr.length, 0);
    m.write(ino, fh, 0, b"12345").await.expect("write");
    let dirty = entry(list(&m, Ino::ROOT, dir, 100, true).await).expect("an entry");
    assert_eq!(dirty.attr.length, 5);
    // A page that was fetched before a change gives the name alone.
    let first = m.vfs.readdir(&m.cx, Ino::ROOT, dir, 0, 100, true).await.expect("readdir");
    let cookie = first.iter().find(|item| item.name == "..").expect("..").cookie;
    m.vfs.setattr(&m.cx, ino, None, SetAttr { mode: Some(0o600), ..SetAttr::default() }, None).await.expect("chmod");
    let again = m.vfs.readdir(&m.cx, Ino::ROOT, dir, cookie, 100, true).await.expect("readdir");
    assert!(again[0].ino == ino && again[0].entry.is_none());
}

#[tokio::test]
async fn listings_follow_names_that_move() {
    let m = Mount::with(VfsConfig { hide_internal: true, ..VfsConfig::standard() }, 1 << 20);
    let root = Ino::ROOT;
    let (a, _) = m.create("a").await;
    let (b, _) = m.create("b").await;
    m.vfs.link(&m.cx, a, root, b"c").await.expect("link");
    let fh = m.vfs.opendir(&m.cx, root).await.expect("opendir").fh;
    let first = m.vfs.readdir(&m.cx, root, fh, 0, 2, false).await.expect("readdir")[1].cookie;
    let seen = async || {
        let items = m.vfs.readdir(&m.cx, root, fh, first, 100, false).await.expect("readdir");
        items.iter().map(|item| (String::from_utf8_lossy(&item.name).into_owned(), item.ino)).collect::<Vec<_>>()
    };
    assert_eq!(seen().await, [("a".into(), a), ("b".into(), b), ("c".into(), a)]);
    // Two names of one file: nothing happens.
    m.vfs.rename(&m.cx, root, b"a", root, b"c", 0).await.expect("rename");
    assert_eq!(seen().await, [("a".into(), a), ("b".into(), b), ("c".into(), a)]);
    m.vfs.rename(&m.cx, root, b"a", root, b"b", libc::RENAME_EXCHANGE).await.expect("exchange");
    assert_eq!(seen().await, [("a".into(), b), ("b".into(), a), ("c".into(), a)]);
    m.vfs.rename(&m.cx, root, b"a", root, b"c", 0).await.expect("rename");
    assert_eq!(seen().await, [("b".into(), a), ("c".into(), b)]);
    m.vfs.rename(&m.cx, root, b"b", root, b"b", 0).await.expect("rename");
    assert_eq!(seen().await, [("b".into(), a), ("c".into(), b)]);
}

#[tokio::test]
async fn an_open_directory_can_be_looked_at_after_its_removal() {
    let m = Mount::new();
    let dir = m.vfs.mkdir(&m.cx, Ino::ROOT, b"d", 0o751, 0).await.expect("mkdir");
    let fh = m.vfs.opendir(&m.cx, dir.ino).await.expect("opendir").fh;
    m.vfs.rmdir(&m.cx, Ino::ROOT, b"d").await.expect("rmdir");
    let attr = m.vfs.getattr(&m.cx, dir.ino, None).await.expect("getattr").attr;
    assert_eq!((attr.nlink, attr.mode, attr.kind), (0, 0o751, FileType::Directory));
    m.vfs.releasedir(dir.ino, fh).await.expect("releasedir");
    assert_eq!(m.vfs.getattr(&m.cx, dir.ino, None).await.map(drop), Err(Errno::ENOENT));
}

#[tokio::test]
async fn internal_files_are_protected() {
    let m = Mount::new();
    let root = Ino::ROOT;
    let stats = m.vfs.lookup(&m.cx, root, b".stats").await.expect("lookup");
    assert_eq!(stats.ino, Ino(0x7FFF_FFFF_0000_0003));
    assert_eq!(m.vfs.mkdir(&m.cx, root, b".stats", 0, 0).await.map(drop), Err(Errno::EEXIST));
    assert_eq!(m.vfs.unlink(&m.cx, root, b".config").await, Err(Errno::EPERM));
    assert_eq!(m.vfs.rename(&m.cx, root, b".config", root, b"x", 0).await, Err(Errno::EPERM));
    assert_eq!(m.vfs.link(&m.cx, stats.ino, root, b"x").await.map(drop), Err(Errno::EPERM));
    assert_eq!(m.vfs.open(&m.cx, stats.ino, libc::O_RDWR).await, Err(Errno::EACCES));
    let set = SetAttr { mode: Some(0), ..SetAttr::default() };
    let kept = m.vfs.setattr(&m.cx, stats.ino, None, set, Some(9)).await.expect("ignored");
    assert_eq!((kept.attr.mode, kept.attr.length), (0o444, 0));
    let other = Caller { uid: 1000, gid: 1000, ..Caller::default() };
    let config = m.vfs.lookup(&m.cx, Ino::ROOT, b".config").await.expect("lookup").ino;
    assert_eq!(m.vfs.access(&other, config, 4).await, Err(Errno::EACCES));
    assert_eq!(m.vfs.access(&m.cx, config, 4).await, Ok(()));
    assert_eq!(m.read(stats.ino, 0, 0, 10).await, Err(Errno::EBADF));
    assert_eq!(m.vfs.getxattr(&m.cx, stats.ino, b"user.a").await, Err(Errno::ENODATA));
    assert_eq!(m.vfs.setxattr(&m.cx, stats.ino, b"user.a", Bytes::new(), 0, false).await, Err(Errno::EPERM));
}

#[tokio::test]
async fn stats_and_config_show_what_tools_read() {
    let json = serde_json::json!({"Format": {"Name": "vol"}, "AttrTimeout": 1_000_000_000_u64});
    let m = Mount::with(VfsConfig { config_json: json.clone(), ..VfsConfig::standard() }, 1 << 20);
    let (ino, fh) = m.create("a").await;
    m.write(ino, fh, 0, b"12345").await.expect("write");
    m.flush(ino, fh).await.expect("flush");
    let read = async |name: &[u8]| {
        let ino = m.vfs.lookup(&m.cx, Ino::ROOT, name).await.expect("lookup").ino;
        let opened = m.open(ino, libc::O_RDONLY).await;
        assert!(opened.direct_io);
        let text = m.read(ino, opened.fh, 0, 1 << 20).await.expect("read");
        assert_eq!(m.read(ino, opened.fh, 5, 3).await.expect("read"), text[5..8]);
        String::from_utf8(text).expect("text")
    };
    let stats = read(b".stats").await;
    for line in [
        "juicefs_fuse_ops_total_write 1",
        "juicefs_fuse_open_handlers 1",
        "juicefs_fuse_written_size_bytes_sum 5",
        "juicefs_object_request_durations_histogram_seconds_PUT_total 1",
        "juicefs_transaction_durations_histogram_seconds_total 2",
        "juicefs_used_buffer_size_bytes 0",
    ] {
        assert!(stats.lines().any(|have| have == line), "{line} is not in\n{stats}");
    }
    assert!(stats.lines().is_sorted());
    assert!(stats.lines().all(|line| line.split_once(' ').is_some_and(|(_, value)| value.parse::<f64>().is_ok())));
    let config = read(b".config").await;
    assert!(config.starts_with("{\n \"Format\": {\n  \"Name\""));
    assert_eq!(serde_json::from_str::<serde_json::Value>(&config).expect("json"), json);
}

#[tokio::test(start_paused = true)]
async fn the_access_log_shows_every_operation() {
    let m = Mount::new();
    let log = m.vfs.lookup(&m.cx, Ino::ROOT, b".accesslog").await.expect("lookup").ino;
    let log_fh = m.open(log, libc::O_RDONLY).await.fh;
    let (ino, fh) = m.create("a b").await;
    m.write(ino, fh, 7, b"12345").await.expect("write");
    m.flush(ino, fh).await.expect("flush");
    m.vfs.lookup(&m.cx, Ino::ROOT, b"none").await.expect_err("missing");
    m.vfs.setattr(&m.cx, ino, None, SetAttr { uid: Some(5), ..SetAttr::default() }, Some(3)).await.expect("setattr");
    let text = String::from_utf8(m.read(log, log_fh, 0, 1 << 16).await.expect("read")).expect("text");
    let shown: Vec<_> = text
        .lines()
        .map(|line| {
            let fields: Vec<_> = line.splitn(4, ' ').collect();
            assert_eq!((fields[0].len(), fields[1].len(), fields[2]), (10, 15, "[uid:0,gid:0,pid:0]"));
            assert!(fields[3].ends_with('>') && fields[3].contains(" <0.0"), "{line}");
            fields[3].rsplit_once(" <").expect("a time").0.to_owned()
        })
        .collect();
    assert!(shown[0].starts_with("create (1,a b,?rw-r--r--:00644): (2,[-rw-r--r--:0100644,1,0,0,"), "{}", shown[0]);
    assert!(shown[0].ends_with(&format!(",0]) [fh:{fh}] - OK")), "{}", shown[0]);
    assert_eq!(shown[1], format!("write (2,5,7,{fh}) - OK"));
    assert_eq!(shown[2], format!("flush (2,{fh},0000000000000000) - OK"));
    assert_eq!(shown[3], "lookup (1,none): - no such file or directory");
    assert!(shown[4].starts_with("setattr (2[0],0xA,[uid=5,size=3]): (2,["), "{}", shown[4]);
    assert_eq!(m.read(log, log_fh, 0, 100).await.expect("read"), b"#\n");
}

#[tokio::test]
async fn control_answers_unknown_commands() {
    let m = Mount::new();
    let (dir, _) = (m.vfs.mkdir(&m.cx, Ino::ROOT, b"d", 0o755, 0).await.expect("mkdir"), ());
    let ino = m.vfs.lookup(&m.cx, dir.ino, b".control").await.expect("everywhere").ino;
    let fh = m.open(ino, libc::O_RDWR).await.fh;
    let request = [4711_u32.to_be_bytes(), 0_u32.to_be_bytes()].concat();
    assert_eq!(m.write(ino, fh, 0, &request).await, Ok(8));
    assert_eq!(m.read(ino, fh, 8, 100).await, Ok(vec![22]));
    assert_eq!(m.read(ino, fh, 9, 100).await, Ok(vec![]));
}

#[tokio::test]
async fn names_follow_the_rules() {
    let m = Mount::new();
    let root = Ino::ROOT;
    let long = [b'x'; 256];
    assert_eq!(m.vfs.lookup(&m.cx, root, &long).await.map(drop), Err(Errno::ENAMETOOLONG));
    assert_eq!(m.vfs.mkdir(&m.cx, root, &long, 0, 0).await.map(drop), Err(Errno::ENAMETOOLONG));
    assert_eq!(m.vfs.unlink(&m.cx, root, &long).await, Err(Errno::ENAMETOOLONG));
    assert_eq!(m.vfs.symlink(&m.cx, root, b"s", &[b'x'; 4096]).await.map(drop), Err(Errno::ENAMETOOLONG));
    let link = m.vfs.symlink(&m.cx, root, b"s", b"target").await.expect("symlink");
    assert_eq!(m.vfs.readlink(&m.cx, link.ino).await.expect("readlink"), "target");
    let fifo = m.vfs.mknod(&m.cx, root, b"f", libc::S_IFIFO | 0o666, 0o22, 0).await.expect("mknod");
    assert_eq!((fifo.attr.kind, fifo.attr.mode), (FileType::Fifo, 0o644));
    assert_eq!(m.vfs.rename(&m.cx, root, b"f", root, b"g", 8).await, Err(Errno::EINVAL));
    m.vfs.rename(&m.cx, root, b"f", root, b"s", libc::RENAME_EXCHANGE).await.expect("exchange");
    assert_eq!(m.vfs.lookup(&m.cx, root, b"f").await.expect("lookup").ino, link.ino);
    let umask = Mount::with(VfsConfig { umask: Some(0o77), ..VfsConfig::standard() }, 1 << 20);
    let made: Attr = umask.vfs.mkdir(&umask.cx, root, b"d", 0o777, 0).await.expect("mkdir").attr;
    assert_eq!(made.mode, 0o700);
    let ttl = Duration::from_secs(2);
    let negative = Mount::with(VfsConfig { negative_ttl: ttl, ..VfsConfig::standard() }, 1 << 20);
    let entry = negative.vfs.lookup(&negative.cx, root, b"none").await.expect("a negative entry");
    assert_eq!((entry.ino, entry.entry_ttl), (Ino(0), ttl));
}

#[tokio::test]
async fn attributes_and_flags_have_their_errors() {
    let m = Mount::new();
    let (ino, fh) = m.create("a").await;
    let set = |name: &'static [u8], value: Vec<u8>, flags: i32| {
        m.vfs.setxattr(&m.cx, ino, name, Bytes::from(value), flags as u32, false)
    };
    assert_eq!(set(b"user.a", vec![1], libc::XATTR_REPLACE).await, Err(Errno::ENODATA));
    assert_eq!(set(b"user.a", vec![1], libc::XATTR_CREATE).await, Ok(()));
    assert_eq!(set(b"user.a", vec![1], libc::XATTR_CREATE).await, Err(Errno::EEXIST));
    assert_eq!(set(b"user.b", vec![2; 65537], 0).await, Err(Errno::ERANGE));
    assert_eq!(set(b"user.b", vec![2], 0).await, Ok(()));
    assert_eq!(set(b"", vec![], 0).await, Err(Errno::EINVAL));
    assert_eq!(set(b"user.b", vec![], 7).await, Err(Errno::EINVAL));
    assert_eq!(set(b"security.capability", vec![], 0).await, Err(Errno::EOPNOTSUPP));
    assert_eq!(m.vfs.getxattr(&m.cx, ino, b"security.selinux").await, Err(Errno::ENODATA));
    assert_eq!(m.vfs.listxattr(&m.cx, ino).await.expect("list"), "user.a\0user.b\0");
    assert_eq!(m.vfs.removexattr(&m.cx, ino, b"user.a").await, Ok(()));
    assert_eq!(m.vfs.removexattr(&m.cx, ino, b"user.a").await, Err(Errno::ENODATA));
    let bytes = 0x10_u64.to_ne_bytes().to_vec();
    let vfs = m.vfs.clone();
    assert_eq!(vfs.ioctl(&m.cx, ino, fh, 0x4008_6602, 0, &bytes, 0).await, Ok(Bytes::new()));
    assert_eq!(vfs.ioctl(&m.cx, ino, fh, 0x8008_6601, 0, &[], 8).await.expect("get"), bytes);
    assert_eq!(vfs.ioctl(&m.cx, ino, fh, 0x4008_6602, 0, &[4, 0, 0, 0], 0).await, Err(Errno::EOPNOTSUPP));
    assert_eq!(vfs.ioctl(&m.cx, ino, fh, 0x801C_581F, 0, &[], 28).await.expect("get").len(), 28);
    assert_eq!(vfs.ioctl(&m.cx, ino, fh, 1, 0, &[], 0).await, Err(Errno::ENOTTY));
    let off = Mount::with(VfsConfig::standard(), 1 << 20);
    let (ino, fh) = off.create("a").await;
    assert_eq!(off.vfs.getxattr(&off.cx, ino, b"user.a").await, Err(Errno::ENOSYS));
    assert_eq!(off.vfs.ioctl(&off.cx, ino, fh, 0x8008_6601, 0, &[], 8).await, Err(Errno::ENOSYS));
}

#[tokio::test]
async fn space_is_shown_in_blocks() {
    let m = Mount::new();
    m.meta.set_capacity(1 << 30);
    m.create("a").await;
    let stat = at_once(m.vfs.statfs(&m.cx, Ino::ROOT)).expect("no waiting").expect("statfs");
    assert_eq!((stat.blocks, stat.bsize, stat.frsize, stat.namelen), (1 << 18, 4096, 4096, 255));
    assert_eq!((stat.bfree, stat.files), ((1 << 18) - 2, 2 + (10 << 20)));
}
