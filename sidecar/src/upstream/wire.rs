//! What is known about one upstream connection's bytes, and until when any may be written: the ground of every proof.
//!
//! [`Gate`] stands under TLS and refuses bytes past a deadline; [`super::tap::Tap`] stands above it and tells which
//! bytes belong to whom. Both share one [`Wire`].

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use kybernis_core::mutation::broken;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::boot_clock::{BootClock, BootInstant};
use crate::permit::EffectTerms;

/// No GOAWAY was seen: every stream id is below this.
const NO_GOAWAY: u32 = u32::MAX;

/// Why a connection was shut for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shut {
    /// The deadline of an effect that was not yet fully written.
    Deadline,
    /// The exchange is over, its owner needs final figures.
    Settled,
}

/// One effect's claim on the connection, until its request is fully written.
#[derive(Debug)]
struct Slot {
    token: u64,
    terms: EffectTerms,
    above_at_start: u64,
    below_at_start: u64,
    carrier: Carrier,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carrier {
    /// HTTP/1: the whole connection.
    Connection,
    /// HTTP/2, before the stream's id is known.
    Unnamed,
    /// HTTP/2.
    Stream(u32),
}

#[derive(Debug, Default)]
struct Ledger {
    slots: Vec<Slot>,
    next_token: u64,
    shut: Option<Shut>,
    /// HTTP/2: streams open in order, so the highest HEADERS that TLS has accepted, and that the kernel has.
    head_accepted: u32,
    head_written: u32,
    /// HTTP/2: streams whose END_STREAM TLS has accepted, and is not known to be in the kernel.
    end_accepted: Vec<u32>,
    /// HTTP/2: streams wholly in the kernel whose slot has not been named yet.
    end_written: Vec<u32>,
}

/// Shared by the layers of one connection and by those who use it.
#[derive(Debug)]
pub(crate) struct Wire {
    clock: BootClock,
    above: AtomicU64,
    below: AtomicU64,
    shut: AtomicBool,
    /// How many slots there are: reads never touch the lock.
    governed: AtomicUsize,
    /// HTTP/1: the request's body has been taken to its end.
    request_ended: AtomicBool,
    closed_cleanly: AtomicBool,
    goaway: AtomicU32,
    ledger: Mutex<Ledger>,
}

/// A place in the connection's ledger; see [`Wire::arm`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token(u64);

/// How much of an exchange had passed when the connection was shut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    above: u64,
    below: u64,
}

impl Wire {
    pub(crate) fn new(clock: BootClock) -> Arc<Self> {
        Arc::new(Self {
            clock,
            above: AtomicU64::new(0),
            below: AtomicU64::new(0),
            shut: AtomicBool::new(false),
            governed: AtomicUsize::new(0),
            request_ended: AtomicBool::new(true),
            closed_cleanly: AtomicBool::new(false),
            goaway: AtomicU32::new(NO_GOAWAY),
            ledger: Mutex::new(Ledger::default()),
        })
    }

    /// No code of ours panics while it holds the lock; if a foreign one did, the figures are still whole.
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the counters stand before a request is handed over.
    pub(crate) fn mark(&self) -> Mark {
        Mark { above: self.above.load(Ordering::Acquire), below: self.below.load(Ordering::Acquire) }
    }

    /// From now until the request is fully written (or [`Wire::disarm`]), `terms` govern the connection.
    pub(crate) fn arm(&self, terms: EffectTerms, on_stream: bool) -> Token {
        let mut ledger = self.ledger();
        let token = ledger.next_token;
        ledger.next_token += 1;
        let mark = self.mark();
        ledger.slots.push(Slot {
            token,
            terms,
            above_at_start: mark.above,
            below_at_start: mark.below,
            carrier: if on_stream { Carrier::Unnamed } else { Carrier::Connection },
        });
        self.governed.store(ledger.slots.len(), Ordering::Release);
        Token(token)
    }

    /// HTTP/2: says which stream carries the effect. Its bytes may already be under way.
    pub(crate) fn name_stream(&self, token: Token, stream: u32) {
        let mut ledger = self.ledger();
        if ledger.end_written.contains(&stream) {
            self.remove(&mut ledger, |slot| slot.token == token.0);
        } else if let Some(slot) = ledger.slots.iter_mut().find(|s| s.token == token.0) {
            slot.carrier = Carrier::Stream(stream);
        }
    }

    /// The effect's exchange is over, or its request fully written.
    pub(crate) fn disarm(&self, token: Token) {
        self.remove(&mut self.ledger(), |slot| slot.token == token.0);
    }

    fn remove(&self, ledger: &mut Ledger, mut which: impl FnMut(&Slot) -> bool) {
        ledger.slots.retain(|slot| !which(slot));
        if !ledger.slots.iter().any(|slot| slot.carrier == Carrier::Unnamed) {
            ledger.end_written.clear();
        }
        self.governed.store(ledger.slots.len(), Ordering::Release);
    }

    /// Shuts the connection for writing, for good. What the counters show afterwards is final.
    pub(crate) fn shut(&self, why: Shut) -> Shut {
        let mut ledger = self.ledger();
        let why = *ledger.shut.get_or_insert(why);
        self.shut.store(true, Ordering::SeqCst);
        why
    }

    pub(crate) fn is_shut(&self) -> bool {
        self.shut.load(Ordering::SeqCst)
    }

    /// Whether TLS was handed nothing since `mark`.
    pub(crate) fn zero_above(&self, mark: Mark) -> bool {
        self.above.load(Ordering::SeqCst) == mark.above || broken("not_sent_is_proved_by_bytes")
    }

    /// Whether the kernel was handed nothing since `mark`.
    pub(crate) fn zero_below(&self, mark: Mark) -> bool {
        self.below.load(Ordering::SeqCst) == mark.below
    }

    /// The last stream that the far side's GOAWAY names, if one came.
    pub(crate) fn goaway(&self) -> Option<u32> {
        Some(self.goaway.load(Ordering::Acquire)).filter(|id| *id != NO_GOAWAY)
    }

    /// Whether the far side ended the stream with TLS close_notify, or a FIN in plain text.
    pub(crate) fn closed_cleanly(&self) -> bool {
        self.closed_cleanly.load(Ordering::Acquire)
    }

    /// HTTP/1: whether the request that is under way still has body to come.
    pub(crate) fn request_ended(&self) -> bool {
        self.request_ended.load(Ordering::Acquire)
    }

    pub(crate) fn set_request_ended(&self, ended: bool) {
        self.request_ended.store(ended, Ordering::Release);
    }

    /// Until when the effect's next byte may be written; `None` once it is fully written.
    fn deadline(&self, token: Token) -> Option<BootInstant> {
        let ledger = self.ledger();
        let slot = ledger.slots.iter().find(|slot| slot.token == token.0)?;
        Some(self.deadline_of(&ledger, slot))
    }

    fn deadline_of(&self, ledger: &Ledger, slot: &Slot) -> BootInstant {
        let first_byte_written = match slot.carrier {
            Carrier::Connection => self.below.load(Ordering::Acquire) > slot.below_at_start,
            Carrier::Unnamed => false,
            Carrier::Stream(id) => ledger.head_written >= id,
        };
        if broken("send_by_stops_the_first_byte") {
            return BootInstant::from_nanos(u64::MAX);
        }
        if first_byte_written { slot.terms.last_byte_by() } else { slot.terms.send_by.min(slot.terms.last_byte_by()) }
    }

    /// Resolves, with the connection shut, when the effect's deadline passes before it is fully written; else never.
    pub(crate) async fn until_overdue(&self, token: Token) {
        /// How soon a renewed lease, or the end of writing, is looked at again.
        const LOOK_AGAIN: Duration = Duration::from_secs(1);
        loop {
            let Some(deadline) = self.deadline(token) else {
                return std::future::pending().await;
            };
            let now = self.clock.now();
            if now > deadline {
                self.shut(Shut::Deadline);
                return;
            }
            tokio::time::sleep(deadline.since(now).min(LOOK_AGAIN) + Duration::from_millis(1)).await;
        }
    }

    /// TLS (or the kernel, in plain text) accepted `len` bytes from above.
    pub(super) fn accepted(&self, len: usize) {
        self.above.fetch_add(len as u64, Ordering::AcqRel);
    }

    pub(super) fn saw_clean_close(&self) {
        self.closed_cleanly.store(true, Ordering::Release);
    }

    pub(super) fn saw_goaway(&self, last_stream: u32) {
        self.goaway.fetch_min(last_stream, Ordering::AcqRel);
    }

    pub(super) fn saw_head(&self, stream: u32) {
        let mut ledger = self.ledger();
        ledger.head_accepted = ledger.head_accepted.max(stream);
    }

    pub(super) fn saw_end(&self, stream: u32) {
        if self.governed.load(Ordering::Acquire) > 0 {
            self.ledger().end_accepted.push(stream);
        }
    }

    /// Everything accepted so far is in the kernel: what was accepted is now written.
    pub(super) fn flushed(&self) {
        if self.governed.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut ledger = self.ledger();
        ledger.head_written = ledger.head_accepted;
        let ended = std::mem::take(&mut ledger.end_accepted);
        ledger.end_written.extend_from_slice(&ended);
        let above = self.above.load(Ordering::Acquire);
        let request_ended = self.request_ended();
        self.remove(&mut ledger, |slot| match slot.carrier {
            Carrier::Connection => request_ended && above > slot.above_at_start,
            Carrier::Unnamed => false,
            Carrier::Stream(id) => ended.contains(&id),
        });
    }

    /// Runs one write of the gate. Held against [`Wire::shut`] wherever an effect is under way, so that after a shut
    /// the counters are final; a connection of reads alone takes no lock.
    fn write<F>(&self, write: F) -> Poll<io::Result<usize>>
    where
        F: FnOnce() -> Poll<io::Result<usize>>,
    {
        if self.governed.load(Ordering::Acquire) == 0 {
            if self.is_shut() {
                return Poll::Ready(Err(shut_error()));
            }
            return self.count(write());
        }
        let mut ledger = self.ledger();
        if ledger.shut.is_some() {
            return Poll::Ready(Err(shut_error()));
        }
        let now = self.clock.now();
        let overdue = |slot: &Slot| now > self.deadline_of(&ledger, slot);
        if ledger.slots.iter().any(overdue) {
            ledger.shut = Some(Shut::Deadline);
            self.shut.store(true, Ordering::SeqCst);
            return Poll::Ready(Err(shut_error()));
        }
        self.count(write())
    }

    fn count(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(len)) = written {
            self.below.fetch_add(len as u64, Ordering::SeqCst);
        }
        written
    }
}

fn shut_error() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the connection was shut for writing")
}

/// The TCP stream itself, which takes no byte that the connection's ledger does not allow.
#[derive(Debug)]
pub(crate) struct Gate<S = TcpStream> {
    inner: S,
    wire: Arc<Wire>,
}

impl<S> Gate<S> {
    pub(crate) const fn new(inner: S, wire: Arc<Wire>) -> Self {
        Self { inner, wire }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gate<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gate<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.wire.write(|| Pin::new(&mut this.inner).poll_write(cx, buf))
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.wire.write(|| Pin::new(&mut this.inner).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
