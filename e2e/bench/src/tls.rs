//! Certificates of the bench, and TLS as the sidecar does it: rustls with ring, the public roots and one more, ALPN, no early
//! data. Both baselines use exactly this.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// The name that the far side's certificate is for.
pub(crate) const NAME: &str = "localhost";
/// The CA that signed it.
pub(crate) const CA: &str = "ca.pem";
const LEAF: &str = "leaf.pem";
const KEY: &str = "leaf.key";
/// A run outlives no day.
const VALID: time::Duration = time::Duration::days(2);

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Makes a CA and a leaf for [`NAME`].
pub(crate) fn create(dir: &Path) -> Result<()> {
    let now = time::OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Kybernis bench CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    (params.not_before, params.not_after) = (now - VALID, now + VALID);
    let ca_key = KeyPair::generate()?;
    fs::write(dir.join(CA), params.self_signed(&ca_key)?.pem())?;
    let issuer = Issuer::new(params, ca_key);

    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::DnsName(NAME.try_into()?)];
    (params.not_before, params.not_after) = (now - VALID, now + VALID);
    let key = KeyPair::generate()?;
    fs::write(dir.join(LEAF), params.signed_by(&key, &issuer)?.pem())?;
    fs::write(dir.join(KEY), key.serialize_pem())?;
    Ok(())
}

/// The leaf of `dir` and its key, for whoever sets TLS up by itself.
pub(crate) fn files(dir: &Path) -> [PathBuf; 2] {
    [dir.join(LEAF), dir.join(KEY)]
}

/// The server's side under the leaf of `dir`, offering `protocols`.
pub(crate) fn server(dir: &Path, protocols: &[&[u8]]) -> Result<Arc<ServerConfig>> {
    let leaf = CertificateDer::from_pem_file(dir.join(LEAF)).context("the leaf")?;
    let key = PrivateKeyDer::from_pem_file(dir.join(KEY)).context("the leaf's key")?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![leaf], key)?;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// The client's side, which trusts the public roots and those of `ca`, offering `protocols`.
pub(crate) fn client(ca: &Path, protocols: &[&[u8]]) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    for certificate in CertificateDer::pem_file_iter(ca).with_context(|| ca.display().to_string())? {
        roots.add(certificate?)?;
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}
