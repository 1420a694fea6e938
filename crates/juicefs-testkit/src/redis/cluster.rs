//! A cluster of three Redis masters.

use super::{RedisServer, Reply, free_port, wait_until};

/// How many slots every Redis cluster has.
const SLOTS: u16 = 16384;

/// Three masters without replicas, each with a third of the slots.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<RedisServer>,
    /// Names that the nodes know one another by.
    ids: Vec<String>,
}

impl Default for RedisCluster {
    fn default() -> Self {
        Self::start(&[])
    }
}

impl RedisCluster {
    /// Starts the nodes with these options, deals out the slots and waits until every node finds the cluster in order.
    #[must_use]
    pub fn start(args: &[&str]) -> Self {
        let nodes: Vec<RedisServer> = (0..3).map(|_| start_node(args)).collect();
        let ids = nodes.iter().map(|node| node.wire(0).call(&["CLUSTER", "MYID"]).text()).collect();
        let share = SLOTS.div_ceil(nodes.len() as u16);
        for (n, node) in nodes.iter().enumerate() {
            let mut wire = node.wire(0);
            // Nodes of one and the same epoch would first have to argue about it.
            wire.call(&["CLUSTER", "SET-CONFIG-EPOCH", &(n + 1).to_string()]);
            let (from, to) = (n as u16 * share, ((n as u16 + 1) * share).min(SLOTS) - 1);
            wire.call(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()]);
        }
        for node in &nodes[1..] {
            let mut wire = nodes[0].wire(0);
            let bus = wire_config(node, "cluster-port");
            wire.call(&["CLUSTER", "MEET", "127.0.0.1", &node.port().to_string(), &bus]);
        }
        let cluster = Self { nodes, ids };
        wait_until("all nodes find the cluster in order", || {
            cluster.nodes.iter().all(|node| {
                let info = node.wire(0).call(&["CLUSTER", "INFO"]).text();
                info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
            })
        });
        cluster
    }

    /// Where volume `db` of the cluster is: `redis://HOST:PORT,HOST:PORT,HOST:PORT/DB`.
    #[must_use]
    pub fn url(&self, db: u32) -> String {
        let addresses: Vec<String> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        format!("redis://{}/{db}", addresses.join(","))
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> &[RedisServer] {
        &self.nodes
    }

    /// Adds a replica of a node, and returns when it is up to date and the others know it.
    #[must_use]
    pub fn add_replica(&self, of: usize) -> RedisServer {
        let replica = start_node(&[]);
        let bus = wire_config(&replica, "cluster-port");
        self.nodes[of].wire(0).call(&["CLUSTER", "MEET", "127.0.0.1", &replica.port().to_string(), &bus]);
        let mut wire = replica.wire(0);
        wait_until("the replica knows its master", || wire.call(&["CLUSTER", "NODES"]).text().contains(&self.ids[of]));
        wire.call(&["CLUSTER", "REPLICATE", &self.ids[of]]);
        wait_until("the replica is up to date", || {
            wire.call(&["INFO", "replication"]).text().contains("master_link_status:up")
        });
        // Nodes name a replica only once it has received something, be it a ping.
        self.nodes[of].wire(0).call(&["CONFIG", "SET", "repl-ping-replica-period", "1"]);
        let port = i64::from(replica.port());
        wait_until("all nodes name the replica", || {
            self.nodes.iter().all(|node| {
                let ranges = node.wire(0).call(&["CLUSTER", "SLOTS"]).items();
                ranges
                    .into_iter()
                    .flat_map(|range| range.items().split_off(3))
                    .any(|node| matches!(node.items().get(1), Some(told) if told.clone().int() == port))
            })
        });
        replica
    }

    /// The slot of a key, as the hash tag says: volume `db` lives in the slot of `{db}`.
    #[must_use]
    pub fn slot_of(&self, key: &str) -> u16 {
        self.nodes[0].wire(0).call(&["CLUSTER", "KEYSLOT", key]).int() as u16
    }

    /// The index of the node that serves a slot.
    ///
    /// # Panics
    ///
    /// If none does.
    #[must_use]
    pub fn owner(&self, slot: u16) -> usize {
        // Each node is believed about itself only: what it knows of the others arrives by gossip.
        self.nodes
            .iter()
            .zip(&self.ids)
            .position(|(node, id)| {
                let ranges = node.wire(0).call(&["CLUSTER", "SLOTS"]).items();
                ranges.into_iter().map(Reply::items).any(|range| {
                    let (from, to) = (range[0].clone().int() as u16, range[1].clone().int() as u16);
                    (from..=to).contains(&slot) && range[2].clone().items()[2].clone().text() == *id
                })
            })
            .unwrap_or_else(|| panic!("no node serves slot {slot}"))
    }

    /// Moves a slot with all its keys to node `to`, and returns when all nodes know.
    pub fn move_slot(&self, slot: u16, to: usize) {
        let mut moving = self.begin_move(slot, to);
        while moving.move_keys(20) > 0 {}
        moving.finish();
    }

    /// Begins to move a slot. Its owner says ASK about keys that it no longer has, and `to` serves those who ask.
    ///
    /// # Panics
    ///
    /// If `to` serves the slot already.
    #[must_use]
    pub fn begin_move(&self, slot: u16, to: usize) -> SlotMove<'_> {
        let from = self.owner(slot);
        assert_ne!(from, to, "slot {slot} is there already");
        let slot = slot.to_string();
        self.nodes[to].wire(0).call(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &self.ids[from]]);
        self.nodes[from].wire(0).call(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &self.ids[to]]);
        SlotMove { cluster: self, slot, from, to }
    }
}

/// A slot on its way from one node to another.
#[derive(Debug)]
pub struct SlotMove<'a> {
    cluster: &'a RedisCluster,
    slot: String,
    from: usize,
    to: usize,
}

impl SlotMove<'_> {
    /// Moves up to `most` keys. Returns how many there were to move.
    pub fn move_keys(&mut self, most: usize) -> usize {
        let mut from = self.cluster.nodes[self.from].wire(0);
        let keys = from.call(&["CLUSTER", "GETKEYSINSLOT", &self.slot, &most.to_string()]).items();
        if keys.is_empty() {
            return 0;
        }
        let port = self.cluster.nodes[self.to].port().to_string();
        let mut command: Vec<Vec<u8>> =
            ["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"].map(|word| word.as_bytes().to_vec()).into();
        let found = keys.len();
        command.extend(keys.into_iter().map(Reply::bytes));
        from.call(&command);
        found
    }

    /// Moves the keys that are left, gives the slot to its new owner and waits until every node knows.
    pub fn finish(mut self) {
        while self.move_keys(100) > 0 {}
        let (cluster, to) = (self.cluster, self.to);
        // The new owner first: were the old one first to let go, nobody would serve the slot for a moment.
        for node in [to, self.from].into_iter().chain((0..cluster.nodes.len()).filter(|n| *n != to && *n != self.from))
        {
            cluster.nodes[node].wire(0).call(&["CLUSTER", "SETSLOT", &self.slot, "NODE", &cluster.ids[to]]);
        }
        let slot = self.slot.parse().expect("a slot's number");
        wait_until("the slot has its new owner", || cluster.owner(slot) == to);
    }
}

fn start_node(args: &[&str]) -> RedisServer {
    // By default the bus takes the port 10000 above, which may be another's or beyond the last.
    let bus = free_port().to_string();
    RedisServer::setup()
        .args(&["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "2000"])
        .args(args)
        .start()
}

fn wire_config(node: &RedisServer, option: &str) -> String {
    let mut pair = node.wire(0).call(&["CONFIG", "GET", option]).items();
    pair.pop().map(Reply::text).unwrap_or_else(|| panic!("the server knows no option {option}"))
}
