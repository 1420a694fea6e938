//! A Redis master, its replica, and three sentinels that watch them.

use std::net::Ipv4Addr;

use super::{RedisServer, Reply, wait_until};

const MASTER: &str = "mymaster";

/// A master and a replica under three sentinels, which notice a death after half a second.
#[derive(Debug)]
pub struct RedisSentinels {
    /// The two servers. The first one starts as the master.
    servers: [RedisServer; 2],
    sentinels: [RedisServer; 3],
}

impl Default for RedisSentinels {
    fn default() -> Self {
        Self::start(&[])
    }
}

impl RedisSentinels {
    /// Starts the servers with these options, then the sentinels, and waits until all know one another.
    #[must_use]
    pub fn start(args: &[&str]) -> Self {
        // The replica gets its data at once, not after the usual pause for more replicas to come.
        let servers =
            [(); 2].map(|()| RedisServer::setup().args(&["--repl-diskless-sync-delay", "0"]).args(args).start());
        let localhost = Ipv4Addr::LOCALHOST.to_string();
        let port = servers[0].port().to_string();
        servers[1].wire(0).call(&["REPLICAOF", &localhost, &port]);
        wait_until("the replica follows the master", || info(&servers[1], "master_link_status") == "up");
        let sentinels = [(); 3].map(|()| {
            let sentinel = RedisServer::setup().sentinel().start();
            let mut wire = sentinel.wire(0);
            wire.call(&["SENTINEL", "MONITOR", MASTER, &localhost, &port, "2"]);
            for (option, value) in
                [("down-after-milliseconds", "500"), ("failover-timeout", "3000"), ("parallel-syncs", "1")]
            {
                wire.call(&["SENTINEL", "SET", MASTER, option, value]);
            }
            sentinel
        });
        let group = Self { servers, sentinels };
        wait_until("the sentinels know the replica and one another", || {
            group.sentinels.iter().all(|sentinel| {
                let mut wire = sentinel.wire(0);
                wire.call(&["SENTINEL", "REPLICAS", MASTER]).items().len() == 1
                    && wire.call(&["SENTINEL", "SENTINELS", MASTER]).items().len() == 2
            })
        });
        group
    }

    /// Where database `db` of whoever is master is: `redis://mymaster,HOST:PORT,HOST:PORT,HOST:PORT/DB`.
    #[must_use]
    pub fn url(&self, db: u32) -> String {
        let addresses = self.sentinels.each_ref().map(|sentinel| format!("127.0.0.1:{}", sentinel.port()));
        format!("redis://{MASTER},{}/{db}", addresses.join(","))
    }

    /// The server that the sentinels take for the master now.
    ///
    /// # Panics
    ///
    /// If they name none of the servers.
    #[must_use]
    pub fn master(&self) -> &RedisServer {
        let named = self.sentinels[0].wire(0).call(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER]);
        let port = named.items().pop().map(Reply::text).expect("a port");
        self.servers
            .iter()
            .find(|server| server.port().to_string() == port)
            .unwrap_or_else(|| panic!("the sentinels name port {port}, which is no server's"))
    }

    /// Kills the master with SIGKILL. It does not wait for the successor.
    pub fn kill_master(&self) {
        self.master().kill();
    }

    /// Waits until a server other than the one on `old_port` is the master and takes writes.
    ///
    /// # Panics
    ///
    /// If that does not happen within 20 seconds.
    pub fn wait_for_successor(&self, old_port: u16) {
        wait_until("the sentinels choose a new master", || {
            self.master().port() != old_port && info(self.master(), "role") == "master"
        });
    }

    /// The servers, dead ones included.
    #[must_use]
    pub fn servers(&self) -> &[RedisServer; 2] {
        &self.servers
    }
}

/// A field of what the server tells about its replication.
fn info(server: &RedisServer, field: &str) -> String {
    let text = server.wire(0).call(&["INFO", "replication"]).text();
    text.lines()
        .find_map(|line| line.split_once(':').filter(|(name, _)| *name == field))
        .map(|(_, value)| value.trim().to_owned())
        .unwrap_or_default()
}
