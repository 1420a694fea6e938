//! Operations run to their end on an engine: judged on what was lately seen, applied at once, judged anew when that did not
//! hold. What this takes is written here once, for every engine that can fetch records and apply effects under guards; an
//! engine with transactions of its own judges in these ([`Transactions`]).
//!
//! * `predictor`: what was lately seen. `turns`: operations of one client that keep meeting each other.

mod predictor;
mod turns;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use juicefs_core::{
    attr::Attr,
    error::{MetaError, MetaResult},
    ids::{Ino, Name},
    listing::Directories,
    meta::{DirCursor, DirEntry, DirPage},
};
use parking_lot::Mutex;
use rand::Rng;
use tokio::time::Instant;

use self::{predictor::Predictor, turns::Turns};
use super::{ApplyOutcome, Engine, Found, Patience, Scan};
use crate::{
    record::{Edge, Key, Value},
    txn::{Effects, Operation, PendingOp, ReadSet, Step, Unbooked, shielded, unread},
};

/// From this try on an operation waits before it tries again.
const FREE_TRIES: u32 = 3;
/// Longest such wait.
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// Of longer pages nothing is remembered: they would displace all that was seen lately, and their own beginning before it is used.
const LEARNED_MAX: usize = 2048;

/// An engine that judges operations inside transactions of its own: whatever they read is true until they are applied, so
/// nothing has to be guarded and nothing is judged twice.
#[async_trait]
pub trait Transactions: Send + Sync {
    /// Runs an operation to its end: reads what it asks for, lets it judge, applies its effects atomically, and lets go of it
    /// before the answer. Operations queued at the same time may share a transaction, yet each succeeds or fails alone. `Err`
    /// means that nothing of it was applied.
    ///
    /// Cancel safe: a dropped future leaves the operation done or not done.
    async fn run(&self, op: SharedOp) -> MetaResult<()>;
}

/// An operation that an engine runs for somebody who may not wait for it any more.
pub type SharedOp = Arc<Mutex<dyn PendingOp>>;

/// Has transactions run an operation, and takes it back.
///
/// # Errors
/// Those of [`Transactions::run`].
pub(crate) async fn hand_over<P: PendingOp + 'static>(transactions: &dyn Transactions, op: P) -> MetaResult<P> {
    let op = Arc::new(Mutex::new(op));
    transactions.run(Arc::<Mutex<P>>::clone(&op)).await?;
    Ok(Arc::into_inner(op).ok_or(MetaError::Unsupported("an engine that keeps what it has run"))?.into_inner())
}

/// Runs operations on one engine, and remembers what they showed.
pub struct Transactor {
    engine: Arc<dyn Engine>,
    predictor: Predictor,
    turns: Turns,
}

/// What an operation is judged on.
#[derive(Default)]
struct Sight {
    read: ReadSet,
    /// All of it was stored at one moment since the operation began.
    certain: bool,
}

impl Transactor {
    /// Runs operations on `engine`; nothing was seen yet.
    #[must_use]
    pub fn new(engine: Arc<dyn Engine>) -> Self {
        Self { engine, predictor: Predictor::default(), turns: Turns::default() }
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// Runs an operation to its end: reads what it asks for, lets it judge, and applies its effects atomically. One that
    /// conflicts is judged anew.
    ///
    /// It never fails because others got in its way before the retry budget is used up ([`Engine::patience`]), and then with
    /// `Conflict`. Cancel safe: a dropped future leaves the operation done or not done.
    ///
    /// # Errors
    /// The operation's errno. Any other error means that nothing of it was applied, or that this could not be found out; an
    /// operation that needs its outcome is not given up before it is known, except when the engine is closed.
    pub async fn run<O: Operation>(&self, op: O) -> MetaResult<O::Reply> {
        self.finish(Unbooked::new(op)).await?.reply()
    }

    /// [`Transactor::run`] for an operation that keeps its outcome to itself; gives it back when it is done.
    ///
    /// # Errors
    /// As above, without the operation's errno.
    pub async fn finish<P: PendingOp + 'static>(&self, mut op: P) -> MetaResult<P> {
        match self.engine.transactions() {
            Some(transactions) => hand_over(transactions, op).await,
            None => self.perform(&mut op).await.map(|()| op),
        }
    }

    /// Reads records as of one moment, in one round trip or, if the engine knows them without asking, in none.
    ///
    /// # Errors
    /// Those of [`Engine::fetch`].
    pub async fn fetch(&self, keys: &[Key]) -> MetaResult<ReadSet> {
        match self.engine.cached(keys) {
            Some(read) => Ok(read),
            None => self.look(keys).await,
        }
    }

    /// [`Engine::lookup`], remembered.
    ///
    /// # Errors
    /// Those of [`Engine::lookup`].
    pub async fn lookup(&self, parent: Ino, name: &[u8]) -> MetaResult<Option<(Edge, Option<Attr>)>> {
        let found = self.engine.lookup(parent, name).await?;
        if self.predicts() {
            self.predictor.learn_name(Key::Edge(parent, Name::new(name)), found.as_ref());
        }
        Ok(found.map(|Found { edge, attr, .. }| (edge, attr)))
    }

    /// [`Engine::readdir`], remembered.
    ///
    /// # Errors
    /// Those of [`Engine::readdir`].
    pub async fn readdir(
        &self,
        ino: Ino,
        from: Option<DirCursor>,
        with_attrs: bool,
        limit: usize,
    ) -> MetaResult<DirPage> {
        let page = self.engine.readdir(ino, from, with_attrs, limit).await?;
        if with_attrs && self.predicts() && page.entries.len() <= LEARNED_MAX {
            self.predictor.learn_all(page.entries.iter().flat_map(|entry| seen(ino, entry)).flatten());
        }
        Ok(page)
    }

    /// [`Engine::scan`]; chunks are remembered, because whoever looks for them changes them.
    ///
    /// # Errors
    /// Those of [`Engine::scan`].
    pub async fn scan(&self, scan: Scan, after: Option<Key>, limit: usize) -> MetaResult<Vec<(Key, Value)>> {
        let records = self.engine.scan(scan, after, limit).await?;
        if matches!(scan, Scan::Chunks { .. }) && self.predicts() {
            self.predictor.learn_all(records.iter().cloned());
        }
        Ok(records)
    }

    /// Whether what was seen is of use: not in transactions.
    fn predicts(&self) -> bool {
        self.engine.transactions().is_none()
    }

    /// Reads records as of one moment, and remembers them.
    async fn look(&self, keys: &[Key]) -> MetaResult<ReadSet> {
        let read = self.engine.fetch(keys).await?;
        if self.predicts() {
            self.predictor.learn(&read);
        }
        Ok(read)
    }

    /// What is stored under `wanted` for certain.
    async fn see(&self, wanted: &[Key]) -> MetaResult<Sight> {
        Ok(Sight { read: self.look(wanted).await?, certain: true })
    }

    /// What `wanted` is likely to be, or is when something is not known.
    async fn predict(&self, wanted: &[Key], mut sight: Sight) -> MetaResult<Sight> {
        if !self.predictor.predict(wanted, &mut sight.read) {
            return self.see(wanted).await;
        }
        sight.certain = false;
        Ok(sight)
    }

    /// Runs an operation to its end. It is judged anew for as long as others change what it read; who has lost often waits
    /// for a moment that is drawn, so that it is somebody else who loses next.
    async fn perform(&self, op: &mut dyn PendingOp) -> MetaResult<()> {
        let name = op.name();
        let patience = if op.needs_outcome() { Patience::UntilKnown } else { Patience::Budget };
        let mut wanted = shielded(name, || op.keys())?;
        let mut sight = self.predict(&wanted, Sight::default()).await?;
        // Operations of this client that keep meeting each other take turns.
        let mut _turn = None;
        let (began, mut tries) = (Instant::now(), 0);
        loop {
            tries += 1;
            let Some(effects) = self.judge(op, &mut wanted, &mut sight).await? else { return Ok(()) };
            match self.engine.apply(&sight.read, &effects, patience).await? {
                ApplyOutcome::Applied(applied) => {
                    self.predictor.apply(&effects.list);
                    return shielded(name, || op.applied(&applied));
                }
                ApplyOutcome::Conflict => self.predictor.forget(&sight.read),
            }
            if tries == 1
                && let Some(key) = wanted.first()
            {
                _turn = Some(self.turns.of(key).lock().await);
            }
            if began.elapsed() >= self.engine.patience() {
                tracing::warn!(operation = name, tries, "gave up: others keep changing what it reads");
                return Err(MetaError::Conflict(tries));
            }
            if tries >= FREE_TRIES {
                tokio::time::sleep(pause(tries)).await;
            }
            sight = self.see(&wanted).await?;
        }
    }

    /// Lets an operation judge; `None` when it is done without a change.
    async fn judge(
        &self,
        op: &mut dyn PendingOp,
        wanted: &mut Vec<Key>,
        sight: &mut Sight,
    ) -> MetaResult<Option<Effects>> {
        let name = op.name();
        loop {
            match shielded(name, || op.step(&sight.read))? {
                Step::Fetch(more) => {
                    wanted.extend(unread(name, more, &sight.read)?);
                    *sight = self.predict(wanted, std::mem::take(sight)).await?;
                }
                Step::Apply(effects) if !effects.list.is_empty() => return Ok(Some(effects)),
                // What rests on a prediction, or on parts read one after the other, is no answer yet.
                Step::Apply(_) | Step::Stop if !sight.certain => *sight = self.see(wanted).await?,
                Step::Apply(_) | Step::Stop => return Ok(None),
            }
        }
    }
}

#[async_trait]
impl Directories for Transactor {
    async fn page(&self, dir: Ino, from: Option<DirCursor>, with_attrs: bool, limit: usize) -> MetaResult<DirPage> {
        self.readdir(dir, from, with_attrs, limit).await
    }
}

/// The records that an entry with its node shows.
fn seen(parent: Ino, entry: &DirEntry) -> Option<[(Key, Value); 2]> {
    let node = Value::Node(entry.attr.clone()?);
    let edge = Value::Edge(Edge { ino: entry.ino, kind: entry.kind });
    Some([(Key::Edge(parent, entry.name.clone()), edge), (Key::Node(entry.ino), node)])
}

/// How long to wait after so many tries: at random, so that those who met do not meet again.
fn pause(tries: u32) -> Duration {
    let most = Duration::from_millis(u64::from(tries.saturating_mul(tries))).min(PAUSE_MAX);
    most.mul_f64(rand::rng().random())
}
