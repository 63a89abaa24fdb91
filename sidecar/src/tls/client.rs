//! TLS towards the far side: always verified, against public roots plus configured ones; no early data.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use crate::target::{Host, Protocol};

/// Which certification authorities vouch for the far side.
#[derive(Clone, Debug)]
pub struct Roots(RootCertStore);

/// A file of extra roots that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// It is not readable, or not PEM.
    #[error("{path}: not a readable PEM file")]
    Unreadable {
        /// The file.
        path: String,
        /// What is wrong with it.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// It has a certificate that is none.
    #[error("{path}: certificate {index} is not usable as a root")]
    BadRoot {
        /// The file.
        path: String,
        /// Counted from 1.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: rustls::Error,
    },
    /// It has no certificate at all: surely not what was meant.
    #[error("{path}: no certificate in it")]
    Empty {
        /// The file.
        path: String,
    },
}

impl Roots {
    /// The public web's roots, as Mozilla keeps them.
    pub fn public() -> Self {
        Self(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() })
    }

    /// No roots yet.
    pub fn none() -> Self {
        Self(RootCertStore::empty())
    }

    /// Adds every certificate of a PEM file.
    ///
    /// # Errors
    /// When the file has none, or one that is unusable.
    pub fn add_pem_file(&mut self, file: &Path) -> Result<(), RootsError> {
        let path = || file.display().to_string();
        let unreadable = |source| RootsError::Unreadable { path: path(), source };
        let mut count = 0;
        for certificate in CertificateDer::pem_file_iter(file).map_err(unreadable)? {
            count += 1;
            self.0.add(certificate.map_err(unreadable)?).map_err(|source| RootsError::BadRoot { path: path(), index: count, source })?;
        }
        if count == 0 {
            return Err(RootsError::Empty { path: path() });
        }
        Ok(())
    }

    /// Adds one certificate.
    ///
    /// # Errors
    /// When it is not usable as a root.
    pub fn add_der(&mut self, der: CertificateDer<'_>) -> Result<(), rustls::Error> {
        self.0.add(der.into_owned())
    }
}

/// Client configurations, one for each set of HTTP versions on offer.
#[derive(Clone, Debug)]
pub struct ClientTls {
    negotiate: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
}

impl ClientTls {
    /// Verifies against `roots`.
    pub fn new(roots: Roots) -> Self {
        let roots = Arc::new(roots.0);
        let with_alpn = |protocols: &[&[u8]]| {
            let mut config = ClientConfig::builder_with_provider(super::provider())
                .with_safe_default_protocol_versions()
                .map(|builder| builder.with_root_certificates(Arc::clone(&roots)).with_no_client_auth())
                // The ring provider has suites for both versions; only a provider without any is refused here.
                .unwrap_or_else(|_| unreachable!("the provider supports TLS 1.2 and 1.3"));
            config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
            config.enable_early_data = false;
            Arc::new(config)
        };
        Self { negotiate: with_alpn(&[b"h2", b"http/1.1"]), http1: with_alpn(&[b"http/1.1"]), http2: with_alpn(&[b"h2"]) }
    }

    pub(crate) const fn config(&self, protocol: Protocol) -> &Arc<ClientConfig> {
        match protocol {
            Protocol::Negotiate => &self.negotiate,
            Protocol::Http1 => &self.http1,
            Protocol::Http2 => &self.http2,
        }
    }
}

pub(crate) fn server_name(host: &Host) -> io::Result<ServerName<'static>> {
    match host {
        Host::Ip(ip) => Ok(ServerName::IpAddress((*ip).into())),
        Host::Name(name) => ServerName::try_from(name.to_string()).map_err(|e| io::Error::other(e.to_string())),
    }
}
