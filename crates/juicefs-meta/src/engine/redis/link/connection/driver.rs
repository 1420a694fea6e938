//! The task of a connection: reads replies, and writes what callers left to it.

use std::{
    collections::VecDeque,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    sync::oneshot,
    time::{Instant, Sleep, sleep},
};

use super::{KEEP_BYTES, Limits, Replies, Shared};
use crate::engine::redis::link::{
    reply::{Parser, Reply},
    stream::DriverEnd,
};

/// Least room to read into.
const READ_BYTES: usize = 16 << 10;
/// How many times within a limit it is looked at.
const TICKS: u32 = 8;

/// Ends when the connection is broken, or when it is closing and owes nothing.
pub(super) struct Driver {
    shared: Arc<Shared>,
    end: DriverEnd,
    limits: Limits,
    parser: Parser,
    incoming: BytesMut,
    /// Replies of which the first request lacks some.
    replies: VecDeque<Reply>,
    /// When something came, or could first have come.
    last_read: Instant,
    /// Since when the socket has not taken a byte.
    stuck_since: Option<Instant>,
    tick: Pin<Box<Sleep>>,
    /// Others had their turn since somebody left bytes here.
    yielded: bool,
    /// TLS may hold bytes back.
    unflushed: bool,
}

/// Why a driver ends.
enum End {
    Closed,
    Broken(String),
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>, end: DriverEnd, limits: Limits) -> Self {
        Self {
            shared,
            end,
            limits,
            parser: Parser::default(),
            incoming: BytesMut::new(),
            replies: VecDeque::new(),
            last_read: Instant::now(),
            stuck_since: None,
            tick: Box::pin(sleep(tick(limits.read))),
            yielded: false,
            unflushed: false,
        }
    }

    fn poll_driver(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        self.read(cx)?;
        self.write(cx)?;
        self.look_at_clock(cx)
    }

    /// Reads until nothing is left, and answers requests.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let mut came = false;
        loop {
            // A buffer that one large reply has grown is not kept.
            if self.incoming.is_empty() && self.incoming.capacity() > KEEP_BYTES {
                self.incoming = BytesMut::new();
            }
            self.incoming.reserve(READ_BYTES);
            match self.end.poll_receive(cx, &mut self.incoming) {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => return Err(End::Broken("the server closed the connection".to_owned())),
                Poll::Ready(Ok(_)) => came = true,
                Poll::Ready(Err(error)) => return Err(End::Broken(format!("the connection broke: {error}"))),
            }
            self.parser
                .feed(&mut self.incoming, &mut self.replies)
                .map_err(|_| End::Broken("the server sent what is no reply".to_owned()))?;
            self.answer()?;
        }
        if came {
            self.last_read = Instant::now();
        }
        Ok(())
    }

    /// Gives the complete ones of `replies` to those who wait for them.
    fn answer(&mut self) -> Result<(), End> {
        let mut answers: Vec<(oneshot::Sender<Replies>, Replies)> = Vec::new();
        let mut pieces = 0;
        let mut queue = self.shared.queue.lock();
        while let Some(first) = queue.owed.front() {
            if self.replies.len() < first.replies {
                break;
            }
            let Some(owed) = queue.owed.pop_front() else { break };
            let mut has_error = false;
            let values = self.replies.drain(..owed.replies).map(|reply| {
                has_error |= reply.has_error;
                reply.value
            });
            let values = values.collect();
            pieces += owed.pieces;
            answers.push((owed.answer, Replies { values, has_error }));
        }
        let unasked = queue.owed.is_empty() && !self.replies.is_empty();
        queue.busy_since = if queue.owed.is_empty() { None } else { queue.busy_since };
        if !answers.is_empty() {
            queue.crowd = answers.len() > 1 || !queue.owed.is_empty();
        }
        drop(queue);
        if pieces > 0 {
            self.shared.room.add_permits(pieces);
        }
        for (sender, replies) in answers {
            // Nobody waits any more when the caller was cancelled.
            let _ = sender.send(replies);
        }
        if unasked { Err(End::Broken("the server sent a reply to nothing".to_owned())) } else { Ok(()) }
    }

    /// Writes what waits, after others had the chance to add to it.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        loop {
            let mut queue = self.shared.queue.lock();
            match &mut queue.driver {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            if queue.writing {
                return Ok(());
            }
            if !queue.has_bytes() {
                let finished = queue.closing && queue.owed.is_empty();
                drop(queue);
                self.yielded = false;
                self.flush(cx)?;
                return if finished { Err(End::Closed) } else { Ok(()) };
            }
            if !mem::replace(&mut self.yielded, true) {
                // Nobody needs to wake it until then.
                queue.driver = None;
                drop(queue);
                cx.waker().wake_by_ref();
                return Ok(());
            }
            queue.writing = true;
            let (bytes, mut sent) = queue.take_bytes();
            drop(queue);
            let outcome = self.write_some(cx, &bytes, &mut sent);
            let mut queue = self.shared.queue.lock();
            queue.writing = false;
            queue.put_back(bytes, sent);
            drop(queue);
            if outcome?.is_pending() {
                return Ok(());
            }
        }
    }

    /// Writes from `sent` on until the end, or until the socket takes no more.
    fn write_some(&mut self, cx: &mut Context<'_>, bytes: &[u8], sent: &mut usize) -> Result<Poll<()>, End> {
        while *sent < bytes.len() {
            match self.end.poll_send(cx, self.shared.end.as_ref(), &bytes[*sent..]) {
                Poll::Ready(Ok(0)) => return Err(End::Broken("the connection takes no more bytes".to_owned())),
                Poll::Ready(Ok(count)) => {
                    *sent += count;
                    self.stuck_since = None;
                    self.unflushed = true;
                }
                Poll::Ready(Err(error)) => return Err(End::Broken(format!("the connection broke: {error}"))),
                Poll::Pending => {
                    self.note_stuck();
                    return Ok(Poll::Pending);
                }
            }
        }
        Ok(Poll::Ready(()))
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        if !self.unflushed {
            return Ok(());
        }
        match self.end.poll_flush(cx) {
            Poll::Pending => self.note_stuck(),
            Poll::Ready(Ok(())) => {
                self.unflushed = false;
                self.stuck_since = None;
            }
            Poll::Ready(Err(error)) => return Err(End::Broken(format!("the connection broke: {error}"))),
        }
        Ok(())
    }

    fn note_stuck(&mut self) {
        if self.stuck_since.is_none() {
            let now = Instant::now();
            self.stuck_since = Some(now);
            self.tick.as_mut().reset(now + tick(self.limits.write));
        }
    }

    /// Gives up a server that has been silent for too long.
    fn look_at_clock(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        while self.tick.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if self.stuck_since.is_some_and(|since| now - since >= self.limits.write) {
                return Err(End::Broken(format!("the server has taken nothing for {:?}", self.limits.write)));
            }
            if let Some(busy_since) = self.shared.queue.lock().busy_since
                && now.saturating_duration_since(busy_since.max(self.last_read)) >= self.limits.read
            {
                return Err(End::Broken(format!("the server has not replied for {:?}", self.limits.read)));
            }
            let limit = if self.stuck_since.is_some() { self.limits.write } else { self.limits.read };
            self.tick.as_mut().reset(now + tick(limit));
        }
        Ok(())
    }

    /// Fails everything that waits.
    fn give_up(&mut self, end: End) {
        let reason = match end {
            End::Closed => "the connection is closed".to_owned(),
            End::Broken(reason) => reason,
        };
        let _ = self.shared.broken.set(reason);
        let mut queue = self.shared.queue.lock();
        queue.broken = true;
        let owed = mem::take(&mut queue.owed);
        queue.outgoing = Vec::new();
        queue.stuck = (Vec::new(), 0);
        drop(queue);
        self.shared.room.close();
        if let Some(end) = &self.shared.end {
            end.shut();
        }
        // Those who wait learn it from their sender being dropped.
        drop(owed);
    }
}

fn tick(limit: Duration) -> Duration {
    (limit / TICKS).max(Duration::from_millis(1))
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.poll_driver(cx) {
            Ok(()) => Poll::Pending,
            Err(end) => {
                self.give_up(end);
                Poll::Ready(())
            }
        }
    }
}
