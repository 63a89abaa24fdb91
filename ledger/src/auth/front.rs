//! Who may speak for people: the cluster's own API servers, which have authenticated them and judged what they ask.
//!
//! An aggregated server trusts what a request's headers say of its person because of the client certificate that the API server shows,
//! by a CA and names that are published in the cluster (Kubernetes, "Configure the aggregation layer"). Nobody else has such a
//! certificate, and API servers let nobody else set those headers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The CA's certificates, in PEM.
const CA: &str = "requestheader-client-ca-file";
/// The names that certificates may have, a JSON list; an empty one allows every name.
const NAMES: &str = "requestheader-allowed-names";

/// By what a cluster's API servers are known. By nothing, where none is published: then nobody is.
#[derive(Clone, Default)]
pub(crate) struct Front {
    authority: Option<Arc<dyn ClientCertVerifier>>,
    names: Vec<String>,
}

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Front").field("has_authority", &self.authority.is_some()).field("names", &self.names).finish()
    }
}

/// Why what is published is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrontError {
    #[error("{CA}: {0}")]
    Pem(rustls::pki_types::pem::Error),
    #[error("{CA}: {0}")]
    Certificate(#[from] rustls::Error),
    #[error("{CA}: {0}")]
    Authority(#[from] rustls::server::VerifierBuilderError),
    #[error("{NAMES}: {0}")]
    Names(#[from] serde_json::Error),
}

/// Why a connection is not an API server's.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum Stranger {
    #[error("there is no client certificate")]
    NoCertificate,
    #[error("this cluster has published no CA of those who may speak for people")]
    NoAuthority,
    #[error("the client certificate is not by the CA of those who may speak for people: {0}")]
    Certificate(rustls::Error),
    #[error("the client certificate cannot be read")]
    Unreadable,
    #[error("{0:?} is none of those who may speak for people")]
    Name(String),
}

impl Front {
    /// As it is published.
    pub(crate) fn of(data: &BTreeMap<String, String>) -> Result<Self, FrontError> {
        let names = data.get(NAMES).map_or(Ok(Vec::new()), |names| serde_json::from_str(names))?;
        let Some(pem) = data.get(CA) else { return Ok(Self { authority: None, names }) };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            roots.add(certificate.map_err(FrontError::Pem)?)?;
        }
        let authority = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider())).build()?;
        Ok(Self { authority: Some(authority), names })
    }

    /// Whether the holder of this certificate, with those between it and its CA after it, may speak for people.
    pub(crate) fn judge(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Stranger> {
        let (own, between) = chain.split_first().ok_or(Stranger::NoCertificate)?;
        let authority = self.authority.as_ref().ok_or(Stranger::NoAuthority)?;
        authority.verify_client_cert(own, between, now).map_err(Stranger::Certificate)?;
        let (_, own) = X509Certificate::from_der(own).map_err(|_| Stranger::Unreadable)?;
        let name = own.subject().iter_common_name().next().and_then(|name| name.as_str().ok()).unwrap_or_default();
        let is_allowed = self.names.is_empty() || self.names.iter().any(|allowed| allowed == name);
        if is_allowed { Ok(()) } else { Err(Stranger::Name(name.to_owned())) }
    }
}
