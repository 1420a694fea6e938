//! Whoever has the connection, and what is done with it.

use std::{sync::Arc, time::Instant};

use super::{
    Bound, Pending, Shared, Task, Writer,
    transaction::{self, Slot, Slots},
};
use crate::engine::sql::sqlite::link::{Fault, Link};

/// The right to use the connection; ends with the value.
pub(super) struct Turn<'shared> {
    pub(super) shared: &'shared Arc<Shared>,
    /// Always there until the turn ends.
    pub(super) writer: Option<Box<Writer>>,
}

/// How far a turn came.
pub(super) enum Progress {
    Made,
    /// Another client holds the lock.
    Busy,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(link) = self.writer.as_ref().and_then(|writer| writer.link.as_ref()) {
            // Only a panic leaves a transaction open.
            link.rollback();
        }
        let mut state = self.shared.state.lock();
        state.courtesy.released(Instant::now());
        state.writer = self.writer.take();
        state.wanted |= !state.queue.is_empty();
        if state.wanted || state.pausing || state.closed {
            drop(state);
            self.shared.wake.notify_all();
        }
    }
}

impl Turn<'_> {
    /// Serves the front of the queue, gives the connection back and answers.
    pub(super) fn next(mut self, bound: Bound) -> Progress {
        let Some(task) = self.shared.state.lock().queue.pop_front() else { return Progress::Made };
        match task {
            Task::Run(pending) => {
                let mut slots = self.transact(pending, bound);
                let progress = self.requeue(&mut slots);
                drop(self);
                slots.into_iter().for_each(|slot| drop(slot.finish()));
                progress
            }
            Task::Tables(change) => {
                let shared = self.shared;
                let link = self.link(change.create);
                match link.and_then(|link| (change.work)(&shared.database, link)) {
                    Err(Fault::Busy) => {
                        let mut state = shared.state.lock();
                        state.courtesy.contended(Instant::now());
                        state.queue.push_front(Task::Tables(change));
                        Progress::Busy
                    }
                    outcome => {
                        drop(self);
                        drop(change.reply.send(outcome.map_err(Fault::into_error)));
                        Progress::Made
                    }
                }
            }
        }
    }

    fn writer(&mut self) -> &mut Writer {
        self.writer.as_mut().expect("invariant: a turn has the connection until it ends")
    }

    /// The connection, opened if it is not.
    pub(super) fn link(&mut self, create: bool) -> Result<&mut Link, Fault> {
        let shared = self.shared;
        let Writer { link, gauge } = self.writer();
        if link.is_none() {
            let opened = shared.database.open_writer(create)?;
            gauge.watch(&opened.conn);
            *link = Some(opened);
        }
        Ok(link.as_mut().expect("invariant: it was opened just now"))
    }

    /// Runs an operation and what else is queued in one transaction.
    pub(super) fn transact(&mut self, first: Pending, bound: Bound) -> Slots {
        let shared = self.shared;
        let mut slots = Slots::new();
        slots.push(Slot::new(first));
        let started = Instant::now();
        let ready = self.link(false).and_then(|link| shared.database.ready(link).map(|()| link));
        let healthy = match ready {
            Ok(link) => transaction::run(link, &mut slots, |slots| {
                if slots.len() < bound.ops && started.elapsed() < bound.time {
                    shared.join(slots, bound.ops);
                }
            }),
            Err(fault) => {
                transaction::fail(&mut slots, fault);
                true
            }
        };
        if slots.iter().any(Slot::is_out_of_space) {
            self.writer().gauge.call();
        }
        if !healthy {
            // A fresh connection is the better start after a failure of SQLite itself.
            self.writer().link = None;
            shared.database.forget();
        }
        slots
    }

    /// Puts the operations that did not run, because another client holds the lock, back to the front of the queue.
    pub(super) fn requeue(&mut self, slots: &mut Slots) -> Progress {
        if slots.iter().all(Slot::is_done) {
            return Progress::Made;
        }
        let (done, unrun): (Slots, Slots) = std::mem::take(slots).into_iter().partition(Slot::is_done);
        *slots = done;
        let mut state = self.shared.state.lock();
        state.courtesy.contended(Instant::now());
        for slot in unrun.into_iter().rev() {
            state.queue.push_front(Task::Run(slot.into_pending()));
        }
        Progress::Busy
    }
}
