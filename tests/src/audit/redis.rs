//! Reads the records of a volume from Redis, and finds keys that nobody will ever look at again.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use juicefs_testkit::redis::{Reply, Wire};

use super::{
    Rest,
    records::{Chunk, Edge, KIND_DIRECTORY, KIND_SYMLINK, Node, Records, Slice, number},
};

/// Keys of a whole volume: counters, times of the last clean-ups, hashes over all inodes.
const VOLUME_KEYS: [&str; 37] = [
    "setting",
    "nextinode",
    "nextchunk",
    "nextsession",
    "nextTrash",
    "usedSpace",
    "totalInodes",
    "aclMaxId",
    "krbTokenMaxId",
    "lastCleanupSessions",
    "lastCleanupFiles",
    "nextCleanupSlices",
    "lastCleanupTrash",
    "lastCleanupChangelog",
    "allSessions",
    "sessionInfos",
    "sessions",
    "delfiles",
    "delSlices",
    "sliceRef",
    "detachedNodes",
    "dirDataLength",
    "dirUsedSpace",
    "dirUsedInodes",
    "dirQuota",
    "dirQuotaUsedSpace",
    "dirQuotaUsedInodes",
    "userQuota",
    "userQuotaUsedSpace",
    "userQuotaUsedInodes",
    "groupQuota",
    "groupQuotaUsedSpace",
    "groupQuotaUsedInodes",
    "acl",
    "krbToken",
    "txnLog",
    "txnLastLog",
];

/// Lengths of a node's record: plain, with a tier, with ACLs, with both. The last byte is always 0.
const NODE_BYTES: [usize; 4] = [72, 73, 80, 81];
const EDGE_BYTES: usize = 9;

/// Keys of one kind, each with its inode (or session).
type Keys = Vec<(i64, Vec<u8>)>;

/// All records of the volume whose keys begin with `prefix`. After a clean rest, sessions and locks are faults too.
pub(crate) fn load(redis: &mut Wire, prefix: &str, rest: Rest) -> Records {
    let mut reader = Reader {
        redis,
        prefix,
        by_kind: BTreeMap::new(),
        records: Records { references_by_default: Some(1), ..Records::default() },
    };
    let setting = reader.ask(&["GET"], "setting").bytes();
    reader.records.read_setting(&setting);
    reader.sort_keys();
    reader.load_nodes();
    reader.load_edges();
    reader.load_links();
    reader.load_chunks();
    reader.load_slices();
    reader.load_counters();
    reader.check_sessions(rest);
    reader.check_outcomes();
    reader.records
}

struct Reader<'a> {
    redis: &'a mut Wire,
    prefix: &'a str,
    by_kind: BTreeMap<&'static str, Keys>,
    records: Records,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn integer(bytes: &[u8]) -> Option<i64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

fn list(reply: Reply) -> Vec<Vec<u8>> {
    reply.items().into_iter().map(Reply::bytes).collect()
}

/// The pairs of a hash.
fn pairs(reply: Reply) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut strings = list(reply).into_iter();
    let mut pairs = Vec::new();
    while let (Some(field), Some(value)) = (strings.next(), strings.next()) {
        pairs.push((field, value));
    }
    pairs
}

impl Reader<'_> {
    fn fault(&mut self, text: String) {
        self.records.fault(text);
    }

    /// The reply to a command on a key of the whole volume; what follows the key are the rest of the words.
    fn ask(&mut self, command: &[&str], name: &str) -> Reply {
        let key = format!("{}{name}", self.prefix);
        self.ask_key(command, key.as_bytes())
    }

    fn ask_key(&mut self, command: &[&str], key: &[u8]) -> Reply {
        let mut words = vec![command[0].as_bytes(), key];
        words.extend(command[1..].iter().map(|word| word.as_bytes()));
        self.redis.call(&words)
    }

    fn take(&mut self, kind: &str) -> Keys {
        self.by_kind.remove(kind).unwrap_or_default()
    }

    /// The replies to a command on each key of a kind.
    fn each(&mut self, command: &[&str], kind: &str) -> Vec<(i64, Reply)> {
        let keys = self.take(kind);
        keys.iter().map(|(ino, key)| (*ino, self.ask_key(command, key))).collect()
    }

    fn sort_keys(&mut self) {
        for key in self.redis.keys(&format!("{}*", self.prefix)) {
            let name = text(&key[self.prefix.len()..]);
            if VOLUME_KEYS.contains(&name.as_str()) {
                continue;
            }
            // The longer beginnings first: `session1` is no symlink.
            let kinds = ["outcome_", "session", "lockf", "lockp", "locked", "i", "d", "p", "c", "s", "x"];
            let found = kinds.iter().find_map(|kind| {
                let rest = name.strip_prefix(kind)?;
                let number = if *kind == "c" { rest.split_once('_')?.0 } else { rest };
                let number = if *kind == "outcome_" { 0 } else { number.parse().ok()? };
                Some((*kind, number))
            });
            match found {
                Some((kind, number)) => self.by_kind.entry(kind).or_default().push((number, key)),
                None => self.fault(format!("key {name} belongs to nothing")),
            }
        }
    }

    fn load_nodes(&mut self) {
        for (ino, reply) in self.each(&["GET"], "i") {
            let bytes = reply.bytes();
            if !NODE_BYTES.contains(&bytes.len()) || bytes.last() != Some(&0) {
                self.fault(format!("the node of inode {ino} has {} bytes: {bytes:02x?}", bytes.len()));
                continue;
            }
            let node = Node {
                kind: (number::<2>(&bytes, 1) >> 12).cast_signed(),
                nlink: number::<4>(&bytes, 47).cast_signed(),
                length: number::<8>(&bytes, 51).cast_signed(),
                parent: number::<8>(&bytes, 63).cast_signed(),
            };
            self.records.nodes.insert(ino, node);
        }
    }

    fn load_edges(&mut self) {
        for (parent, reply) in self.each(&["HGETALL"], "d") {
            if self.records.nodes.get(&parent).is_none_or(|node| node.kind != KIND_DIRECTORY) {
                self.fault(format!("key d{parent} is of no directory"));
            }
            for (name, edge) in pairs(reply) {
                let name = text(&name);
                if edge.len() != EDGE_BYTES {
                    self.fault(format!("name {name:?} in {parent} has a record of {} bytes", edge.len()));
                    continue;
                }
                let (kind, ino) = (i64::from(edge[0]), number::<8>(&edge, 1).cast_signed());
                self.records.edges.push(Edge { parent, name, ino, kind });
            }
        }
    }

    fn load_links(&mut self) {
        for (ino, reply) in self.each(&["STRLEN"], "s") {
            let length = self.records.nodes.get(&ino).filter(|node| node.kind == KIND_SYMLINK).map(|node| node.length);
            let stored = reply.int();
            if length.is_some_and(|length| length != stored) {
                self.fault(format!("symlink {ino} has the length {length:?} and a target of {stored} bytes"));
            }
            self.records.symlinks.insert(ino);
        }
        self.records.attributed = self.take("x").into_iter().map(|(ino, _)| ino).collect();
        let mut links = BTreeMap::new();
        for (ino, reply) in self.each(&["HGETALL"], "p") {
            let counts = pairs(reply);
            let counts = counts.iter().filter_map(|(parent, count)| Some((integer(parent)?, integer(count)?)));
            links.insert(ino, counts.collect());
        }
        self.records.parent_links = Some(links);
        let members = list(self.ask(&["ZRANGE", "0", "-1"], "delfiles"));
        let inodes = members.iter().filter_map(|member| integer(member.split(|&byte| byte == b':').next()?));
        self.records.deleted_files = inodes.collect();
        let members = list(self.ask(&["ZRANGE", "0", "-1"], "detachedNodes"));
        self.records.detached = members.iter().filter_map(|member| integer(member)).collect();
    }

    fn load_chunks(&mut self) {
        for (ino, key) in self.take("c") {
            let index = text(&key).rsplit_once('_').and_then(|(_, index)| index.parse().ok()).unwrap_or(-1);
            let records = list(self.ask_key(&["LRANGE", "0", "-1"], &key)).concat();
            self.records.chunks.push(Chunk { ino, index, records });
        }
    }

    fn load_slices(&mut self) {
        for (field, value) in pairs(self.ask(&["HGETALL"], "sliceRef")) {
            let field = text(&field);
            let slice = field.strip_prefix('k').and_then(|rest| {
                let (id, size) = rest.split_once('_')?;
                Some(Slice { id: id.parse().ok()?, size: size.parse().ok()? })
            });
            match (slice, integer(&value)) {
                // What is stored is one less than the number of references.
                (Some(slice), Some(count)) => drop(self.records.slices.insert(slice, count + 1)),
                _ => self.fault(format!("sliceRef has {field:?} = {:?}", text(&value))),
            }
        }
        self.records.delayed = list(self.ask(&["HVALS"], "delSlices"));
    }

    fn load_counters(&mut self) {
        for name in ["nextinode", "usedSpace", "totalInodes"] {
            let value = match self.ask(&["GET"], name) {
                Reply::Bulk(bytes) => integer(&bytes),
                _ => None,
            };
            self.records.counters.extend(value.map(|value| (name.to_owned(), value)));
        }
        // The counter is the last one that was handed out.
        self.records.last_inode = self.records.counters.get("nextinode").copied().unwrap_or(1);
        let [lengths, spaces, inodes] = ["dirDataLength", "dirUsedSpace", "dirUsedInodes"].map(|name| {
            let pairs = pairs(self.ask(&["HGETALL"], name));
            let numbers = pairs.iter().filter_map(|(ino, value)| Some((integer(ino)?, integer(value)?)));
            numbers.collect::<HashMap<i64, i64>>()
        });
        let directories: BTreeSet<i64> = lengths.keys().chain(spaces.keys()).chain(inodes.keys()).copied().collect();
        let of = |stats: &HashMap<i64, i64>, ino: i64| stats.get(&ino).copied().unwrap_or(0);
        let stats = directories.iter().map(|&ino| (ino, (of(&lengths, ino), of(&spaces, ino), of(&inodes, ino))));
        self.records.dir_stats = stats.collect();
    }

    /// Sessions, their open files and their locks: none is left when all clients ended well.
    fn check_sessions(&mut self, rest: Rest) {
        for (_, reply) in self.each(&["SMEMBERS"], "session") {
            self.records.sustained.extend(list(reply).iter().filter_map(|ino| integer(ino)));
        }
        let locks: Keys = ["lockf", "lockp", "locked"].iter().flat_map(|kind| self.take(kind)).collect();
        if rest == Rest::Crashed {
            return;
        }
        for (_, key) in locks {
            self.fault(format!("key {} is left", text(&key)));
        }
        for (what, command, name) in [
            ("session", &["ZRANGE", "0", "-1"][..], "allSessions"),
            ("a description of session", &["HKEYS"], "sessionInfos"),
            ("the unfinished clone", &["ZRANGE", "0", "-1"], "detachedNodes"),
        ] {
            for id in list(self.ask(command, name)) {
                self.fault(format!("{what} {} is left", text(&id)));
            }
        }
        if !self.records.sustained.is_empty() {
            self.fault(format!("inodes {:?} are still kept open", self.records.sustained));
        }
    }

    /// What a client remembers of its last calls goes away by itself.
    fn check_outcomes(&mut self) {
        for (_, key) in self.take("outcome_") {
            // -2: it has ended since the keys were listed.
            if self.ask_key(&["TTL"], &key).int() == -1 {
                self.fault(format!("key {} has no end", text(&key)));
            }
        }
    }
}
