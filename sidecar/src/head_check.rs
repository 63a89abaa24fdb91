//! Stands before hyper's HTTP/1 server and follows message framing: hyper accepts heads that two servers could read in
//! two ways (CL with TE, bare LF, a second Host, obs-fold), and what is ambiguous must not reach it or anything behind.
//!
//! Heads are held back until they are whole and found sound; bodies pass without being copied.

mod rules;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use self::rules::{Framing, Head};
pub(crate) use self::rules::{Refusal, is_token_char};

/// Largest head, request line included. Servers commonly stop at 8–16 KiB; we are not the ones to be stricter.
const HEAD_BYTES: usize = 64 * 1024;
/// A chunk-size line with its extensions, which nobody uses.
const CHUNK_LINE_BYTES: usize = 256;
/// A head must be complete this long after its first byte.
const HEAD_WITHIN: Duration = Duration::from_secs(15);
/// What one read takes where bytes are held back.
const READ_BYTES: usize = 8 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    /// A head, searched up to `seen`.
    Head { seen: usize },
    /// This many body bytes.
    Body { left: u64 },
    /// A chunk-size line.
    ChunkSize,
    /// This many bytes of a chunk.
    Chunk { left: u64 },
    /// The CRLF after a chunk.
    ChunkEnd,
    /// Trailers and the empty line that ends them.
    Trailers { seen: usize },
    /// Nothing: the request asked for an upgrade and is at its end, and the answer decides what follows.
    UpgradeAnswer,
    /// Anything: this is HTTP no more.
    Anything,
    /// The end: refused.
    Nothing,
}

/// How far the current message is on its way out of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upgrade {
    /// It does not ask, or was answered by something else.
    No,
    Asked,
    /// Answered by a 101, before its body came to an end.
    Granted,
}

/// See the module's description.
#[derive(Debug)]
pub(crate) struct HeadCheck<S> {
    inner: S,
    /// Bytes read: the first `sound` may be handed on, the rest is unjudged.
    held: BytesMut,
    sound: usize,
    expect: Expect,
    upgrade: Upgrade,
    deadline: Option<Pin<Box<Sleep>>>,
    refusal: Option<Refusal>,
    /// The refused message is one of which nothing was handed on.
    refused_whole: bool,
    /// Whether anything was answered since the current message's head was handed on.
    answered: bool,
    /// The refusal's own bytes, while they are being written.
    farewell: Option<BytesMut>,
    reader: Option<Waker>,
    eof: bool,
}

impl<S> HeadCheck<S> {
    /// `first` was read from `inner` already.
    pub(crate) fn new(inner: S, first: BytesMut) -> Self {
        let mut this = Self {
            inner,
            held: first,
            sound: 0,
            expect: Expect::Head { seen: 0 },
            upgrade: Upgrade::No,
            deadline: None,
            refusal: None,
            refused_whole: false,
            answered: false,
            farewell: None,
            reader: None,
            eof: false,
        };
        this.judge();
        this
    }

    /// Whether a refusal waits to be written by `poll_shutdown`.
    pub(crate) const fn refuses(&self) -> bool {
        self.refusal.is_some()
    }

    /// The stream below, and what was read from it and not handed on.
    pub(crate) fn into_parts(self) -> (S, BytesMut) {
        (self.inner, self.held)
    }

    /// Judges what has been read, as far as it goes.
    fn judge(&mut self) {
        while self.sound < self.held.len() {
            let before = (self.sound, self.expect, self.held.len());
            if let Err(refusal) = self.step() {
                self.refuse(refusal);
            }
            if before == (self.sound, self.expect, self.held.len()) || self.expect == Expect::Nothing {
                return;
            }
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        tracing::debug!(detail = refusal.detail, "malformed request refused");
        self.held.truncate(self.sound);
        self.refused_whole = matches!(self.expect, Expect::Head { .. });
        self.expect = Expect::Nothing;
        self.refusal = Some(refusal);
    }

    fn step(&mut self) -> Result<(), Refusal> {
        let fresh = &self.held[self.sound..];
        match self.expect {
            Expect::Head { seen } => self.step_head(seen)?,
            Expect::Body { left } => {
                let passed = self.pass(left);
                self.expect = match left - passed {
                    0 => self.after_message(),
                    left => Expect::Body { left },
                };
            }
            Expect::ChunkSize => {
                let Some(end) = memchr::memchr(b'\n', fresh) else {
                    return rules::bounded(fresh.len(), CHUNK_LINE_BYTES, rules::LONG_CHUNK_LINE);
                };
                rules::bounded(end, CHUNK_LINE_BYTES, rules::LONG_CHUNK_LINE)?;
                self.expect = match rules::chunk_size(&fresh[..=end])? {
                    0 => Expect::Trailers { seen: 0 },
                    left => Expect::Chunk { left },
                };
                self.sound += end + 1;
            }
            Expect::Chunk { left } => {
                let passed = self.pass(left);
                self.expect = match left - passed {
                    0 => Expect::ChunkEnd,
                    left => Expect::Chunk { left },
                };
            }
            Expect::ChunkEnd => {
                if fresh.len() >= 2 {
                    rules::chunk_end(fresh)?;
                    self.sound += 2;
                    self.expect = Expect::ChunkSize;
                }
            }
            Expect::Trailers { seen } => self.step_trailers(seen)?,
            Expect::Anything => self.sound = self.held.len(),
            Expect::UpgradeAnswer | Expect::Nothing => {}
        }
        Ok(())
    }

    fn pass(&mut self, left: u64) -> u64 {
        let fresh = self.held.len() - self.sound;
        let passed = usize::try_from(left).map_or(fresh, |left| left.min(fresh));
        self.sound += passed;
        passed as u64
    }

    fn step_head(&mut self, seen: usize) -> Result<(), Refusal> {
        let fresh = &self.held[self.sound..];
        if seen == 0 {
            if fresh.starts_with(b"\r\n") {
                // RFC 9112, 2.2: empty lines before a request line are forgiven, and dropped here.
                let after = self.held.split_off(self.sound + 2);
                self.held.truncate(self.sound);
                self.held.unsplit(after);
                return Ok(());
            }
            if fresh == b"\r" {
                // Half of such a line; what it is half of shows with the next byte.
                return Ok(());
            }
            if !rules::may_begin_head(fresh) {
                return Err(rules::NOT_HTTP);
            }
        }
        let Some(end) = rules::head_end(fresh, seen) else {
            let seen = fresh.len();
            self.expect = Expect::Head { seen };
            return rules::bounded(seen, HEAD_BYTES, rules::LONG_HEAD);
        };
        rules::bounded(end, HEAD_BYTES, rules::LONG_HEAD)?;
        let Head { framing, upgrade } = rules::head(&fresh[..end])?;
        self.upgrade = if upgrade { Upgrade::Asked } else { Upgrade::No };
        self.expect = match framing {
            Framing::Length(0) => self.after_message(),
            Framing::Length(left) => Expect::Body { left },
            Framing::Chunked => Expect::ChunkSize,
            Framing::Connect => Expect::Anything,
        };
        self.sound += end;
        self.deadline = None;
        self.answered = false;
        Ok(())
    }

    fn step_trailers(&mut self, seen: usize) -> Result<(), Refusal> {
        let fresh = &self.held[self.sound..];
        let end = if fresh.starts_with(b"\r\n") { Some(2) } else { rules::head_end(fresh, seen) };
        let Some(end) = end else {
            let seen = fresh.len();
            self.expect = Expect::Trailers { seen };
            return rules::bounded(seen, HEAD_BYTES, rules::LONG_HEAD);
        };
        rules::bounded(end, HEAD_BYTES, rules::LONG_HEAD)?;
        rules::trailers(&fresh[..end])?;
        self.sound += end;
        self.expect = self.after_message();
        Ok(())
    }

    /// Whether a head, once begun, has taken too long.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let begun = matches!(self.expect, Expect::Head { seen } if seen > 0);
        if !begun {
            return Poll::Pending;
        }
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + HEAD_WITHIN)));
        deadline.as_mut().poll(cx)
    }

    /// What comes after a message's last byte.
    const fn after_message(&self) -> Expect {
        match self.upgrade {
            Upgrade::No => Expect::Head { seen: 0 },
            Upgrade::Asked => Expect::UpgradeAnswer,
            Upgrade::Granted => Expect::Anything,
        }
    }

    /// An answer begins: is it the 101 that ends HTTP on this connection? It may come before the request's body has ended.
    fn note_answer(&mut self, first: &[u8]) {
        self.answered = true;
        if self.upgrade != Upgrade::Asked || first.is_empty() || first.starts_with(b"HTTP/1.1 100 ") {
            return;
        }
        self.upgrade = if first.starts_with(b"HTTP/1.1 101 ") { Upgrade::Granted } else { Upgrade::No };
        if self.expect == Expect::UpgradeAnswer {
            self.expect = self.after_message();
            self.judge();
            if let Some(reader) = self.reader.take() {
                reader.wake();
            }
        }
    }
}

impl<S: AsyncRead + Unpin> HeadCheck<S> {
    /// Reads what the body still lacks straight into the caller's buffer.
    fn poll_read_body(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>, left: u64) -> Poll<io::Result<u64>> {
        let room = usize::try_from(left).map_or(buf.remaining(), |left| left.min(buf.remaining()));
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut part))?;
        let read = part.filled().len();
        buf.advance(read);
        Poll::Ready(Ok(read as u64))
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let start = self.held.len();
        self.held.resize(start + READ_BYTES, 0);
        let mut part = ReadBuf::new(&mut self.held[start..]);
        let polled = Pin::new(&mut self.inner).poll_read(cx, &mut part);
        let read = part.filled().len();
        self.held.truncate(start + read);
        ready!(polled)?;
        if read == 0 {
            self.eof = true;
        }
        self.judge();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HeadCheck<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.sound > 0 {
                let part = this.sound.min(buf.remaining());
                buf.put_slice(&this.held[..part]);
                this.held.advance(part);
                this.sound -= part;
                return Poll::Ready(Ok(()));
            }
            match this.expect {
                Expect::Nothing => return Poll::Ready(Ok(())),
                Expect::Anything => return Pin::new(&mut this.inner).poll_read(cx, buf),
                Expect::Body { left } => {
                    let read = ready!(this.poll_read_body(cx, buf, left))?;
                    this.expect = match left - read {
                        0 => this.after_message(),
                        left => Expect::Body { left },
                    };
                    return Poll::Ready(Ok(()));
                }
                Expect::Chunk { left } => {
                    let read = ready!(this.poll_read_body(cx, buf, left))?;
                    this.expect = match left - read {
                        0 => Expect::ChunkEnd,
                        left => Expect::Chunk { left },
                    };
                    return Poll::Ready(Ok(()));
                }
                Expect::UpgradeAnswer if !this.held.is_empty() => {
                    this.reader = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                Expect::Head { .. } | Expect::ChunkSize | Expect::ChunkEnd | Expect::Trailers { .. } | Expect::UpgradeAnswer => {
                    if this.eof {
                        return Poll::Ready(Ok(()));
                    }
                    if this.poll_overdue(cx).is_ready() {
                        this.refuse(rules::SLOW_HEAD);
                        return Poll::Ready(Ok(()));
                    }
                    this.reader = Some(cx.waker().clone());
                    if this.poll_fill(cx)?.is_pending() {
                        // The deadline's waker must be registered where the head has only now begun.
                        let _ = this.poll_overdue(cx);
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HeadCheck<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, buf))?;
        self.note_answer(&buf[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, bufs))?;
        if let Some(first) = bufs.iter().find(|buf| !buf.is_empty()) {
            self.note_answer(&first[..written.min(first.len())]);
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(refusal) = this.refusal.take()
            && (this.refused_whole || !this.answered)
        {
            this.farewell = Some(refusal.to_response());
        }
        while let Some(farewell) = &mut this.farewell {
            let written = ready!(Pin::new(&mut this.inner).poll_write(cx, farewell))?;
            farewell.advance(written);
            if written == 0 || farewell.is_empty() {
                this.farewell = None;
            }
        }
        ready!(Pin::new(&mut this.inner).poll_flush(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
