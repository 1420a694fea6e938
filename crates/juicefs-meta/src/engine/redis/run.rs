//! Running operations: judged on what was lately seen, applied with one script, judged anew when that did not hold.

use std::{collections::HashMap, time::Duration};

use juicefs_core::{
    error::{MetaError, MetaResult},
    ids::SessionId,
};
use rand::Rng;
use redis::Value as Reply;
use tokio::time::Instant;

use super::{
    RedisEngine,
    cache::Asked,
    chunks::Side,
    fetch::{self, Sight},
    lanes::Lane,
    link::{self, Request},
    plan::{self, plan},
    script::{Plan, Script},
};
use crate::{
    engine::ApplyOutcome,
    layout::redis::{KeySpace, Text, number},
    record::{CHUNKS_AT_ONCE, Key, Value},
    txn::{Applied, Effect, Effects, Job, Step},
};

/// From this try on an operation waits before it tries again.
const FREE_TRIES: u32 = 3;
/// Longest such wait.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// How long an answer is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Patience {
    /// Until the retry budget is used up.
    Budget,
    /// Until there is one, however often the budget is used up: what was sent may have been executed.
    UntilKnown,
}

impl Patience {
    fn of(job: &dyn Job) -> Self {
        if job.needs_outcome() { Self::UntilKnown } else { Self::Budget }
    }
}

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
    pub(super) async fn look(&self, wanted: &[Key]) -> MetaResult<Sight> {
        let keys = self.keys().await?;
        let mut questions = Request::new();
        for key in wanted {
            fetch::ask(&mut questions, keys, key);
        }
        let asked = self.cache.get().map(|cache| cache.now());
        let mut sight = Sight { certain: true, ..Sight::default() };
        let replies = if questions.is_empty() {
            Vec::new()
        } else if questions.len() == 1 {
            self.call(&questions).await?
        } else if let Some(texts) = strings(keys, wanted) {
            let mut request = Request::new();
            request.begin(1 + texts.len());
            request.arg(b"MGET");
            texts.iter().for_each(|text| request.arg(text));
            fetch::list("records", self.call_one(&request).await?)?
        } else {
            let mut request = Request::new();
            request.command::<&[u8]>(&[b"MULTI"]);
            wanted.iter().for_each(|key| fetch::ask(&mut request, keys, key));
            request.command::<&[u8]>(&[b"EXEC"]);
            let mut replies = self.call(&request).await?;
            fetch::list("transaction", replies.pop().unwrap_or(Reply::Nil))?
        };
        let mut replies = replies.into_iter();
        for key in wanted {
            fetch::take(&mut replies, key.clone(), &mut sight)?;
        }
        // After the node, which is guarded and changes with every chunk that comes.
        for key in wanted {
            if let Key::ChunkIndexes(ino, from, to) = key {
                let last = self.chunks_between(*ino, *from..*to, Side::Last, CHUNKS_AT_ONCE).await?;
                sight.read.insert(key.clone(), Some(Value::ChunkIndexes(last)));
            }
        }
        self.recent.learn(&sight);
        self.cache_sight(asked, &sight);
        Ok(sight)
    }

    /// Keeps what was asked for after `asked`, if anything is cached.
    pub(super) fn cache_sight(&self, asked: Option<Asked>, sight: &Sight) {
        if let (Some(cache), Some(asked)) = (self.cache.get(), asked) {
            sight.read.iter().for_each(|(key, value)| cache.learn(asked, key, value));
        }
    }

    /// What `wanted` is likely to be, or is when something is not known.
    async fn predict(&self, wanted: &[Key], mut sight: Sight) -> MetaResult<Sight> {
        let missing = wanted.iter().filter(|key| !sight.read.contains(key)).cloned().collect();
        if !self.recent.predict(missing, &mut sight).is_empty() {
            return self.look(wanted).await;
        }
        sight.certain = false;
        Ok(sight)
    }

    /// Runs a job to its end. It is judged anew for as long as others change what it read; who has lost often waits for a
    /// moment that is drawn, so that it is somebody else who loses next.
    pub(super) async fn perform(&self, mut job: Box<dyn Job>) -> MetaResult<Box<dyn Job>> {
        let mut wanted = job.keys();
        let mut sight = self.predict(&wanted, Sight::default()).await?;
        // Operations of this client that keep meeting each other take turns.
        let mut _turn = None;
        let (began, mut tries) = (Instant::now(), 0);
        loop {
            tries += 1;
            let Some(effects) = self.judge(job.as_mut(), &mut wanted, &mut sight).await? else { return Ok(job) };
            match self.apply_to(&sight, &effects, Patience::of(job.as_ref())).await? {
                ApplyOutcome::Applied(applied) => {
                    job.applied(&applied);
                    return Ok(job);
                }
                ApplyOutcome::Conflict => self.recent.forget(&sight.read),
            }
            if tries == 1
                && let Some(key) = wanted.first()
            {
                _turn = Some(self.turns.of(key).lock().await);
            }
            if began.elapsed() >= self.link.options().retry_budget {
                tracing::warn!(operation = job.name(), tries, "gave up: others keep changing what it reads");
                return Err(MetaError::Conflict(tries));
            }
            if tries >= FREE_TRIES {
                tokio::time::sleep(pause(tries)).await;
            }
            sight = self.look(&wanted).await?;
        }
    }

    /// Lets a job judge; `None` when it is done without a change.
    async fn judge(&self, job: &mut dyn Job, wanted: &mut Vec<Key>, sight: &mut Sight) -> MetaResult<Option<Effects>> {
        loop {
            match job.step(&sight.read) {
                Step::Fetch(more) => {
                    let more: Vec<_> = more.into_iter().filter(|key| !sight.read.contains(key)).collect();
                    if more.is_empty() {
                        return Err(MetaError::Corrupt {
                            what: job.name().to_owned(),
                            why: "it asks again for what it has read".to_owned(),
                        });
                    }
                    wanted.extend(more);
                    *sight = self.predict(wanted, std::mem::take(sight)).await?;
                }
                Step::Apply(effects) if !effects.list.is_empty() => return Ok(Some(effects)),
                // What rests on a prediction, or on parts read one after the other, is no answer yet.
                Step::Apply(_) | Step::Stop if !sight.certain => *sight = self.look(wanted).await?,
                Step::Apply(_) | Step::Stop => return Ok(None),
            }
        }
    }

    /// Applies effects if what was seen still holds.
    pub(super) async fn apply_to(
        &self,
        sight: &Sight,
        effects: &Effects,
        patience: Patience,
    ) -> MetaResult<ApplyOutcome> {
        let keys = self.keys().await?;
        let outcome = keys.outcome(self.lanes.client());
        let plan = match self.locked_keys(keys, effects).await? {
            none if none.is_empty() => plan(keys, &outcome, sight, effects),
            locked => plan(keys, &outcome, &Sight { locked, ..sight.clone() }, effects),
        };
        match self.execute(keys, &outcome, &plan, patience).await? {
            Ended::Conflict => Ok(ApplyOutcome::Conflict),
            Ended::Done(answers) => {
                let appended = match answers {
                    Some(answers) => answers,
                    None => self.list_lengths(keys, effects, patience).await?,
                };
                self.recent.apply(&effects.list);
                if let Some(cache) = self.cache.get() {
                    cache.applied(&effects.list);
                }
                let appended = appended.into_iter().map(|n| usize::try_from(n).unwrap_or(0)).collect();
                Ok(ApplyOutcome::Applied(Applied { appended }))
            }
        }
    }

    /// The keys in which the sessions hold locks whose locks are to be removed: a script has to be told all keys.
    async fn locked_keys(&self, keys: &KeySpace, effects: &Effects) -> MetaResult<HashMap<SessionId, Vec<Text>>> {
        let mut locked = HashMap::new();
        for effect in &effects.list {
            if let Effect::DeleteLocks(sid) = effect {
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
            if let Effect::AppendSlices(ino, index, _) = effect {
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
        Key::Counter(counter) => Some(keys.counter(*counter)),
        Key::Setting => Some(keys.setting()),
        _ => None,
    };
    wanted.iter().map(text).collect()
}

/// How long to wait after so many tries: at random, so that those who met do not meet again.
fn pause(tries: u32) -> Duration {
    let most = Duration::from_millis(u64::from(tries.saturating_mul(tries))).min(PAUSE_MAX);
    most.mul_f64(rand::rng().random())
}
