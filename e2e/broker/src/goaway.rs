//! Puts a GOAWAY frame of our own making between two frames of the HTTP/2 library, which would only ever say the truth about
//! its last stream.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::wire::Wire;

const FRAME_HEADER_LEN: usize = 9;
/// Last stream and error code (RFC 9113, 6.8).
const GOAWAY_LEN: usize = 8;
const GOAWAY: u8 = 0x7;

/// The frame, with NO_ERROR.
fn frame(last_stream: u32) -> Vec<u8> {
    let mut frame = vec![0, 0, GOAWAY_LEN as u8, GOAWAY, 0, 0, 0, 0, 0];
    frame.extend(last_stream.to_be_bytes());
    frame.extend(0_u32.to_be_bytes());
    frame
}

/// Asks for a GOAWAY; it goes out at the next flush.
#[derive(Clone, Debug, Default)]
pub(crate) struct Farewell(Arc<Mutex<Vec<u8>>>);

impl Farewell {
    pub(crate) fn say(&self, last_stream: u32) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = frame(last_stream);
    }
}

/// Where the outgoing stream stands between frames.
#[derive(Debug, Default)]
struct Frames {
    head: Vec<u8>,
    payload_left: usize,
}

impl Frames {
    fn between(&self) -> bool {
        self.head.is_empty() && self.payload_left == 0
    }

    fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let skipped = self.payload_left.min(bytes.len());
            self.payload_left -= skipped;
            bytes = &bytes[skipped..];
            let (more, rest) = bytes.split_at((FRAME_HEADER_LEN - self.head.len()).min(bytes.len()));
            self.head.extend(more);
            bytes = rest;
            if let [high, middle, low, _, _, _, _, _, _] = self.head[..] {
                self.payload_left = u32::from_be_bytes([0, high, middle, low]) as usize;
                self.head.clear();
            }
        }
    }
}

/// A wire that can say goodbye on its own.
#[derive(Debug)]
pub(crate) struct Leaving {
    wire: Wire,
    frames: Frames,
    farewell: Farewell,
}

impl Leaving {
    pub(crate) fn new(wire: Wire) -> (Self, Farewell) {
        let farewell = Farewell::default();
        (Self { wire, frames: Frames::default(), farewell: farewell.clone() }, farewell)
    }

    /// Writes what is asked for, if the stream stands between two frames.
    fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut asked = self.farewell.0.lock().unwrap_or_else(PoisonError::into_inner);
        while self.frames.between() && !asked.is_empty() {
            let written = ready!(Pin::new(&mut self.wire).poll_write(cx, &asked))?;
            asked.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Leaving {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_read(cx, into)
    }
}

impl AsyncWrite for Leaving {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_farewell(cx))?;
        let written = ready!(Pin::new(&mut self.wire).poll_write(cx, bytes))?;
        self.frames.pass(&bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_farewell(cx))?;
        Pin::new(&mut self.wire).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_boundaries_are_found_in_any_cut() {
        let bytes = [&frame(7)[..], &[0, 0, 0, 4, 1, 0, 0, 0, 0], &frame(1)].concat();
        let boundaries = [0, 17, 26, 43];
        for cut in 1..bytes.len() {
            let mut frames = Frames::default();
            let mut passed = 0;
            for part in bytes.chunks(cut) {
                frames.pass(part);
                passed += part.len();
                assert_eq!(frames.between(), boundaries.contains(&passed), "{passed} of cut {cut}");
            }
        }
    }
}
