//! The broker's own certification authority, and the leaf that it signs at every start.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};

use crate::StartError;

/// Names that clients know the broker by.
const NAMES: [&str; 3] = ["localhost", "broker.localhost", "broker.example.com"];
/// Clocks differ.
const BACKDATED: Duration = Duration::days(1);
/// A broker outlives no demo.
const VALIDITY: Duration = Duration::days(30);

/// Signs the leaves of brokers. Several brokers can share one, so that their clients need to trust but one.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    key: String,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// When the system yields no randomness.
    pub fn create() -> Result<Self, StartError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Kybernis test broker CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) = validity();
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        let key_pem = key.serialize_pem();
        Ok(Self { issuer: Issuer::new(params, key), pem, key: key_pem })
    }

    /// One that was made before, from its certificate and its key as PEM.
    ///
    /// # Errors
    /// When they are none.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, StartError> {
        let issuer = Issuer::from_ca_cert_pem(certificate, KeyPair::from_pem(key)?)?;
        Ok(Self { issuer, pem: certificate.to_owned(), key: key.to_owned() })
    }

    /// Its certificate, as PEM.
    pub fn certificate(&self) -> &str {
        &self.pem
    }

    /// Its key, as PEM, for a broker in another process.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Writes its certificate, whole at every instant: another broker's clients may be reading it, and that broker writing.
    pub(crate) fn write(&self, path: &Path) -> Result<(), StartError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let partial = path.with_extension(format!("{}-{}.partial", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        let written = std::fs::write(&partial, &self.pem).and_then(|()| std::fs::rename(&partial, path));
        written.map_err(|source| StartError::CaFile { path: path.into(), source })
    }

    /// The server's side of TLS under a new leaf: HTTP/1.1 and, where told, HTTP/2 before it.
    pub(crate) fn server_config(&self, http2: bool) -> Result<Arc<ServerConfig>, StartError> {
        let mut params = CertificateParams::new(NAMES.map(String::from))?;
        let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        params.subject_alt_names.extend(loopback.map(SanType::IpAddress));
        params.distinguished_name.push(DnType::CommonName, "Kybernis test broker");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = validity();
        let key = KeyPair::generate()?;
        let leaf = params.signed_by(&key, &self.issuer)?;

        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)?;
        let offered: &[&[u8]] = if http2 { &[b"h2", b"http/1.1"] } else { &[b"http/1.1"] };
        config.alpn_protocols = offered.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(Arc::new(config))
    }
}

fn validity() -> (OffsetDateTime, OffsetDateTime) {
    let now = OffsetDateTime::now_utc();
    (now - BACKDATED, now + VALIDITY)
}
