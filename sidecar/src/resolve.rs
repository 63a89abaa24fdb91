//! Names to addresses, afresh for each connection, behind a trait that tests and the pod's own resolver replace.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::future::{BoxFuture, FutureExt as _};
use hickory_resolver::TokioResolver;

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The name exists nowhere, or has no address.
    #[error("no address for {name}")]
    NotFound {
        /// The name as asked.
        name: String,
    },
    /// Nobody was asked: policy lets nothing go there, and a question would tell the name's servers something too.
    #[error("no rule could allow a call to {name}: it was not looked up")]
    OutOfReach {
        /// The name as asked.
        name: String,
    },
    /// No server answered, or it answered with an error.
    #[error("looking up {name} failed")]
    Failed {
        /// The name as asked.
        name: String,
        /// What the resolver reported.
        #[source]
        source: io::Error,
    },
}

/// What a name stands for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The name that the search domains made of it, lower case, without the root's dot: what policy matches.
    pub canonical: Box<str>,
    /// Never empty.
    pub addresses: Vec<IpAddr>,
}

/// Looks names up.
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of `name`, which is canonical ([`crate::target::Host`]).
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Resolved, ResolveError>>;
}

/// The machine's own resolver: `localhost` by rule, then `/etc/hosts`, then the servers and search domains of
/// `/etc/resolv.conf`.
#[derive(Debug)]
pub struct SystemResolver {
    hickory: TokioResolver,
}

impl SystemResolver {
    /// Reads `/etc/hosts` and `/etc/resolv.conf`.
    ///
    /// # Errors
    /// When the resolver configuration cannot be read.
    pub fn new() -> io::Result<Self> {
        let hickory = TokioResolver::builder_tokio().and_then(|builder| builder.build()).map_err(io::Error::other)?;
        Ok(Self { hickory })
    }
}

/// RFC 6761, 6.3: `localhost` and names under it are loopback, whatever a server says.
fn localhost(name: &str) -> Option<Resolved> {
    (name == "localhost" || name.ends_with(".localhost"))
        .then(|| Resolved { canonical: name.into(), addresses: vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] })
}

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Resolved, ResolveError>> {
        async move {
            if let Some(resolved) = localhost(name) {
                return Ok(resolved);
            }
            let not_found = || ResolveError::NotFound { name: name.into() };
            let found = self.hickory.lookup_ip(name).await.map_err(|error| {
                if error.is_no_records_found() || error.is_nx_domain() {
                    not_found()
                } else {
                    ResolveError::Failed { name: name.into(), source: io::Error::other(error) }
                }
            })?;
            let canonical = found.query().name().to_ascii().to_ascii_lowercase();
            let addresses: Vec<IpAddr> = found.iter().map(|ip| ip.to_canonical()).collect();
            if addresses.is_empty() {
                return Err(not_found());
            }
            Ok(Resolved { canonical: canonical.trim_end_matches('.').into(), addresses })
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localhost_is_loopback_by_rule() {
        for name in ["localhost", "pay.localhost"] {
            let found = localhost(name);
            assert!(found.is_some_and(|r| r.addresses.iter().all(IpAddr::is_loopback)));
        }
        assert_eq!(localhost("notlocalhost"), None);
    }
}
