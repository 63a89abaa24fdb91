//! Our own certification authority: made once, kept beside its key (0600), and loaded again after a restart, so that
//! clients that already trust it go on.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

const CERTIFICATE_FILE: &str = "ca.crt";
const KEY_FILE: &str = "ca.key";
/// The authority lives as long as the data folder it lies in; this only bounds a forgotten copy.
const VALIDITY: time::Duration = time::Duration::days(3650);
/// Clocks differ: certificates hold from a day ago.
pub(super) const BACKDATED: time::Duration = time::Duration::days(1);

/// Signs leaves for intercepted names.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// One of its files cannot be read or written.
    #[error("{path}: cannot be read or written")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Others can read the key.
    #[error("{path}: mode {mode:o} lets others read the key; it must be 600")]
    KeyExposed {
        /// The key's file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The files do not hold a key and its certificate.
    #[error("{path}: not the authority's key and certificate")]
    Malformed {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: rcgen::Error,
    },
}

impl Authority {
    /// Loads the authority that lies in `folder`, or makes one there.
    ///
    /// # Errors
    /// When the files cannot be used; never replaces files that are there.
    pub fn load_or_create(folder: &Path) -> Result<Self, AuthorityError> {
        let key_file = folder.join(KEY_FILE);
        match fs::read_to_string(&key_file) {
            Ok(key) => Self::load(folder, &key_file, &key),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::create(folder),
            Err(source) => Err(AuthorityError::File { path: key_file, source }),
        }
    }

    fn load(folder: &Path, key_file: &Path, key: &str) -> Result<Self, AuthorityError> {
        let file = |path: &Path, source| AuthorityError::File { path: path.into(), source };
        let mode = fs::metadata(key_file).map_err(|e| file(key_file, e))?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(AuthorityError::KeyExposed { path: key_file.into(), mode });
        }
        let certificate_file = folder.join(CERTIFICATE_FILE);
        let pem = fs::read_to_string(&certificate_file).map_err(|e| file(&certificate_file, e))?;
        let key = KeyPair::from_pem(key);
        key.and_then(|key| Self::from_parts(pem, key)).map_err(|source| AuthorityError::Malformed { path: folder.into(), source })
    }

    fn from_parts(pem: String, key: KeyPair) -> Result<Self, rcgen::Error> {
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self { issuer, certificate, pem })
    }

    fn create(folder: &Path) -> Result<Self, AuthorityError> {
        let malformed = |source| AuthorityError::Malformed { path: folder.into(), source };
        let key = KeyPair::generate().map_err(malformed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Kybernis sidecar CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let now = time::OffsetDateTime::now_utc();
        params.not_before = now - BACKDATED;
        params.not_after = now + VALIDITY;
        let certificate = params.self_signed(&key).map_err(malformed)?;
        // The key last: a crash in between leaves no key, and the next start makes both anew.
        write(&folder.join(CERTIFICATE_FILE), &certificate.pem(), 0o644)?;
        write(&folder.join(KEY_FILE), &key.serialize_pem(), 0o600)?;
        Self::from_parts(certificate.pem(), key).map_err(malformed)
    }

    /// The authority's certificate: what clients must trust.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The authority's certificate in DER.
    pub const fn der(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub(super) const fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }
}

/// Writes a file so that it is there whole or not at all.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), AuthorityError> {
    let partial = path.with_extension("partial");
    let written = || -> io::Result<()> {
        let _ = fs::remove_file(&partial);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&partial)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&partial, path)
    };
    written().map_err(|source| AuthorityError::File { path: path.into(), source })
}
