//! Finding the node of a cluster that has the slot of the volume. All keys have the same hash tag, thus one slot.

use std::time::Duration;

use redis::Value;

use super::{CANDIDATE_TIMEOUT, Scout, text};
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
    /// The owner of the slot, as the first node to answer says.
    pub(super) async fn owner(&self, limit: Duration) -> Result<Dialogue, SetupError> {
        let mut failure = SetupError::Unreachable("there are no nodes".to_owned());
        for node in self.candidates() {
            match self.owner_by_way_of(node.clone(), limit).await {
                Ok(dialogue) => return Ok(dialogue),
                Err(error) => {
                    self.demote(&node);
                    failure = error;
                }
            }
        }
        Err(failure)
    }

    async fn owner_by_way_of(&self, node: Host, limit: Duration) -> Result<Dialogue, SetupError> {
        let mut dialogue = self.open(Target::Tcp(node), limit.min(CANDIDATE_TIMEOUT)).await?;
        self.settle(&mut dialogue).await?;
        self.owner_known_by(dialogue, limit).await
    }

    /// A connection to the owner of the slot as a node sees it, which may be that node.
    pub(super) async fn owner_known_by(&self, mut dialogue: Dialogue, limit: Duration) -> Result<Dialogue, SetupError> {
        let tag = format!("{{{}}}", self.address.database());
        let mut question = Request::of(&["CLUSTER", "KEYSLOT", &tag]);
        question.command(&["CLUSTER", "SLOTS"]);
        let replies = dialogue.ask(&question).await?;
        let (slot, ranges) = match &replies[..] {
            [Value::Int(slot), Value::Array(ranges)] => (*slot, ranges),
            [Value::ServerError(error), ..] | [_, Value::ServerError(error)] => {
                return Err(SetupError::Unreachable(format!(
                    "{} does not tell its slots: {}",
                    dialogue.target(),
                    said(error)
                )));
            }
            _ => return Err(SetupError::Unreachable(format!("{} does not tell its slots", dialogue.target()))),
        };
        let asked = match dialogue.target() {
            Target::Tcp(host) => host.clone(),
            Target::Socket(path) => {
                return Err(SetupError::Refused(format!(
                    "{} is a node of a cluster, which can only be used by redis://host:port",
                    path.display()
                )));
            }
        };
        let ranges: Vec<_> = ranges.iter().filter_map(|range| Range::read(range, &asked)).collect();
        let holders = ranges.iter().find(|range| (range.first..=range.last).contains(&slot));
        let holders = holders.map(|range| (range.owner.clone(), range.replicas.clone()));
        self.remember(ranges);
        let Some((owner, replicas)) = holders else {
            return Err(SetupError::Unreachable(format!("slot {slot} of the cluster is nobody's at the moment")));
        };
        if let Some(route) = self.route()
            && let Some(replica) = self.node_to_read(route, &owner, replicas, limit).await
        {
            return Ok(replica);
        }
        if owner == asked {
            return Ok(dialogue);
        }
        self.visit(owner, limit).await
    }

    /// Adds nodes that the URL does not name to those that can be asked.
    fn remember(&self, ranges: Vec<Range>) {
        let mut candidates = self.candidates.lock();
        for host in ranges.into_iter().flat_map(|range| [vec![range.owner], range.replicas]).flatten() {
            if candidates.len() < MAX_CANDIDATES && !candidates.contains(&host) {
                candidates.push(host);
            }
        }
    }
}

/// More are of no use, when all these are away.
const MAX_CANDIDATES: usize = 16;

/// A range of slots, and who has it.
struct Range {
    first: i64,
    last: i64,
    owner: Host,
    replicas: Vec<Host>,
}

impl Range {
    /// From `[first, last, [host, port, ...], [replica host, port, ...], ...]`.
    fn read(value: &Value, asked: &Host) -> Option<Self> {
        let Value::Array(parts) = value else { return None };
        let [Value::Int(first), Value::Int(last), nodes @ ..] = &parts[..] else { return None };
        let mut nodes = nodes.iter().filter_map(|node| host(node, asked));
        let owner = nodes.next()?;
        Some(Self { first: *first, last: *last, owner, replicas: nodes.collect() })
    }
}

/// A node without a name of its own has that of the one that was asked.
fn host(node: &Value, asked: &Host) -> Option<Host> {
    let Value::Array(parts) = node else { return None };
    let [name, Value::Int(port), ..] = &parts[..] else { return None };
    let name = text(name).filter(|name| !name.is_empty() && name != "?").unwrap_or_else(|| asked.name.clone());
    Some(Host { name, port: u16::try_from(*port).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    #[test]
    fn ranges_name_owner_and_replicas() {
        let asked = Host { name: "seed".to_owned(), port: 7000 };
        let node = |name, port| Value::Array(vec![name, Value::Int(port), bulk("id")]);
        let range = Value::Array(vec![
            Value::Int(0),
            Value::Int(5460),
            node(Value::Nil, 7001),
            node(bulk("10.0.0.2"), 7002),
            node(bulk(""), 7003),
        ]);
        let range = Range::read(&range, &asked).expect("a range");
        assert_eq!((range.first, range.last), (0, 5460));
        assert_eq!(range.owner.to_string(), "seed:7001");
        let replicas: Vec<_> = range.replicas.iter().map(ToString::to_string).collect();
        assert_eq!(replicas, ["10.0.0.2:7002", "seed:7003"]);
        assert!(Range::read(&Value::Array(vec![Value::Int(0), Value::Int(1)]), &asked).is_none());
    }
}
