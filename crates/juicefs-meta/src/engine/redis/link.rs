//! The way to a Redis: two connections that everybody shares, set up when needed and again when they broke.

mod connection;
mod dialogue;
mod lane;
mod reply;
mod request;
mod scout;
mod server;
mod stream;
#[cfg(test)]
mod tests;
mod tls;
mod trouble;
mod watch;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::Rng as _;
use redis::Value;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    connection::{Connection, Limits, Replies},
    lane::LaneState,
    scout::Scout,
    stream::Target,
    trouble::{SetupError, Trouble},
    watch::Watched,
};
pub(crate) use self::{request::Request, server::Server, trouble::LinkError, watch::Witness};
use super::address::{Address, Host, Options};

/// Repetitions that follow at once, because the server itself named the next one to ask.
const QUICK_REDIRECTIONS: u32 = 4;

/// Which connection a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// For requests whose replies are small.
    Small,
    /// For those that would keep the small ones waiting.
    Bulk,
}

/// The way to one Redis, to one master of Sentinels, or to one slot of a cluster.
pub(crate) struct Link {
    scout: Arc<Scout>,
    small: LaneState,
    bulk: LaneState,
    /// To the node that the slot is moving to.
    asking: Mutex<Option<Arc<Connection>>>,
    closed: AtomicBool,
    /// Ends the tasks that do not end with their connection.
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Link {
    /// Connects when it is first needed. What is `read_only` may be given a replica, if the URL says so.
    pub(crate) fn new(address: Address, read_only: bool) -> Self {
        Self {
            scout: Arc::new(Scout::new(address, read_only)),
            small: LaneState::default(),
            bulk: LaneState::default(),
            asking: Mutex::new(None),
            closed: AtomicBool::new(false),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// URL without password.
    pub(crate) fn describe(&self) -> String {
        self.scout.address().describe()
    }

    /// Connects if that has not happened yet, and tells what the server is.
    ///
    /// # Errors
    /// `Unavailable` when it could not be reached within a few seconds; `Refused` with a sentence for the user.
    pub(crate) async fn ready(&self) -> Result<&Server, LinkError> {
        if let Some(server) = self.scout.server() {
            return Ok(server);
        }
        self.connect(&self.small, Instant::now() + self.budget()).await?;
        self.scout.server().ok_or_else(|| LinkError::Unavailable("the server did not tell what it is".to_owned()))
    }

    /// Sends a request and waits for all its replies, which come in order from one connection. What a lost connection, a
    /// server that is loading, a fail-over or a moving slot kept from being answered is sent again, until the retry
    /// budget is used up: a request must do no harm when it is executed twice. Other errors of the server are returned
    /// in place of the reply.
    ///
    /// Cancel safe: a dropped call was executed or was not.
    ///
    /// # Errors
    /// `Unavailable` when the budget is used up; `Refused` when the server will not have us.
    pub(crate) async fn call(&self, lane: Lane, request: &Request) -> Result<Vec<Value>, LinkError> {
        if request.is_empty() {
            return Ok(Vec::new());
        }
        let lane = match lane {
            Lane::Small => &self.small,
            Lane::Bulk => &self.bulk,
        };
        let began = Instant::now();
        let mut trouble = None;
        if let Some(connection) = lane.usable() {
            match self.attempt(lane, &connection, request).await {
                Ok(values) => return Ok(values),
                Err(met) => trouble = Some(met),
            }
        }
        Box::pin(self.persist(lane, request, began, trouble)).await
    }

    /// Whether [`Link::close`] was called.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Finishes what is in flight, closes the connections and waits for their tasks.
    pub(crate) async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.small.close();
        self.bulk.close();
        self.asking.lock().await.take();
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Has the server tell `witness` of changes of keys that begin with one of `prefixes`, until the link is closed. `probe`
    /// is a key that is where these are. Where the server cannot tell, the log says so and nothing else happens.
    pub(crate) fn watch(&self, prefixes: Vec<Vec<u8>>, probe: Vec<u8>, witness: Arc<dyn Witness>) {
        let watch = watch::keep(Arc::clone(&self.scout), Watched { prefixes, probe }, witness);
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(watch).await;
        });
    }

    /// What the URL says besides.
    pub(crate) fn options(&self) -> &Options {
        self.scout.address().options()
    }

    /// How long to try.
    fn budget(&self) -> Duration {
        let options = self.options();
        if self.scout.server().is_some() { options.retry_budget } else { options.first_budget }
    }

    /// Sends once.
    async fn attempt(
        &self,
        lane: &LaneState,
        connection: &Arc<Connection>,
        request: &Request,
    ) -> Result<Vec<Value>, Trouble> {
        let outcome = connection.send(request).await;
        let trouble = match judge(outcome, connection.target()) {
            Ok(values) => return Ok(values),
            Err(trouble) => trouble,
        };
        match &trouble {
            Trouble::Busy(_) | Trouble::Ask(_) => {}
            Trouble::Lost(_) | Trouble::WrongServer(_) | Trouble::Moved(_) => {
                if let (Trouble::WrongServer(_), Target::Tcp(host)) = (&trouble, connection.target()) {
                    self.scout.demote(host);
                }
                if lane.retire(connection, &trouble) && !self.closed.load(Ordering::Acquire) {
                    tracing::warn!("Redis {}: {}", connection.target(), trouble.reason());
                }
            }
        }
        Err(trouble)
    }

    /// Sends again and again.
    async fn persist(
        &self,
        lane: &LaneState,
        request: &Request,
        began: Instant,
        mut trouble: Option<Trouble>,
    ) -> Result<Vec<Value>, LinkError> {
        let mut repetition = 0;
        loop {
            let deadline = began + self.budget();
            if let Some(trouble) = &trouble {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(self.gave_up(trouble.reason(), began));
                }
                let wait = match trouble {
                    Trouble::Lost(_) if repetition == 0 => Duration::ZERO,
                    Trouble::Moved(_) | Trouble::Ask(_) if repetition < QUICK_REDIRECTIONS => Duration::ZERO,
                    _ => backoff(self.options(), repetition),
                };
                repetition += 1;
                if !wait.is_zero() {
                    sleep(wait.min(left)).await;
                }
            }
            let outcome = match &trouble {
                Some(Trouble::Ask(host)) => self.ask(host, request).await,
                _ => {
                    let connection = self.connect(lane, deadline).await?;
                    self.attempt(lane, &connection, request).await
                }
            };
            match outcome {
                Ok(values) => return Ok(values),
                Err(met) => trouble = Some(met),
            }
        }
    }

    /// A connection of the lane, set up by one of those who need it while the others wait.
    async fn connect(&self, lane: &LaneState, deadline: Instant) -> Result<Arc<Connection>, LinkError> {
        let began = Instant::now();
        let Ok(mut setup) = timeout_at(deadline, lane.setup.lock()).await else {
            return Err(self.gave_up(lane.last_failure(), began));
        };
        loop {
            if let Some(connection) = lane.usable() {
                return Ok(connection);
            }
            if self.closed.load(Ordering::Acquire) {
                return Err(LinkError::Unavailable("the connection to Redis is closed".to_owned()));
            }
            let first = self.scout.server().is_none();
            let step = async {
                setup.wait().await;
                // A try that takes too long should end with what it was waiting for, before all time is used up.
                let left = deadline.saturating_duration_since(Instant::now());
                let limit = self.options().connect_timeout.min(left.mul_f64(0.75));
                self.scout.connect(lane.take_hint(), limit).await
            };
            let failure = match timeout_at(deadline, step).await {
                Err(_elapsed) => return Err(self.gave_up(lane.last_failure(), began)),
                Ok(Ok((stream, target))) => {
                    setup.succeeded(&target);
                    let options = self.options();
                    let limits = Limits { read: options.read_timeout, write: options.write_timeout };
                    let connection = Arc::new(Connection::start(stream, target, limits, &self.tasks));
                    lane.install(&connection);
                    // A close that came in between has not seen it.
                    if self.closed.load(Ordering::Acquire) {
                        lane.close();
                    }
                    return Ok(connection);
                }
                Ok(Err(failure)) => failure,
            };
            match failure {
                // Later, somebody may be about to put right what they changed.
                SetupError::Refused(why) if first => return Err(LinkError::Refused(why)),
                SetupError::Refused(why) | SetupError::Unreachable(why) => {
                    setup.failed(&why, |repetition| backoff(self.options(), repetition));
                    lane.note_failure(why);
                }
            }
        }
    }

    /// Sends to the node that the slot is moving to.
    async fn ask(&self, host: &Host, request: &Request) -> Result<Vec<Value>, Trouble> {
        let connection = {
            let mut asking = self.asking.lock().await;
            let target = Target::Tcp(host.clone());
            match asking.as_ref().filter(|open| open.target() == &target && !open.is_broken()) {
                Some(open) => Arc::clone(open),
                None => {
                    let options = self.options();
                    let dialogue = self.scout.visit(host.clone(), options.connect_timeout).await;
                    let (stream, target) = dialogue.map_err(|error| Trouble::Lost(error.to_string()))?.finish();
                    let limits = Limits { read: options.read_timeout, write: options.write_timeout };
                    let open = Arc::new(Connection::start(stream, target, limits, &self.tasks));
                    *asking = Some(Arc::clone(&open));
                    open
                }
            }
        };
        let (request, wanted) = request.asking();
        let outcome = connection.send(&request).await.map(|replies| {
            let values = replies.values.into_iter().zip(wanted);
            let values = values.filter_map(|(value, wanted)| wanted.then_some(value)).collect();
            Replies { values, has_error: replies.has_error }
        });
        judge(outcome, connection.target())
    }

    fn gave_up(&self, why: String, began: Instant) -> LinkError {
        LinkError::Unavailable(format!("{why} (tried for {:.1?})", began.elapsed()))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Tells an answer from a reason to send again.
fn judge(outcome: Result<Replies, String>, target: &Target) -> Result<Vec<Value>, Trouble> {
    let replies = outcome.map_err(Trouble::Lost)?;
    if replies.has_error {
        let asked = match target {
            Target::Tcp(host) => host.name.as_str(),
            Target::Socket(_) => "localhost",
        };
        if let Some(trouble) = Trouble::among(&replies.values, asked) {
            return Err(trouble);
        }
    }
    Ok(replies.values)
}

/// A random wait, of twice the length each time.
fn backoff(options: &Options, repetition: u32) -> Duration {
    let longest = options.min_retry_backoff.saturating_mul(1 << repetition.min(20)).min(options.max_retry_backoff);
    longest.mul_f64(rand::rng().random_range(0.5..=1.0))
}
