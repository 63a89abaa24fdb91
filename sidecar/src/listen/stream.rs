//! The agent's bytes, straight from TCP or out of an HTTP/2 CONNECT stream, with what was read ahead put back.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;

use crate::delivery::{AgentIo, Facts};

/// See the module's description.
#[derive(Debug)]
pub(crate) struct AgentStream {
    /// Read from `io` and not yet handed on.
    ahead: BytesMut,
    io: Below,
    facts: Arc<Facts>,
    /// Its place among the connections: an upgrade takes the stream out of the hands of whoever accepted it, and the place with it.
    _slot: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
enum Below {
    Tcp(AgentIo),
    Stream(TokioIo<Upgraded>),
}

impl AgentStream {
    pub(crate) fn tcp(io: AgentIo, slot: OwnedSemaphorePermit) -> Self {
        Self { ahead: BytesMut::new(), facts: Arc::clone(io.facts()), io: Below::Tcp(io), _slot: Some(slot) }
    }

    /// A CONNECT stream of an HTTP/2 connection, whose facts are those of that connection.
    pub(crate) fn upgraded(io: Upgraded, facts: Arc<Facts>, slot: Option<OwnedSemaphorePermit>) -> Self {
        Self { ahead: BytesMut::new(), facts, io: Below::Stream(TokioIo::new(io)), _slot: slot }
    }

    pub(crate) const fn facts(&self) -> &Arc<Facts> {
        &self.facts
    }

    /// Breaks it off by a reset, which nobody takes for an end.
    pub(crate) fn reset(self) {
        match self.io {
            Below::Tcp(_) => self.facts.abort(),
            // HTTP/2 resets a stream that is dropped; its connection is not this stream's to break.
            Below::Stream(_) => {}
        }
    }

    /// Puts bytes back in front.
    pub(crate) fn put_back(&mut self, mut bytes: BytesMut) {
        bytes.unsplit(std::mem::take(&mut self.ahead));
        self.ahead = bytes;
    }

    /// What was read ahead.
    pub(crate) fn ahead(&self) -> &[u8] {
        &self.ahead
    }

    pub(crate) fn take_ahead(&mut self) -> BytesMut {
        std::mem::take(&mut self.ahead)
    }

    /// Reads more, ahead. Zero is the end.
    pub(crate) async fn read_ahead(&mut self, at_most: usize) -> io::Result<usize> {
        self.ahead.reserve(at_most.min(4096));
        match &mut self.io {
            Below::Tcp(io) => io.read_buf(&mut self.ahead).await,
            Below::Stream(io) => io.read_buf(&mut self.ahead).await,
        }
    }
}

macro_rules! forward {
    ($self:ident, $io:ident => $call:expr) => {
        match &mut $self.io {
            Below::Tcp($io) => {
                let $io = Pin::new($io);
                $call
            }
            Below::Stream($io) => {
                let $io = Pin::new($io);
                $call
            }
        }
    };
}

impl AsyncRead for AgentStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let part = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead[..part]);
            self.ahead.advance(part);
            return Poll::Ready(Ok(()));
        }
        forward!(self, io => io.poll_read(cx, buf))
    }
}

impl AsyncWrite for AgentStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        forward!(self, io => io.poll_write(cx, buf))
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        forward!(self, io => io.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Below::Tcp(io) => io.is_write_vectored(),
            Below::Stream(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, io => io.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        forward!(self, io => io.poll_shutdown(cx))
    }
}
