//! Opens a connection to a target: resolve, connect, TLS with verification and ALPN. Whatever fails here is proof that
//! nothing was sent.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::failure::NotSent;
use super::wire::{Gate, Wire};
use crate::boot_clock::BootClock;
use crate::resolve::Resolve;
use crate::target::{Host, Protocol, Scheme, Target};
use crate::tls::client::{ClientTls, server_name};

/// For one address: long enough for a retransmitted SYN, short enough to try the next.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// For a TLS handshake, from its first byte.
const TLS_TIMEOUT: Duration = Duration::from_secs(10);
/// How many of a name's addresses are tried.
const ADDRESSES_TRIED: usize = 4;

/// The bytes below HTTP.
#[derive(Debug)]
pub(crate) enum Transport {
    Plain(Gate),
    Tls(Box<TlsStream<Gate>>),
}

/// A connection that has carried nothing yet.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) transport: Transport,
    pub(crate) wire: Arc<Wire>,
    pub(crate) remote: SocketAddr,
    pub(crate) http2: bool,
}

/// Opens connections.
pub(crate) struct Connector {
    pub(crate) resolver: Arc<dyn Resolve>,
    pub(crate) tls: ClientTls,
    pub(crate) clock: BootClock,
    /// Our own listeners: a request that leads back to them would go round for ever.
    pub(crate) own: Vec<SocketAddr>,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("own", &self.own).finish_non_exhaustive()
    }
}

impl Connector {
    pub(crate) async fn connect(&self, target: &Target) -> Result<Connected, NotSent> {
        let stream = self.tcp(target).await?;
        let remote = stream.peer_addr().map_err(NotSent::ConnectFailed)?;
        let wire = Wire::new(self.clock.clone());
        let gate = Gate::new(stream, Arc::clone(&wire));
        let (transport, http2) = match target.scheme {
            Scheme::Http => (Transport::Plain(gate), target.protocol == Protocol::Http2),
            Scheme::Https => {
                let stream = self.handshake(target, gate).await?;
                let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                if target.protocol == Protocol::Http2 && !http2 {
                    return Err(NotSent::ProtocolUnavailable);
                }
                (Transport::Tls(Box::new(stream)), http2)
            }
        };
        Ok(Connected { transport, wire, remote, http2 })
    }

    /// A plain TCP connection, for HTTP and for opaque tunnels alike.
    pub(crate) async fn tcp(&self, target: &Target) -> Result<TcpStream, NotSent> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in self.addresses(target).await? {
            if self.is_own(address) {
                last = io::Error::other("the address is a listener of our own");
                continue;
            }
            match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true).map_err(NotSent::ConnectFailed)?;
                    return Ok(stream);
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(NotSent::ConnectFailed(last))
    }

    async fn addresses(&self, target: &Target) -> Result<Vec<SocketAddr>, NotSent> {
        let port = target.authority.port;
        if let Some(address) = target.address {
            return Ok(vec![address]);
        }
        match &target.authority.host {
            Host::Ip(ip) => Ok(vec![SocketAddr::new(*ip, port)]),
            Host::Name(name) => {
                let found = self.resolver.resolve(name).await;
                let found = found.map_err(NotSent::ResolveFailed)?;
                let to_socket = |ip| SocketAddr::new(ip, port);
                let tried = found.addresses.into_iter().take(ADDRESSES_TRIED);
                Ok(tried.map(to_socket).collect())
            }
        }
    }

    fn is_own(&self, address: SocketAddr) -> bool {
        self.own.iter().any(|own| {
            own.port() == address.port()
                && (own.ip() == address.ip().to_canonical() || (own.ip().is_unspecified() && address.ip().is_loopback()))
        })
    }

    async fn handshake(&self, target: &Target, gate: Gate) -> Result<TlsStream<Gate>, NotSent> {
        let name = server_name(&target.authority.host).map_err(NotSent::TlsFailed)?;
        let connector = TlsConnector::from(Arc::clone(self.tls.config(target.protocol)));
        tokio::time::timeout(TLS_TIMEOUT, connector.connect(name, gate))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(NotSent::TlsFailed)
    }
}

macro_rules! forward {
    ($self:ident, $io:ident => $call:expr) => {
        match &mut *$self {
            Transport::Plain($io) => {
                let $io = Pin::new($io);
                $call
            }
            Transport::Tls($io) => {
                let $io = Pin::new(&mut **$io);
                $call
            }
        }
    };
}

impl AsyncRead for Transport {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        forward!(self, io => io.poll_read(cx, buf))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        forward!(self, io => io.poll_write(cx, buf))
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        forward!(self, io => io.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(io) => io.is_write_vectored(),
            Self::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, io => io.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, io => io.poll_shutdown(cx))
    }
}
