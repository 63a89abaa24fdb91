//! Was an answer read to its end? Asked of the agent's connection itself: its send queue, a reset, a FIN, a next request.
//!
//! Three layers report here: [`AgentIo`] at the bottom (bytes in the kernel, FIN, reset), [`Watched`] above TLS (when
//! everything handed down has reached the kernel), and the response's body (when its end was handed over).

mod agent_io;

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::FutureExt as _;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

pub(crate) use self::agent_io::AgentIo;
use crate::tcp_info::{self, SendQueue};

/// No such byte count yet.
const NEVER: u64 = u64::MAX;

/// What became of an answer on its way to the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadToEnd {
    /// The agent's kernel has taken every byte and nothing speaks against the agent's having read them.
    Yes,
    /// Not every byte has been taken, or the connection was reset.
    No,
}

/// What can be said of an answer's way at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Read to its end. Final.
    Read,
    /// Neither read nor lost yet.
    Pending,
    /// The caller sends nothing more and has not read to the end; it may still be reading.
    Leaving,
    /// The connection is no more, and the answer was not read to its end. Final.
    Lost,
}

/// Asks one answer's connection whether the answer was read to its end.
#[derive(Clone, Debug)]
pub struct Delivery {
    state: Arc<State>,
    facts: Arc<Facts>,
}

#[derive(Debug)]
struct State {
    /// Bytes written above TLS when the body's end was handed over.
    ended_above: AtomicU64,
    /// Bytes in the kernel when that end had got there.
    written_below: AtomicU64,
    confirmed: AtomicBool,
}

impl Delivery {
    /// How the answer stands at this moment. Ask when a repeat arrives.
    pub fn read_to_end(&self) -> ReadToEnd {
        if self.state.confirmed.load(Ordering::Acquire) {
            return ReadToEnd::Yes;
        }
        let written = self.state.written_below.load(Ordering::Acquire);
        if written == NEVER {
            return ReadToEnd::No;
        }
        let fin = self.facts.fin_below.load(Ordering::Acquire);
        if fin != NEVER && fin >= written {
            return ReadToEnd::Yes;
        }
        if self.facts.broken.load(Ordering::Acquire) {
            return ReadToEnd::No;
        }
        match self.facts.send_queue() {
            Some(SendQueue::Empty) => ReadToEnd::Yes,
            Some(SendQueue::Pending | SendQueue::Closed) | None => ReadToEnd::No,
        }
    }

    /// How the answer stands, for somebody who keeps asking.
    pub fn fate(&self) -> Fate {
        if self.read_to_end() == ReadToEnd::Yes {
            return Fate::Read;
        }
        if self.facts.is_broken() || self.facts.socket.strong_count() == 0 {
            return Fate::Lost;
        }
        let is_leaving = self.facts.fin_seen.load(Ordering::Acquire) || self.facts.fin_waits();
        if is_leaving { Fate::Leaving } else { Fate::Pending }
    }

    /// The body's last byte, or END_STREAM, has been handed to the HTTP layer.
    fn end_handed_over(&self, line: &Line) {
        let above = line.above.load(Ordering::Acquire);
        let fresh = self.state.ended_above.compare_exchange(NEVER, above, Ordering::AcqRel, Ordering::Relaxed);
        if fresh.is_ok() {
            line.ended().push(Arc::clone(&self.state));
            line.some_ended.store(true, Ordering::Release);
        }
    }
}

/// What the agent's TCP connection has shown. Outlives the connection.
#[derive(Debug)]
pub(crate) struct Facts {
    socket: Weak<TcpStream>,
    below: AtomicU64,
    below_at_read: AtomicU64,
    /// Bytes in the kernel, and all taken, when the agent's FIN was seen.
    fin_below: AtomicU64,
    /// Bytes in the kernel when all of them had been taken, before our own FIN joined the queue.
    taken_below: AtomicU64,
    /// The agent's FIN was seen, whatever was still on its way to it.
    fin_seen: AtomicBool,
    /// Reset, failed, or aborted by us.
    broken: AtomicBool,
}

impl Facts {
    fn send_queue(&self) -> Option<SendQueue> {
        tcp_info::send_queue(&*self.socket.upgrade()?).ok()
    }

    fn saw_fin(&self) {
        self.fin_seen.store(true, Ordering::Release);
        let below = self.below.load(Ordering::Acquire);
        if self.taken_below.load(Ordering::Acquire) == below || self.send_queue() == Some(SendQueue::Empty) {
            self.fin_below.store(below, Ordering::Release);
        }
    }

    /// Whether the agent's FIN has come although nobody reads: HTTP does not while it answers.
    fn fin_waits(&self) -> bool {
        let Some(socket) = self.socket.upgrade() else { return false };
        // Most have nothing to read, and the runtime knows which: asking the kernel about each would cost a call for every caller.
        let has_input = socket.ready(Interest::READABLE).now_or_never().is_some();
        has_input && matches!(SockRef::from(&*socket).peek(&mut [MaybeUninit::uninit()]), Ok(0))
    }

    fn saw_break(&self) {
        self.broken.store(true, Ordering::Release);
    }

    /// The message under way is broken off: closing must be a reset, so that nobody takes a FIN for its end.
    pub(crate) fn abort(&self) {
        self.saw_break();
        if let Some(socket) = self.socket.upgrade() {
            let _ = SockRef::from(&*socket).set_linger(Some(Duration::ZERO));
        }
    }

    fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }
}

/// One HTTP connection on top of a TCP connection: the place where responses' ends and flushes meet.
#[derive(Debug)]
pub(crate) struct Line {
    facts: Arc<Facts>,
    above: AtomicU64,
    some_ended: AtomicBool,
    ended: Mutex<Vec<Arc<State>>>,
    /// HTTP/1: the previous request's answer, which a next request confirms.
    previous: Mutex<Option<Arc<State>>>,
}

impl Line {
    pub(crate) fn new(facts: Arc<Facts>) -> Arc<Self> {
        Arc::new(Self {
            facts,
            above: AtomicU64::new(0),
            some_ended: AtomicBool::new(false),
            ended: Mutex::new(Vec::new()),
            previous: Mutex::new(None),
        })
    }

    pub(crate) const fn facts(&self) -> &Arc<Facts> {
        &self.facts
    }

    fn ended(&self) -> MutexGuard<'_, Vec<Arc<State>>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request has arrived. On HTTP/1 it confirms its predecessor's answer, unless it was pipelined.
    pub(crate) fn arrival(&self, http1: bool) -> Delivery {
        let state =
            Arc::new(State { ended_above: AtomicU64::new(NEVER), written_below: AtomicU64::new(NEVER), confirmed: AtomicBool::new(false) });
        if http1 {
            let mut previous = self.previous.lock().unwrap_or_else(PoisonError::into_inner);
            let at_read = self.facts.below_at_read.load(Ordering::Acquire);
            if let Some(previous) = previous.replace(Arc::clone(&state))
                && previous.written_below.load(Ordering::Acquire) <= at_read
            {
                previous.confirmed.store(true, Ordering::Release);
            }
        }
        Delivery { state, facts: Arc::clone(&self.facts) }
    }

    fn flushed(&self) {
        if !self.some_ended.load(Ordering::Acquire) {
            return;
        }
        let above = self.above.load(Ordering::Acquire);
        let below = self.facts.below.load(Ordering::Acquire);
        let mut ended = self.ended();
        ended.retain(|state| {
            let reached = above > state.ended_above.load(Ordering::Acquire);
            if reached {
                state.written_below.store(below, Ordering::Release);
            }
            !reached
        });
        self.some_ended.store(!ended.is_empty(), Ordering::Release);
    }
}

/// Marks a delivery's end as the response's body passes; see [`ended_by`].
#[derive(Debug)]
pub(crate) struct EndMark {
    delivery: Delivery,
    line: Arc<Line>,
    /// What the announced length still lacks, where one is announced.
    left: Option<u64>,
}

impl EndMark {
    pub(crate) const fn new(delivery: Delivery, line: Arc<Line>, length: Option<u64>) -> Self {
        Self { delivery, line, left: length }
    }

    /// `len` bytes of body are being handed over; `last` if the body says that no more follow.
    pub(crate) fn passed(&mut self, len: usize, last: bool) {
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(len as u64);
        }
        if last || self.left == Some(0) {
            self.delivery.end_handed_over(&self.line);
        }
    }

    /// The message is broken off.
    pub(crate) fn abort(&self, resets_connection: bool) {
        if resets_connection {
            self.line.facts.abort();
        }
    }
}

/// The agent's connection as HTTP sees it, above TLS: counts what is handed down, and notes when it got to the kernel.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    inner: S,
    line: Arc<Line>,
}

impl<S> Watched<S> {
    pub(crate) const fn new(inner: S, line: Arc<Line>) -> Self {
        Self { inner, line }
    }

    pub(crate) fn into_inner(self) -> S {
        self.inner
    }

    fn count(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(len)) = written {
            self.line.above.fetch_add(len as u64, Ordering::AcqRel);
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.count(polled)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.count(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        self.line.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
