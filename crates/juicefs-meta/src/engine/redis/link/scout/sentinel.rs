//! Asking Sentinels for the master.

use std::time::Duration;

use redis::Value;

use super::{CANDIDATE_TIMEOUT, Scout, replica::replicas_told, text};
use crate::engine::redis::{
    address::Host,
    link::{
        dialogue::{Dialogue, said},
        request::Request,
        stream::Target,
        trouble::SetupError,
    },
};

impl Scout {
    /// The server that the first Sentinel to answer says is the master, if it says so too.
    pub(super) async fn master(&self, name: &str, limit: Duration) -> Result<Dialogue, SetupError> {
        let sentinels = self.candidates();
        let mut failure = SetupError::Unreachable("there are no Sentinels".to_owned());
        let mut ignorant = 0;
        for sentinel in &sentinels {
            let told = match self.ask_sentinel(sentinel.clone(), name, limit.min(CANDIDATE_TIMEOUT)).await {
                Ok(told) => told,
                Err(error) => {
                    self.demote(sentinel);
                    failure = error;
                    continue;
                }
            };
            let Some(host) = told else {
                ignorant += 1;
                if ignorant == sentinels.len() {
                    failure = SetupError::Refused(format!("the Sentinels know no master with the name \"{name}\""));
                }
                continue;
            };
            if self.route().is_some() {
                let replicas = self.ask_for_replicas(sentinel.clone(), name, limit.min(CANDIDATE_TIMEOUT)).await;
                if let Some(dialogue) = self.any_replica(replicas, limit).await {
                    return Ok(dialogue);
                }
            }
            match self.visit_master(host, limit).await {
                Ok(dialogue) => return Ok(dialogue),
                // Another Sentinel may know better.
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// The replicas that a Sentinel knows and takes for alive; none when it does not tell.
    async fn ask_for_replicas(&self, sentinel: Host, name: &str, limit: Duration) -> Vec<Host> {
        let ask = async {
            let mut dialogue = self.open(Target::Tcp(sentinel), limit).await?;
            // The word of Redis 4, which its successors understand.
            let question = Request::of(&["SENTINEL", "slaves", name]);
            dialogue.log_in(None, self.address.sentinel_password(), &question).await
        };
        ask.await.ok().and_then(|replies| replies.first().map(replicas_told)).unwrap_or_default()
    }

    async fn ask_sentinel(&self, sentinel: Host, name: &str, limit: Duration) -> Result<Option<Host>, SetupError> {
        let mut dialogue = self.open(Target::Tcp(sentinel), limit).await?;
        let question = Request::of(&["SENTINEL", "get-master-addr-by-name", name]);
        let replies = dialogue.log_in(None, self.address.sentinel_password(), &question).await;
        let replies = replies.map_err(|error| match error {
            SetupError::Refused(why) => {
                SetupError::Refused(format!("Sentinel {why} (its password: SENTINEL_PASSWORD)"))
            }
            unreachable @ SetupError::Unreachable(_) => unreachable,
        })?;
        match replies.first() {
            Some(Value::Array(place)) => match &place[..] {
                [name, port] => {
                    let host = text(name).zip(text(port).and_then(|port| port.parse().ok()));
                    Ok(host.map(|(name, port)| Host { name, port }))
                }
                _ => Ok(None),
            },
            Some(Value::ServerError(error)) => {
                Err(SetupError::Refused(format!("{} is not a Sentinel: {}", dialogue.target(), said(error))))
            }
            _ => Ok(None),
        }
    }

    /// Logs in to what should be the master.
    async fn visit_master(&self, host: Host, limit: Duration) -> Result<Dialogue, SetupError> {
        let mut dialogue = self.open(Target::Tcp(host), limit).await?;
        self.settle(&mut dialogue).await?;
        let replies = dialogue.ask(&Request::of(&["ROLE"])).await?;
        match replies.first() {
            Some(Value::Array(role)) if role.first().and_then(text).is_some_and(|role| role != "master") => {
                Err(SetupError::Unreachable(format!("{} is not the master any more", dialogue.target())))
            }
            // Who may not ask has to believe the Sentinel.
            _ => Ok(dialogue),
        }
    }
}
