//! A stream that one task has for itself, to get acquainted with a server.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use bytes::BytesMut;
use redis::{ServerError, ServerErrorKind, Value};
use tokio::time::timeout;

use super::{
    reply::{Parser, Reply},
    request::Request,
    server::{Info, Origin},
    stream::{Stream, Target},
    tls::TlsClient,
    trouble::SetupError,
};
use crate::engine::redis::address::Secret;

/// Questions and answers, one after the other.
pub(super) struct Dialogue {
    stream: Stream,
    target: Target,
    tls: bool,
    parser: Parser,
    incoming: BytesMut,
    /// Whether anything has come that was a reply.
    acquainted: bool,
    /// Who it is, once it has said so.
    origin: Option<Origin>,
    /// For each question.
    limit: Duration,
}

/// A stream on which nothing is owed, and who is at its other end.
pub(super) struct Opened {
    pub(super) stream: Stream,
    pub(super) target: Target,
    pub(super) origin: Origin,
}

impl Dialogue {
    /// Connects within `limit`, which is then that of each answer.
    pub(super) async fn open(
        target: Target,
        tls: Option<&Arc<TlsClient>>,
        limit: Duration,
    ) -> Result<Self, SetupError> {
        let stream = Stream::open(&target, tls, limit).await?;
        let (parser, incoming) = (Parser::default(), BytesMut::new());
        Ok(Self { stream, target, tls: tls.is_some(), parser, incoming, acquainted: false, origin: None, limit })
    }

    /// Who is asked.
    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// The stream, on which nothing is owed.
    pub(super) fn finish(self) -> Opened {
        Opened { stream: self.stream, target: self.target, origin: self.origin.unwrap_or_else(Origin::unknown) }
    }

    /// Notes who the server is, by its reply to `INFO`.
    pub(super) fn identify(&mut self, reply: Option<&Value>) {
        if let Some(Value::BulkString(info)) = reply {
            self.origin = Origin::told(&Info::new(&String::from_utf8_lossy(info)));
        }
    }

    /// Sends commands and waits for their replies.
    pub(super) async fn ask(&mut self, request: &Request) -> Result<Vec<Value>, SetupError> {
        let limit = self.limit;
        match timeout(limit, self.exchange(request)).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => {
                Err(SetupError::Unreachable(format!("{} does not answer within {limit:.1?}", self.target)))
            }
        }
    }

    /// Sends commands and does not wait.
    pub(super) async fn tell(&mut self, request: &Request) -> Result<(), SetupError> {
        let limit = self.limit;
        match timeout(limit, self.stream.send(request.bytes())).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.broke_off(&error)),
            Err(_elapsed) => Err(SetupError::Unreachable(format!("{} takes nothing within {limit:.1?}", self.target))),
        }
    }

    /// Waits for what comes next: replies, and what the server says of its own accord. Cancel safe.
    pub(super) async fn listen(&mut self) -> Result<Vec<Value>, SetupError> {
        match self.stream.receive(&mut self.incoming).await {
            Ok(0) => return Err(self.broke_off(&io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => {}
            Err(error) => return Err(self.broke_off(&error)),
        }
        let mut messages = VecDeque::new();
        self.parser.feed(&mut self.incoming, &mut messages).map_err(|_| self.not_redis())?;
        Ok(messages.into_iter().map(|message| message.value).collect())
    }

    async fn exchange(&mut self, request: &Request) -> Result<Vec<Value>, SetupError> {
        // What the server has to say before it closes may still be there to be read.
        let sent = self.stream.send(request.bytes()).await;
        let mut replies: VecDeque<Reply> = VecDeque::new();
        while replies.len() < request.len() {
            let received = match self.stream.receive(&mut self.incoming).await {
                Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                other => other,
            };
            if let Err(error) = received {
                // Its last word says more than that it closed.
                return match replies.pop_back().map(|reply| reply.value) {
                    Some(Value::ServerError(word)) => Err(self.turned_away(&word)),
                    _ => Err(self.broke_off(&sent.err().unwrap_or(error))),
                };
            }
            if self.parser.feed(&mut self.incoming, &mut replies).is_err() {
                return Err(self.not_redis());
            }
            self.acquainted |= !replies.is_empty();
        }
        Ok(replies.into_iter().map(|reply| reply.value).collect())
    }

    /// Logs in, if there is a password, and asks `request` in the same breath.
    ///
    /// # Errors
    /// `Refused` when the server wants another password, or one at all.
    pub(super) async fn log_in(
        &mut self,
        user: Option<&[u8]>,
        password: Option<&Secret>,
        request: &Request,
    ) -> Result<Vec<Value>, SetupError> {
        let mut login = Request::new();
        match (user, password) {
            (_, None) => {}
            (None, Some(password)) => login.command(&[b"AUTH", password.reveal()]),
            (Some(user), Some(password)) => login.command(&[b"AUTH", user, password.reveal()]),
        }
        let logins = login.len();
        login.append(request);
        let mut replies = self.ask(&login).await?;
        let rest = replies.split_off(logins);
        let refusal = replies.into_iter().find_map(server_error);
        match (refusal, rest.iter().find_map(no_login)) {
            (None, None) => {}
            (None, Some(_)) => {
                return Err(SetupError::Refused(format!(
                    "{} requires a password; give it in the URL or in META_PASSWORD",
                    self.target
                )));
            }
            (Some(refusal), demanded) => {
                let word = said(&refusal);
                if demanded.is_some() || refusal.code() == "WRONGPASS" {
                    return Err(SetupError::Refused(format!("{} does not accept the password: {word}", self.target)));
                }
                if refusal.kind() == Some(ServerErrorKind::ResponseError) {
                    tracing::warn!("{} takes everybody, and no password: {word}", self.target);
                } else {
                    return Err(self.turned_away(&refusal));
                }
            }
        }
        Ok(rest)
    }

    /// What an error that is no answer means.
    pub(super) fn turned_away(&self, error: &ServerError) -> SetupError {
        let sentence = format!("{} turned the connection away: {}", self.target, said(error));
        // DENIED: the protected mode of a server without password. All others may pass: too many clients, loading.
        if matches!(error.code(), "DENIED" | "NOPERM") {
            SetupError::Refused(sentence)
        } else {
            SetupError::Unreachable(sentence)
        }
    }

    fn broke_off(&self, error: &io::Error) -> SetupError {
        let target = &self.target;
        if self.acquainted || self.tls {
            SetupError::Unreachable(format!("{target} broke off the connection: {error}"))
        } else {
            SetupError::Unreachable(format!(
                "{target} broke off the connection before it said a word: {error}; if it uses TLS, write rediss://"
            ))
        }
    }

    fn not_redis(&self) -> SetupError {
        let target = &self.target;
        // An alert record of TLS 1.x.
        if self.incoming.starts_with(b"\x15\x03") {
            return SetupError::Refused(format!("{target} speaks TLS; use rediss:// for it"));
        }
        let beginning = self.incoming[..self.incoming.len().min(20)].escape_ascii();
        SetupError::Refused(format!("{target} is not a Redis: it says \"{beginning}\""))
    }
}

/// The words of an error as the server sent them.
pub(super) fn said(error: &ServerError) -> String {
    match error.details() {
        Some(details) => format!("{} {details}", error.code()),
        None => error.code().to_owned(),
    }
}

/// The error that a reply is.
pub(super) fn server_error(reply: Value) -> Option<ServerError> {
    match reply {
        Value::ServerError(error) => Some(error),
        _ => None,
    }
}

fn no_login(reply: &Value) -> Option<&ServerError> {
    match reply {
        Value::ServerError(error) if error.code() == "NOAUTH" => Some(error),
        _ => None,
    }
}
