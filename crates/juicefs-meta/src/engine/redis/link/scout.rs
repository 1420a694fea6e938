//! Finding the server that serves the volume, and setting a connection up with it.

mod cluster;
mod replica;
mod sentinel;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use parking_lot::Mutex;
use redis::Value;
use tokio::time::Instant;

use super::{
    dialogue::{Dialogue, Opened, said},
    request::Request,
    server::{Info, Server},
    stream::Target,
    tls::TlsClient,
    trouble::SetupError,
};
use crate::engine::redis::address::{Address, Host, Place};

/// Of several servers that may know, each has this long for an answer, so that a silent one does not use up all time.
const CANDIDATE_TIMEOUT: Duration = Duration::from_secs(2);

/// Knows the address, and what was learned about what is there.
pub(super) struct Scout {
    address: Address,
    /// Nothing is ever written, so that a replica may do.
    read_only: bool,
    /// Read with the first connection.
    tls: OnceLock<Arc<TlsClient>>,
    server: OnceLock<Server>,
    /// Sentinels, or nodes of a cluster, those that answered lately first.
    candidates: Mutex<Vec<Host>>,
}

impl Scout {
    pub(super) fn new(address: Address, read_only: bool) -> Self {
        let candidates = match address.place() {
            Place::Sentinel { sentinels, .. } => sentinels.clone(),
            Place::Cluster(nodes) => nodes.clone(),
            Place::Host(host) => vec![host.clone()],
            Place::Socket(_) => Vec::new(),
        };
        Self { address, read_only, tls: OnceLock::new(), server: OnceLock::new(), candidates: Mutex::new(candidates) }
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// The server, once a connection has been set up.
    pub(super) fn server(&self) -> Option<&Server> {
        self.server.get()
    }

    /// A connection to the server that serves the volume, or to a replica that will do. In a cluster, `hint` is the node that others say has it. Each
    /// server that is asked has up to `limit` for each answer.
    pub(super) async fn connect(&self, hint: Option<Host>, limit: Duration) -> Result<Opened, SetupError> {
        Ok(self.converse(hint, limit).await?.finish())
    }

    /// [`Self::connect`] for who has more to settle first.
    pub(super) async fn converse(&self, hint: Option<Host>, limit: Duration) -> Result<Dialogue, SetupError> {
        match (self.address.place(), hint) {
            (_, Some(host)) => self.visit(host, limit).await,
            (Place::Socket(path), None) => self.standalone(Target::Socket(path.clone()), limit).await,
            (Place::Sentinel { master, .. }, None) => self.master(master, limit).await,
            (Place::Cluster(_), None) => self.owner(limit).await,
            (Place::Host(host), None) => {
                if self.server().is_some_and(|server| server.cluster) {
                    self.owner(limit).await
                } else {
                    self.standalone(Target::Tcp(host.clone()), limit).await
                }
            }
        }
    }

    /// A logged-in connection to a node of the cluster, where there is but one database.
    pub(super) async fn visit(&self, host: Host, limit: Duration) -> Result<Dialogue, SetupError> {
        let mut dialogue = self.open(Target::Tcp(host), limit).await?;
        self.greet(&mut dialogue).await?;
        Ok(dialogue)
    }

    /// Logs in and asks who the server is.
    async fn greet(&self, dialogue: &mut Dialogue) -> Result<(), SetupError> {
        let replies = self.log_in(dialogue, &Request::of(&["INFO", "server"])).await?;
        dialogue.identify(replies.first());
        Ok(())
    }

    async fn open(&self, target: Target, limit: Duration) -> Result<Dialogue, SetupError> {
        let tls = match (self.address.tls(), self.tls.get()) {
            (None, _) => None,
            (Some(_), Some(tls)) => Some(Arc::clone(tls)),
            (Some(files), None) => {
                let tls = TlsClient::new(files).map_err(SetupError::Refused)?;
                Some(Arc::clone(self.tls.get_or_init(|| Arc::new(tls))))
            }
        };
        Dialogue::open(target, tls.as_ref(), limit).await
    }

    async fn log_in(&self, dialogue: &mut Dialogue, request: &Request) -> Result<Vec<Value>, SetupError> {
        dialogue.log_in(self.address.user(), self.address.password(), request).await
    }

    /// The one server of the URL. If it turns out to be a node of a cluster, the node that has the volume.
    async fn standalone(&self, target: Target, limit: Duration) -> Result<Dialogue, SetupError> {
        let mut dialogue = self.open(target, limit).await?;
        self.settle(&mut dialogue).await?;
        match self.server() {
            Some(server) if server.cluster => self.owner_known_by(dialogue, limit).await,
            _ => Ok(dialogue),
        }
    }

    /// Logs in and selects the database; the first time, gets to know the server.
    async fn settle(&self, dialogue: &mut Dialogue) -> Result<(), SetupError> {
        let Some(server) = self.server() else {
            let replies = self.log_in(dialogue, &Request::of(&["INFO"])).await?;
            dialogue.identify(replies.first());
            self.get_acquainted(dialogue, replies.first()).await?;
            return self.select(dialogue).await;
        };
        if server.cluster || self.address.database() == 0 {
            return self.greet(dialogue).await;
        }
        let mut question = Request::of(&["INFO", "server"]);
        question.append(&self.selection());
        let replies = self.log_in(dialogue, &question).await?;
        dialogue.identify(replies.first());
        self.check_selection(dialogue, replies.get(1))
    }

    fn selection(&self) -> Request {
        Request::of(&["SELECT", &self.address.database().to_string()])
    }

    async fn select(&self, dialogue: &mut Dialogue) -> Result<(), SetupError> {
        if self.address.database() == 0 || self.server().is_some_and(|server| server.cluster) {
            return Ok(());
        }
        let replies = dialogue.ask(&self.selection()).await?;
        self.check_selection(dialogue, replies.first())
    }

    fn check_selection(&self, dialogue: &Dialogue, reply: Option<&Value>) -> Result<(), SetupError> {
        match reply {
            Some(Value::ServerError(error)) if error.code() == "ERR" => Err(SetupError::Refused(format!(
                "{} does not have the database {} of the URL: {} (its option `databases` says how many there are)",
                dialogue.target(),
                self.address.database(),
                said(error)
            ))),
            Some(Value::ServerError(error)) => Err(dialogue.turned_away(error)),
            _ => Ok(()),
        }
    }

    /// Learns what the server is from its reply to `INFO`, and warns of what may cost data.
    async fn get_acquainted(&self, dialogue: &mut Dialogue, info: Option<&Value>) -> Result<(), SetupError> {
        let target = dialogue.target().clone();
        let text = match info {
            Some(Value::BulkString(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
            Some(Value::ServerError(error)) if error.code() == "NOPERM" => {
                tracing::warn!("{target} does not let us see its settings: {}", said(error));
                String::new()
            }
            Some(Value::ServerError(error)) => return Err(dialogue.turned_away(error)),
            _ => return Err(SetupError::Refused(format!("{target} is not a Redis: it does not know INFO"))),
        };
        let info = Info::new(&text);
        let version = info.version().map_err(|version| {
            SetupError::Refused(format!("{target} is Redis {version}, which is too old: at least 4.0 is needed"))
        })?;
        let several = matches!(self.address.place(), Place::Cluster(_));
        if several && !info.is_cluster() {
            return Err(SetupError::Refused(format!(
                "{target} is not in cluster mode: name one server only, or the master's name before its Sentinels"
            )));
        }
        let cluster = info.is_cluster() && !matches!(self.address.place(), Place::Sentinel { .. });
        if info.warn() {
            let fix = Request::of(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
            match dialogue.ask(&fix).await?.first() {
                Some(Value::Okay) => tracing::info!("maxmemory-policy of {target} was set to noeviction"),
                _ => tracing::warn!("set maxmemory-policy of {target} to noeviction, or it may throw metadata away"),
            }
        }
        let asked = Instant::now();
        dialogue.ask(&Request::of(&["PING"])).await?;
        tracing::info!("Ping redis latency: {:?}", asked.elapsed());
        let key_prefix = if cluster { format!("{{{}}}", self.address.database()) } else { String::new() };
        // Both lanes may get here; they say the same.
        let _ = self.server.set(Server { version, cluster, key_prefix });
        Ok(())
    }

    /// The candidates in the order in which they should be asked.
    fn candidates(&self) -> Vec<Host> {
        self.candidates.lock().clone()
    }

    /// Puts a candidate that was of no use behind the others.
    pub(super) fn demote(&self, host: &Host) {
        let mut candidates = self.candidates.lock();
        if let Some(at) = candidates.iter().position(|candidate| candidate == host) {
            let last = candidates.remove(at);
            candidates.push(last);
        }
    }
}

/// The text that a reply is.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) => Some(text.clone()),
        _ => None,
    }
}
