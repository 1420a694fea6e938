//! Every operation that may wait for a cache disk passes a gate, where it is counted and can be left behind.
//!
//! A thread that waits for a disk cannot be called back. So an operation that a reader waits for runs on the blocking pool,
//! and is left there when it takes longer than its deadline. The number of such operations is bounded, also of those that
//! were left behind, and once the disk is known to be unstable hardly any are begun. The threads of the cache
//! ([`Gate::watch`]) may get stuck, for nobody waits for them.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
};

use super::{
    health::{DiskState, Health, is_trouble},
    tier::Need,
};
use crate::config::HealthRules;

/// How many operations on all disks may be under way for readers at once. Writers that stage may have as many. The blocking
/// pool has room for more than both together.
const MAX_OPERATIONS: usize = 128;
/// Each disk may have at least so many of them.
const MIN_OPERATIONS: usize = 8;

/// The way of one directory to its disk.
#[derive(Debug)]
pub(super) struct Gate {
    root: PathBuf,
    rules: HealthRules,
    handle: Handle,
    /// The [`DiskState`] of `health`, which can be read here without a lock.
    state: AtomicU8,
    health: Mutex<Health>,
    /// The state that [`Gate::tick`] has returned last.
    told: Mutex<DiskState>,
    under_way: Mutex<Vec<Arc<Running>>>,
    slots: Arc<Semaphore>,
    stages: Arc<Semaphore>,
    failures: AtomicU64,
    #[cfg(test)]
    trouble: Option<super::trouble::Trouble>,
}

/// An operation that has begun.
#[derive(Debug)]
struct Running {
    began: Instant,
    /// Whether the operation was counted as a failure for taking too long.
    late: AtomicBool,
}

/// The permission to work on the disk, held meanwhile.
struct Pass {
    gate: Arc<Gate>,
    running: Arc<Running>,
    _slot: Option<OwnedSemaphorePermit>,
}

impl Gate {
    /// Makes the gate of one of `disks`, which share the threads there are.
    pub(super) fn new(root: &Path, rules: HealthRules, disks: usize) -> Arc<Self> {
        let share = (MAX_OPERATIONS / disks.max(1)).max(MIN_OPERATIONS);
        Arc::new(Self {
            root: root.to_owned(),
            handle: Handle::current(),
            state: AtomicU8::new(DiskState::Normal as u8),
            health: Mutex::new(Health::new(rules.clone(), Instant::now())),
            told: Mutex::new(DiskState::Normal),
            rules,
            under_way: Mutex::default(),
            slots: Arc::new(Semaphore::new(share)),
            stages: Arc::new(Semaphore::new(share)),
            failures: AtomicU64::new(0),
            #[cfg(test)]
            trouble: super::trouble::of(root),
        })
    }

    pub(super) fn state(&self) -> DiskState {
        match self.state.load(Relaxed) {
            0 => DiskState::Normal,
            1 => DiskState::Unstable,
            _ => DiskState::Down,
        }
    }

    pub(super) fn is_normal(&self) -> bool {
        self.state() == DiskState::Normal
    }

    /// Returns how many operations failed because of the disk, also by taking too long.
    pub(super) fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }

    /// Whether a test makes trouble for this disk, so that every operation must pass here.
    pub(super) fn is_troubled(&self) -> bool {
        #[cfg(test)]
        return self.trouble.is_some();
        #[cfg(not(test))]
        false
    }

    pub(super) fn rules(&self) -> &HealthRules {
        &self.rules
    }

    /// Waits for a slot for staging one block, which the caller holds while it does so. Returns `None` when nothing is to be
    /// staged on this disk now.
    pub(super) async fn stage_slot(&self) -> Option<OwnedSemaphorePermit> {
        let slot = Arc::clone(&self.stages).acquire_owned().await.ok();
        slot.filter(|_| self.is_normal())
    }

    /// Does `work` on the blocking pool and waits for it until the deadline of readers. A fifth of that time may pass in
    /// waiting for a slot. Must be polled within a runtime.
    ///
    /// # Errors
    /// Those of `work`; `TimedOut` when it was left behind or found no slot; `WouldBlock` when the disk is not asked now.
    pub(super) async fn run<T, F>(self: &Arc<Self>, need: Need, work: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> io::Result<T> + Send + 'static,
    {
        let deadline = self.deadline(need);
        let entered = tokio::time::timeout(deadline / 5, self.enter(need)).await;
        let pass = entered.map_err(|_elapsed| io::ErrorKind::TimedOut)?.ok_or(io::ErrorKind::WouldBlock)?;
        let running = Arc::clone(&pass.running);
        let done = self.handle.spawn_blocking(move || pass.perform(work));
        match tokio::time::timeout(deadline - deadline / 5, done).await {
            Ok(done) => done.unwrap_or_else(|e| Err(io::Error::other(e))),
            Err(_elapsed) => {
                self.too_late(&running, Instant::now());
                Err(io::ErrorKind::TimedOut.into())
            }
        }
    }

    /// Does `work` on this thread, which may wait as long as it likes.
    ///
    /// # Errors
    /// Those of `work`.
    pub(super) fn watch<T>(self: &Arc<Self>, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.pass(None).perform(work)
    }

    async fn enter(self: &Arc<Self>, need: Need) -> Option<Pass> {
        match (self.state(), need) {
            (DiskState::Down, Need::Spare) => None,
            // Whatever is stuck since it was normal counts here too.
            (DiskState::Unstable, Need::Spare) => {
                let count = self.under_way.lock().len();
                (count < self.rules.unstable_operations).then(|| self.pass(None))
            }
            _ => {
                let slot = Arc::clone(&self.slots).acquire_owned().await.ok()?;
                // Waiting may have taken long, because of what was found out meanwhile.
                (need == Need::Only || self.is_normal()).then(|| self.pass(Some(slot)))
            }
        }
    }

    fn pass(self: &Arc<Self>, slot: Option<OwnedSemaphorePermit>) -> Pass {
        let running = Arc::new(Running { began: Instant::now(), late: AtomicBool::new(false) });
        self.under_way.lock().push(Arc::clone(&running));
        Pass { gate: Arc::clone(self), running, _slot: slot }
    }

    fn deadline(&self, need: Need) -> Duration {
        match (need, self.state()) {
            (Need::Only, _) => self.rules.max_operation,
            (Need::Spare, DiskState::Normal) => self.rules.read_deadline,
            (Need::Spare, _) => self.rules.read_deadline / 5,
        }
    }

    /// Looks for operations that take too long, and for what the passing of time makes of the state of the disk. Returns the
    /// state if it has changed since the last call.
    pub(super) fn tick(&self, now: Instant) -> Option<DiskState> {
        let late: Vec<_> = {
            let under_way = self.under_way.lock();
            let is_late = |running: &&Arc<Running>| now.duration_since(running.began) >= self.rules.max_operation;
            under_way.iter().filter(is_late).cloned().collect()
        };
        for running in late {
            self.too_late(&running, now);
        }
        let state = {
            let mut health = self.health.lock();
            health.tick(now);
            health.state()
        };
        self.state.store(state as u8, Relaxed);
        let before = std::mem::replace(&mut *self.told.lock(), state);
        (before != state).then_some(state)
    }

    fn too_late(&self, running: &Running, now: Instant) {
        if !running.late.swap(true, Relaxed) {
            self.failed(now, &io::ErrorKind::TimedOut.into());
        }
    }

    fn failed(&self, now: Instant, why: &io::Error) {
        self.failures.fetch_add(1, Relaxed);
        let mut health = self.health.lock();
        let before = health.state();
        health.failed(now);
        if before != health.state() {
            // Readers see it at once; whoever looks after the disk is told at its next look.
            self.state.store(health.state() as u8, Relaxed);
            tracing::warn!("cache disk {} is unstable: {why}", self.root.display());
        }
    }
}

impl Pass {
    fn perform<T>(self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        #[cfg(test)]
        let done = self.gate.trouble.as_ref().map_or(Ok(()), |trouble| (trouble.0)()).and_then(|()| work());
        #[cfg(not(test))]
        let done = work();
        match &done {
            // It has been counted already.
            _ if self.running.late.load(Relaxed) => {}
            Err(e) if is_trouble(e) => self.gate.failed(Instant::now(), e),
            _ => self.gate.health.lock().succeeded(),
        }
        done
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut under_way = self.gate.under_way.lock();
        if let Some(at) = under_way.iter().position(|running| Arc::ptr_eq(running, &self.running)) {
            under_way.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::{super::trouble, *};

    fn rules() -> HealthRules {
        HealthRules {
            read_deadline: Duration::from_secs(1),
            max_operation: Duration::from_secs(2),
            unstable_operations: 2,
            ..HealthRules::default()
        }
    }

    fn ok() -> io::Result<u8> {
        Ok(1)
    }

    #[tokio::test]
    async fn a_hung_disk_delays_a_few_readers_once_and_then_nobody() {
        let root = tempfile::tempdir().expect("a directory");
        let (release, held) = mpsc::channel::<()>();
        let held = Mutex::new(held);
        // Whoever comes waits until the sender is dropped.
        trouble::set(root.path(), move || {
            let _ = held.lock().recv();
            Ok(())
        });
        let gate = Gate::new(root.path(), rules(), 1);
        for _ in 0..3 {
            let begun = Instant::now();
            assert_eq!(gate.run(Need::Spare, ok).await.expect_err("late").kind(), io::ErrorKind::TimedOut);
            assert!(begun.elapsed() >= rules().read_deadline / 5 * 4);
        }
        assert_eq!((gate.state(), gate.failures()), (DiskState::Unstable, 3));
        for _ in 0..100 {
            assert_eq!(gate.run(Need::Spare, ok).await.expect_err("not asked").kind(), io::ErrorKind::WouldBlock);
        }
        assert_eq!(gate.under_way.lock().len(), 3, "no more were begun");
        assert!(gate.stage_slot().await.is_none());
        assert_eq!(gate.run(Need::Only, ok).await.expect_err("tried").kind(), io::ErrorKind::TimedOut);
        assert_eq!(gate.tick(Instant::now()), Some(DiskState::Unstable));
        assert_eq!(gate.tick(Instant::now()), None, "told once");
        drop(release);
        while !gate.under_way.lock().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // What was counted as late is not counted as good when it comes in the end.
        for _ in 0..60 {
            assert_eq!(gate.watch(ok).expect("answers again"), 1);
        }
        assert_eq!(gate.tick(Instant::now() + Duration::from_secs(61)), None, "one minute had failures");
        for _ in 0..60 {
            assert_eq!(gate.watch(ok).expect("answers again"), 1);
        }
        assert_eq!(gate.tick(Instant::now() + Duration::from_secs(122)), Some(DiskState::Normal));
        assert!(gate.stage_slot().await.is_some());
    }

    #[tokio::test]
    async fn errors_of_the_disk_count_and_others_do_not() {
        let root = tempfile::tempdir().expect("a directory");
        let gate = Gate::new(root.path(), HealthRules { read_deadline: Duration::from_secs(600), ..rules() }, 1);
        for _ in 0..10 {
            let missing = gate.run::<u8, _>(Need::Spare, || Err(io::ErrorKind::NotFound.into())).await;
            assert_eq!(missing.expect_err("passed on").kind(), io::ErrorKind::NotFound);
        }
        assert_eq!((gate.state(), gate.failures()), (DiskState::Normal, 0));
        for _ in 0..3 {
            gate.watch::<u8>(|| Err(io::Error::from_raw_os_error(libc::EIO))).expect_err("passed on");
        }
        assert_eq!((gate.state(), gate.failures()), (DiskState::Unstable, 3));
        let later = Instant::now() + Duration::from_secs(1860);
        assert_eq!(gate.tick(later), Some(DiskState::Down));
        assert_eq!(gate.run(Need::Spare, ok).await.expect_err("not asked").kind(), io::ErrorKind::WouldBlock);
        assert!(gate.enter(Need::Only).await.is_some(), "tried all the same");
    }

    #[tokio::test]
    async fn work_of_threads_that_takes_too_long_is_seen() {
        let root = tempfile::tempdir().expect("a directory");
        let gate = Gate::new(root.path(), rules(), 1);
        let (release, held) = mpsc::channel::<()>();
        let stuck = {
            let gate = Arc::clone(&gate);
            std::thread::spawn(move || gate.watch(|| held.recv().map_err(io::Error::other)))
        };
        while gate.under_way.lock().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for _ in 0..5 {
            gate.tick(Instant::now() + Duration::from_secs(3));
        }
        assert_eq!(gate.failures(), 1, "once for one operation");
        release.send(()).expect("it waits");
        stuck.join().expect("no panic").expect("done");
    }
}
