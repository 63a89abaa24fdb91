//! Above TLS: counts what a request hands down and, on HTTP/2, reads frame headers in passing, so that proofs rest on
//! the bytes themselves and not on a library's word.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::wire::Wire;

/// The client's connection preface (RFC 9113, 3.4).
const PREFACE_LEN: usize = 24;
const FRAME_HEADER_LEN: usize = 9;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const GOAWAY: u8 = 0x7;
const CONTINUATION: u8 = 0x9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// Follows HTTP/2's frame boundaries without looking into payloads, GOAWAY's first four bytes excepted.
#[derive(Debug, Default)]
pub(crate) struct FrameScan {
    /// Bytes to pass over before the next frame header.
    skip: usize,
    held: [u8; FRAME_HEADER_LEN],
    held_len: usize,
    current: Option<FrameHead>,
    /// A HEADERS frame said END_STREAM, and CONTINUATIONs follow.
    end_after_continuation: bool,
    last_stream: [u8; 4],
    last_stream_len: usize,
}

#[derive(Clone, Copy, Debug)]
struct FrameHead {
    kind: u8,
    flags: u8,
    stream: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    HeadStarted(u32),
    StreamEnded(u32),
    Goaway(u32),
}

impl FrameScan {
    pub(crate) fn after_preface() -> Self {
        Self { skip: PREFACE_LEN, ..Self::default() }
    }

    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut seen: impl FnMut(Seen)) {
        loop {
            let passed = self.skip.min(bytes.len());
            self.read_goaway(&bytes[..passed], &mut seen);
            self.skip -= passed;
            bytes = &bytes[passed..];
            if self.skip > 0 {
                return;
            }
            if let Some(frame) = self.current.take() {
                self.ended(frame, &mut seen);
            }
            if bytes.is_empty() {
                return;
            }
            let taken = (FRAME_HEADER_LEN - self.held_len).min(bytes.len());
            self.held[self.held_len..self.held_len + taken].copy_from_slice(&bytes[..taken]);
            self.held_len += taken;
            bytes = &bytes[taken..];
            if self.held_len < FRAME_HEADER_LEN {
                return;
            }
            self.begin(&mut seen);
        }
    }

    fn begin(&mut self, seen: &mut impl FnMut(Seen)) {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = self.held;
        self.held_len = 0;
        self.skip = usize::from(l0) << 16 | usize::from(l1) << 8 | usize::from(l2);
        let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
        self.last_stream_len = 0;
        if kind == HEADERS {
            seen(Seen::HeadStarted(stream));
        }
        self.current = Some(FrameHead { kind, flags, stream });
    }

    fn ended(&mut self, frame: FrameHead, seen: &mut impl FnMut(Seen)) {
        let flag = |bit: u8| frame.flags & bit != 0;
        match frame.kind {
            DATA if flag(END_STREAM) => seen(Seen::StreamEnded(frame.stream)),
            HEADERS if flag(END_STREAM) && flag(END_HEADERS) => {
                seen(Seen::StreamEnded(frame.stream));
            }
            HEADERS => self.end_after_continuation = flag(END_STREAM),
            CONTINUATION if flag(END_HEADERS) && self.end_after_continuation => {
                self.end_after_continuation = false;
                seen(Seen::StreamEnded(frame.stream));
            }
            _ => {}
        }
    }

    fn read_goaway(&mut self, payload: &[u8], seen: &mut impl FnMut(Seen)) {
        if self.current.is_none_or(|frame| frame.kind != GOAWAY) {
            return;
        }
        for byte in payload {
            if self.last_stream_len == 4 {
                return;
            }
            self.last_stream[self.last_stream_len] = *byte;
            self.last_stream_len += 1;
            if self.last_stream_len == 4 {
                seen(Seen::Goaway(u32::from_be_bytes(self.last_stream) & 0x7fff_ffff));
            }
        }
    }
}

/// Wraps the connection as HTTP sees it.
#[derive(Debug)]
pub(crate) struct Tap<S> {
    inner: S,
    wire: Arc<Wire>,
    frames: Option<Box<Frames>>,
}

#[derive(Debug)]
struct Frames {
    out: FrameScan,
    back: FrameScan,
}

impl<S> Tap<S> {
    pub(crate) const fn http1(inner: S, wire: Arc<Wire>) -> Self {
        Self { inner, wire, frames: None }
    }

    pub(crate) fn http2(inner: S, wire: Arc<Wire>) -> Self {
        Self { inner, wire, frames: Some(Box::new(Frames { out: FrameScan::after_preface(), back: FrameScan::default() })) }
    }

    fn accepted(&mut self, len: usize, bufs: &[IoSlice<'_>]) {
        self.wire.accepted(len);
        let Some(frames) = &mut self.frames else {
            return;
        };
        let mut left = len;
        for buf in bufs {
            let part = left.min(buf.len());
            let wire = &self.wire;
            frames.out.feed(&buf[..part], |seen| match seen {
                Seen::HeadStarted(stream) => wire.saw_head(stream),
                Seen::StreamEnded(stream) => wire.saw_end(stream),
                Seen::Goaway(_) => {}
            });
            left -= part;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tap<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if let Poll::Ready(Ok(())) = polled {
            let this = &mut *self;
            let fresh = &buf.filled()[before..];
            if fresh.is_empty() && buf.remaining() > 0 {
                this.wire.saw_clean_close();
            }
            if let Some(frames) = &mut this.frames {
                frames.back.feed(fresh, |seen| {
                    if let Seen::Goaway(last_stream) = seen {
                        this.wire.saw_goaway(last_stream);
                    }
                });
            }
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tap<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        if let Poll::Ready(Ok(len)) = polled {
            self.accepted(len, &[IoSlice::new(buf)]);
        }
        polled
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(len)) = polled {
            self.accepted(len, bufs);
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        if let Poll::Ready(Ok(())) = polled {
            self.wire.flushed();
        }
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
        let mut bytes = vec![len[1], len[2], len[3], kind, flags];
        bytes.extend_from_slice(&stream.to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    fn conversation() -> (Vec<u8>, Vec<Seen>) {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(0x4, 0, 0, &[0; 6]));
        bytes.extend(frame(HEADERS, END_STREAM | END_HEADERS, 1, b"head"));
        bytes.extend(frame(HEADERS, END_STREAM, 3, b"he"));
        bytes.extend(frame(CONTINUATION, END_HEADERS, 3, b"ad"));
        bytes.extend(frame(HEADERS, END_HEADERS, 5, b"head"));
        bytes.extend(frame(DATA, 0, 5, &[7; 300]));
        bytes.extend(frame(GOAWAY, 0, 0, &[0x80, 0, 0, 3, 0, 0, 0, 0, 1]));
        bytes.extend(frame(DATA, END_STREAM, 5, b""));
        let seen = vec![
            Seen::HeadStarted(1),
            Seen::StreamEnded(1),
            Seen::HeadStarted(3),
            Seen::StreamEnded(3),
            Seen::HeadStarted(5),
            Seen::Goaway(3),
            Seen::StreamEnded(5),
        ];
        (bytes, seen)
    }

    proptest! {
        #[test]
        fn frames_are_seen_however_the_bytes_are_cut(cuts in prop::collection::vec(1usize..40, 1..60)) {
            let (bytes, expect) = conversation();
            let mut scan = FrameScan::after_preface();
            let mut seen = Vec::new();
            let mut rest = bytes.as_slice();
            for cut in cuts.iter().cycle() {
                let (part, tail) = rest.split_at((*cut).min(rest.len()));
                scan.feed(part, |s| seen.push(s));
                rest = tail;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(seen, expect);
        }
    }
}
