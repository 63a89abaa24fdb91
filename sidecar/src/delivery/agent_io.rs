//! The agent's TCP connection: what it has shown is noted as bytes pass, and once more while it is closed.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::{Facts, NEVER};
use crate::tcp_info::SendQueue;

/// How long a connection that we closed first is kept, to learn whether the agent read to the end.
const LINGER: Duration = Duration::from_secs(5);
/// How often, and how many times, an agent's kernel is given the time to take the last bytes before our FIN follows them.
const TAKEN_EVERY: Duration = Duration::from_millis(1);
const TAKEN_LOOKS: u32 = 50;

/// The agent's TCP connection as the layers above read and write it.
#[derive(Debug)]
pub(crate) struct AgentIo {
    socket: Arc<TcpStream>,
    facts: Arc<Facts>,
    eof: bool,
}

impl AgentIo {
    pub(crate) fn new(stream: TcpStream) -> Self {
        let socket = Arc::new(stream);
        let facts = Arc::new(Facts {
            socket: Arc::downgrade(&socket),
            below: AtomicU64::new(0),
            below_at_read: AtomicU64::new(0),
            fin_below: AtomicU64::new(NEVER),
            taken_below: AtomicU64::new(NEVER),
            fin_seen: AtomicBool::new(false),
            broken: AtomicBool::new(false),
        });
        Self { socket, facts, eof: false }
    }

    pub(crate) const fn facts(&self) -> &Arc<Facts> {
        &self.facts
    }

    fn poll_write_with(&self, cx: &mut Context<'_>, write: impl Fn() -> io::Result<usize>) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.socket.poll_write_ready(cx))?;
            match write() {
                Ok(len) => {
                    self.facts.below.fetch_add(len as u64, Ordering::AcqRel);
                    return Poll::Ready(Ok(len));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    self.facts.saw_break();
                    return Poll::Ready(Err(error));
                }
            }
        }
    }

    /// One read. A short one has emptied the socket: saying so to the runtime spares the read that would find nothing. It must
    /// be said from within `try_io`, which then forgets only the readiness that came before the read.
    fn try_read(&self, room: &mut [u8]) -> io::Result<usize> {
        let mut short = None;
        let read = self.socket.try_io(Interest::READABLE, || {
            let len = rustix::io::read(&*self.socket, &mut *room)?;
            if len == 0 || len == room.len() {
                return Ok(len);
            }
            short = Some(len);
            Err(io::ErrorKind::WouldBlock.into())
        });
        short.map_or(read, Ok)
    }
}

impl AsyncRead for AgentIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.socket.poll_read_ready(cx))?;
            let room = buf.initialize_unfilled();
            match self.try_read(room) {
                Ok(0) => {
                    if !self.eof && !room.is_empty() {
                        self.eof = true;
                        self.facts.saw_fin();
                    }
                    return Poll::Ready(Ok(()));
                }
                Ok(len) => {
                    buf.advance(len);
                    let below = self.facts.below.load(Ordering::Acquire);
                    self.facts.below_at_read.store(below, Ordering::Release);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    self.facts.saw_break();
                    return Poll::Ready(Err(error));
                }
            }
        }
    }
}

impl AsyncWrite for AgentIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, || self.socket.try_write(buf))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, || self.socket.try_write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.socket).shutdown(std::net::Shutdown::Write))
    }
}

impl Drop for AgentIo {
    fn drop(&mut self) {
        if self.eof || self.facts.is_broken() {
            return;
        }
        // We close first. A socket closed with unread input would reset what the agent has still to read, and nobody
        // would learn whether it did: so say FIN, and wait for the agent's.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            let _ = SockRef::from(&*self.socket).shutdown(std::net::Shutdown::Write);
            return;
        };
        let (socket, facts) = (Arc::clone(&self.socket), Arc::clone(&self.facts));
        runtime.spawn(async move {
            let _ = tokio::time::timeout(LINGER, drain(&socket, &facts)).await;
        });
    }
}

async fn drain(socket: &TcpStream, facts: &Facts) {
    // Once our FIN is in the queue, nothing tells whether it or the answer is what the agent has not taken.
    for _ in 0..TAKEN_LOOKS {
        if facts.send_queue() != Some(SendQueue::Pending) {
            facts.taken_below.store(facts.below.load(Ordering::Acquire), Ordering::Release);
            break;
        }
        tokio::time::sleep(TAKEN_EVERY).await;
    }
    let _ = SockRef::from(socket).shutdown(std::net::Shutdown::Write);
    let mut scrap = [0; 1024];
    loop {
        if socket.readable().await.is_err() {
            return facts.saw_break();
        }
        match socket.try_read(&mut scrap) {
            Ok(0) => return facts.saw_fin(),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return facts.saw_break(),
        }
    }
}
