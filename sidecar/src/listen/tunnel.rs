//! A byte stream that is not read: the stack decides about it by address and name alone.

use std::fmt;
use std::io;

use super::AgentStream;
use crate::arrival::Origin;
use crate::permit::Permit;
use crate::session::{Carried, copy_both};
use crate::target::{Scheme, Target};
use crate::upstream::{NotSent, Upstream};

/// An agent's stream that waits for a decision. Dropping it closes the connection.
pub struct Tunnel {
    stream: AgentStream,
    origin: Origin,
    target: Target,
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel").field("origin", &self.origin).field("target", &self.target).finish_non_exhaustive()
    }
}

/// Why a tunnel ended early.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// The far side could not be reached.
    #[error("the tunnel's far side could not be reached")]
    Unreachable(#[source] NotSent),
    /// Either side broke.
    #[error("the tunnel broke")]
    Broken(#[source] io::Error),
}

impl Tunnel {
    pub(super) const fn new(stream: AgentStream, origin: Origin, target: Target) -> Self {
        Self { stream, origin, target }
    }

    /// The connection that it came on.
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Where it wants to go.
    pub const fn target(&self) -> &Target {
        &self.target
    }

    /// Whether it is TLS that is passed on unread, so that the target's name is the server name in it.
    pub const fn is_tls(&self) -> bool {
        matches!(self.target.scheme, Scheme::Https)
    }

    /// Connects and copies both ways until both ends are done.
    ///
    /// # Errors
    /// When the far side is out of reach, or either connection breaks.
    pub async fn run(self, permit: Permit, upstream: &Upstream) -> Result<Carried, TunnelError> {
        let far = upstream.open_tunnel(permit, &self.target).await.map_err(TunnelError::Unreachable)?;
        copy_both(self.stream, far).await.map_err(TunnelError::Broken)
    }
}
