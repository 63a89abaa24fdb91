//! The certificate in service. It changes between two handshakes; connections that stand go on.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// What every handshake presents, whatever name it asks for: API servers ask for the Service's.
#[derive(Clone, Default)]
pub(crate) struct Serving(Arc<ArcSwapOption<CertifiedKey>>);

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving").finish_non_exhaustive()
    }
}

impl Serving {
    /// Presents this one from now on.
    pub(crate) fn serve(&self, certified: CertifiedKey) {
        self.0.store(Some(Arc::new(certified)));
    }

    /// Whether there is one.
    pub(crate) fn is_ready(&self) -> bool {
        self.0.load().is_some()
    }

    /// The one that is presented now.
    #[cfg(test)]
    pub(crate) fn current(&self) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }

    /// The server's side of TLS. HTTP/1.1 only, as API servers speak it with webhooks.
    pub(crate) fn tls(&self) -> Result<ServerConfig, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(self.clone()));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.max_early_data_size = 0;
        Ok(config)
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}
