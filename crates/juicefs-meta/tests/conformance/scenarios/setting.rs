//! Formatting, changing and reloading the setting, versions, sub-directory mounts.

use std::sync::Arc;

use juicefs_core::{Errno, FileType, Format, Ino, Meta, MetaError, SystemClock};
use juicefs_meta::{Client, ClientConfig, Engine};

use crate::{
    snapshot::Snapshot,
    volume::{Home, Kind, Volume, config, format, node, on_all, posix, root},
};

async fn init(engine: &Arc<dyn Engine>, format: &Format, force: bool) -> Result<Format, String> {
    Client::init(engine, format, force, &SystemClock).await.map_err(|e| e.to_string())
}

#[test]
fn identity_is_kept_and_the_rest_changes() {
    on_all(|kind: Kind| async move {
        let home = Home::new(kind);
        let engine = home.engine();
        assert!(Client::load_format(&engine).await.expect("loaded").is_none());
        let first = Format { secret_key: "s3cret".into(), ..format(0) };
        assert_eq!(init(&engine, &first, false).await, Ok(first.clone()));
        let raw = engine.load_setting().await.expect("loaded").expect("there");
        assert!(!String::from_utf8_lossy(&raw).contains("s3cret"), "secrets are stored encrypted");
        let renamed = init(&engine, &Format { name: "other".into(), ..format(0) }, false).await;
        assert_eq!(renamed, Err("cannot update volume name from test to other".into()));
        let resized = init(&engine, &Format { block_size: 1024, ..format(0) }, false).await;
        assert_eq!(resized, Err("cannot update volume block size from 4096 to 1024".into()));
        let again = Format { uuid: "another".into(), capacity: 1 << 30, ..first.clone() };
        let wanted = Format { uuid: first.uuid.clone(), ..again.clone() };
        assert_eq!(init(&engine, &again, false).await, Ok(wanted.clone()));
        assert_eq!(Client::load_format(&engine).await.expect("loaded"), Some(wanted));
        let forced = Format { name: "other".into(), uuid: "another".into(), ..format(0) };
        assert_eq!(init(&engine, &forced, true).await, Ok(forced.clone()));
        let changed = Format { trash_days: 3, ..forced };
        Client::save_format(&engine, &changed, &SystemClock).await.expect("saved");
        assert_eq!(Client::load_format(&engine).await.expect("loaded"), Some(changed));
        let nodes = Snapshot::take(engine.as_ref()).await.nodes;
        assert_eq!(nodes.keys().copied().collect::<Vec<_>>(), [Ino::ROOT, Ino::TRASH_ROOT]);
        assert_eq!((nodes[&Ino::ROOT].mode, nodes[&Ino::TRASH_ROOT].mode), (0o777, 0o555));
    });
}

#[test]
fn statistics_that_were_not_kept_are_dropped() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let d = v.mkdir(Ino::ROOT, "d").await;
        v.file(d, "f").await;
        v.client.flush_stats().await.expect("flushed");
        let off = Format { dir_stats: false, ..format(0) };
        Client::save_format(&v.engine, &off, v.clock.as_ref()).await.expect("saved");
        v.client.refresh().await.expect("beat");
        v.file(d, "g").await;
        v.client.flush_stats().await.expect("flushed");
        assert_eq!(Snapshot::take(v.engine.as_ref()).await.dir_stats[&d].inodes, 1);
        Client::save_format(&v.engine, &format(0), v.clock.as_ref()).await.expect("saved");
        assert!(Snapshot::take(v.engine.as_ref()).await.dir_stats.is_empty());
        v.client.refresh().await.expect("beat");
        v.file(d, "h").await;
        v.client.flush_stats().await.expect("flushed");
        assert_eq!(Snapshot::take(v.engine.as_ref()).await.dir_stats[&d].inodes, 3);
    });
}

#[test]
fn volumes_that_cannot_be_used_are_refused_with_a_sentence() {
    on_all(|kind: Kind| async move {
        let clock = Arc::new(Volume::new(Kind::Mem, 0).await.clock);
        let open = |format: Option<Format>, read_only: bool| {
            let clock = Arc::clone(&clock);
            async move {
                let home = Home::new(kind);
                let engine = home.engine();
                if let Some(format) = format {
                    Client::init(&engine, &format, false, &SystemClock).await.expect("formatted");
                }
                let config = ClientConfig { read_only, ..config(&clock) };
                Client::open(engine, config).await.map(|_| ()).map_err(|error| error.to_string())
            }
        };
        assert!(open(None, true).await.expect_err("refused").contains("not formatted"));
        let newer = Format { min_client_version: "9.0.0".into(), ..format(0) };
        assert!(open(Some(newer), true).await.expect_err("refused").contains("older"));
        let logged = Format { change_log: true, ..format(0) };
        assert!(open(Some(logged.clone()), false).await.expect_err("refused").contains("change log"));
        assert_eq!(open(Some(logged), true).await, Ok(()));
    });
}

#[test]
fn a_replaced_volume_is_noticed() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let bigger = Format { capacity: 1 << 40, ..format(0) };
        Client::save_format(&v.engine, &bigger, v.clock.as_ref()).await.expect("saved");
        v.client.refresh().await.expect("beat");
        assert_eq!(v.client.format().capacity, 1 << 40);
        let other = Format { uuid: "another".into(), ..format(0) };
        init(&v.engine, &other, true).await.expect("formatted");
        assert!(matches!(v.client.refresh().await, Err(MetaError::Setting(why)) if why.contains("UUID")));
        v.engine.reset().await.expect("removed");
        assert!(matches!(v.client.refresh().await, Err(MetaError::Setting(_))));
        assert!(v.engine.is_empty().await.expect("asked"));
    });
}

#[test]
fn a_directory_can_be_the_root() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 1).await;
        let sub = |path: &str| ClientConfig { subdir: Some(path.to_owned()), ..config(&v.clock) };
        let client = v.second(sub("/a//b/")).await;
        let a = v.find(Ino::ROOT, "a").await.expect("made");
        let b = v.find(a, "b").await.expect("made");
        let (f, attr) = client.mknod(&root(), Ino::ROOT, b"f", node(FileType::File, 0o644)).await.expect("made");
        assert_eq!((v.find(b, "f").await, attr.parent), (Ok(f), b));
        let look = |name: &'static [u8]| {
            let client = Arc::clone(&client);
            async move { posix(client.lookup(&root(), Ino::ROOT, name).await).map(|(ino, _)| ino) }
        };
        assert_eq!((look(b"..").await, look(b".").await), (Ok(Ino::ROOT), Ok(Ino::ROOT)));
        assert_eq!(look(b".trash").await, Err(Errno::ENOENT));
        assert_eq!(client.getattr(Ino::ROOT).await.expect("there"), v.attr(b).await);
        let d = client.mknod(&root(), Ino::ROOT, b"d", node(FileType::Directory, 0o755)).await.expect("made").0;
        let up = posix(client.lookup(&root(), d, b"..").await).map(|(ino, _)| ino);
        assert_eq!(up, Ok(Ino::ROOT), "the root of the mount goes by one number");
        client.unlink(&root(), Ino::ROOT, b"f", false).await.expect("unlinked");
        assert!(v.attr(f).await.parent.is_hourly_trash());
        v.file(Ino::ROOT, "plain").await;
        let refused = |path: &'static str, read_only| {
            let (engine, config) = (Arc::clone(&v.engine), ClientConfig { read_only, ..sub(path) });
            async move { posix(Client::open(engine, config).await).map(|_| ()) }
        };
        assert_eq!(refused("plain", false).await, Err(Errno::ENOTDIR));
        assert_eq!(refused("missing", true).await, Err(Errno::ENOENT));
    });
}

#[test]
fn a_change_of_the_setting_by_somebody_else_is_not_lost() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let was = v.engine.load_setting().await.expect("loaded").expect("there");
        let theirs = Format { enable_acl: true, ..format(0) };
        Client::save_format(&v.engine, &theirs, v.clock.as_ref()).await.expect("saved");
        // Made from what was stored before.
        let ours = Format { trash_days: 3, ..format(0) };
        assert!(!Client::replace_format(&v.engine, &was, &ours, v.clock.as_ref()).await.expect("judged"));
        assert_eq!(Client::load_format(&v.engine).await.expect("loaded"), Some(theirs.clone()));
        assert!(v.engine.load_setting().await.expect("loaded").expect("there") != was);
        let was = v.engine.load_setting().await.expect("loaded").expect("there");
        let both = Format { trash_days: 3, ..theirs };
        assert!(Client::replace_format(&v.engine, &was, &both, v.clock.as_ref()).await.expect("stored"));
        assert_eq!(Client::load_format(&v.engine).await.expect("loaded"), Some(both));
    });
}

#[test]
fn a_change_log_that_is_turned_on_stops_those_that_do_not_write_it() {
    on_all(|kind: Kind| async move {
        let v = Volume::new(kind, 0).await;
        let f = v.file(Ino::ROOT, "f").await;
        let logged = Format { change_log: true, ..format(0) };
        Client::save_format(&v.engine, &logged, v.clock.as_ref()).await.expect("saved");
        v.client.refresh().await.expect("taken up");
        let made = v.client.mknod(&root(), Ino::ROOT, b"g", node(FileType::File, 0o644)).await;
        assert!(matches!(&made, Err(MetaError::Unavailable(why)) if why.contains("change log")), "{made:?}");
        let record = juicefs_core::SliceRecord { pos: 0, id: juicefs_core::SliceId(99), size: 1, off: 0, len: 1 };
        let written = crate::volume::write_slice(&v.client, f, 0, record, juicefs_core::Timestamp::from_secs(1)).await;
        assert!(matches!(written, Err(MetaError::Unavailable(_))), "what waits to be written keeps its place");
        assert_eq!(v.attr(f).await.length, 0, "reading goes on");
        v.client.heartbeat().await.expect("the session lives on");
        v.client.refresh().await.expect("taken up");
        Client::save_format(&v.engine, &format(0), v.clock.as_ref()).await.expect("saved");
        v.client.refresh().await.expect("taken up");
        v.write(f, 0, 10).await.expect("written");
    });
}
