//! Names: looking one up, and listing a directory page by page, with attributes in the same round trip.

use std::{collections::VecDeque, sync::LazyLock, time::Duration};

use juicefs_core::{
    attr::{Attr, FileType},
    error::MetaResult,
    ids::{Ino, Name},
    meta::{DirCursor, DirEntry, DirPage},
};
use redis::Value as Reply;
use tokio::time::{Instant, sleep};

use super::{
    RedisEngine,
    cache::Asked,
    fetch::{self, bytes},
    link::Lane,
    script::Script,
};
use crate::{
    layout::{
        binary::{decode_attr, decode_edge},
        redis::number,
    },
    record::{Edge, Key, Value},
};

/// Most entries that one script lists: it holds the server for about a millisecond.
const PAGE_MAX: usize = 2000;
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

/// A page of entries, and the nodes of those that the script can name.
static LIST: LazyLock<Script> = LazyLock::new(|| {
    Script::new(format!(
        "{NODE_OF}local s=redis.call('HSCAN',KEYS[1],ARGV[2],'COUNT',ARGV[3]) local e,a=s[2],{{}} \
         if ARGV[4]=='1' then local k={{}} for i=2,#e,2 do k[#k+1]=node(e[i]) or '' \
         if #k==500 or i==#e then for _,v in ipairs(redis.call('MGET',unpack(k))) do a[#a+1]=v end k={{}} end end end \
         return {{s[1],e,a}}"
    ))
});

impl RedisEngine {
    pub(super) async fn find(&self, parent: Ino, name: &[u8]) -> MetaResult<Option<(Edge, Option<Attr>)>> {
        let keys = self.keys().await?;
        let key = Key::Edge(parent, Name::new(name));
        if let Some(known) = self.find_cached(&key) {
            return Ok(known);
        }
        let asked = self.cache.get().map(|cache| cache.now());
        let nodes = keys.node_stem();
        let reply = self.ask_script(Lane::Small, &LOOKUP, &keys.entries(parent), &[nodes.as_slice(), name]).await?;
        let mut parts = fetch::list("entry", reply)?.into_iter();
        let stored = parts.next().map(|part| bytes("entry", part)).transpose()?.flatten();
        let edge = stored.map(|stored| decode_edge(&stored)).transpose()?;
        self.learn(asked, key, edge.map(Value::Edge));
        let Some(edge) = edge else { return Ok(None) };
        let attr = match parts.next() {
            Some(node) => {
                let mut sight = fetch::Sight::default();
                fetch::take(&mut std::iter::once(node), Key::Node(edge.ino), &mut sight)?;
                self.recent.learn(&sight);
                self.cache_sight(asked, &sight);
                sight.read.node(edge.ino).cloned()
            }
            None => self.look(&[Key::Node(edge.ino)]).await?.read.node(edge.ino).cloned(),
        };
        Ok(Some((edge, attr)))
    }

    /// What a lookup finds, if that is known without asking.
    fn find_cached(&self, key: &Key) -> Option<Option<(Edge, Option<Attr>)>> {
        let cache = self.cache.get()?;
        let Some(Value::Edge(edge)) = cache.get(key)? else { return Some(None) };
        let attr = match cache.get(&Key::Node(edge.ino))? {
            Some(Value::Node(attr)) => Some(attr),
            _ => None,
        };
        Some(Some((edge, attr)))
    }

    /// Remembers a record as it was listed or looked up.
    fn learn(&self, asked: Option<Asked>, key: Key, value: Option<Value>) {
        if let (Some(cache), Some(asked)) = (self.cache.get(), asked) {
            cache.learn(asked, &key, value.as_ref());
        }
        self.recent.learn_one(key, value);
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
            let mut from = None;
            while loaded < wanted {
                let page = self.list(directory, from, true, PAGE_MAX).await?;
                loaded += page.entries.len() as u64;
                let below = page.entries.iter().filter(|entry| entry.kind == FileType::Directory);
                directories.extend(below.map(|entry| entry.ino));
                from = page.next;
                if from.is_none() {
                    break;
                }
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
        let mut cursor = from.map_or_else(|| "0".into(), |cursor| cursor.0);
        loop {
            let (next, entries) = self.list_once(ino, &cursor, with_attrs, limit).await?;
            let end = next.as_ref() == b"0";
            // A page of a hash that shrinks may be empty, which does not mean its end.
            if end || !entries.is_empty() {
                return Ok(DirPage { entries, next: (!end).then_some(DirCursor(next)) });
            }
            cursor = next;
        }
    }

    async fn list_once(
        &self,
        ino: Ino,
        cursor: &[u8],
        with_attrs: bool,
        limit: usize,
    ) -> MetaResult<(bytes::Bytes, Vec<DirEntry>)> {
        let keys = self.keys().await?;
        let asked = self.cache.get().map(|cache| cache.now());
        let nodes = keys.node_stem();
        let count = number(limit.clamp(1, PAGE_MAX));
        let attrs: &[u8] = if with_attrs { b"1" } else { b"0" };
        let args = [nodes.as_slice(), cursor, count.as_slice(), attrs];
        let mut parts =
            fetch::list("entries", self.ask_script(Lane::Bulk, &LIST, &keys.entries(ino), &args).await?)?.into_iter();
        let mut part = || parts.next().unwrap_or(Reply::Nil);
        let next = bytes("entries", part())?.unwrap_or_else(|| "0".into());
        let pairs = fetch::pairs("entries", part())?;
        let mut nodes = fetch::list("nodes", part())?.into_iter();
        let mut entries = Vec::with_capacity(pairs.len());
        let mut unnamed = Vec::new();
        for (name, stored) in pairs {
            let edge = decode_edge(&stored)?;
            let stored = nodes.next().map(|node| bytes("node", node)).transpose()?.flatten();
            let attr = stored.map(|stored| decode_attr(&stored)).transpose()?;
            if with_attrs && attr.is_none() && edge.ino.is_trash() {
                unnamed.push(Key::Node(edge.ino));
            }
            let name = Name(name);
            if let Some(attr) = &attr {
                self.learn(asked, Key::Edge(ino, name.clone()), Some(Value::Edge(edge)));
                self.learn(asked, Key::Node(edge.ino), Some(Value::Node(attr.clone())));
            }
            entries.push(DirEntry { name, ino: edge.ino, kind: edge.kind, attr });
        }
        if !unnamed.is_empty() {
            let found = self.look(&unnamed).await?;
            for entry in entries.iter_mut().filter(|entry| entry.ino.is_trash()) {
                entry.attr = found.read.node(entry.ino).cloned();
            }
        }
        Ok((next, entries))
    }
}
