//! Asking the server: records as of one moment, and changes made exactly once by one script.

use std::collections::HashMap;

use juicefs_core::error::{MetaError, MetaResult};
use redis::Value as Reply;

use super::{
    RedisEngine,
    cache::Asked,
    chunks::Side,
    fetch,
    lanes::Lane,
    link::{self, Request},
    plan::{self, Locked, plan},
    script::{Plan, Script},
};
use crate::{
    engine::{ApplyOutcome, Patience},
    layout::redis::{KeySpace, Text, number},
    record::{AccountKey, CHUNKS_AT_ONCE, Key, Value},
    txn::{Applied, ChunkEffect, Effect, Effects, ReadSet, SessionEffect},
};

/// From so many records on the answer is read on the connection for large ones.
const MANY: usize = 16;

/// How a script ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// Its effects are in place; what its steps answered, unless an earlier copy of the request was the one that did it.
    Done(Option<Vec<i64>>),
    /// A guard did not hold; nothing changed.
    Conflict,
}

impl RedisEngine {
    /// Reads records as of one moment, in one round trip.
    pub(super) async fn look(&self, wanted: &[Key]) -> MetaResult<ReadSet> {
        let keys = self.keys().await?;
        let lane = if wanted.len() < MANY { link::Lane::Small } else { link::Lane::Bulk };
        let mut questions = Request::new();
        for key in wanted {
            fetch::ask(&mut questions, keys, key);
        }
        let asked = self.cache.get().map(|cache| cache.now());
        let replies = if questions.is_empty() {
            Vec::new()
        } else if questions.len() == 1 {
            self.link.call(lane, &questions).await?
        } else if let Some(texts) = strings(keys, wanted) {
            let mut request = Request::new();
            request.begin(1 + texts.len());
            request.arg(b"MGET");
            texts.iter().for_each(|text| request.arg(text));
            fetch::list("records", self.link.call(lane, &request).await?.pop().unwrap_or(Reply::Nil))?
        } else {
            let mut request = Request::new();
            request.command::<&[u8]>(&[b"MULTI"]);
            wanted.iter().for_each(|key| fetch::ask(&mut request, keys, key));
            request.command::<&[u8]>(&[b"EXEC"]);
            let mut replies = self.link.call(lane, &request).await?;
            fetch::list("transaction", replies.pop().unwrap_or(Reply::Nil))?
        };
        let (mut replies, mut read) = (replies.into_iter(), ReadSet::default());
        for key in wanted {
            fetch::take(&mut replies, key, &mut read)?;
        }
        // After the node, which is guarded and changes with every chunk that comes.
        for key in wanted {
            if let Key::ChunkIndexes(ino, from, to) = key {
                let last = self.chunks_between(*ino, *from..*to, Side::Last, CHUNKS_AT_ONCE).await?;
                read.insert(key.clone(), Some(Value::ChunkIndexes(last)));
            }
        }
        self.cache_read(asked, &read);
        Ok(read)
    }

    /// Keeps what was asked for after `asked`, if anything is cached.
    pub(super) fn cache_read(&self, asked: Option<Asked>, read: &ReadSet) {
        if let (Some(cache), Some(asked)) = (self.cache.get(), asked) {
            read.iter().for_each(|(key, value)| cache.learn(asked, key, value));
        }
    }

    /// Applies effects if what was read still holds.
    pub(super) async fn apply_to(
        &self,
        read: &ReadSet,
        effects: &Effects,
        patience: Patience,
    ) -> MetaResult<ApplyOutcome> {
        let keys = self.keys().await?;
        let outcome = keys.outcome(self.lanes.client());
        let locked = self.locked_keys(keys, effects).await?;
        let plan = plan(keys, &outcome, read, &locked, effects);
        match self.execute(keys, &outcome, &plan, patience).await? {
            Ended::Conflict => Ok(ApplyOutcome::Conflict),
            Ended::Done(answers) => {
                let appended = match answers {
                    Some(answers) => answers,
                    None => self.list_lengths(keys, effects, patience).await?,
                };
                if let Some(cache) = self.cache.get() {
                    cache.applied(&effects.list);
                }
                let appended = appended.into_iter().map(|n| usize::try_from(n).unwrap_or(0)).collect();
                Ok(ApplyOutcome::Applied(Applied { appended }))
            }
        }
    }

    /// The keys in which the sessions hold locks whose locks are to be removed: a script has to be told all keys.
    async fn locked_keys(&self, keys: &KeySpace, effects: &Effects) -> MetaResult<Locked> {
        let mut locked = HashMap::new();
        for effect in &effects.list {
            if let Effect::Session(sid, SessionEffect::DeleteLocks) = effect {
                let question = Request::of::<&[u8]>(&[b"SMEMBERS", &keys.locked(*sid)]);
                let mut held = Vec::new();
                for key in fetch::list("locks", self.one_bulk(&question).await?)? {
                    held.extend(fetch::bytes("locks", key)?.map(|key| Text::from_slice(&key)));
                }
                // Equal sets make equal requests.
                held.sort_unstable();
                locked.insert(*sid, held);
            }
        }
        Ok(locked)
    }

    /// How long the lists are now to which effects append.
    async fn list_lengths(&self, keys: &KeySpace, effects: &Effects, patience: Patience) -> MetaResult<Vec<i64>> {
        let mut request = Request::new();
        for effect in &effects.list {
            if let Effect::Chunk(ino, index, ChunkEffect::Append(_)) = effect {
                request.command::<&[u8]>(&[b"LLEN", keys.chunk(*ino, *index).as_slice()]);
            }
        }
        if request.is_empty() {
            return Ok(Vec::new());
        }
        let replies = self.call_with(patience, &request).await?;
        replies.iter().map(|reply| fetch::integer("slice list", reply)).collect()
    }

    /// Runs the script of a plan, exactly once however often its request has to be sent.
    pub(super) async fn execute(
        &self,
        keys: &KeySpace,
        outcome: &Text,
        plan: &Plan,
        patience: Patience,
    ) -> MetaResult<Ended> {
        debug_assert!(outcome.starts_with(keys.prefix().as_bytes()));
        let (script, args) = self.scripts.script(plan);
        let budget = self.link.options().retry_budget;
        let Ok(lane) = tokio::time::timeout(budget, self.lanes.take()).await else {
            return Err(MetaError::Unavailable(format!(
                "too many changes wait for their outcome (tried for {budget:?})"
            )));
        };
        let nowhere = keys.may_move().then(|| keys.nowhere());
        let pack = |with_text| packed(&script, with_text, outcome, &lane, plan, nowhere.as_ref(), &args);
        let mut replies = self.call_with(patience, &pack(false)).await?;
        if replies.last().is_some_and(is_unknown_script) {
            // With its text the script is known from now on.
            replies = self.call_with(patience, &pack(true)).await?;
        }
        let reply = replies.pop().unwrap_or(Reply::Nil);
        match reply {
            Reply::Int(1) => Ok(Ended::Done(Some(Vec::new()))),
            Reply::Int(2) => Ok(Ended::Done(None)),
            Reply::Int(0) => Ok(Ended::Conflict),
            Reply::Int(-1) => Err(MetaError::Fenced),
            Reply::Array(answers) => {
                let answers =
                    answers.iter().map(|answer| fetch::integer("script", answer)).collect::<Result<_, _>>()?;
                Ok(Ended::Done(Some(answers)))
            }
            other => Err(fetch::unexpected("script", &other)),
        }
    }

    /// Sends a request that has one reply.
    pub(super) async fn call_one(&self, request: &Request) -> MetaResult<Reply> {
        Ok(self.call(request).await?.pop().unwrap_or(Reply::Nil))
    }

    /// Sends a request with small replies, for as long as `patience` says.
    async fn call_with(&self, patience: Patience, request: &Request) -> MetaResult<Vec<Reply>> {
        loop {
            match self.link.call(link::Lane::Small, request).await {
                Err(link::LinkError::Unavailable(why))
                    if patience == Patience::UntilKnown && !self.link.is_closed() =>
                {
                    tracing::warn!(why, "the outcome of a commit is not known yet");
                }
                outcome => return Ok(outcome?),
            }
        }
    }

    /// Sends a request with small replies.
    pub(super) async fn call(&self, request: &Request) -> MetaResult<Vec<Reply>> {
        Ok(self.link.call(link::Lane::Small, request).await?)
    }

    /// Sends a request whose replies may be large.
    pub(super) async fn call_bulk(&self, request: &Request) -> MetaResult<Vec<Reply>> {
        Ok(self.link.call(link::Lane::Bulk, request).await?)
    }

    /// Sends a request that has one reply, which may be large.
    pub(super) async fn one_bulk(&self, request: &Request) -> MetaResult<Reply> {
        Ok(self.call_bulk(request).await?.pop().unwrap_or(Reply::Nil))
    }

    /// Runs a script that only looks. It may look at keys that it was not told of: not in a cluster, where these may be
    /// elsewhere.
    pub(super) async fn ask_script(
        &self,
        lane: link::Lane,
        script: &Script,
        key: &[u8],
        args: &[&[u8]],
    ) -> MetaResult<Reply> {
        let pack = |with_text: bool| {
            let mut request = Request::new();
            request.begin(4 + args.len());
            request.arg(if with_text { b"EVAL" } else { b"EVALSHA" });
            request.arg(if with_text { script.text.as_bytes() } else { script.digest.as_bytes() });
            request.arg(b"1");
            request.arg(key);
            args.iter().for_each(|arg| request.arg(arg));
            request
        };
        let mut reply = self.link.call(lane, &pack(false)).await?.pop().unwrap_or(Reply::Nil);
        if is_unknown_script(&reply) {
            reply = self.link.call(lane, &pack(true)).await?.pop().unwrap_or(Reply::Nil);
        }
        Ok(reply)
    }
}

/// The request that runs a script. `nowhere` is the key that keeps it from a node that does not have the slot to itself.
pub(super) fn packed(
    script: &Script,
    with_text: bool,
    outcome: &Text,
    lane: &Lane<'_>,
    plan: &Plan,
    nowhere: Option<&Text>,
    args: &[Text],
) -> Request {
    let mut request = Request::with_capacity(512);
    let keys = 1 + plan.keys.len() + usize::from(nowhere.is_some());
    request.begin(3 + keys + 4 + args.len());
    request.arg(if with_text { b"EVAL" } else { b"EVALSHA" });
    request.arg(if with_text { script.text.as_bytes() } else { script.digest.as_bytes() });
    request.arg(&number(keys));
    request.arg(outcome);
    plan.keys.iter().chain(nowhere).for_each(|key| request.arg(key));
    request.arg(&number(lane.offset()));
    request.arg(&number(lane.end()));
    request.arg(&lane.number());
    request.arg(&number(plan::OUTCOME_SECS));
    args.iter().for_each(|arg| request.arg(arg));
    if nowhere.is_some() { request.steady() } else { request }
}

/// Whether the server does not know the script: it was started anew, or its scripts were flushed.
fn is_unknown_script(reply: &Reply) -> bool {
    matches!(reply, Reply::ServerError(error) if error.code() == "NOSCRIPT")
}

/// The keys of records that are all plain strings, which one command reads.
fn strings(keys: &KeySpace, wanted: &[Key]) -> Option<Vec<Text>> {
    let text = |key: &Key| match key {
        Key::Node(ino) => Some(keys.node(*ino)),
        Key::Symlink(ino) => Some(keys.symlink(*ino)),
        Key::Account(AccountKey::Counter(counter)) => Some(keys.counter(*counter)),
        Key::Setting => Some(keys.setting()),
        _ => None,
    };
    wanted.iter().map(text).collect()
}
