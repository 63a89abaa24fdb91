//! Names to addresses, afresh for each connection, behind a trait that tests and the pod's own resolver replace.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt as _};
use hickory_resolver::config::ResolveHosts;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, TokioResolver};

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
    search: Vec<String>,
}

impl SystemResolver {
    /// Reads `/etc/hosts` and `/etc/resolv.conf`. With a folder `kept`, as the first resolver with that folder found them: all
    /// containers of a pod have the same two files, and what the agent writes into them must not lead the sidecar anywhere.
    ///
    /// # Errors
    /// When the resolver configuration cannot be read, or kept.
    pub fn new(kept: Option<&Path>) -> io::Result<Self> {
        let read = |file: &str| match kept {
            Some(folder) => as_found(folder, file),
            None => fs::read(Path::new("/etc").join(file)),
        };
        let (config, mut options) = parse_resolv_conf(read("resolv.conf")?).map_err(io::Error::other)?;
        let search = config.search().iter().map(|domain| domain.to_ascii().to_ascii_lowercase().trim_end_matches('.').to_owned()).collect();
        options.use_hosts_file = ResolveHosts::Never;
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        let mut hickory = builder.build().map_err(io::Error::other)?;
        let mut hosts = Hosts::default();
        match read("hosts") {
            Ok(text) => {
                if let Err(error) = hosts.read_hosts_conf(text.as_slice()) {
                    tracing::warn!(%error, "/etc/hosts is read only as far as it can be");
                }
            }
            // Not every image has one.
            Err(error) => tracing::warn!(%error, "there is no /etc/hosts to be read"),
        }
        hickory.set_hosts(Arc::new(hosts));
        Ok(Self { hickory, search })
    }

    /// What may be left away at the end of a name, without the root's dot.
    pub(crate) fn search(&self) -> &[String] {
        &self.search
    }
}

/// A file of `/etc` as it was when it was first asked for.
fn as_found(folder: &Path, file: &str) -> io::Result<Vec<u8>> {
    let kept = folder.join(file);
    match fs::read(&kept) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let found = fs::read(Path::new("/etc").join(file))?;
            // Whole or not at all: a sidecar that is killed half way starts anew.
            let unfinished = kept.with_added_extension("new");
            fs::write(&unfinished, &found)?;
            fs::rename(&unfinished, &kept)?;
            Ok(found)
        }
        read => read,
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

    #[tokio::test]
    async fn names_lead_where_they_led_at_first() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("resolv.conf"), "nameserver 192.0.2.1\n").unwrap();
        fs::write(folder.path().join("hosts"), "192.0.2.7 pay.test\n").unwrap();
        let found = SystemResolver::new(Some(folder.path())).unwrap().resolve("pay.test").await.unwrap();
        assert_eq!(found.addresses, ["192.0.2.7".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn what_is_found_first_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let hosts = fs::read("/etc/hosts").unwrap();
        assert_eq!(as_found(folder.path(), "hosts").unwrap(), hosts);
        assert_eq!(fs::read(folder.path().join("hosts")).unwrap(), hosts);
        fs::write(folder.path().join("hosts"), "kept").unwrap();
        assert_eq!(as_found(folder.path(), "hosts").unwrap(), b"kept");
    }

    #[test]
    fn localhost_is_loopback_by_rule() {
        for name in ["localhost", "pay.localhost"] {
            let found = localhost(name);
            assert!(found.is_some_and(|r| r.addresses.iter().all(IpAddr::is_loopback)));
        }
        assert_eq!(localhost("notlocalhost"), None);
    }
}
