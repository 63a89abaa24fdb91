//! A body of any length made of one repeated chunk: what is sent costs its sender next to nothing.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// As much as a proxy reads at once.
const CHUNK: usize = 64 * 1024;

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Repeated {
    chunk: Bytes,
    left: u64,
}

impl Repeated {
    /// Exactly these bytes.
    pub(crate) fn once(bytes: Bytes) -> Self {
        Self { left: bytes.len() as u64, chunk: bytes }
    }

    /// Nothing.
    pub(crate) const fn nothing() -> Self {
        Self { chunk: Bytes::new(), left: 0 }
    }

    /// `length` bytes.
    pub(crate) fn zeros(length: u64) -> Self {
        Self { chunk: Bytes::from(vec![b'0'; CHUNK]), left: length }
    }
}

impl Body for Repeated {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let part = usize::try_from(self.left).unwrap_or(usize::MAX).min(self.chunk.len());
        self.left -= part as u64;
        Poll::Ready(Some(Ok(Frame::data(self.chunk.slice(..part)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
