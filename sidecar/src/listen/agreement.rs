//! CONNECT, SNI, `Host` and original address must name one destination: else policy would judge one host while the
//! bytes went to another.

use std::net::{IpAddr, SocketAddr};

use crate::resolve::{Resolve, ResolveError};
use crate::target::{Authority, Host, Protocol, Scheme, Target};

/// Where a stream stands before it says anything itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On the forward proxy's port: each request names its own destination.
    Proxy,
    /// Behind a CONNECT.
    Connect(Authority),
    /// Redirected on its way to an address.
    Redirect(SocketAddr),
}

/// Two of the names do not agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Disagreement {
    #[error("The request names another port than the connection was opened to.")]
    Port,
    #[error("The request's host is not the one that CONNECT named.")]
    ConnectHost,
    #[error("The request's host does not resolve to the address that the connection was opened to.")]
    Address,
    #[error("No rule of the policy in force could allow a call to this host, so its name was not looked up. Ask for a rule that names it.")]
    OutOfReach,
    #[error("The request's host is not the server name of its TLS connection.")]
    ServerName,
}

impl Place {
    /// Whether `named`, which the stream says itself, is where the stream was opened to.
    pub(crate) async fn agrees(&self, named: &Authority, resolver: &dyn Resolve) -> Result<(), Disagreement> {
        let (opened, port) = match self {
            Self::Proxy => return Ok(()),
            Self::Connect(authority) => (authority.host.clone(), authority.port),
            Self::Redirect(address) => (Authority::from(*address).host, address.port()),
        };
        if named.port != port {
            return Err(Disagreement::Port);
        }
        match (&opened, &named.host) {
            (opened, named) if opened == named => Ok(()),
            (Host::Ip(ip), Host::Name(name)) => resolves_to(resolver, name, *ip).await,
            (Host::Ip(_), _) => Err(Disagreement::Address),
            (Host::Name(_), _) => Err(Disagreement::ConnectHost),
        }
    }

    /// The port that a name without one means here.
    pub(crate) const fn port(&self) -> Option<u16> {
        match self {
            Self::Proxy => None,
            Self::Connect(authority) => Some(authority.port),
            Self::Redirect(address) => Some(address.port()),
        }
    }

    /// Towards `authority`, which agrees: at the address that the agent chose, where it chose one.
    pub(crate) fn target(&self, scheme: Scheme, authority: Authority) -> Target {
        let address = match self {
            Self::Redirect(address) => Some(*address),
            Self::Connect(Authority { host: Host::Ip(ip), port }) => Some(SocketAddr::new(*ip, *port)),
            Self::Proxy | Self::Connect(_) => None,
        };
        Target { scheme, authority, address, protocol: Protocol::Negotiate }
    }
}

async fn resolves_to(resolver: &dyn Resolve, name: &str, ip: IpAddr) -> Result<(), Disagreement> {
    match resolver.resolve(name).await {
        Ok(found) if found.addresses.iter().any(|a| a.to_canonical() == ip) => Ok(()),
        Ok(_) => Err(Disagreement::Address),
        Err(ResolveError::OutOfReach { .. }) => Err(Disagreement::OutOfReach),
        Err(error @ (ResolveError::NotFound { .. } | ResolveError::Failed { .. })) => {
            tracing::debug!(%error, "a name could not be compared with its connection's address");
            Err(Disagreement::Address)
        }
    }
}
