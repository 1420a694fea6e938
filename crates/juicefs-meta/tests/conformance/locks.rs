//! Random calls on locks, from two clients, against a model that knows every byte; and the same on every engine.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use juicefs_core::{Errno, FileLocks, Ino, LockKind, LockOwner, LockRange, Meta, RangeLock, SessionId, SystemClock};
use juicefs_meta::{Client, ClientConfig};
use juicefs_testkit::redis::RedisServer;
use proptest::prelude::*;

use crate::volume::{KINDS, Kind, Volume, block_on, config, posix};

/// Bytes of the model; the last one stands for everything from there on.
const BYTES: u64 = 12;
const OWNERS: usize = 4;

#[derive(Clone, Debug)]
enum Step {
    Flock { owner: usize, kind: Option<LockKind> },
    Set { owner: usize, kind: Option<LockKind>, first: u64, last: u64, pid: u32 },
    Get { owner: usize, kind: LockKind, first: u64, last: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kind = || prop_oneof![Just(LockKind::Read), Just(LockKind::Write)];
    let change = || prop_oneof![3 => kind().prop_map(Some), 2 => Just(None)];
    let bounds = || (0..BYTES, 0..BYTES).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let step = prop_oneof![
        2 => (0..OWNERS, change()).prop_map(|(owner, kind)| Step::Flock { owner, kind }),
        4 => (0..OWNERS, change(), bounds(), 1..3u32)
            .prop_map(|(owner, kind, (first, last), pid)| Step::Set { owner, kind, first, last, pid }),
        1 => (0..OWNERS, kind(), bounds()).prop_map(|(owner, kind, (first, last))| Step::Get { owner, kind, first, last }),
    ];
    prop::collection::vec(step, 1..40)
}

fn range(first: u64, last: u64) -> LockRange {
    LockRange { start: first, end: if last == BYTES - 1 { LockRange::LAST } else { last } }
}

/// What each owner holds, byte by byte.
#[derive(Default)]
struct Model {
    files: BTreeMap<usize, LockKind>,
    bytes: BTreeMap<(usize, u64), (LockKind, u32)>,
}

impl Model {
    fn play(&mut self, step: &Step) -> Result<(), Errno> {
        match *step {
            Step::Flock { owner, kind } => {
                let had = self.files.remove(&owner);
                let Some(kind) = kind else { return Ok(()) };
                if had != Some(kind) && self.files.values().any(|held| held.conflicts(kind)) {
                    return Err(Errno::EAGAIN);
                }
                self.files.insert(owner, kind);
            }
            Step::Set { owner, kind, first, last, pid } => {
                if kind.is_some_and(|kind| self.is_excluded(owner, kind, first, last)) {
                    return Err(Errno::EAGAIN);
                }
                for byte in first..=last {
                    match kind {
                        Some(kind) => drop(self.bytes.insert((owner, byte), (kind, pid))),
                        None => drop(self.bytes.remove(&(owner, byte))),
                    }
                }
            }
            Step::Get { owner, kind, first, last } => {
                if self.is_excluded(owner, kind, first, last) {
                    return Err(Errno::EAGAIN);
                }
            }
        }
        Ok(())
    }

    fn is_excluded(&self, owner: usize, kind: LockKind, first: u64, last: u64) -> bool {
        let others = self.bytes.iter().filter(|((other, byte), _)| *other != owner && (first..=last).contains(byte));
        others.into_iter().any(|(_, (held, _))| held.conflicts(kind))
    }

    /// The same as an engine lists it, owner by owner.
    fn bytes_of(locks: &FileLocks) -> BTreeMap<(usize, u64), (LockKind, u32)> {
        let mut bytes = BTreeMap::new();
        for (owner, lock) in &locks.ranges {
            let last = lock.range.end.min(BYTES - 1);
            for byte in lock.range.start..=last {
                bytes.insert((number(*owner), byte), (lock.kind, lock.pid));
            }
        }
        bytes
    }
}

/// Owners 0 and 2 are of the first client, 1 and 3 of the second; both clients use the same numbers.
fn number(owner: LockOwner) -> usize {
    (owner.number * 2 + owner.sid.0 - 1) as usize
}

async fn play(client: &Client, ino: Ino, step: &Step) -> Result<(), Errno> {
    let outcome = match *step {
        Step::Flock { owner, kind: Some(kind) } => client.flock(ino, owner as u64 / 2, kind, None).await.map(drop),
        Step::Flock { owner, kind: None } => client.funlock(ino, owner as u64 / 2).await,
        Step::Set { owner, kind: Some(kind), first, last, pid } => {
            let lock = RangeLock { kind, range: range(first, last), pid };
            client.setlk(ino, owner as u64 / 2, lock, None).await.map(drop)
        }
        Step::Set { owner, kind: None, first, last, .. } => {
            client.unlk(ino, owner as u64 / 2, range(first, last)).await
        }
        Step::Get { owner, kind, first, last } => {
            let lock = RangeLock { kind, range: range(first, last), pid: 0 };
            match client.getlk(ino, owner as u64 / 2, lock).await.expect("asked") {
                Some(held) => {
                    assert!(held.range.overlaps(lock.range) && held.kind.conflicts(kind));
                    Err(Errno::EAGAIN.into())
                }
                None => Ok(()),
            }
        }
    };
    posix(outcome)
}

async fn history(kind: Kind, steps: &[Step]) -> FileLocks {
    let v = Volume::new(kind, 0).await;
    let second = Client::open(v.home.engine(), config(&v.clock)).await.expect("opened");
    second.new_session(Bytes::from_static(b"{}")).await.expect("a session");
    let clients = [Arc::clone(&v.client), second];
    let ino = v.file(Ino::ROOT, "f").await;
    let mut model = Model::default();
    for step in steps {
        let (Step::Flock { owner, .. } | Step::Set { owner, .. } | Step::Get { owner, .. }) = step;
        assert_eq!(play(&clients[owner % 2], ino, step).await, model.play(step), "{kind:?}: {step:?}");
        let locks = clients[1].locks(ino).await.expect("listed");
        assert_eq!(Model::bytes_of(&locks), model.bytes, "{kind:?}: {step:?}");
        let files: BTreeMap<_, _> = locks.flocks.iter().map(|(owner, kind)| (number(*owner), *kind)).collect();
        assert_eq!(files, model.files, "{kind:?}: {step:?}");
    }
    clients[0].locks(ino).await.expect("listed")
}

/// What JuiceFS (Go) 1.4.1 held in Redis when it was killed, as it listed it itself (`session-3.json`), and what it left out.
#[test]
fn locks_of_a_golden_volume_read_as_they_were() {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden");
    let golden = std::env::var_os("JFS_GOLDEN").map_or_else(beside, PathBuf::from);
    let server = RedisServer::with_rdb(&golden.join("redis-killed/meta.rdb"));
    let engine = juicefs_meta::open(&server.url(0)).expect("an engine");
    block_on(async {
        let config = ClientConfig {
            read_only: true,
            clock: Arc::new(SystemClock),
            ..config(&Volume::new(Kind::Mem, 0).await.clock)
        };
        let client = Client::open(engine, config).await.expect("opened");
        let owner = |number| LockOwner { sid: SessionId(3), number };
        let exclusive = client.locks(Ino(2056)).await.expect("listed");
        assert_eq!(exclusive.flocks, [(owner(13_350_807_163_368_956_532), LockKind::Write)]);
        let shared = client.locks(Ino(2057)).await.expect("listed");
        assert_eq!(shared.flocks.len(), 2);
        assert!(shared.flocks.iter().all(|(owner, kind)| owner.sid.0 == 3 && *kind == LockKind::Read));
        let lock = |kind, start, end| {
            (owner(7_717_133_330_779_021_783), RangeLock { kind, range: LockRange { start, end }, pid: 25282 })
        };
        let ranges =
            [lock(LockKind::Write, 0, 9), lock(LockKind::Read, 200, 299), lock(LockKind::Write, 1000, LockRange::LAST)];
        assert_eq!(client.locks(Ino(2058)).await.expect("listed").ranges, ranges);
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn engines_agree_with_a_map_of_bytes(steps in steps()) {
        block_on(async {
            let reference = history(Kind::Mem, &steps).await;
            for kind in KINDS.into_iter().filter(|kind| *kind != Kind::Mem) {
                assert_eq!(history(kind, &steps).await, reference, "{kind:?}");
            }
        });
    }
}
