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
pub(crate) use self::{
    request::Request,
    server::{Origin, Server},
    trouble::LinkError,
    watch::Witness,
};
use super::address::{Address, Host, Options};

/// Repetitions that follow at once, because the server itself named the next one to ask.
const QUICK_REDIRECTIONS: u32 = 4;

/// Longest wait before a server is asked again that says at once that it cannot serve now.
const BUSY_PAUSE: Duration = Duration::from_millis(200);

/// Replies to a request, and whose they are.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) values: Vec<Value>,
    pub(crate) origin: Origin,
}

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
    /// While the slot is moving, each command is answered by the node that has its keys; what needs keys of both nodes
    /// waits, and so does what is [steady](Request::steady).
    ///
    /// Cancel safe: a dropped call was executed or was not.
    ///
    /// # Errors
    /// `Unavailable` when the budget is used up; `Refused` when the server will not have us.
    pub(crate) async fn call(&self, lane: Lane, request: &Request) -> Result<Vec<Value>, LinkError> {
        if request.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.ask_whom(lane, request).await?.values)
    }

    /// [`Self::call`] for who has to know whose replies they are: of a request that was answered by several nodes in turn, the
    /// last one.
    pub(crate) async fn ask_whom(&self, lane: Lane, request: &Request) -> Result<Answer, LinkError> {
        let lane = match lane {
            Lane::Small => &self.small,
            Lane::Bulk => &self.bulk,
        };
        let began = Instant::now();
        let mut trouble = None;
        if let Some(connection) = lane.usable() {
            match self.attempt(lane, &connection, request).await {
                Ok(answer) => return Ok(answer),
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
    ) -> Result<Answer, Trouble> {
        let replies = connection.send(request).await.map_err(Trouble::Lost);
        let trouble = match replies.and_then(|replies| judge(replies, connection.target())) {
            Ok(Judged::Answered(values)) => return Ok(Answer { values, origin: connection.origin() }),
            // What goes wrong over there says nothing about this connection.
            Ok(Judged::Redirected(values, host)) => return self.follow(&host, request, values).await,
            Err(trouble) => trouble,
        };
        match &trouble {
            Trouble::Busy(_) => {}
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
    ) -> Result<Answer, LinkError> {
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
                    Trouble::Moved(_) if repetition < QUICK_REDIRECTIONS => Duration::ZERO,
                    Trouble::Busy(_) => backoff(self.options(), repetition).min(BUSY_PAUSE),
                    _ => backoff(self.options(), repetition),
                };
                repetition += 1;
                if !wait.is_zero() {
                    sleep(wait.min(left)).await;
                }
            }
            let connection = self.connect(lane, deadline).await?;
            match self.attempt(lane, &connection, request).await {
                Ok(answer) => return Ok(answer),
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
                Ok(Ok(open)) => {
                    setup.succeeded(&open.target);
                    let connection = Arc::new(Connection::start(open, self.limits(), &self.tasks));
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

    /// Asks the node that the slot is moving to for what another left to it, and puts that in its place among `values`.
    async fn follow(&self, host: &Host, request: &Request, mut values: Vec<Value>) -> Result<Answer, Trouble> {
        let moving = || Trouble::Busy(format!("the slot is moving to {host}"));
        let (asking, places) = request.asking(&values.iter().map(trouble::is_redirected).collect::<Vec<_>>());
        if request.is_steady() || asking.is_empty() {
            return Err(moving());
        }
        let connection = self.beyond(host).await?;
        let replies = connection.send(&asking).await.map_err(Trouble::Lost)?;
        match judge(replies, connection.target())? {
            Judged::Redirected(..) => Err(moving()),
            Judged::Answered(told) => {
                for (value, place) in told.into_iter().zip(places) {
                    if let Some(value_there) = place.and_then(|place| values.get_mut(place)) {
                        *value_there = value;
                    }
                }
                Ok(Answer { values, origin: connection.origin() })
            }
        }
    }

    /// A connection to the node that the slot is moving to.
    async fn beyond(&self, host: &Host) -> Result<Arc<Connection>, Trouble> {
        let mut asking = self.asking.lock().await;
        let target = Target::Tcp(host.clone());
        if let Some(open) = asking.as_ref().filter(|open| open.target() == &target && !open.is_broken()) {
            return Ok(Arc::clone(open));
        }
        let visit = self.scout.visit(host.clone(), self.options().connect_timeout).await;
        let open = visit.map_err(|error| Trouble::Lost(error.to_string()))?.finish();
        let open = Arc::new(Connection::start(open, self.limits(), &self.tasks));
        *asking = Some(Arc::clone(&open));
        Ok(open)
    }

    fn limits(&self) -> Limits {
        let options = self.options();
        Limits { read: options.read_timeout, write: options.write_timeout }
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

/// Replies of a server.
enum Judged {
    Answered(Vec<Value>),
    /// Some are to be had from a node that the slot is moving to.
    Redirected(Vec<Value>, Host),
}

/// Tells an answer from a reason to send again.
fn judge(replies: Replies, target: &Target) -> Result<Judged, Trouble> {
    if replies.has_error {
        let asked = match target {
            Target::Tcp(host) => host.name.as_str(),
            Target::Socket(_) => "localhost",
        };
        if let Some(trouble) = Trouble::among(&replies.values, asked) {
            return Err(trouble);
        }
        if let Some(host) = trouble::redirected_to(&replies.values, asked) {
            return Ok(Judged::Redirected(replies.values, host));
        }
    }
    Ok(Judged::Answered(replies.values))
}

/// A random wait, of twice the length each time.
fn backoff(options: &Options, repetition: u32) -> Duration {
    let longest = options.min_retry_backoff.saturating_mul(1 << repetition.min(20)).min(options.max_retry_backoff);
    longest.mul_f64(rand::rng().random_range(0.5..=1.0))
}
