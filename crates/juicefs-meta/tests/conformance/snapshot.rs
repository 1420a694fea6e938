//! All records of a volume that can be reached, read through the engine interface only.

use std::collections::{BTreeMap, BTreeSet};

use juicefs_core::{
    Attr, ChunkIndex, FileType, Ino, Name, SessionId, SliceId, SliceKey, SliceRecord, limits::CHUNK_SIZE,
};
use juicefs_meta::{
    Engine,
    engine::Scan,
    record::{AccountKey, CHUNKS_BEYOND, Counter, DelFile, DelaySlices, DirStat, Edge, HolderKey, Key, NoteKey, Value},
};

const ALL: usize = 1_000_000;

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Snapshot {
    pub(crate) edges: BTreeMap<(Ino, Name), Edge>,
    pub(crate) nodes: BTreeMap<Ino, Attr>,
    pub(crate) chunks: BTreeMap<(Ino, u32), Vec<SliceRecord>>,
    pub(crate) symlinks: BTreeMap<Ino, Vec<u8>>,
    pub(crate) xattrs: BTreeMap<(Ino, Name), Vec<u8>>,
    /// Only of nodes whose attributes do not tell their parent.
    pub(crate) parents: BTreeMap<Ino, BTreeMap<Ino, u64>>,
    pub(crate) dir_stats: BTreeMap<Ino, DirStat>,
    pub(crate) slice_refs: BTreeMap<SliceKey, i64>,
    pub(crate) sustained: BTreeSet<(SessionId, Ino)>,
    pub(crate) del_files: BTreeMap<Ino, DelFile>,
    pub(crate) delayed: BTreeMap<SliceId, DelaySlices>,
    pub(crate) used_space: i64,
    pub(crate) total_inodes: i64,
}

impl Snapshot {
    pub(crate) async fn take(engine: &dyn Engine) -> Self {
        let mut all = Self::default();
        all.take_lists(engine).await;
        let mut todo = vec![Ino::ROOT, Ino::TRASH_ROOT];
        todo.extend(all.sustained.iter().map(|(_, ino)| *ino));
        todo.extend(all.del_files.keys());
        let mut seen = BTreeSet::new();
        while let Some(ino) = todo.pop() {
            if seen.insert(ino) {
                todo.extend(all.take_node(engine, ino).await);
            }
        }
        let used: BTreeSet<_> = all.chunks.values().flatten().filter_map(SliceRecord::key).collect();
        let held = all.delayed.values().flat_map(|delayed| delayed.slices.iter().copied());
        let keys: BTreeSet<_> = used.into_iter().chain(held).collect();
        let read =
            engine.fetch(&keys.iter().map(|slice| Key::SliceRef(*slice)).collect::<Vec<_>>()).await.expect("fetched");
        for slice in keys {
            all.slice_refs.extend(read.slice_ref(slice).map(|count| (slice, count)));
        }
        all
    }

    async fn take_lists(&mut self, engine: &dyn Engine) {
        let scan = |scan| async move { engine.scan(scan, None, ALL).await.expect("scanned") };
        for (key, _) in scan(Scan::Sessions).await {
            let Key::Holder(HolderKey::Session(sid)) = key else { panic!("{key:?}") };
            for (key, _) in scan(Scan::Sustained(sid)).await {
                let Key::Holder(HolderKey::Sustained(sid, ino)) = key else { panic!("{key:?}") };
                self.sustained.insert((sid, ino));
            }
        }
        for (key, value) in scan(Scan::DelFiles { before_secs: i64::MAX }).await {
            let (Key::Note(NoteKey::DelFile(ino, _)), Value::DelFile(file)) = (key, value) else {
                panic!("not a delfile")
            };
            self.del_files.insert(ino, file);
        }
        for (key, value) in scan(Scan::DelaySlices { before_secs: i64::MAX }).await {
            let (Key::Note(NoteKey::DelaySlices(id, _)), Value::DelaySlices(slices)) = (key, value) else {
                panic!("not delayed")
            };
            self.delayed.insert(id, slices);
        }
        for (key, value) in scan(Scan::DeadSlices).await {
            let (Key::SliceRef(slice), Value::SliceRef(count)) = (key, value) else { panic!("not a slice") };
            self.slice_refs.insert(slice, count);
        }
        let counters = [Counter::UsedSpace, Counter::TotalInodes];
        let read =
            engine.fetch(&counters.map(|counter| Key::Account(AccountKey::Counter(counter)))).await.expect("fetched");
        (self.used_space, self.total_inodes) = (read.counter(counters[0]), read.counter(counters[1]));
    }

    /// Everything about one inode; returns what its entries name.
    async fn take_node(&mut self, engine: &dyn Engine, ino: Ino) -> Vec<Ino> {
        let keys = [Key::Node(ino), Key::Symlink(ino), Key::Account(AccountKey::DirStat(ino)), Key::Parents(ino)];
        let read = engine.fetch(&keys).await.expect("fetched");
        if let Some(attr) = read.node(ino) {
            self.nodes.insert(ino, attr.clone());
            if attr.parent == Ino(0) {
                self.parents.insert(ino, read.parents(ino).cloned().unwrap_or_default());
            }
        }
        self.symlinks.extend(read.symlink(ino).map(|target| (ino, target.to_vec())));
        self.dir_stats.extend(read.dir_stat(ino).map(|stat| (ino, *stat)));
        let removed = self.del_files.get(&ino).map_or(0, |file| file.length);
        let length = read.node(ino).map_or(removed, |attr| attr.length);
        let end = ChunkIndex::try_from(length / CHUNK_SIZE).expect("a length") + CHUNKS_BEYOND;
        let to = if engine.caps().indexes_chunks { ChunkIndex::MAX } else { end };
        for (key, value) in engine.scan(Scan::Chunks { ino, from: 0, to }, None, ALL).await.expect("scanned") {
            let (Key::Chunk(ino, index), Value::Chunk(list)) = (key, value) else { panic!("not a chunk") };
            self.chunks.insert((ino, index), list);
        }
        for (key, value) in engine.scan(Scan::Xattrs(ino), None, ALL).await.expect("scanned") {
            let (Key::Xattr(ino, name), Value::Bytes(value)) = (key, value) else { panic!("not an xattr") };
            self.xattrs.insert((ino, name), value.to_vec());
        }
        let page = engine.readdir(ino, None, false, ALL).await.expect("listed");
        assert!(page.next.is_none());
        for entry in &page.entries {
            self.edges.insert((ino, entry.name.clone()), Edge { ino: entry.ino, kind: entry.kind });
        }
        page.entries.into_iter().map(|entry| entry.ino).collect()
    }

    /// Number of records held, as a store that knows all of its records counts them.
    pub(crate) fn count(&self) -> usize {
        self.edges.len()
            + self.nodes.len()
            + self.chunks.len()
            + self.symlinks.len()
            + self.xattrs.len()
            + self.parents.values().filter(|parents| !parents.is_empty()).count()
            + self.dir_stats.len()
            + self.slice_refs.len()
            + self.sustained.len()
            + self.del_files.len()
            + self.delayed.len()
    }

    pub(crate) fn is_dir(&self, ino: Ino) -> bool {
        self.nodes.get(&ino).is_some_and(|attr| attr.kind == FileType::Directory)
    }
}
