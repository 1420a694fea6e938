//! Two clients, the processes that use them, and what is known of the volume between rounds.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use juicefs_core::{Clock, FileType, Ino, Meta, MetaError, MetaResult, SessionId, Timestamp};
use juicefs_meta::{Client, ClientConfig, Engine};
use juicefs_testkit::clock::TestClock;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::runtime::Handle;

use super::{
    observe::Observation,
    op::{Aliases, Answer, Call, Op, Reply, take_apart},
    process::{Process, Targets},
    search::explain,
    state::State,
};
use crate::{
    invariants, leaks,
    snapshot::Snapshot,
    volume::{Home, START_SECS, Volume, config, format, root},
};

/// Processes of each client.
const PROCESSES: usize = 2;
/// Most calls of a process in a round.
const MOST_CALLS: usize = 3;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    pub(crate) seed: u64,
    /// Whether calls may end without an answer.
    pub(crate) may_fail: bool,
    /// Whether a third client looks at what came of a round, past the faults that the two meet.
    pub(crate) looks_past: bool,
}

/// What was seen so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Told {
    pub(crate) rounds: usize,
    pub(crate) calls: usize,
    /// Calls that were under way together with one of another process.
    pub(crate) overlaps: usize,
    pub(crate) refusals: usize,
    pub(crate) unanswered: usize,
}

pub(crate) struct Arena {
    volume: Volume,
    handles: [Handle; 2],
    clients: [Arc<Client>; 2],
    sessions: [SessionId; 2],
    processes: Vec<Process>,
    state: State,
    aliases: Aliases,
    rng: StdRng,
    options: Options,
    told: Told,
    /// The two directories that are moved about.
    movable: Vec<Ino>,
}

impl Arena {
    /// Two clients of a new volume, each on its own engine and threads.
    pub(crate) async fn new(
        home: Home,
        handles: [Handle; 2],
        engine: impl Fn(&Home, usize) -> Arc<dyn Engine>,
        options: Options,
    ) -> Self {
        let volume = Volume::at(home, &format(0)).await;
        // The root of a new volume has no statistics. Two clients that count it for the first time at once, each with
        // changes still to be added, would count those twice.
        volume.mkdir(Ino::ROOT, "first").await;
        volume.client.flush_stats().await.expect("flushed");
        volume.client.rmdir(&root(), Ino::ROOT, b"first", true).await.expect("removed");
        volume.client.flush_stats().await.expect("flushed");
        // It moves with every look, as time does: two changes of one node never leave the same times behind.
        let clock = TestClock::at(START_SECS);
        let mut clients = Vec::new();
        let mut sessions = Vec::new();
        for (number, handle) in handles.iter().enumerate() {
            let engine = {
                let _inside = handle.enter();
                engine(&volume.home, number)
            };
            let config = ClientConfig { clock: Arc::clone(&clock) as Arc<dyn Clock>, ..config(&volume.clock) };
            let opening = handle.spawn(async move {
                let client = Client::open(engine, config).await.expect("opened");
                let session = client.new_session(Bytes::from_static(b"{}")).await.expect("a session");
                (client, session)
            });
            let (client, session) = opening.await.expect("opened");
            clients.push(client);
            sessions.push(session);
        }
        let process = |number| Process {
            client: number / PROCESSES,
            number,
            rng: StdRng::seed_from_u64(options.seed.wrapping_add(1 + number as u64)),
            handles: vec![],
        };
        Self {
            volume,
            handles,
            clients: clients.try_into().expect("two clients"),
            sessions: sessions.try_into().expect("two sessions"),
            processes: (0..2 * PROCESSES).map(process).collect(),
            state: State::new(),
            aliases: Aliases::default(),
            rng: StdRng::seed_from_u64(options.seed),
            options,
            told: Told::default(),
            movable: vec![],
        }
    }

    /// One round: the tree gets what it lacks, everybody does a few calls, and an explanation is looked for.
    pub(crate) async fn round(&mut self) {
        self.told.rounds += 1;
        self.refill().await;
        let targets = self.targets();
        let gate = Arc::new(AtomicUsize::new(0));
        let count = self.processes.len();
        let mut running = Vec::new();
        for mut process in std::mem::take(&mut self.processes) {
            let (client, targets) = (Arc::clone(&self.clients[process.client]), targets.clone());
            let (aliases, gate) = (self.aliases.clone(), Arc::clone(&gate));
            let calls = self.rng.random_range(0..=MOST_CALLS);
            running.push(self.handles[process.client].spawn(async move {
                // All start together, or the first would be done before the last begins.
                gate.fetch_add(1, Ordering::AcqRel);
                while gate.load(Ordering::Acquire) < count {
                    std::thread::yield_now();
                    tokio::task::yield_now().await;
                }
                let made = process.run(client, targets, calls, aliases).await;
                (process, made)
            }));
        }
        let mut calls = Vec::new();
        for task in running {
            let (process, made) = task.await.expect("a process that ends well");
            self.processes.push(process);
            calls.extend(made);
        }
        self.count(&calls);
        self.judge(calls).await;
    }

    fn count(&mut self, calls: &[Call]) {
        self.told.calls += calls.len();
        let overlaps = |call: &&Call| {
            let other =
                |other: &Call| other.process != call.process && other.begun < call.ended && call.begun < other.ended;
            calls.iter().any(other)
        };
        self.told.overlaps += calls.iter().filter(overlaps).count();
        self.told.refusals += calls.iter().filter(|call| matches!(call.answer, Answer::Errno(_))).count();
        let unanswered = calls.iter().filter(|call| matches!(call.answer, Answer::Unknown(_))).count();
        self.told.unanswered += unanswered;
        assert!(self.options.may_fail || unanswered == 0, "calls without an answer: {calls:#?}");
    }

    /// Looks for an order that explains the calls and what the volume shows now.
    async fn judge(&mut self, calls: Vec<Call>) {
        let calls = take_apart(calls);
        let made = calls.iter().filter_map(|call| match call.answer {
            Answer::Ok(Reply::Ino(ino) | Reply::Found(ino, _)) => Some(ino),
            _ => None,
        });
        let known: Vec<Ino> = self.state.numbers().chain(made).collect();
        let client = self.observer();
        let seen = settled(|| Observation::take(client, self.sessions, known.iter().copied(), &self.aliases)).await;
        match explain(&self.state, &calls, &seen) {
            Ok(state) => self.state = state,
            Err(why) => {
                let first = calls.iter().map(|call| call.begun).min();
                for call in &calls {
                    let at = first.map(|first| (call.begun - first, call.ended - first));
                    println!(
                        "client {} process {} {at:?}: {:?} -> {:?}",
                        call.client, call.process, call.op, call.answer
                    );
                }
                println!("before:\n{}afterwards:\n{seen}", self.state);
                panic!("round {} of seed {} has no serial order: {why:#?}", self.told.rounds, self.options.seed);
            }
        }
        self.state.forget_gone();
    }

    fn observer(&self) -> &Client {
        if self.options.looks_past { &self.volume.client } else { &self.clients[self.told.rounds % 2] }
    }

    fn targets(&self) -> Targets {
        let movable = self.movable.iter().copied().chain([Ino::ROOT]).collect();
        let known = self.state.numbers();
        let dirs = self.state.dirs();
        // Some that are gone are among them.
        let files = known.filter(|ino| !dirs.contains(ino) && !self.movable.contains(ino)).collect();
        Targets { dirs, movable, files }
    }

    /// Makes up for directories that move, and for files, when they are gone. Nobody else calls meanwhile.
    async fn refill(&mut self) {
        let dirs = self.state.dirs();
        self.movable.retain(|dir| dirs.contains(dir));
        let free = |name: &&str, state: &State| !state.names_in_root().contains(*name);
        while self.movable.len() < 2 {
            let Some(name) = ["a", "b", "f", "g"].into_iter().find(|name| free(name, &self.state)) else { break };
            let made = self.alone(Op::Mkdir { dir: Ino::ROOT, name }).await;
            let Answer::Ok(Reply::Found(ino, _)) = made else { break };
            self.movable.push(ino);
        }
        if self.state.files().len() < 2
            && let Some(name) = ["f", "g", "a", "b"].into_iter().find(|name| free(name, &self.state))
        {
            self.alone(Op::Create { dir: Ino::ROOT, name, exclusive: true }).await;
        }
    }

    /// A call that nobody disturbs.
    async fn alone(&mut self, op: Op) -> Answer {
        let process = self.told.rounds % self.processes.len();
        let client = Arc::clone(&self.clients[self.processes[process].client]);
        let call = self.processes[process].perform(&client, op, &self.aliases).await;
        let answer = call.answer.clone();
        self.count(std::slice::from_ref(&call));
        self.judge(vec![call]).await;
        answer
    }

    /// Deletes what is to be deleted, and checks all records.
    pub(crate) async fn check_records(&mut self) {
        let far = Timestamp::from_secs(i64::MAX / 2);
        let client = self.observer();
        let freed = settled(|| client.deleted_files(far, 100_000)).await;
        for file in freed {
            settled(|| client.delete_file_data(file)).await;
        }
        for slice in settled(|| client.dead_slices(100_000)).await {
            settled(|| client.forget_slice(slice)).await;
        }
        for client in &self.clients {
            settled(|| client.flush_stats()).await;
        }
        let all = Snapshot::take(self.volume.engine.as_ref()).await;
        invariants::check(&all);
        leaks::check(&self.volume.home, &all);
        assert!(all.slice_refs.values().all(|count| *count > 0), "dead slices are reported and forgotten");
        assert!(all.del_files.is_empty(), "removed files are reported and their data deleted");
    }

    /// Ends both sessions: nothing may be left that only they held.
    pub(crate) async fn finish(mut self) -> Told {
        for process in &mut self.processes {
            for ino in std::mem::take(&mut process.handles) {
                let client = &self.clients[process.client];
                // Freeing may have to be left to the end of the session.
                if let Err(error) = client.close(ino).await {
                    assert!(self.options.may_fail, "closing {ino}: {error}");
                }
            }
        }
        self.check_records().await;
        for client in &self.clients {
            settled(|| client.close_session()).await;
        }
        self.check_records().await;
        let all = Snapshot::take(self.volume.engine.as_ref()).await;
        assert!(all.sustained.is_empty());
        assert!(all.nodes.values().all(|attr| attr.nlink > 0 || attr.kind != FileType::File));
        self.told
    }
}

/// Looks, or tidies up, as often as it takes: what is in the way then is not what is tested.
async fn settled<T, F: Future<Output = MetaResult<T>>>(what: impl Fn() -> F) -> T {
    let mut tries = 0;
    loop {
        match what().await {
            Ok(done) => return done,
            Err(MetaError::Unavailable(_)) if tries < 100 => {
                tries += 1;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}
