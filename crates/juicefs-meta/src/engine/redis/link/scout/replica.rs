//! Reading from a replica (URL option `route-read`): for clients that never write, with Sentinels or in a cluster. What a
//! replica says may be older than what the master would.

use std::time::Duration;

use rand::seq::SliceRandom;
use redis::Value;
use tokio::time::Instant;

use super::{Scout, text};
use crate::engine::redis::{
    address::{Host, ReplicaRoute},
    link::{dialogue::Dialogue, request::Request, stream::Target, trouble::SetupError},
};

/// A replica that has not heard from its master for longer is not read from.
const MASTER_SILENCE_SECS: i64 = 10;

impl Scout {
    /// How to choose among the servers that have the volume; `None`: the master is the one.
    pub(super) fn route(&self) -> Option<ReplicaRoute> {
        self.address.options().route_read.filter(|_| self.read_only)
    }

    /// The first of `replicas` that is fit to be read from, in random order; `None` when there is none.
    pub(super) async fn any_replica(&self, mut replicas: Vec<Host>, limit: Duration) -> Option<Dialogue> {
        replicas.shuffle(&mut rand::rng());
        for host in replicas {
            match self.visit_replica(host.clone(), limit).await {
                Ok(dialogue) => return Some(dialogue),
                Err(error) => tracing::info!("replica {host} is of no use: {error}"),
            }
        }
        None
    }

    /// Logs in to a replica that is up to date.
    async fn visit_replica(&self, host: Host, limit: Duration) -> Result<Dialogue, SetupError> {
        let mut dialogue = self.open(Target::Tcp(host), limit).await?;
        self.settle(&mut dialogue).await?;
        let mut question = Request::of(&["INFO", "replication"]);
        if self.server().is_some_and(|server| server.cluster) {
            question.command(&["READONLY"]);
        }
        let replies = dialogue.ask(&question).await?;
        let told = replies.first().and_then(text).unwrap_or_default();
        let field = |name: &str| told.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let silent_secs = field("master_last_io_seconds_ago:").and_then(|secs| secs.parse().ok()).unwrap_or(i64::MAX);
        match (field("role:"), field("master_link_status:")) {
            (Some("slave"), Some("up")) if silent_secs <= MASTER_SILENCE_SECS => Ok(dialogue),
            (Some("slave"), _) => Err(SetupError::Unreachable("it has lost its master".to_owned())),
            _ => Err(SetupError::Unreachable("it is no replica".to_owned())),
        }
    }

    /// Of several servers, the one that answers fastest.
    async fn nearest(&self, hosts: Vec<Host>, limit: Duration) -> Option<Host> {
        let mut nearest: Option<(Duration, Host)> = None;
        for host in hosts {
            let Ok(mut dialogue) = self.visit(host.clone(), limit).await else { continue };
            let asked = Instant::now();
            if dialogue.ask(&Request::of(&["PING"])).await.is_ok() {
                let took = asked.elapsed();
                if nearest.as_ref().is_none_or(|(least, _)| took < *least) {
                    nearest = Some((took, host));
                }
            }
        }
        nearest.map(|(_, host)| host)
    }

    /// The node of a cluster to read from, by the option; `None` when it is the owner.
    pub(super) async fn node_to_read(
        &self,
        route: ReplicaRoute,
        owner: &Host,
        replicas: Vec<Host>,
        limit: Duration,
    ) -> Option<Dialogue> {
        match route {
            ReplicaRoute::Replica => self.any_replica(replicas, limit).await,
            ReplicaRoute::Random => {
                let choice = rand::random_range(0..=replicas.len());
                if choice == replicas.len() { None } else { self.any_replica(replicas, limit).await }
            }
            ReplicaRoute::Latency => {
                let mut hosts = replicas;
                hosts.push(owner.clone());
                let nearest = self.nearest(hosts, limit).await.filter(|host| host != owner)?;
                self.any_replica(vec![nearest], limit).await
            }
        }
    }
}

/// The replicas in a Sentinel's reply that it takes for alive.
pub(super) fn replicas_told(reply: &Value) -> Vec<Host> {
    let Value::Array(replicas) = reply else { return Vec::new() };
    let host = |replica: &Value| {
        let Value::Array(parts) = replica else { return None };
        let field = |name: &str| {
            let pair = parts.chunks_exact(2).find(|pair| text(&pair[0]).as_deref() == Some(name))?;
            text(&pair[1])
        };
        let flags = field("flags")?;
        let away = flags.split(',').any(|flag| matches!(flag, "s_down" | "o_down" | "disconnected"));
        if away { None } else { Some(Host { name: field("ip")?, port: field("port")?.parse().ok()? }) }
    };
    replicas.iter().filter_map(host).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_that_are_away_are_left_out() {
        let replica = |ip: &str, port: &str, flags: &str| {
            let fields = ["name", "x", "ip", ip, "port", port, "flags", flags];
            Value::Array(fields.iter().map(|field| Value::BulkString((*field).into())).collect())
        };
        let told = Value::Array(vec![
            replica("10.0.0.1", "6379", "slave"),
            replica("10.0.0.2", "6379", "s_down,slave,disconnected"),
            replica("10.0.0.3", "x", "slave"),
        ]);
        let hosts: Vec<_> = replicas_told(&told).iter().map(ToString::to_string).collect();
        assert_eq!(hosts, ["10.0.0.1:6379"]);
        assert!(replicas_told(&Value::Nil).is_empty());
    }
}
