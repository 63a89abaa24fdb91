//! The way in: the forward proxy's port and the port that redirected connections reach. Each connection's first bytes
//! say what it speaks; CONNECT, SNI, `Host` and original address must name one destination.

mod agreement;
mod intercept;
pub(crate) mod sniff;
mod stream;
mod tunnel;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use self::agreement::{Disagreement, Place};
use self::sniff::Speech;
pub(crate) use self::stream::AgentStream;
use self::tunnel::Unheard;
pub use self::tunnel::{Tunnel, TunnelEnd, TunnelError};
use crate::arrival::{Capture, ConnectionId, Handler, Origin};
use crate::delivery::AgentIo;
use crate::resolve::Resolve;
use crate::server::{self, Served};
use crate::target::{Authority, Scheme};
use crate::tls::leaf::Leaves;

/// Agent connections at a time, whatever has become of them since: tunnels and sessions too. Each costs some tens of KiB; beyond
/// this the kernel's backlog holds them.
const CONNECTIONS: usize = 4096;
/// After an accept failed for want of descriptors: let some be closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Reads where a redirected connection was meant to go.
pub type OriginalDestination = Arc<dyn Fn(&TcpStream) -> io::Result<SocketAddr> + Send + Sync>;

/// Which of the two ports a listener is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Absolute-form requests and CONNECT.
    Proxy,
    /// Connections that the kernel redirected here.
    Redirect,
}

/// What the listeners need to know.
pub struct Settings {
    /// Certificates for intercepted names.
    pub leaves: Arc<Leaves>,
    /// For comparing names with addresses.
    pub resolver: Arc<dyn Resolve>,
    /// For the redirected port.
    pub original_destination: OriginalDestination,
    /// Our own listeners: a connection meant for one of them is refused.
    pub own: Vec<SocketAddr>,
}

/// Accepts connections and serves them.
pub struct Listeners<H> {
    pub(crate) handler: Arc<H>,
    pub(crate) settings: Settings,
    connections: Arc<Semaphore>,
    next_id: AtomicU64,
    tasks: TaskTracker,
    cut: CancellationToken,
    pub(crate) closing: CancellationToken,
}

impl<H> fmt::Debug for Listeners<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listeners").field("own", &self.settings.own).field("connections", &self.tasks.len()).finish_non_exhaustive()
    }
}

impl<H: Handler> Listeners<H> {
    /// Serves with `handler`.
    pub fn new(handler: Arc<H>, settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            handler,
            settings,
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
            next_id: AtomicU64::new(1),
            tasks: TaskTracker::new(),
            cut: CancellationToken::new(),
            closing: CancellationToken::new(),
        })
    }

    /// Accepts on `listener` until [`Listeners::close`]. The socket may be one that a supervisor keeps.
    ///
    /// # Errors
    /// When the socket cannot be registered with the runtime.
    pub async fn serve(self: Arc<Self>, listener: std::net::TcpListener, port: Port) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        loop {
            let Ok(slot) = Arc::clone(&self.connections).acquire_owned().await else {
                return Ok(());
            };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.closing.cancelled() => return Ok(()),
            };
            match accepted {
                Ok((stream, peer)) => {
                    let this = Arc::clone(&self);
                    self.spawn(this.accepted(stream, peer, port, slot));
                }
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Stops accepting, lets every connection finish the exchanges it is in, and returns when all are done.
    pub async fn close(&self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Drops the connections that are left.
    pub(crate) fn cut(&self) {
        self.cut.cancel();
    }

    /// Serves a connection, or a stream within one, until it ends or is [`Self::cut`].
    pub(crate) fn spawn(&self, serving: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(self.cut.clone().run_until_cancelled_owned(serving));
    }

    /// Room for one more connection, if there is any now.
    pub(crate) fn slot(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.connections).try_acquire_owned().ok()
    }

    #[cfg(test)]
    pub(crate) fn busy(&self) -> usize {
        CONNECTIONS - self.connections.available_permits()
    }

    async fn accepted(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, port: Port, slot: OwnedSemaphorePermit) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "connection lost on arrival");
            return;
        }
        let (place, original) = match port {
            Port::Proxy => (Place::Proxy, None),
            Port::Redirect => match (self.settings.original_destination)(&stream) {
                Ok(address) if !self.is_own(address) => (Place::Redirect(address), Some(address)),
                Ok(address) => {
                    tracing::warn!(%address, "a connection meant for our own listener was refused");
                    return reset(&stream);
                }
                Err(error) => {
                    tracing::warn!(%error, "a redirected connection has no original destination");
                    return reset(&stream);
                }
            },
        };
        let origin = Origin {
            connection: ConnectionId(self.next_id.fetch_add(1, Ordering::Relaxed)),
            capture: match port {
                Port::Proxy => Capture::Cooperative,
                Port::Redirect => Capture::Redirect,
            },
            peer,
            original_destination: original,
            connect: None,
            sni: None,
        };
        let stream = AgentStream::tcp(AgentIo::new(stream), slot);
        self.stream(stream, place, origin).await;
    }

    fn is_own(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        self.settings
            .own
            .iter()
            .any(|own| own.port() == address.port() && (own.ip().to_canonical() == ip || (own.ip().is_unspecified() && ip.is_loopback())))
    }

    /// Serves a byte stream by what its first bytes say. Boxed, for a CONNECT leads back here.
    pub(crate) fn stream(self: Arc<Self>, mut stream: AgentStream, place: Place, origin: Origin) -> BoxFuture<'static, ()> {
        async move {
            loop {
                let speech = match sniff::sniff(&mut stream, &place).await {
                    Ok(speech) => speech,
                    Err(error) => {
                        tracing::debug!(%error, "connection ended before it said anything");
                        return;
                    }
                };
                match speech {
                    Speech::Nothing => return,
                    Speech::Http1 => return server::http1(Served::plain(self, place, origin), stream).await,
                    Speech::Http2 => return server::http2(Served::plain(self, place, origin), stream).await,
                    Speech::Tls => return self.tls(stream, place, origin).await,
                    Speech::Opaque => return self.opaque(stream, &place, origin, None).await,
                    Speech::Silent => {
                        let (back, spoken) = oneshot::channel();
                        let unheard = Unheard { place: place.clone(), back };
                        self.opaque(stream, &place, origin.clone(), Some(unheard)).await;
                        match spoken.await {
                            Ok(spoken) => stream = spoken,
                            // It was carried to its end, or refused.
                            Err(_) => return,
                        }
                    }
                }
            }
        }
        .boxed()
    }

    /// Leaves a stream that is not read to the stack's decision.
    async fn opaque(&self, stream: AgentStream, place: &Place, origin: Origin, unheard: Option<Unheard>) {
        let authority = match place {
            Place::Proxy => return,
            Place::Connect(authority) => authority.clone(),
            Place::Redirect(address) => Authority::from(*address),
        };
        let target = place.target(Scheme::Http, authority);
        let tunnel = Tunnel::new(stream, origin, target, unheard);
        Arc::clone(&self.handler).tunnel(tunnel).await;
    }
}

fn reset(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
