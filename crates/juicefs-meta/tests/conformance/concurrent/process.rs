//! One caller: it chooses what to do, does it, and remembers what it holds open.

use std::sync::Arc;

use juicefs_core::{Ino, Meta};
use juicefs_meta::Client;
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

use super::op::{Aliases, Answer, Call, Op, RenameKind, Reply, perform};

/// Names of everything; directories that move have the first ones, those that stay the last.
const NAMES: [&str; 4] = ["a", "b", "f", "g"];
pub(crate) const PLAIN_DIR: &str = "m";
/// Units that files have at most.
const UNITS: usize = 6;

/// What callers may aim at in a round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Targets {
    /// All directories.
    pub(crate) dirs: Vec<Ino>,
    /// The root and the directories that are moved. Only into these is anything moved, which keeps cycles so short that
    /// a rename sees them; longer ones are for the kernel to find.
    pub(crate) movable: Vec<Ino>,
    pub(crate) files: Vec<Ino>,
}

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) client: usize,
    pub(crate) number: usize,
    pub(crate) rng: StdRng,
    /// Files it has open.
    pub(crate) handles: Vec<Ino>,
}

impl Process {
    /// Does some calls, one after the other.
    pub(crate) async fn run(
        &mut self,
        client: Arc<Client>,
        mut targets: Targets,
        calls: usize,
        aliases: Aliases,
    ) -> Vec<Call> {
        let mut made = Vec::new();
        for _ in 0..calls {
            let Some(op) = self.choose(&client, &targets).await else { continue };
            let call = self.perform(&client, op, &aliases).await;
            if let Answer::Ok(Reply::Ino(ino)) = &call.answer {
                // What it has just made is what it likes best.
                targets.files.extend([*ino; 3]);
            }
            made.push(call);
        }
        made
    }

    pub(crate) async fn perform(&mut self, client: &Client, op: Op, aliases: &Aliases) -> Call {
        if let Op::Close { ino } = op
            && let Some(at) = self.handles.iter().position(|open| *open == ino)
        {
            self.handles.swap_remove(at);
        }
        let call = perform(client, (self.client, self.number), op, aliases).await;
        if let (Op::Create { .. } | Op::Open { .. }, Answer::Ok(Reply::Ino(ino))) = (&call.op, &call.answer) {
            self.handles.push(*ino);
        }
        call
    }

    fn name(&mut self) -> &'static str {
        NAMES.choose(&mut self.rng).copied().expect("a name")
    }

    fn of(&mut self, inodes: &[Ino]) -> Ino {
        // There is always the root, of which nobody minds that it is no file.
        inodes.choose(&mut self.rng).copied().unwrap_or(Ino::ROOT)
    }

    async fn choose(&mut self, client: &Client, targets: &Targets) -> Option<Op> {
        if self.rng.random_range(0..10) < 6 {
            return Some(self.choose_name(targets));
        }
        if self.handles.len() > 3 {
            return self.handles.choose(&mut self.rng).map(|ino| Op::Close { ino: *ino });
        }
        let ino = self.of(&targets.files);
        let (at, len) = (self.rng.random_range(0..UNITS / 2), self.rng.random_range(1..=UNITS / 2));
        Some(match self.rng.random_range(0..20) {
            0..=1 => Op::Append { ino, slice: client.new_slice_id().await.ok()?.0 },
            2..=4 => Op::Write { ino, at, len, slice: client.new_slice_id().await.ok()?.0 },
            5..=6 => Op::Truncate { ino, length: self.rng.random_range(0..UNITS) },
            7 => Op::Punch { ino, at, len },
            8 => {
                let (to, to_at) = (self.of(&targets.files), self.rng.random_range(0..UNITS / 2));
                Op::Copy { from: ino, from_at: at, to, to_at, len }
            }
            9..=10 => Op::Chmod { ino, mode: 0o600 + self.rng.random_range(0..0o100) },
            11 => Op::SetXattr { ino, value: self.rng.random_bool(0.7).then(|| self.rng.random()) },
            12 => Op::Compact { ino },
            13..=15 => Op::Open { ino },
            16 => Op::Getattr { ino },
            17 => Op::Read { ino },
            _ => Op::Close { ino: self.handles.choose(&mut self.rng).copied()? },
        })
        .filter(|op| !is_aimed_at_root(op))
    }

    fn choose_name(&mut self, targets: &Targets) -> Op {
        let (dir, name) = (self.of(&targets.dirs), self.name());
        match self.rng.random_range(0..24) {
            0 => Op::Mkdir { dir: self.of(&targets.movable), name: PLAIN_DIR },
            1..=5 => Op::Create { dir, name, exclusive: self.rng.random_bool(0.5) },
            6..=9 => Op::Unlink { dir, name },
            10 => Op::Rmdir { dir, name: PLAIN_DIR },
            11..=12 => Op::Rmdir { dir, name },
            13..=18 => {
                let kinds = [RenameKind::Plain, RenameKind::Plain, RenameKind::NoReplace, RenameKind::Exchange];
                let kind = kinds.choose(&mut self.rng).copied().expect("a kind");
                let (to, new_name) = (self.of(&targets.movable), self.name());
                // A swap moves into both.
                let dir = if kind == RenameKind::Exchange { self.of(&targets.movable) } else { dir };
                Op::Rename { from: (dir, name), to: (to, new_name), kind }
            }
            19..=20 => Op::Link { ino: self.of(&targets.files), dir, name },
            21..=22 => Op::Lookup { dir, name },
            _ => Op::Readdir { dir },
        }
    }
}

/// A root that came in for want of a file.
fn is_aimed_at_root(op: &Op) -> bool {
    matches!(op, Op::Open { ino } | Op::Chmod { ino, .. } | Op::SetXattr { ino, .. } if *ino == Ino::ROOT)
}
