//! The ledger's own certificate: a small CA in the data folder and a leaf for loopback, made on first use.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use crate::files;

/// The name that sidecars expect in the certificate.
pub(crate) const SERVER_NAME: &str = "ledger.kybernis";

/// Where the CA's certificate lies in the data folder.
pub(crate) const CA_FILE: &str = "ledger-ca.pem";

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A certificate cannot be made.
    #[error("the ledger's certificate cannot be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// What was made is of no use.
    #[error("the ledger's certificate cannot be read: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// What was made cannot be served by.
    #[error("the ledger's certificate cannot be served by: {0}")]
    Tls(#[from] rustls::Error),
}

/// A leaf for loopback and for `names` with its key, in PEM. Made anew at each start, signed by a CA that lies in `dir`, so that sidecars go on trusting it.
pub(crate) fn leaf(dir: &Path, names: &[String]) -> Result<(String, String), TlsError> {
    let issuer = ca(dir)?;
    let names: Vec<String> = [SERVER_NAME, "localhost"].into_iter().map(str::to_owned).chain(names.iter().cloned()).collect();
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, "Kybernis ledger");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn ca(dir: &Path) -> Result<Issuer<'static, KeyPair>, TlsError> {
    let (key_path, ca_path) = (dir.join("ledger-ca.key"), dir.join(CA_FILE));
    let failed = |path: &Path, source| TlsError::File { path: path.display().to_string(), source };
    let read = |path: &Path| {
        let bytes = files::read(path).map_err(|source| failed(path, source))?;
        Ok::<_, TlsError>(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    };
    let write = |path: &Path, text: String, mode| files::write_whole(path, text.as_bytes(), mode).map_err(|source| failed(path, source));
    if let (Some(key), Some(certificate)) = (read(&key_path)?, read(&ca_path)?) {
        return Ok(Issuer::from_ca_cert_pem(&certificate, KeyPair::from_pem(&key)?)?);
    }
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Kybernis ledger CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    write(&key_path, key.serialize_pem(), files::PRIVATE)?;
    write(&ca_path, certificate.pem(), 0o644)?;
    Ok(Issuer::new(params, key))
}
