//! Walking through records of one kind.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use juicefs_core::{
    error::MetaResult,
    ids::{Ino, Name, SessionId},
    quota::QuotaSubject,
};

use super::{
    RedisEngine,
    cursor::{Cursor, FIELDS},
    fetch,
    link::Request,
};
use crate::{
    engine::Scan,
    layout::{
        binary::decode_slice_keys,
        redis::{Text, number, parse_delayed_field, parse_number, parse_removed_file, parse_slice_field, removed_file},
    },
    record::{AccountKey, DelFile, DelaySlices, HolderKey, Key, NoteKey, Session, Value},
};

type Records = Vec<(Key, Value)>;

impl RedisEngine {
    pub(super) async fn walk(&self, scan: Scan, after: Option<Key>, limit: usize) -> MetaResult<Records> {
        match scan {
            Scan::Sessions => self.all_sessions(after, limit).await,
            Scan::Expiring { before_secs } => self.expiring_sessions(before_secs, after, limit).await,
            Scan::Sustained(sid) => self.all_sustained(sid, after, limit).await,
            Scan::DelFiles { before_secs } => self.all_removed(before_secs, after, limit).await,
            Scan::DeadSlices => {
                let hash = self.keys().await?.slice_refs();
                let dead = |field: Bytes, stored: Bytes| {
                    let slice = parse_slice_field(&field)?;
                    let count = 1 + parse_number::<i64>("slice reference", &stored)?;
                    Ok((count <= 0).then_some((Key::SliceRef(slice), Value::SliceRef(count))))
                };
                self.fields(&hash, after, limit, dead).await
            }
            Scan::DelaySlices { before_secs } => {
                let hash = self.keys().await?.delayed_slices();
                let due = |field: Bytes, stored: Bytes| {
                    let (id, since_secs) = parse_delayed_field(&field)?;
                    let slices = decode_slice_keys(&stored)?;
                    let value = Value::DelaySlices(DelaySlices { since_secs, slices });
                    Ok((since_secs < before_secs).then_some((Key::Note(NoteKey::DelaySlices(id, since_secs)), value)))
                };
                self.fields(&hash, after, limit, due).await
            }
            Scan::Chunks { ino, from, to } => self.chunks_of(ino, from..to, after, limit).await,
            Scan::Xattrs(ino) => {
                let hash = self.keys().await?.xattrs(ino);
                let each = |field: Bytes, value: Bytes| Ok(Some((Key::Xattr(ino, Name(field)), Value::Bytes(value))));
                self.fields(&hash, after, limit, each).await
            }
            Scan::Detached { before_secs } => self.all_detached(before_secs, after, limit).await,
            Scan::Quotas => self.all_quotas(after, limit).await,
            Scan::Acls => {
                let hash = self.keys().await?.acls();
                let each = |field: Bytes, stored: Bytes| {
                    let id = parse_number("ACL rule", &field)?;
                    Ok(Some((Key::Acl(id), Value::Acl(fetch::rule(id, &stored)?))))
                };
                self.fields(&hash, after, limit, each).await
            }
        }
    }

    /// The first `limit` records behind `after`, in the order of their keys, that `take` makes of the fields of a hash.
    async fn fields(
        &self,
        hash: &Text,
        after: Option<Key>,
        limit: usize,
        take: impl Fn(Bytes, Bytes) -> MetaResult<Option<(Key, Value)>>,
    ) -> MetaResult<Records> {
        let mut found = BTreeMap::new();
        let mut cursor = Cursor::start();
        while let Some(page) = self.next_fields(&mut cursor, hash, FIELDS).await? {
            for (field, value) in page {
                if let Some((key, value)) = take(field, value)?
                    && after.as_ref().is_none_or(|after| key > *after)
                {
                    found.insert(key, value);
                    if found.len() > limit {
                        found.pop_last();
                    }
                }
            }
        }
        Ok(found.into_iter().collect())
    }

    async fn all_sessions(&self, after: Option<Key>, limit: usize) -> MetaResult<Records> {
        let keys = self.keys().await?;
        let mut request = Request::new();
        request.command::<&[u8]>(&[b"ZRANGE", &keys.sessions()[..], b"0", b"-1", b"WITHSCORES"]);
        request.command::<&[u8]>(&[b"HGETALL", &keys.session_infos()[..]]);
        let mut replies = self.call_bulk(&request).await?.into_iter();
        let mut next = || replies.next().unwrap_or(redis::Value::Nil);
        let expiries = fetch::pairs("sessions", next())?;
        let infos: BTreeMap<_, _> = fetch::pairs("session", next())?.into_iter().collect();
        let mut sessions = BTreeMap::new();
        for (sid, expiry) in expiries {
            let info = infos.get(&sid).cloned().unwrap_or_default();
            let session = Session { expire_secs: fetch::score("session", &expiry)?, info };
            sessions.insert(
                Key::Holder(HolderKey::Session(SessionId(parse_number("session", &sid)?))),
                Value::Session(session),
            );
        }
        let behind = sessions.into_iter().filter(|(key, _)| after.as_ref().is_none_or(|after| key > after));
        Ok(behind.take(limit).collect())
    }

    /// Mostly there are none, and that is one small answer.
    async fn expiring_sessions(&self, before_secs: i64, after: Option<Key>, limit: usize) -> MetaResult<Records> {
        let keys = self.keys().await?;
        let mut before = Text::from_slice(b"(");
        before.extend_from_slice(&number(before_secs));
        let mut request = Request::new();
        request.command::<&[u8]>(&[b"ZRANGEBYSCORE", &keys.sessions()[..], b"-inf", &before, b"WITHSCORES"]);
        let mut expiries = BTreeMap::new();
        for (sid, expiry) in fetch::pairs("sessions", self.one_bulk(&request).await?)? {
            match (parse_number("session", &sid), fetch::score("session", &expiry)) {
                (Ok(sid), Ok(expire_secs)) => {
                    expiries.insert(Key::Holder(HolderKey::Session(SessionId(sid))), expire_secs);
                }
                (Err(error), _) | (_, Err(error)) => tracing::warn!(%error, "a session is passed over"),
            }
        }
        let behind = expiries.into_iter().filter(|(key, _)| after.as_ref().is_none_or(|after| key > after));
        let page: Vec<_> = behind.take(limit).collect();
        if page.is_empty() {
            return Ok(Records::new());
        }
        let fields = page.iter().filter_map(|(key, _)| {
            if let Key::Holder(HolderKey::Session(sid)) = key { Some(number(sid.0)) } else { None }
        });
        let hash = keys.session_infos();
        let mut request = Request::new();
        request.begin(2 + page.len());
        request.arg(b"HMGET");
        request.arg(&hash);
        fields.for_each(|field| request.arg(&field));
        let infos = fetch::list("session records", self.one_bulk(&request).await?)?;
        let with_info = |((key, expire_secs), info): ((Key, i64), redis::Value)| {
            let info = fetch::bytes("session record", info)?.unwrap_or_default();
            Ok((key, Value::Session(Session { expire_secs, info })))
        };
        page.into_iter().zip(infos).map(with_info).collect()
    }

    async fn all_quotas(&self, after: Option<Key>, limit: usize) -> MetaResult<Records> {
        type Make = fn(&[u8]) -> MetaResult<QuotaSubject>;
        let kinds: [(QuotaSubject, Make); 3] = [
            (QuotaSubject::User(0), |id| Ok(QuotaSubject::User(parse_number("uid", id)?))),
            (QuotaSubject::Group(0), |id| Ok(QuotaSubject::Group(parse_number("gid", id)?))),
            (QuotaSubject::Dir(Ino(0)), |ino| Ok(QuotaSubject::Dir(Ino(parse_number("inode", ino)?)))),
        ];
        let keys = self.keys().await?;
        let mut request = Request::new();
        for (kind, _) in &kinds {
            for hash in keys.quota(*kind).0 {
                request.command::<&[u8]>(&[b"HGETALL", &hash[..]]);
            }
        }
        let mut replies = self.call_bulk(&request).await?.into_iter();
        let mut found = BTreeMap::new();
        for (_, subject) in kinds {
            let mut next = || fetch::pairs("quota", replies.next().unwrap_or(redis::Value::Nil));
            let limits = next()?;
            let (space, inodes): (HashMap<_, _>, HashMap<_, _>) =
                (next()?.into_iter().collect(), next()?.into_iter().collect());
            for (field, limits) in limits {
                let used = |hash: &HashMap<Bytes, Bytes>| hash.get(&field).cloned();
                let (space, inodes) = (used(&space), used(&inodes));
                let quota = fetch::quota(&limits, space.as_deref(), inodes.as_deref())?;
                found.insert(Key::Account(AccountKey::Quota(subject(&field)?)), Value::Quota(quota));
            }
        }
        let behind = found.into_iter().filter(|(key, _)| after.as_ref().is_none_or(|after| key > after));
        Ok(behind.take(limit).collect())
    }

    async fn all_sustained(&self, sid: SessionId, after: Option<Key>, limit: usize) -> MetaResult<Records> {
        let keys = self.keys().await?;
        let mut request = Request::new();
        request.command::<&[u8]>(&[b"SMEMBERS", &keys.sustained(sid)[..]]);
        let mut found = BTreeMap::new();
        for member in fetch::list("sustained inodes", self.one_bulk(&request).await?)? {
            let ino = parse_number("sustained inode", &fetch::bytes("sustained inode", member)?.unwrap_or_default())?;
            found.insert(Key::Holder(HolderKey::Sustained(sid, Ino(ino))), Value::Sustained);
        }
        let behind = found.into_iter().filter(|(key, _)| after.as_ref().is_none_or(|after| key > after));
        Ok(behind.take(limit).collect())
    }

    async fn all_detached(&self, before_secs: i64, after: Option<Key>, limit: usize) -> MetaResult<Records> {
        let keys = self.keys().await?;
        let mut before = Text::from_slice(b"(");
        before.extend_from_slice(&number(before_secs));
        let mut request = Request::new();
        request.command::<&[u8]>(&[b"ZRANGEBYSCORE", &keys.detached()[..], b"-inf", &before, b"WITHSCORES"]);
        let mut found = BTreeMap::new();
        for (member, made) in fetch::pairs("detached directories", self.one_bulk(&request).await?)? {
            let made_secs = fetch::score("detached directory", &made)?;
            found.insert(
                Key::Note(NoteKey::Detached(Ino(parse_number("detached directory", &member)?))),
                Value::Detached(made_secs),
            );
        }
        let behind = found.into_iter().filter(|(key, _)| after.as_ref().is_none_or(|after| key > after));
        Ok(behind.take(limit).collect())
    }

    /// The oldest removals first.
    async fn all_removed(&self, before_secs: i64, after: Option<Key>, limit: usize) -> MetaResult<Records> {
        let keys = self.keys().await?;
        let mut skipped = 0;
        if let Some(Key::Note(NoteKey::DelFile(ino, length))) = after {
            let mut request = Request::new();
            request.command::<&[u8]>(&[b"ZRANK", &keys.removed_files()[..], &removed_file(ino, length)]);
            skipped = fetch::integer("removed file", &self.call_one(&request).await?).map_or(0, |rank| rank + 1);
        }
        let mut before = Text::from_slice(b"(");
        before.extend_from_slice(&number(before_secs));
        let (skipped, limit) = (number(skipped), number(limit));
        let range: [&[u8]; 8] =
            [b"ZRANGEBYSCORE", &keys.removed_files()[..], b"-inf", &before, b"WITHSCORES", b"LIMIT", &skipped, &limit];
        let mut request = Request::new();
        request.command::<&[u8]>(&range);
        let mut found = Vec::new();
        for (member, removed) in fetch::pairs("removed files", self.one_bulk(&request).await?)? {
            let (ino, length) = parse_removed_file(&member)?;
            let file = DelFile { length, removed_secs: fetch::score("removed file", &removed)? };
            found.push((Key::Note(NoteKey::DelFile(ino, length)), Value::DelFile(file)));
        }
        Ok(found)
    }
}
