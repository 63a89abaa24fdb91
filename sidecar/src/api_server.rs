//! The cluster's API server: its clients trust the cluster's own CA and nobody else, so that what they say to it cannot be read. A rule
//! that is built in lets TLS to its address pass where the kernel leads it here, recorded as ungoverned. A rule that denies it holds all
//! the same.

use std::net::SocketAddr;

use kybernis_core::policy::Host;

use crate::target::{self, Authority};

/// What spans name as the rule.
pub(crate) const RULE: &str = "kybernis/api-server";
/// Its Service's name, as rules have it.
const NAME: &str = "kubernetes.default.svc";
/// As far as clients write it; search domains make the rest.
const NAMES: [&str; 3] = ["kubernetes", "kubernetes.default", NAME];

/// Where it is, and how it is called.
#[derive(Debug)]
pub(crate) struct ApiServer {
    address: SocketAddr,
    names: Vec<String>,
}

impl ApiServer {
    /// In a pod with these search domains.
    pub(crate) fn new(address: SocketAddr, search: &[String]) -> Self {
        let domains = || std::iter::once(String::new()).chain(search.iter().map(|domain| format!(".{domain}")));
        let names = NAMES.iter().flat_map(|name| domains().map(move |domain| format!("{name}{domain}"))).collect();
        Self { address, names }
    }

    /// What rules call it.
    pub(crate) fn authority(&self) -> Authority {
        Authority { host: target::Host::Name(NAME.into()), port: self.address.port() }
    }

    pub(crate) fn is_at(&self, address: Option<SocketAddr>) -> bool {
        address.is_some_and(|address| (address.ip().to_canonical(), address.port()) == (self.address.ip(), self.address.port()))
    }

    /// Whether a question for this name is one for its address. Whole names only: what stands before or behind one could carry anything.
    pub(crate) fn is_named(&self, host: &Host) -> bool {
        self.names.iter().any(|name| name == host.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_the_names_that_search_domains_make_and_no_others() {
        let search = ["trading.svc.cluster.local", "svc.cluster.local", "cluster.local"].map(str::to_owned);
        let api = ApiServer::new(SocketAddr::from(([198, 18, 128, 1], 443)), &search);
        let check = |name: &str, expect| assert_eq!(api.is_named(&Host::new(name).unwrap()), expect, "{name}");
        check("kubernetes.default.svc", true);
        check("kubernetes.default.svc.cluster.local", true);
        check("kubernetes.default.svc.trading.svc.cluster.local", true);
        check("secret.kubernetes.default.svc", false);
        check("kubernetes.default.svc.secret.example.com", false);
        check("pay.default.svc.cluster.local", false);
        assert!(api.is_at(Some(SocketAddr::from(([198, 18, 128, 1], 443)))));
        assert!(!api.is_at(Some(SocketAddr::from(([198, 18, 128, 1], 80)))) && !api.is_at(None));
    }
}
