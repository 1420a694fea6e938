//! Attributes, access, extended attributes, access times, ACL inheritance.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use juicefs_core::{
    Caller, Errno, FileType, Format, Ino, Meta, SetAttr, SetTime, Timestamp,
    acl::AclRule,
    meta::{OpenFlags, XattrMode},
};
use juicefs_meta::{
    AtimeMode, ClientConfig,
    engine::optimistic::Transactor,
    record::{Counter, Key},
    txn::{AccountEffect, Decision, Effect, Effects, NodeEffect, Operation, ReadSet, VolumeEffect},
};

use crate::volume::{Kind, Volume, config, format, node, on_all, posix, root, user};

#[test]
fn what_is_set_is_read_back() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let f = v.file(Ino::ROOT, "f").await;
        let at = |secs, nanos| SetTime::At(Timestamp { secs, nanos });
        let set = SetAttr {
            mode: Some(0o6711),
            uid: Some(7),
            gid: Some(8),
            atime: Some(at(1, 999_999_999)),
            mtime: Some(at(-2, 123_456_789)),
            ..SetAttr::default()
        };
        v.client.setattr(&root(), f, set).await.expect("set");
        let attr = v.attr(f).await;
        assert_eq!((attr.mode, attr.uid, attr.gid), (0o6711, 7, 8));
        assert_eq!((attr.atime.secs, attr.atime.nanos, attr.mtime.secs), (1, 999_999_999, -2));
        assert_eq!(attr.mtime.nanos, 123_456_789);
        v.tick();
        let same = v.client.setattr(&root(), f, SetAttr::default()).await.expect("set");
        assert_eq!(same, attr);
    });
}

#[test]
fn access_follows_class_and_groups() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let d = v.mkdir(Ino::ROOT, "d").await;
        let set = SetAttr { mode: Some(0o640), gid: Some(5), ..SetAttr::default() };
        v.client.setattr(&root(), d, set).await.expect("set");
        let access = |cx: Caller, mask| {
            let client = &v.client;
            async move { posix(client.access(&cx, d, mask).await) }
        };
        assert_eq!(access(user(1), 2).await, Err(Errno::EACCES));
        assert_eq!(access(Caller { groups: [5].into_iter().collect(), ..user(1) }, 4).await, Ok(()));
        assert_eq!(access(root(), 7).await, Ok(()));
        let inside = v.file(d, "f").await;
        let look = posix(v.client.lookup(&user(1), d, b"f").await).map(|_| ());
        assert_eq!(look, Err(Errno::EACCES));
        assert_eq!(posix(v.client.getattr(inside).await).map(|attr| attr.nlink), Ok(1));
    });
}

#[test]
fn set_gid_directories_hand_their_group_down() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let d = v.mkdir(Ino::ROOT, "d").await;
        let set = SetAttr { mode: Some(0o2777), gid: Some(1), ..SetAttr::default() };
        v.client.setattr(&root(), d, set).await.expect("set");
        let make = |cx: Caller, name: &'static str, kind| {
            let client = &v.client;
            async move { client.mknod(&cx, d, name.as_bytes(), node(kind, 0o2777)).await.expect("made").1 }
        };
        let sub = make(user(2), "sub", FileType::Directory).await;
        assert_eq!((sub.gid, sub.mode), (1, 0o2755));
        let member = make(user(1), "member", FileType::File).await;
        assert_eq!((member.gid, member.mode), (1, 0o2755));
        let stranger = make(user(2), "stranger", FileType::File).await;
        assert_eq!((stranger.gid, stranger.mode), (1, 0o755));
        let trusted = Caller { check_permission: false, ..user(2) };
        assert_eq!(make(trusted, "trusted", FileType::File).await.mode, 0o2755);
    });
}

#[test]
fn xattrs_live_with_the_node() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let f = v.file(Ino::ROOT, "f").await;
        v.client.link(&root(), f, Ino::ROOT, b"g").await.expect("linked");
        let set = |value: &'static [u8], mode| {
            let client = &v.client;
            async move { posix(client.setxattr(&root(), f, b"user.a", Bytes::from_static(value), mode).await) }
        };
        let before = v.attr(f).await;
        v.tick();
        assert_eq!(set(b"1", XattrMode::Replace).await, Err(Errno::ENODATA));
        assert_eq!(set(b"1", XattrMode::Create).await, Ok(()));
        let after = v.attr(f).await;
        assert!(after.ctime > before.ctime && after.mtime == before.mtime, "only ctime moves");
        assert_eq!(set(b"1", XattrMode::Create).await, Err(Errno::EEXIST));
        assert_eq!(set(b"", XattrMode::Replace).await, Ok(()));
        assert_eq!(v.client.getxattr(&Caller::root(), f, b"user.a").await.expect("there"), Bytes::new());
        v.unlink(Ino::ROOT, "g").await.expect("unlinked");
        let names = v.client.listxattr(&Caller::root(), f).await.expect("listed");
        assert_eq!(names.iter().map(|n| n.as_bytes()).collect::<Vec<_>>(), [b"user.a"]);
        assert_eq!(posix(v.client.removexattr(&root(), f, b"user.b").await), Err(Errno::ENODATA));
        v.client.removexattr(&root(), f, b"user.a").await.expect("removed");
        assert_eq!(posix(v.client.getxattr(&Caller::root(), f, b"user.a").await), Err(Errno::ENODATA));
        let bad = |name: Vec<u8>, value: Vec<u8>| {
            let client = &v.client;
            async move { posix(client.setxattr(&root(), f, &name, value.into(), XattrMode::Any).await) }
        };
        assert_eq!(bad(vec![], vec![]).await, Err(Errno::EINVAL));
        assert_eq!(bad(vec![b'n'; 256], vec![]).await, Err(Errno::ERANGE));
        assert_eq!(bad(b"user.big".to_vec(), vec![0; 65_537]).await, Err(Errno::ERANGE));
        assert_eq!(bad(b"user.big".to_vec(), vec![0; 65_536]).await, Ok(()));
        assert_eq!(bad(b"system.posix_acl_access".to_vec(), vec![]).await, Err(Errno::EOPNOTSUPP));
    });
}

#[test]
fn reading_moves_access_times_as_asked() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let f = v.file(Ino::ROOT, "f").await;
        v.write(f, 0, 10).await.expect("written");
        for (mode, moved) in [(AtimeMode::NoAtime, false), (AtimeMode::RelAtime, true), (AtimeMode::StrictAtime, true)]
        {
            let client = v.second(ClientConfig { atime_mode: mode, ..config(&v.clock) }).await;
            let old = SetAttr { atime: Some(SetTime::At(Timestamp::from_secs(5))), ..SetAttr::default() };
            for ino in [f, Ino::ROOT] {
                v.client.setattr(&root(), ino, old.clone()).await.expect("set");
            }
            v.clock.advance(Duration::from_secs(1));
            client.read_chunk(f, 0).await.expect("read");
            client.readdir(Ino::ROOT, None, false, 10).await.expect("listed");
            for ino in [f, Ino::ROOT] {
                assert_eq!(v.attr(ino).await.atime.secs > 5, moved, "{mode:?}");
            }
            v.client.setattr(&root(), f, old).await.expect("set");
            v.clock.advance(Duration::from_secs(1));
            let flags = OpenFlags { read: true, ..OpenFlags::default() };
            let attr = client.open(&root(), f, flags).await.expect("opened");
            assert_eq!((attr.atime.secs > 5, v.attr(f).await.atime.secs > 5), (moved, moved), "{mode:?}");
            client.close(f).await.expect("closed");
        }
    });
}

/// Gives a directory a default rule, as setfacl will.
#[derive(Debug)]
struct SetDefaultRule(Ino, AclRule);

impl Operation for SetDefaultRule {
    type Reply = ();
    const NAME: &'static str = "set_default_rule";

    fn keys(&self) -> Vec<Key> {
        vec![Key::Node(self.0)]
    }

    fn decide(&self, read: &ReadSet) -> Decision<()> {
        let mut attr = read.node(self.0).expect("a node").clone();
        attr.default_acl = 1;
        let mut effects = Effects::none();
        effects.push(Effect::Volume(VolumeEffect::PutAcl(1, self.1.clone())));
        effects.push(Effect::Account(AccountEffect::SetCounter(Counter::AclMaxId, 1)));
        effects.push(Effect::Node(self.0, NodeEffect::Update(attr)));
        Decision::Done((), effects)
    }
}

#[test]
fn default_rules_are_inherited_and_shared() {
    on_all(|kind: Kind| async move {
        let v = Volume::with_format(kind, &Format { enable_acl: true, ..format(0) }).await;
        let d = v.mkdir(Ino::ROOT, "d").await;
        let rule = AclRule { owner: 7, group: 7, mask: 7, other: 7, users: vec![(9, 6)], groups: vec![] };
        Transactor::new(Arc::clone(&v.engine)).run(SetDefaultRule(d, rule)).await.expect("set");
        let client = v.second(config(&v.clock)).await;
        let make = |name: &'static str, kind, mode| {
            let client = Arc::clone(&client);
            async move { client.mknod(&root(), d, name.as_bytes(), node(kind, mode)).await.expect("made").1 }
        };
        let sub = make("sub", FileType::Directory, 0o222).await;
        assert_eq!((sub.mode, sub.default_acl), (0o222, 1), "the umask does not count");
        let (one, two) = (make("1", FileType::File, 0o660).await, make("2", FileType::File, 0o660).await);
        assert_eq!((one.mode, one.default_acl), (0o660, 0));
        assert!(one.access_acl > 1 && one.access_acl == two.access_acl && one.access_acl != sub.access_acl);
        let chmod = SetAttr { mode: Some(0o600), ..SetAttr::default() };
        let (ino, _) = client.lookup(&root(), d, b"1").await.expect("there");
        let access = |uid, mask| {
            let client = Arc::clone(&client);
            async move { posix(client.access(&user(uid), ino, mask).await) }
        };
        assert_eq!((access(9, 6).await, access(8, 4).await), (Ok(()), Err(Errno::EACCES)));
        let changed = client.setattr(&root(), ino, chmod).await.expect("chmod");
        assert_eq!(changed.mode, 0o600);
        assert_ne!(changed.access_acl, two.access_acl, "the rule of the other file stays");
        assert_eq!(access(9, 4).await, Err(Errno::EACCES));
        let rule = client.engine().fetch(&[Key::Acl(two.access_acl)]).await.expect("fetched");
        assert_eq!(rule.acl(two.access_acl).map(|rule| rule.mask), Some(6));
    });
}
