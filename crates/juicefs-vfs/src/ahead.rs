//! Read-ahead of one handle. It notices that the handle is read sequentially, and fetches what comes next into a
//! bounded window.
//!
//! Fetched stretches lie side by side as shared bytes, so that a read which falls into them copies nothing. They are
//! guesses: they only take memory that nobody waits for, and are dropped once the content of the file changes.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::AbortHandle};
use juicefs_core::{Errno, Joint, Segments, Share, store::ReadPurpose};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::{context::Context, file::File};

/// How many streams one handle may read side by side.
const STREAMS: usize = 2;
/// A read of this size at offset 0 is taken for the beginning of a sequential one.
const START_BYTES: u64 = 16 << 10;

/// After so many reads a handle is taken for one that reads again and again.
const FEW_READS: u64 = 3;

/// The read-ahead state of a handle.
#[derive(Default)]
pub(crate) struct Ahead {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    streams: [Stream; STREAMS],
    fetches: Vec<Fetch>,
    clock: u64,
}

/// A stream: one place of the file that is read sequentially.
#[derive(Clone, Copy, Default)]
struct Stream {
    /// Where the next read is expected.
    next: u64,
    /// How many bytes are fetched beyond; 0 while the reads are not sequential.
    window: u64,
    /// Bytes read in order so far.
    total: u64,
    /// The offset below which everything was asked for.
    asked: u64,
    /// The number of the read of this handle that used the stream last.
    used: u64,
}

/// How long a read waits for a stretch before it looks whether memory is short.
const PATIENCE: Duration = Duration::from_millis(20);

type Arriving = Joint<Option<Segments>>;

/// A stretch that is being fetched or is there. It never crosses the edge of a block of the file.
struct Fetch {
    start: u64,
    end: u64,
    epoch: u64,
    data: Arriving,
    abort: AbortHandle,
    cx: Arc<Context>,
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.abort.abort();
        let held = usize::try_from(self.end - self.start).unwrap_or(0);
        self.cx.ahead_bytes.fetch_sub(held, Ordering::Relaxed);
    }
}

impl Ahead {
    /// Reads `[off, off + len)`, which lies within the file: from the window as far as that goes, and the rest from the
    /// store. Then it fetches what comes next.
    pub(crate) async fn read(&self, file: &Arc<File>, off: u64, len: u64) -> Result<Segments, Errno> {
        let (purpose, held) = self.note(file, off, len);
        let mut out = Segments::new();
        let mut at = off;
        let end = off + len;
        for (start, stop, data) in held {
            if start > at {
                break;
            }
            let Some(segments) = arrival(&file.cx, data).await else { break };
            let upto = stop.min(end);
            push_part(&mut out, &segments, at - start, upto - at);
            at = upto;
        }
        if at < end {
            file.cx.make_room(usize::try_from(end - at).unwrap_or(usize::MAX));
            let rest = file.read_committed(at, end - at, purpose).await?;
            if out.is_empty() {
                return Ok(rest);
            }
            out.extend(rest);
        }
        Ok(out)
    }

    /// Drops everything that was fetched, because memory is short.
    pub(crate) fn drop_window(&self) {
        let mut state = self.state.lock();
        state.fetches.clear();
        for stream in &mut state.streams {
            *stream = Stream::default();
        }
    }

    /// Updates the streams for a read, starts fetches and returns the stretches that the read can take.
    fn note(&self, file: &Arc<File>, off: u64, len: u64) -> (ReadPurpose, Vec<(u64, u64, Arriving)>) {
        let block = file.cx.chunks.block_size() as u64;
        let max = match file.cx.config.max_readahead_bytes {
            0 => 8 * block,
            bytes => bytes as u64,
        }
        // One reader leaves room for others, and for blocks of which only a part lies in its window.
        .min(file.cx.ahead_limit() as u64 / 2);
        let length = file.length();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let epoch = file.epoch();
        state.fetches.retain(|fetch| fetch.epoch == epoch);
        let at = state.stream_for(off, len, block);
        let stream = &mut state.streams[at];
        // A small read at the start tells nothing: databases look at their header again and again.
        let from_start = off == 0 && (len >= START_BYTES || len == length);
        if stream.window == 0 && (from_start || stream.total > len) && block <= max {
            stream.window = block;
        } else if stream.window > 0 && stream.window < max && stream.total >= stream.window {
            stream.window = (stream.window * 2).min(max);
        }
        let sequential = stream.window > 0 || from_start;
        let end = off + len;
        let mut held = Vec::new();
        if !state.fetches.is_empty() {
            state.take_held(off, end, &mut held);
        }
        if state.streams[at].window > 0 && end < length {
            state.fetch_on(file, at, end, length, block, epoch);
        }
        let purpose = match sequential {
            true => ReadPurpose::Sequential,
            false if state.clock > FEW_READS && length <= file.cx.chunks.small_file_bytes() => {
                ReadPurpose::RandomInSmall
            }
            false => ReadPurpose::Random,
        };
        (purpose, held)
    }
}

impl State {
    /// The stream that a read belongs to, brought up to date.
    fn stream_for(&mut self, off: u64, len: u64, block: u64) -> usize {
        self.clock += 1;
        let reach = |stream: &Stream| {
            let behind = if stream.window == 0 { 0 } else { (stream.window / 8).max(block) };
            let first = stream.next.saturating_sub(behind);
            stream.used > 0 && (first..=stream.next + stream.window).contains(&off)
        };
        let found = (0..STREAMS).filter(|at| reach(&self.streams[*at])).max_by_key(|at| self.streams[*at].next);
        let at = match found {
            Some(at) => at,
            None => {
                let at = (0..STREAMS).min_by_key(|at| self.streams[*at].used).unwrap_or(0);
                self.streams[at] = Stream { next: off, asked: off, ..Stream::default() };
                self.drop_strays(block);
                at
            }
        };
        let stream = &mut self.streams[at];
        let end = off + len;
        if end > stream.next {
            stream.total += end - stream.next.max(off);
            stream.next = end;
        }
        stream.used = self.clock;
        at
    }

    /// Drops what lies outside of every stream's window.
    fn drop_strays(&mut self, block: u64) {
        let streams = self.streams;
        self.fetches.retain(|fetch| {
            streams.iter().any(|stream| {
                stream.used > 0
                    && fetch.end + block > stream.next
                    && fetch.start < stream.next + 2 * stream.window + 2 * block
            })
        });
    }

    /// The stretches over `[off, end)` in order, as far as they leave no gap.
    fn take_held(&self, off: u64, end: u64, held: &mut Vec<(u64, u64, Arriving)>) {
        let mut at = off;
        while at < end {
            let Some(fetch) = self.fetches.iter().find(|fetch| (fetch.start..fetch.end).contains(&at)) else { return };
            held.push((fetch.start, fetch.end, fetch.data.clone()));
            at = fetch.end;
        }
    }

    /// Starts fetches up to the window's end.
    fn fetch_on(&mut self, file: &Arc<File>, at: usize, end: u64, length: u64, block: u64, epoch: u64) {
        let stream = self.streams[at];
        let goal = (stream.next + stream.window).div_ceil(block).saturating_mul(block).min(length);
        let mut from = stream.asked.max(end);
        if from >= goal {
            return;
        }
        self.drop_strays(block);
        while from < goal {
            let to = ((from / block + 1) * block).min(length);
            let covered = self.fetches.iter().any(|fetch| fetch.start <= from && to <= fetch.end);
            if !covered && !file.hint_at_hand(from, to) {
                let Some(fetch) = Fetch::start(file, from, to, epoch) else { break };
                self.fetches.push(fetch);
            }
            from = to;
        }
        self.streams[at].asked = from;
    }
}

impl Fetch {
    /// Starts to fetch `[start, end)`; `None` when there is no memory to spare.
    fn start(file: &Arc<File>, start: u64, end: u64, epoch: u64) -> Option<Self> {
        let bytes = usize::try_from(end - start).ok()?;
        if !file.cx.reserve_ahead(bytes) {
            return None;
        }
        let (send, receive) = oneshot::channel();
        let reader = Arc::clone(file);
        let work = async move {
            let extents = reader.read_committed(start, end - start, ReadPurpose::ReadAhead).await;
            // Whoever asked may be gone.
            let _ = send.send(extents.ok());
        };
        let (work, abort) = futures_util::future::abortable(work);
        file.cx.tasks.spawn("read-ahead", async move {
            let _ = work.await;
        });
        let data = Joint::new(async move { receive.await.ok().flatten() });
        Some(Self { start, end, epoch, data, abort, cx: Arc::clone(&file.cx) })
    }
}

/// Waits for a stretch. `None` when it failed, and when it may take long because memory is short: guesses give way
/// then, and the application that waits must be served otherwise. It must not wait for the memory that guesses take,
/// because all of that may be in windows whose readers wait like this one.
async fn arrival(cx: &Context, mut data: Arriving) -> Option<Segments> {
    if let Some(there) = (&mut data).now_or_never() {
        return there;
    }
    let (budget, block) = (cx.chunks.budget(), cx.chunks.block_size());
    while budget.waiting() == 0 && budget.has_room(Share::Ahead, block) {
        if let Ok(there) = tokio::time::timeout(PATIENCE, &mut data).await {
            return there;
        }
    }
    None
}

/// Appends `[off, off + len)` of `from` to `out` without copying.
fn push_part(out: &mut Segments, from: &[Bytes], off: u64, len: u64) {
    let mut skip = usize::try_from(off).unwrap_or(usize::MAX);
    let mut want = usize::try_from(len).unwrap_or(usize::MAX);
    for piece in from {
        if skip >= piece.len() {
            skip -= piece.len();
            continue;
        }
        let take = want.min(piece.len() - skip);
        out.push(piece.slice(skip..skip + take));
        want -= take;
        skip = 0;
        if want == 0 {
            return;
        }
    }
}
