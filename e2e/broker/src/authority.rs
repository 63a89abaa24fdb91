//! The broker's own certification authority, new at every start, and the one leaf it signs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

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

/// Makes authority and leaf, writes the authority's certificate to `ca_out`, and returns the server's side of TLS, which
/// offers HTTP/2 and HTTP/1.1.
pub(crate) fn server_config(ca_out: &Path) -> Result<Arc<ServerConfig>, StartError> {
    let now = OffsetDateTime::now_utc();
    let (not_before, not_after) = (now - BACKDATED, now + VALIDITY);

    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "Kybernis test broker CA");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (ca.not_before, ca.not_after) = (not_before, not_after);
    let ca_key = KeyPair::generate()?;
    let ca_certificate = ca.self_signed(&ca_key)?;
    std::fs::write(ca_out, ca_certificate.pem()).map_err(|source| StartError::CaFile { path: ca_out.into(), source })?;
    let issuer = Issuer::new(ca, ca_key);

    let mut leaf = CertificateParams::new(NAMES.map(String::from))?;
    let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    leaf.subject_alt_names.extend(loopback.map(SanType::IpAddress));
    leaf.distinguished_name.push(DnType::CommonName, "Kybernis test broker");
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    (leaf.not_before, leaf.not_after) = (not_before, not_after);
    let leaf_key = KeyPair::generate()?;
    let leaf = leaf.signed_by(&leaf_key, &issuer)?;

    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der()));
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
