//! A connection as a stream of bytes, with or without TLS, that can be ended in every way TCP knows.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::fault::Ending;

/// After a FIN the peer's own bytes are read this long, so that closing does not turn into a reset.
const LINGER: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: Stream,
    /// Read already, to be read again.
    ahead: BytesMut,
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Wire {
    pub(crate) fn plain(stream: TcpStream) -> Self {
        Self { stream: Stream::Plain(stream), ahead: BytesMut::new() }
    }

    pub(crate) fn tls(stream: TlsStream<TcpStream>) -> Self {
        Self { stream: Stream::Tls(Box::new(stream)), ahead: BytesMut::new() }
    }

    fn tcp(&self) -> &TcpStream {
        match &self.stream {
            Stream::Plain(tcp) => tcp,
            Stream::Tls(tls) => tls.get_ref().0,
        }
    }

    pub(crate) const fn is_secure(&self) -> bool {
        matches!(self.stream, Stream::Tls(_))
    }

    /// A second hold on the socket, for whoever ends a connection that another owns.
    pub(crate) fn lever(&self) -> io::Result<Lever> {
        Ok(Lever(SockRef::from(self.tcp()).try_clone()?))
    }

    /// The first `count` bytes, or fewer at the end, without consuming them.
    pub(crate) async fn look(&mut self, count: usize) -> io::Result<&[u8]> {
        while self.ahead.len() < count {
            let mut more = std::mem::take(&mut self.ahead);
            let read = self.read_buf(&mut more).await;
            self.ahead = more;
            if read? == 0 {
                break;
            }
        }
        Ok(&self.ahead)
    }

    /// Ends the connection the way a crash does, or a kernel that has no such connection.
    pub(crate) async fn end(mut self, ending: Ending) {
        if let Ok(lever) = self.lever() {
            lever.pull(ending);
        }
        if ending == Ending::Close {
            drain(&mut self).await;
        }
    }

    /// Says goodbye as it should be said.
    pub(crate) async fn close(mut self) {
        if self.shutdown().await.is_ok() {
            drain(&mut self).await;
        }
    }
}

async fn drain(wire: &mut Wire) {
    let mut sink = [0; 4096];
    let drained = async { while matches!(wire.read(&mut sink).await, Ok(read) if read > 0) {} };
    // A peer that keeps its side open has still seen the FIN.
    let _ = tokio::time::timeout(LINGER, drained).await;
}

/// Ends a connection under the feet of its owner.
#[derive(Debug)]
pub(crate) struct Lever(socket2::Socket);

impl Lever {
    /// FIN now; RST when the last hold on the socket is dropped, this one included.
    pub(crate) fn pull(&self, ending: Ending) {
        // On a connection that is gone already there is nothing left to end.
        let _ = match ending {
            Ending::Close => self.0.shutdown(std::net::Shutdown::Write),
            Ending::Reset => self.0.set_linger(Some(Duration::ZERO)),
        };
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let count = self.ahead.len().min(into.remaining());
            into.put_slice(&self.ahead[..count]);
            self.ahead.advance(count);
            return Poll::Ready(Ok(()));
        }
        match &mut self.stream {
            Stream::Plain(tcp) => Pin::new(tcp).poll_read(cx, into),
            Stream::Tls(tls) => Pin::new(tls).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Stream::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Stream::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
