//! Which one destination a request is for, or why that cannot be said.

use std::sync::PoisonError;

use http::header::{CONTENT_TYPE, HOST};
use http::{Request, Response, Uri, Version};
use hyper::body::Incoming;
use kybernis_core::reason::{Code, Refusal};

use super::Served;
use crate::arrival::Handler;
use crate::body::ResponseBody;
use crate::listen::{Disagreement, Place};
use crate::stack::refuse;
use crate::target::{Authority, BadAuthority, Protocol, Scheme, Target};
use crate::upstream::wants_upgrade;

/// Why a request gets no further than the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum EdgeRefusal {
    #[error("This is a proxy: a request to it has its target in absolute form, or is a CONNECT.")]
    NotAbsolute,
    #[error("The request's authority is not usable: {0}.")]
    BadAuthority(BadAuthority),
    #[error("The request names no host.")]
    NoHost,
    #[error("The scheme must be http or https.")]
    BadScheme,
    #[error("The request's target and its Host field name different hosts.")]
    TwoHosts,
    #[error("{0}")]
    Disagreement(Disagreement),
    #[error("CONNECT belongs to the proxy's own port, not inside a connection.")]
    NestedConnect,
    #[error("CONNECT must name a host and a port.")]
    BadConnect,
}

impl EdgeRefusal {
    const fn code(self) -> Code {
        match self {
            Self::Disagreement(Disagreement::OutOfReach) => Code::EgressDenied,
            Self::TwoHosts | Self::Disagreement(_) => Code::AuthorityMismatch,
            Self::NotAbsolute | Self::BadAuthority(_) | Self::NoHost | Self::BadScheme | Self::NestedConnect | Self::BadConnect => {
                Code::BadRequest
            }
        }
    }

    /// As a problem document.
    pub(super) fn to_response(self) -> Response<ResponseBody> {
        refuse::to_response(&Refusal::new(self.code(), self.to_string()), false)
    }
}

impl<H: Handler> Served<H> {
    /// The destination that every name in the request and below it agrees on.
    pub(super) async fn route(&self, request: &Request<Incoming>) -> Result<Target, EdgeRefusal> {
        let scheme = self.scheme_of(request.uri())?;
        let named = self.named(request, scheme)?;
        self.agree(&named).await?;
        let mut target = self.place.target(scheme, named);
        target.protocol = protocol_for(request, scheme);
        Ok(target)
    }

    pub(super) fn connect_authority(&self, request: &Request<Incoming>) -> Result<Authority, EdgeRefusal> {
        if self.place != Place::Proxy {
            return Err(EdgeRefusal::NestedConnect);
        }
        let authority = request.uri().authority().ok_or(EdgeRefusal::BadConnect)?;
        Authority::parse(authority.as_str(), None).map_err(|bad| match bad {
            BadAuthority::NoHost | BadAuthority::BadPort => EdgeRefusal::BadConnect,
            BadAuthority::BadHost | BadAuthority::UserInfo => EdgeRefusal::BadAuthority(bad),
        })
    }

    fn scheme_of(&self, uri: &Uri) -> Result<Scheme, EdgeRefusal> {
        match (&self.place, uri.scheme_str()) {
            (Place::Proxy, Some("http")) => Ok(Scheme::Http),
            (Place::Proxy, Some("https")) => Ok(Scheme::Https),
            (Place::Proxy, Some(_)) => Err(EdgeRefusal::BadScheme),
            (Place::Proxy, None) => Err(EdgeRefusal::NotAbsolute),
            (Place::Connect(_) | Place::Redirect(_), _) => Ok(self.scheme),
        }
    }

    /// What the request itself says: its target's authority and its Host field, which must not contradict each other.
    fn named(&self, request: &Request<Incoming>, scheme: Scheme) -> Result<Authority, EdgeRefusal> {
        let default_port = self.place.port().unwrap_or(scheme.default_port());
        let parse = |text: &str| {
            Authority::parse(text, Some(default_port)).map_err(|bad| match bad {
                BadAuthority::NoHost => EdgeRefusal::NoHost,
                other => EdgeRefusal::BadAuthority(other),
            })
        };
        let target = request.uri().authority();
        let target = target.map(|a| parse(a.as_str())).transpose()?;
        let mut hosts = request.headers().get_all(HOST).iter();
        let host = hosts.next();
        if hosts.next().is_some() {
            return Err(EdgeRefusal::TwoHosts);
        }
        let host = host.map(|value| value.to_str().map_err(|_| BadAuthority::BadHost)).transpose().map_err(EdgeRefusal::BadAuthority)?;
        let host = host.map(parse).transpose()?;
        match (target, host) {
            (Some(target), Some(host)) if target != host => Err(EdgeRefusal::TwoHosts),
            (Some(named), _) | (None, Some(named)) => Ok(named),
            (None, None) => Err(EdgeRefusal::NoHost),
        }
    }

    async fn agree(&self, named: &Authority) -> Result<(), EdgeRefusal> {
        if self.place == Place::Proxy {
            return Ok(());
        }
        {
            let agreed = self.agreed.lock().unwrap_or_else(PoisonError::into_inner);
            if agreed.as_ref() == Some(named) {
                return Ok(());
            }
        }
        if self.tls_name.as_ref().is_some_and(|tls| tls != named) {
            return Err(EdgeRefusal::Disagreement(Disagreement::ServerName));
        }
        self.place.agrees(named, &*self.listeners.settings.resolver).await.map_err(EdgeRefusal::Disagreement)?;
        let mut agreed = self.agreed.lock().unwrap_or_else(PoisonError::into_inner);
        *agreed = Some(named.clone());
        Ok(())
    }
}

/// An Upgrade needs HTTP/1; gRPC, and prior knowledge in plain text, HTTP/2.
fn protocol_for(request: &Request<Incoming>, scheme: Scheme) -> Protocol {
    let grpc = || request.headers().get(CONTENT_TYPE).is_some_and(|value| is_grpc(value.as_bytes()));
    if wants_upgrade(request.headers()) {
        Protocol::Http1
    } else if request.version() == Version::HTTP_2 && (scheme == Scheme::Http || grpc()) {
        Protocol::Http2
    } else {
        Protocol::Negotiate
    }
}

fn is_grpc(value: &[u8]) -> bool {
    value.strip_prefix(b"application/grpc").is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}
