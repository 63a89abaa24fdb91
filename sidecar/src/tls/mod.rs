//! TLS on both sides: our own authority and its short-lived leaves towards the agent, verification towards the far side.

pub mod authority;
pub(crate) mod bundle;
pub mod client;
pub mod leaf;
pub(crate) mod truststore;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// The one cryptography provider, named explicitly wherever a configuration is built.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
