//! Volumes that are damaged: nothing is made of it that is not so, and nobody waits for ever.

use std::time::Duration;

use juicefs_core::{
    Ino, Meta, MetaError, Name,
    meta::{Removed, RenameFlags},
    quota::QuotaSubject,
    tree::{Cloning, Progress, RemovalWatch},
};
use juicefs_meta::{
    engine::Patience,
    txn::{EdgeEffect, Effect, Effects, NodeEffect, ReadSet},
};

use crate::volume::{Kind, Volume, on_all, root};

struct Nobody;

impl RemovalWatch for Nobody {
    fn removed(&self, _parent: Ino, _name: &Name, _removed: Removed) {}
}

/// Ends in time, however it ends.
async fn ends<T>(what: &str, call: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(5), call).await.unwrap_or_else(|_| panic!("{what} goes round for ever"))
}

/// `/a` and `/a/b` are each other's parents; `/x` is another directory, `/a/b/f` a file.
#[test]
fn directories_in_a_circle_stop_every_walk() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let a = v.mkdir(Ino::ROOT, "a").await;
        let b = v.mkdir(a, "b").await;
        let x = v.mkdir(Ino::ROOT, "x").await;
        let f = v.file(b, "f").await;
        v.client.set_quota(QuotaSubject::Dir(x), Some(1 << 30), Some(1000), false).await.expect("set");
        let mut attr = v.attr(a).await;
        attr.parent = b;
        let list = vec![
            Effect::Node(a, NodeEffect::Update(attr)),
            Effect::Edge(
                b,
                "a".into(),
                EdgeEffect::Insert(juicefs_meta::record::Edge { ino: a, kind: juicefs_core::FileType::Directory }),
            ),
        ];
        v.engine
            .apply(&ReadSet::default(), &Effects { list, ..Effects::none() }, Patience::Budget)
            .await
            .expect("damaged");
        let (cx, client) = (root(), &v.client);
        for ino in [a, b, f] {
            assert_eq!(ends("paths", client.paths(ino, 10)).await.expect("told"), Vec::<Vec<u8>>::new());
            ends("statfs", client.statfs(ino)).await.expect("told");
        }
        assert_eq!(ends("path_of", client.path_of(b)).await.expect("told"), None);
        let how = Cloning { preserve: true, umask: 0, threads: 2 };
        let progress = Progress::default();
        let copy = client.clone_tree(&cx, x, (b, b"copy"), how, &Nobody, &progress);
        ends("clone", copy).await.expect("copied");
        let into = client.clone_tree(&cx, b, (a, b"copy"), how, &Nobody, &progress);
        let into = ends("clone into itself", into).await;
        assert!(matches!(into, Err(MetaError::Posix(juicefs_core::Errno::EINVAL))), "{into:?}");
        let moved = client.rename(&cx, Ino::ROOT, b"x", b, b"x", RenameFlags::default());
        ends("rename", moved).await.expect("moved");
        let made = client.mknod(&cx, b, b"g", crate::volume::node(juicefs_core::FileType::File, 0o644));
        ends("mknod", made).await.expect("made");
    });
}
