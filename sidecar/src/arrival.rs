//! What the stack is told about where a request came from, and the trait through which it is called.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use hyper::upgrade::OnUpgrade;

use crate::body::{RequestBody, ResponseBody};
use crate::delivery::Delivery;
use crate::listen::Tunnel;
use crate::target::{Authority, Target};

/// Numbers the agent's connections; unique within this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub(crate) u64);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a connection came to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Capture {
    /// The agent honoured its proxy settings.
    Cooperative,
    /// The kernel redirected the connection.
    Redirect,
}

/// One connection of the agent, as far as its requests need to know it.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The connection's number.
    pub connection: ConnectionId,
    /// How it came.
    pub capture: Capture,
    /// The agent's end.
    pub peer: SocketAddr,
    /// Where the agent meant to connect, for a redirected connection.
    pub original_destination: Option<SocketAddr>,
    /// What the agent's CONNECT named.
    pub connect: Option<Authority>,
    /// The server name of the agent's TLS handshake.
    pub sni: Option<Box<str>>,
}

/// One request's arrival. CONNECT, SNI, `Host` and original address have been found to agree on `target`.
#[derive(Debug)]
pub struct Arrival {
    /// The connection that it came on.
    pub origin: Arc<Origin>,
    /// Where it wants to go. `target.protocol` already says HTTP/1 for an Upgrade and HTTP/2 for gRPC.
    pub target: Target,
    /// The version that the agent speaks.
    pub version: http::Version,
    /// Present where the request asks for an upgrade; give it to [`crate::session::join`].
    pub upgrade: Option<OnUpgrade>,
    /// Whether the answer was read to its end: ask later.
    pub delivery: Delivery,
}

/// What to do with a TLS connection before its first request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsTreatment {
    /// Terminate it with a leaf of our CA.
    Intercept,
    /// Pass it on unread; [`Handler::tunnel`] decides about it.
    PassThrough,
}

/// The decision stack, seen from below.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. Dropping the returned future means that the agent has gone; what must go on is spawned.
    fn handle(
        self: Arc<Self>,
        arrival: Arrival,
        request: http::Request<RequestBody>,
    ) -> impl Future<Output = http::Response<ResponseBody>> + Send;

    /// Decides about a byte stream that is not HTTP, or TLS that is passed on unread: consume the tunnel with a
    /// session permit, or drop it, which closes the connection.
    fn tunnel(self: Arc<Self>, tunnel: Tunnel) -> impl Future<Output = ()> + Send;

    /// Whether TLS towards `authority` is intercepted. Asked once per connection, so it must be cheap.
    fn tls_treatment(&self, origin: &Origin, authority: &Authority) -> TlsTreatment;
}
