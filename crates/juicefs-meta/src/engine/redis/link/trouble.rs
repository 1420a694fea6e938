//! What can go wrong, and what to do about it.

use juicefs_core::error::MetaError;
use redis::{ServerError, Value};
use thiserror::Error;

use crate::engine::redis::address::Host;

/// Why a request has no answer.
#[derive(Debug, Clone, Error)]
pub(crate) enum LinkError {
    /// No try within the retry budget got an answer. The request may or may not have been executed.
    #[error("{0}")]
    Unavailable(String),
    /// The server will not do, or will not have us; the sentence is for the user.
    #[error("{0}")]
    Refused(String),
}

impl From<LinkError> for MetaError {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Unavailable(why) => Self::Unavailable(why),
            LinkError::Refused(why) => Self::Setting(why),
        }
    }
}

/// Why a connection could not be set up.
#[derive(Debug, Clone, Error)]
pub(super) enum SetupError {
    /// A later try may succeed.
    #[error("{0}")]
    Unreachable(String),
    /// Every try will end like this, unless somebody changes the server.
    #[error("{0}")]
    Refused(String),
}

/// Why a request has to be sent again.
#[derive(Debug, Clone)]
pub(super) enum Trouble {
    /// The connection broke.
    Lost(String),
    /// The server cannot serve it now.
    Busy(String),
    /// The server is not the one that can serve it; perhaps another is by now.
    WrongServer(String),
    /// The slot is on this node now; without a name, on another port of the same host.
    Moved(Host),
}

impl Trouble {
    /// What the errors among the replies of a request ask for; `None` when they are an answer, or are to be had elsewhere.
    ///
    /// `MOVED` without a host means `asked`, the host that replied.
    pub(super) fn among(replies: &[Value], asked: &str) -> Option<Self> {
        replies.iter().find_map(|reply| match reply {
            Value::ServerError(error) => Self::of(error, asked),
            // Results within EXEC, or within an array that a script made.
            Value::Array(inner) => Self::among(inner, asked),
            _ => None,
        })
    }

    fn of(error: &ServerError, asked: &str) -> Option<Self> {
        let text = || format!("the server said {} {}", error.code(), error.details().unwrap_or_default());
        match word(error) {
            // A slot that is on two nodes; a dump being loaded; a script of somebody else that takes too long; a fail-over that
            // pauses clients or broke off what waited.
            "TRYAGAIN" | "LOADING" | "BUSY" | "UNBLOCKED" => Some(Self::Busy(text())),
            // Too few replicas, no more memory, a disk that takes no dump. Scripts are refused before their first change.
            "NOREPLICAS" | "OOM" | "MISCONF" => Some(Self::Busy(text())),
            // The cluster may be down in the eyes of this node only, which was cut off.
            "READONLY" | "MASTERDOWN" | "CLUSTERDOWN" => Some(Self::WrongServer(text())),
            "MOVED" => Some(redirection(error, asked).map_or_else(|| Self::Busy(text()), Self::Moved)),
            "ASK" if redirection(error, asked).is_none() => Some(Self::Busy(text())),
            _ => None,
        }
    }

    /// What happened, for the log and the last error.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::Lost(why) | Self::Busy(why) | Self::WrongServer(why) => why.clone(),
            Self::Moved(host) => format!("the slot moved to {host}"),
        }
    }
}

/// The code of an error. Servers before 7.0 wrap what a command inside a script met into an ERR that has the code in its text, as
/// in `ERR Error running script (call to f_6b..): @user_script:1: -OOM command not allowed`.
fn word(error: &ServerError) -> &str {
    let inner = || {
        let (_, text) = error.details()?.split_once(": -")?;
        let code = text.split(' ').next()?;
        (code.len() > 1 && code.bytes().all(|letter| letter.is_ascii_uppercase())).then_some(code)
    };
    match error.code() {
        "ERR" => inner().unwrap_or("ERR"),
        code => code,
    }
}

/// Whether the reply to a command is that its key is on its way to another node.
pub(super) fn is_redirected(reply: &Value) -> bool {
    matches!(reply, Value::ServerError(error) if error.code() == "ASK")
}

/// The node that commands were left to.
pub(super) fn redirected_to(replies: &[Value], asked: &str) -> Option<Host> {
    replies.iter().find_map(|reply| match reply {
        Value::ServerError(error) if error.code() == "ASK" => redirection(error, asked),
        _ => None,
    })
}

/// The host of `MOVED 3999 127.0.0.1:6381`.
fn redirection(error: &ServerError, asked: &str) -> Option<Host> {
    let (_slot, place) = error.details()?.split_once(' ')?;
    let (name, port) = place.trim().rsplit_once(':')?;
    let port = port.parse().ok()?;
    let name = if name.is_empty() || name == "?" { asked } else { name.trim_matches(['[', ']']) };
    Some(Host { name: name.to_owned(), port })
}
