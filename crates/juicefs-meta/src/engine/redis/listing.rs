//! Names: looking one up, and listing a directory page by page, with attributes in the same round trip.

use std::{collections::VecDeque, sync::LazyLock, time::Duration};

use bytes::Bytes;
use juicefs_core::{
    attr::FileType,
    error::MetaResult,
    ids::{Ino, Name},
    listing::Listing,
    meta::{DirCursor, DirEntry, DirPage},
};
use redis::Value as Reply;
use tokio::time::{Instant, sleep};

use super::{
    RedisEngine,
    cache::Asked,
    cursor::Cursor,
    fetch::{self, bytes},
    link::{Lane, Request},
    script::Script,
};
use crate::{
    engine::{Engine, Found},
    layout::{
        binary::{decode_attr, decode_edge},
        redis::KeySpace,
    },
    record::{Edge, Key, Value},
};

/// Most entries that are asked for at once: they hold the server for some milliseconds.
const PAGE_MAX: usize = 10_000;
/// Most nodes likewise. A page may have more entries than were asked for.
const NODES_MAX: usize = 2 * PAGE_MAX;
/// Directories up to this size are listed by one script, which saves a trip. In larger ones that matters less than what it costs
/// the server to take all of it through Lua.
const SMALL_MAX: usize = 128;
/// How long a mount that is to know nodes from the start waits for the server to begin to tell of changes.
const PRELOAD_WAIT: Duration = Duration::from_secs(1);

/// Numbers above 2^53 do not fit into a number of Lua; only the trash has such inodes. They are left to the client.
const NODE_OF: &str = "local function node(e) local h,l=struct.unpack('>I4I4',e,2) if h>=2097152 then return nil end \
    return ARGV[1]..string.format('%.0f',h*4294967296+l) end\n";

/// An entry and its node.
static LOOKUP: LazyLock<Script> = LazyLock::new(|| {
    Script::new(format!(
        "{NODE_OF}local e=redis.call('HGET',KEYS[1],ARGV[2]) if not e then return false end \
         local n=node(e) if not n then return {{e}} end return {{e,redis.call('GET',n)}}"
    ))
});

/// All entries of a small directory and their nodes; nothing when it is not small, or when the script cannot name a node.
static LIST: LazyLock<Script> = LazyLock::new(|| {
    Script::new(format!(
        "{NODE_OF}if redis.call('HLEN',KEYS[1])>{SMALL_MAX} then return false end local e=redis.call('HGETALL',KEYS[1]) \
         local k={{}} for i=2,#e,2 do local n=node(e[i]) if not n then return false end k[#k+1]=n end \
         if #k==0 then return {{e,k}} end return {{e,redis.call('MGET',unpack(k))}}"
    ))
});

impl RedisEngine {
    pub(super) async fn find(&self, parent: Ino, name: &[u8]) -> MetaResult<Option<Found>> {
        let keys = self.keys().await?;
        let key = Key::Edge(parent, Name::new(name));
        if let Some(known) = self.find_cached(&key) {
            return Ok(known);
        }
        if keys.may_move() {
            return self.find_in_steps(keys, parent, name).await;
        }
        let asked = self.cache.get().map(|cache| cache.now());
        let nodes = keys.node_stem();
        let reply = self.ask_script(Lane::Small, &LOOKUP, &keys.entries(parent), &[nodes.as_slice(), name]).await?;
        let mut parts = fetch::list("entry", reply)?.into_iter();
        let stored = parts.next().map(|part| bytes("entry", part)).transpose()?.flatten();
        let edge = stored.map(|stored| decode_edge(&stored)).transpose()?;
        self.cache_one(asked, &key, || edge.map(Value::Edge));
        let Some(edge) = edge else { return Ok(None) };
        let stored = match parts.next() {
            Some(node) => bytes("node", node)?,
            // The script could not name it.
            None => bytes("node", self.call_one(&Request::of(&[&b"GET"[..], &keys.node(edge.ino)])).await?)?,
        };
        self.found(asked, edge, stored).map(Some)
    }

    /// An entry with its node as it is stored.
    fn found(&self, asked: Option<Asked>, edge: Edge, stored: Option<Bytes>) -> MetaResult<Found> {
        let node = stored.map(fetch::node).transpose()?;
        let (attr, stored) = node.map_or((None, None), |(attr, stored)| (Some(attr), stored));
        self.cache_one(asked, &Key::Node(edge.ino), || attr.clone().map(Value::Node));
        Ok(Found { edge, attr, stored })
    }

    /// An entry, and then its node and the entry once more. Nobody can say which node that is before the entry is known, and a
    /// script has to be told; a node alone may be newer than the name that led to it. Not in a transaction, which would have
    /// to wait while the slot moves and one is on either node.
    async fn find_in_steps(&self, keys: &KeySpace, parent: Ino, name: &[u8]) -> MetaResult<Option<Found>> {
        let key = Key::Edge(parent, Name::new(name));
        let asked = self.cache.get().map(|cache| cache.now());
        let entries = keys.entries(parent);
        let entry = Request::of(&[&b"HGET"[..], &entries, name]);
        let stored = bytes("entry", self.call_one(&entry).await?)?;
        let mut edge = stored.map(|stored| decode_edge(&stored)).transpose()?;
        self.cache_one(asked, &key, || edge.map(Value::Edge));
        while let Some(named) = edge {
            let asked = self.cache.get().map(|cache| cache.now());
            let mut request = Request::of(&[&b"GET"[..], &keys.node(named.ino)]);
            request.command(&[&b"HGET"[..], &entries, name]);
            let mut replies = self.call(&request).await?.into_iter();
            let mut part = |what| bytes(what, replies.next().unwrap_or(Reply::Nil));
            let (node, stored) = (part("node")?, part("entry")?);
            edge = stored.map(|stored| decode_edge(&stored)).transpose()?;
            self.cache_one(asked, &key, || edge.map(Value::Edge));
            let found = self.found(asked, named, node)?;
            if edge == Some(named) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// What a lookup finds, if that is known without asking.
    fn find_cached(&self, key: &Key) -> Option<Option<Found>> {
        let cache = self.cache.get()?;
        let Some(Value::Edge(edge)) = cache.get(key)? else { return Some(None) };
        let attr = match cache.get(&Key::Node(edge.ino))? {
            Some(Value::Node(attr)) => Some(attr),
            _ => None,
        };
        Some(Some(Found { edge, attr, stored: None }))
    }

    /// Keeps what was asked for after `asked`, if anything is cached.
    fn cache_one(&self, asked: Option<Asked>, key: &Key, value: impl FnOnce() -> Option<Value>) {
        if let (Some(cache), Some(asked)) = (self.cache.get(), asked) {
            cache.learn(asked, key, value().as_ref());
        }
    }

    /// Caches the first nodes of the tree, level by level, as many as the URL asks for.
    pub(super) async fn preload(&self, root: Ino) -> MetaResult<()> {
        self.keys().await?;
        let (Some(cache), wanted) = (self.cache.get(), self.link.options().client_cache.preload) else { return Ok(()) };
        let deadline = Instant::now() + PRELOAD_WAIT;
        while wanted > 0 && !cache.is_told() && Instant::now() < deadline {
            sleep(PRELOAD_WAIT / 100).await;
        }
        let mut loaded = 0;
        let mut directories = VecDeque::from([root]);
        while let Some(directory) = directories.pop_front() {
            let mut listing = Listing::of(directory).with_attrs().by(PAGE_MAX);
            while loaded < wanted
                && let Some(entries) = listing.next(self as &dyn Engine).await?
            {
                loaded += entries.len() as u64;
                let below = entries.iter().filter(|entry| entry.kind == FileType::Directory);
                directories.extend(below.map(|entry| entry.ino));
            }
        }
        Ok(())
    }

    pub(super) async fn list(
        &self,
        ino: Ino,
        from: Option<DirCursor>,
        with_attrs: bool,
        limit: usize,
    ) -> MetaResult<DirPage> {
        let keys = self.keys().await?;
        let asked = self.cache.get().map(|cache| cache.now());
        if from.is_none() && with_attrs && !keys.may_move() {
            let nodes = keys.node_stem();
            let reply = self.ask_script(Lane::Bulk, &LIST, &keys.entries(ino), &[nodes.as_slice()]).await?;
            if reply != Reply::Nil {
                let mut parts = fetch::list("entries", reply)?.into_iter();
                let mut part = || parts.next().unwrap_or(Reply::Nil);
                let (pairs, nodes) = (fetch::pairs("entries", part())?, fetch::list("nodes", part())?);
                let entries = self.entries_of(ino, asked, pairs, nodes)?;
                return Ok(DirPage { entries, next: None, anew: false, by_name: false });
            }
        }
        let mut cursor = from.as_ref().map_or_else(Cursor::start, Cursor::resume);
        // A page of a hash that shrinks may be empty, which does not mean its end.
        while let Some(pairs) = self.next_fields(&mut cursor, &keys.entries(ino), limit.clamp(1, PAGE_MAX)).await? {
            if !pairs.is_empty() {
                let nodes = if with_attrs { self.nodes_of(keys, &pairs).await? } else { Vec::new() };
                let entries = self.entries_of(ino, asked, pairs, nodes)?;
                return Ok(DirPage { entries, next: cursor.pause(), anew: cursor.is_anew(), by_name: false });
            }
        }
        Ok(DirPage::default())
    }

    /// The stored nodes that entries name.
    async fn nodes_of(&self, keys: &KeySpace, pairs: &[(Bytes, Bytes)]) -> MetaResult<Vec<Reply>> {
        let mut nodes = Vec::with_capacity(pairs.len());
        for pairs in pairs.chunks(NODES_MAX) {
            let mut request = Request::with_capacity(32 * pairs.len());
            request.begin(1 + pairs.len());
            request.arg(b"MGET");
            for (_, stored) in pairs {
                request.arg(&keys.node(decode_edge(stored)?.ino));
            }
            nodes.extend(fetch::list("nodes", self.one_bulk(&request).await?)?);
        }
        Ok(nodes)
    }

    /// Entries as they are stored, with their nodes if there are any.
    fn entries_of(
        &self,
        ino: Ino,
        asked: Option<Asked>,
        pairs: Vec<(Bytes, Bytes)>,
        nodes: Vec<Reply>,
    ) -> MetaResult<Vec<DirEntry>> {
        let mut nodes = nodes.into_iter();
        let mut entries = Vec::with_capacity(pairs.len());
        for (name, stored) in pairs {
            let edge = decode_edge(&stored)?;
            let stored = nodes.next().map(|node| bytes("node", node)).transpose()?.flatten();
            let attr = stored.map(|stored| decode_attr(&stored)).transpose()?;
            entries.push(DirEntry { name: Name(name), ino: edge.ino, kind: edge.kind, attr });
        }
        if let (Some(cache), Some(asked)) = (self.cache.get(), asked) {
            for DirEntry { name, ino: named, kind, attr } in &entries {
                let Some(attr) = attr else { continue };
                let edge = Value::Edge(Edge { ino: *named, kind: *kind });
                cache.learn(asked, &Key::Edge(ino, name.clone()), Some(&edge));
                cache.learn(asked, &Key::Node(*named), Some(&Value::Node(attr.clone())));
            }
        }
        Ok(entries)
    }
}
