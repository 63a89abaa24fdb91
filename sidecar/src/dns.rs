//! The responder for redirected port 53: in a captured namespace there is no other server to ask. Names become addresses
//! through the same resolver that the proxy compares destinations with, so that both always mean the same machine.

pub(crate) mod answer;
pub(crate) mod reach;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::answer::{Transport, answer};
use crate::resolve::Resolve;

/// Questions under way at a time; beyond this they wait in the kernel's buffer, and clients ask again.
const QUESTIONS: usize = 256;
/// TCP connections at a time: clients come here only with answers that do not fit a datagram.
const CONNECTIONS: usize = 64;
/// A TCP connection that asks nothing for this long is closed (RFC 7766, 6.2.3: seconds are enough).
const IDLE: Duration = Duration::from_secs(10);
/// The longest query over UDP that is read: one question and its options take far less.
const QUERY_BYTES: usize = 4096;
/// A wait after an error of a listener (descriptors ran out), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What every question shares.
struct Responder {
    resolver: Arc<dyn Resolve>,
    questions: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    closing: CancellationToken,
    tasks: TaskTracker,
}

/// Answers on these sockets until `closing` is cancelled; questions under way then get no answer, and clients ask again.
///
/// # Errors
/// When a socket cannot be used.
pub async fn serve(udp: Vec<UdpSocket>, tcp: Vec<TcpListener>, resolver: Arc<dyn Resolve>, closing: CancellationToken) -> io::Result<()> {
    let tasks = TaskTracker::new();
    let responder = Arc::new(Responder {
        resolver,
        questions: Arc::new(Semaphore::new(QUESTIONS)),
        connections: Arc::new(Semaphore::new(CONNECTIONS)),
        closing,
        tasks: tasks.clone(),
    });
    let mut sockets = Vec::with_capacity(udp.len());
    for socket in udp {
        socket.set_nonblocking(true)?;
        sockets.push(tokio::net::UdpSocket::from_std(socket)?);
    }
    let mut listeners = Vec::with_capacity(tcp.len());
    for listener in tcp {
        listener.set_nonblocking(true)?;
        listeners.push(tokio::net::TcpListener::from_std(listener)?);
    }
    for socket in sockets {
        let this = Arc::clone(&responder);
        responder.spawn(async move { this.datagrams(Arc::new(socket)).await });
    }
    for listener in listeners {
        let this = Arc::clone(&responder);
        responder.spawn(async move { this.connections(listener).await });
    }
    tasks.close();
    tasks.wait().await;
    Ok(())
}

impl Responder {
    /// A task that ends when the responder does.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let closing = self.closing.clone();
        self.tasks.spawn(async move {
            let _ = closing.run_until_cancelled(task).await;
        });
    }

    async fn datagrams(self: Arc<Self>, socket: Arc<tokio::net::UdpSocket>) {
        let mut buffer = vec![0; QUERY_BYTES];
        loop {
            let Ok(permit) = Arc::clone(&self.questions).acquire_owned().await else { return };
            match socket.recv_from(&mut buffer).await {
                Ok((length, from)) => {
                    let query = buffer.get(..length).unwrap_or_default().to_vec();
                    let (this, socket) = (Arc::clone(&self), Arc::clone(&socket));
                    self.spawn(async move { this.datagram(&socket, &query, from, permit).await });
                }
                // An ICMP error about an earlier answer: its asker has gone.
                Err(error) => {
                    tracing::debug!(%error, "receiving a question failed");
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    async fn datagram(&self, socket: &tokio::net::UdpSocket, query: &[u8], from: SocketAddr, _permit: OwnedSemaphorePermit) {
        if let Some(reply) = answer(query, &*self.resolver, Transport::Udp).await
            && let Err(error) = socket.send_to(&reply, from).await
        {
            tracing::debug!(%error, "an answer could not be sent");
        }
    }

    async fn connections(self: Arc<Self>, listener: tokio::net::TcpListener) {
        loop {
            let Ok(permit) = Arc::clone(&self.connections).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let this = Arc::clone(&self);
                    self.spawn(async move {
                        if let Err(error) = this.connection(stream, permit).await {
                            tracing::debug!(%error, "a connection for names ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection for names failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Questions one after another, each with its length before it (RFC 1035, 4.2.2).
    async fn connection(&self, mut stream: TcpStream, _permit: OwnedSemaphorePermit) -> io::Result<()> {
        let mut query = Vec::new();
        loop {
            let length = match tokio::time::timeout(IDLE, stream.read_u16()).await {
                Ok(Ok(length)) => length,
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Ok(()),
            };
            query.resize(usize::from(length), 0);
            tokio::time::timeout(IDLE, stream.read_exact(&mut query)).await??;
            let Ok(_question) = self.questions.acquire().await else { return Ok(()) };
            // What is no query at all says nothing good about what follows.
            let Some(reply) = answer(&query, &*self.resolver, Transport::Tcp).await else { return Ok(()) };
            let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
            let framed = [&length.to_be_bytes()[..], &reply].concat();
            tokio::time::timeout(IDLE, stream.write_all(&framed)).await??;
        }
    }
}
