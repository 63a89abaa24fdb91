//! Short-lived certificates for intercepted names, signed by our authority as they are asked for, and kept a while.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ResolvesServerCert, ServerSessionMemoryCache};
use rustls::sign::CertifiedKey;

use super::authority::{Authority, BACKDATED};
use crate::target::Host;

/// A leaf holds for this long from its making.
const LEAF_VALIDITY: time::Duration = time::Duration::days(2);
/// And is made anew when half of that has passed.
const LEAF_RENEWED: time::Duration = time::Duration::days(1);
/// Distinct hosts that one agent talks to at a time; beyond it the oldest are made again when asked for.
const CACHED_LEAVES: usize = 512;
/// TLS sessions remembered for resumption, for each leaf.
const SESSIONS_PER_LEAF: usize = 32;

/// Why no leaf could be made.
#[derive(Debug, thiserror::Error)]
pub enum LeafError {
    /// The certificate could not be signed.
    #[error("no certificate could be made for {host}")]
    Sign {
        /// For whom.
        host: Host,
        /// What is wrong.
        #[source]
        source: rcgen::Error,
    },
    /// TLS does not accept it.
    #[error("the certificate for {host} is not usable")]
    Use {
        /// For whom.
        host: Host,
        /// What is wrong.
        #[source]
        source: rustls::Error,
    },
}

/// Makes and keeps server configurations, one for each intercepted host.
pub struct Leaves {
    authority: Authority,
    /// One key for all leaves: it never leaves this process, and making one costs more than signing.
    key: KeyPair,
    made: Mutex<HashMap<Host, Made>>,
}

#[derive(Clone)]
struct Made {
    config: Arc<ServerConfig>,
    at: time::OffsetDateTime,
}

impl fmt::Debug for Leaves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaves").finish_non_exhaustive()
    }
}

impl Leaves {
    /// Leaves signed by `authority`.
    ///
    /// # Errors
    /// When the system yields no randomness for their key.
    pub fn new(authority: Authority) -> Result<Self, rcgen::Error> {
        Ok(Self { authority, key: KeyPair::generate()?, made: Mutex::default() })
    }

    /// Who signs them.
    pub const fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The server side of TLS for `host`, offering HTTP/2 and HTTP/1.1.
    ///
    /// # Errors
    /// When no certificate can be made for such a host.
    pub fn server_config(&self, host: &Host) -> Result<Arc<ServerConfig>, LeafError> {
        let now = time::OffsetDateTime::now_utc();
        {
            let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(found) = made.get(host)
                && now - found.at < LEAF_RENEWED
            {
                return Ok(Arc::clone(&found.config));
            }
        }
        let config = self.make(host, now)?;
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.len() >= CACHED_LEAVES {
            let oldest = made.iter().min_by_key(|(_, leaf)| leaf.at);
            if let Some(oldest) = oldest.map(|(host, _)| host.clone()) {
                made.remove(&oldest);
            }
        }
        let leaf = Made { config: Arc::clone(&config), at: now };
        made.insert(host.clone(), leaf);
        Ok(config)
    }

    fn make(&self, host: &Host, now: time::OffsetDateTime) -> Result<Arc<ServerConfig>, LeafError> {
        let sign = |source| LeafError::Sign { host: host.clone(), source };
        let unusable = |source| LeafError::Use { host: host.clone(), source };
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![match host {
            Host::Name(name) => SanType::DnsName(name.to_string().try_into().map_err(sign)?),
            Host::Ip(ip) => SanType::IpAddress(*ip),
        }];
        // The subject's length is bounded (64); the name that counts is the alternative one.
        params.distinguished_name.push(DnType::OrganizationName, "Kybernis");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = now - BACKDATED;
        params.not_after = now + LEAF_VALIDITY;
        let leaf = params.signed_by(&self.key, self.authority.issuer()).map_err(sign)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let chain = vec![leaf.der().clone(), self.authority.der().clone()];
        let provider = super::provider();
        let certified = CertifiedKey::from_der(chain, key, &provider).map_err(unusable)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Only(Arc::new(certified))));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.session_storage = ServerSessionMemoryCache::new(SESSIONS_PER_LEAF);
        config.max_early_data_size = 0;
        Ok(Arc::new(config))
    }
}

/// Presents its one certificate whatever the name: the name was judged before.
#[derive(Debug)]
struct Only(Arc<CertifiedKey>);

impl ResolvesServerCert for Only {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}
