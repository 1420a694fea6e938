//! Nodes and names that are known not to have changed since they were read, because the server tells of every change
//! (URL option `client-cache`; `link/watch`).
//!
//! What is answered from here is as old as a message from the server takes: a change that another client was told is done
//! may not have been heard of yet. Nothing is answered once the server has been silent for [`SILENCE`].

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use juicefs_core::{
    ids::Ino,
    stamps::{Moment, Stamps},
};
use parking_lot::RwLock;
use tokio::time::Instant;

use super::{address::ClientCache, link::Witness};
use crate::{
    layout::redis::{KeySpace, Text, parse_number},
    record::{Key, Value},
    txn::{EdgeEffect, Effect, NodeEffect, ReadSet},
};

/// After so long without a sign of life from the server, changes may have been missed.
const SILENCE: Duration = Duration::from_secs(3);

/// What was read while the server told of changes.
pub(super) struct Cache {
    /// What the keys of nodes begin with, and those of directories.
    stems: [Text; 2],
    known: moka::sync::Cache<Key, Known>,
    /// Changes of nodes, by inode.
    nodes: Stamps,
    /// Changes of the names in a directory, by its inode.
    names: Stamps,
    /// Grows whenever changes may have been missed. What was asked for before means nothing.
    watch: AtomicU64,
    /// When the server was last asked something that it has answered; `None` while it does not tell of changes.
    heard: RwLock<Option<Instant>>,
}

#[derive(Clone)]
struct Known {
    value: Option<Value>,
    asked: Asked,
}

/// When something was asked for.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    watch: u64,
    nodes: Moment,
    names: Moment,
}

impl Cache {
    pub(super) fn new(keys: &KeySpace, options: &ClientCache) -> Self {
        Self {
            stems: [keys.node_stem(), keys.entries_stem()],
            known: moka::sync::Cache::builder().max_capacity(options.size).time_to_live(options.expire).build(),
            nodes: Stamps::new(),
            names: Stamps::new(),
            watch: AtomicU64::new(0),
            heard: RwLock::new(None),
        }
    }

    /// What the keys begin with of whose changes the server has to tell.
    pub(super) fn stems(&self) -> &[Text] {
        &self.stems
    }

    /// The present moment, to be taken before the server is asked for what is to be learned.
    pub(super) fn now(&self) -> Asked {
        Asked { watch: self.watch.load(Ordering::SeqCst), nodes: self.nodes.now(), names: self.names.now() }
    }

    /// Whether the server tells of changes.
    pub(super) fn is_told(&self) -> bool {
        self.heard.read().is_some_and(|heard| heard.elapsed() < SILENCE)
    }

    /// Keeps what was found for a key, if it is of a kind of which the server tells.
    pub(super) fn learn(&self, asked: Asked, key: &Key, value: Option<&Value>) {
        if matches!(key, Key::Node(_) | Key::Edge(..)) && self.is_told() {
            self.known.insert(key.clone(), Known { value: value.cloned(), asked });
        }
    }

    /// What is stored under `key`, if that is known.
    pub(super) fn get(&self, key: &Key) -> Option<Option<Value>> {
        if !self.is_told() {
            return None;
        }
        let Known { value, asked } = self.known.get(key)?;
        let changed = match key {
            Key::Node(ino) => self.nodes.changed(*ino, asked.nodes),
            Key::Edge(parent, _) => self.names.changed(*parent, asked.names),
            _ => true,
        };
        (!changed && asked.watch == self.watch.load(Ordering::SeqCst)).then_some(value)
    }

    /// What is stored under all of `keys`, if all of that is known.
    pub(super) fn get_all(&self, keys: &[Key]) -> Option<ReadSet> {
        let mut read = ReadSet::default();
        for key in keys {
            read.insert(key.clone(), self.get(key)?);
        }
        Some(read)
    }

    /// Notes what this client itself has just changed, of which the server may tell later.
    pub(super) fn applied(&self, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::Node(ino, NodeEffect::Insert(_))
                | Effect::Node(ino, NodeEffect::Update(_))
                | Effect::Node(ino, NodeEffect::Patch(_))
                | Effect::Node(ino, NodeEffect::Delete) => self.nodes.touch(*ino),
                Effect::Edge(parent, _, EdgeEffect::Insert(_))
                | Effect::Edge(parent, _, EdgeEffect::Update(_))
                | Effect::Edge(parent, _, EdgeEffect::Delete) => {
                    self.names.touch(*parent);
                }
                _ => {}
            }
        }
    }
}

impl Witness for Cache {
    fn begin(&self, now: Instant) {
        self.watch.fetch_add(1, Ordering::SeqCst);
        *self.heard.write() = Some(now);
    }

    fn heard(&self, asked: Instant) {
        *self.heard.write() = Some(asked);
    }

    fn changed(&self, key: &[u8]) {
        for (stem, stamps) in self.stems.iter().zip([&self.nodes, &self.names]) {
            // Other keys begin like those of directories, and are no numbers.
            let number = key.strip_prefix(stem.as_slice()).and_then(|digits| parse_number("inode", digits).ok());
            if let Some(ino) = number {
                stamps.touch(Ino(ino));
            }
        }
    }

    fn end(&self) {
        *self.heard.write() = None;
        self.watch.fetch_add(1, Ordering::SeqCst);
        self.known.invalidate_all();
    }
}

#[cfg(test)]
mod tests {
    use juicefs_core::{
        attr::{Attr, FileType},
        ids::Name,
    };

    use super::*;
    use crate::record::Edge;

    fn cache() -> Cache {
        let options = ClientCache { enabled: true, size: 100, expire: Duration::from_secs(60), preload: 0 };
        Cache::new(&KeySpace::new("{1}"), &options)
    }

    fn node() -> Value {
        Value::Node(Attr::default())
    }

    #[tokio::test(start_paused = true)]
    async fn a_value_is_believed_until_the_server_says_otherwise() {
        let cache = cache();
        let (key, name) = (Key::Node(Ino(7)), Key::Edge(Ino(1), Name::from("a")));
        cache.learn(cache.now(), &key, Some(&node()));
        assert_eq!(cache.get(&key), None, "nobody tells of changes yet");
        cache.begin(Instant::now());
        cache.learn(cache.now(), &key, Some(&node()));
        cache.learn(cache.now(), &name, None);
        assert_eq!((cache.get(&key), cache.get(&name)), (Some(Some(node())), Some(None)));
        assert!(cache.get_all(&[key.clone(), name.clone()]).is_some());
        assert!(cache.get_all(&[key.clone(), Key::Node(Ino(8))]).is_none());
        for other in [&b"{1}i8"[..], b"{1}d7", b"i7", b"{1}dirUsedSpace", b"{1}c7_0"] {
            cache.changed(other);
        }
        assert_eq!(cache.get(&key), Some(Some(node())));
        cache.changed(b"{1}i7");
        assert_eq!((cache.get(&key), cache.get(&name)), (None, Some(None)));
        cache.changed(b"{1}d1");
        assert_eq!(cache.get(&name), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_asked_before_a_change_is_not_believed_after_it() {
        let cache = cache();
        cache.begin(Instant::now());
        let (key, name) = (Key::Node(Ino(7)), Key::Edge(Ino(1), Name::from("a")));
        let asked = cache.now();
        cache.changed(b"{1}i7");
        cache.applied(&[Effect::Edge(
            Ino(1),
            Name::from("a"),
            EdgeEffect::Insert(Edge { ino: Ino(7), kind: FileType::File }),
        )]);
        cache.learn(asked, &key, Some(&node()));
        cache.learn(asked, &name, None);
        assert_eq!((cache.get(&key), cache.get(&name)), (None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_belief() {
        let cache = cache();
        cache.begin(Instant::now());
        let key = Key::Node(Ino(7));
        let asked = cache.now();
        cache.learn(asked, &key, Some(&node()));
        tokio::time::advance(SILENCE).await;
        assert_eq!(cache.get(&key), None);
        cache.heard(Instant::now());
        assert_eq!(cache.get(&key), Some(Some(node())), "all changes have been told");
        cache.end();
        assert_eq!(cache.get(&key), None);
        cache.begin(Instant::now());
        cache.learn(asked, &key, Some(&node()));
        assert_eq!(cache.get(&key), None, "it was asked for under an earlier watch");
    }
}
