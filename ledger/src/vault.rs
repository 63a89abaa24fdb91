//! What must be readable later and by nobody else: replay bodies and rendered probes, sealed under keys of their own.
//!
//! Each secret has a fresh data key, wrapped by the master key that lies in a file beside the journal (0600). Associated data
//! bind every piece to its owner and place, so that pieces cannot be swapped. Dropping the blob erases the data.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, KeyInit, Nonce};
use kybernis_core::key::TenantSecret;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::files;
use crate::journal::Blob;

/// One chunk of a body at rest: small enough to stream, large enough to be few.
pub const CHUNK: usize = 256 * 1024;

const KEY_LEN: usize = 32;
const NONCE_LEN: usize = 12;
const TAG_LEN: usize = 16;

/// Why something cannot be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// A key file cannot be read or made.
    #[error("the key file {path}: {reason}")]
    KeyFile {
        /// Which file.
        path: String,
        /// Why.
        reason: String,
    },
    /// A key file is gone from beside a journal that was written under it.
    #[error(
        "the key file {path} is missing, and the journal beside it was written under that key: restore the file from the backup that \
         the journal came from; a new key would open no answer and know no effect again"
    )]
    KeyMissing {
        /// Which file.
        path: String,
    },
    /// The system gave no randomness.
    #[error("the system's random source failed")]
    Random,
    /// Not sealed by this vault, or changed since.
    #[error("a sealed value does not open; it was changed, or the key file was replaced")]
    Broken,
}

/// Seals and opens.
pub struct Vault {
    master: Zeroizing<[u8; KEY_LEN]>,
    tenant: TenantSecret,
    random: SystemRandom,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vault(…)")
    }
}

impl Vault {
    /// Opens the vault of a data folder whose journal holds nothing yet; makes the keys that are not there.
    pub fn open(dir: &Path) -> Result<Self, VaultError> {
        Self::with(dir, key_file)
    }

    /// Opens the vault beside a journal that holds something, which a new key would not fit: one that is missing is an error.
    pub fn reopen(dir: &Path) -> Result<Self, VaultError> {
        Self::with(dir, |path, _| read_key(path)?.ok_or_else(|| VaultError::KeyMissing { path: path.display().to_string() }))
    }

    fn with(dir: &Path, key: impl Fn(&Path, &SystemRandom) -> Result<[u8; KEY_LEN], VaultError>) -> Result<Self, VaultError> {
        let random = SystemRandom::new();
        let master = Zeroizing::new(key(&dir.join("vault.key"), &random)?);
        let tenant = TenantSecret::new(key(&dir.join("tenant.key"), &random)?);
        Ok(Self { master, tenant, random })
    }

    /// The secret under which keys, meanings and principals are derived.
    pub const fn tenant_secret(&self) -> &TenantSecret {
        &self.tenant
    }

    /// Fresh random bytes.
    pub fn random<const N: usize>(&self) -> Result<[u8; N], VaultError> {
        let mut bytes = [0; N];
        self.random.fill(&mut bytes).map_err(|_| VaultError::Random)?;
        Ok(bytes)
    }

    /// Seals a body into blobs: the wrapped data key first, then chunks.
    pub fn seal_body(&self, key: &str, body: &[u8]) -> Result<Vec<Blob>, VaultError> {
        let data_key = Zeroizing::new(self.random::<KEY_LEN>()?);
        let wrapped = self.seal_with(&self.master, data_key.as_slice(), &context(key, 0))?;
        let mut blobs = vec![Blob { key: key.to_owned(), chunk: 0, bytes: wrapped }];
        for (number, piece) in (1..).zip(body.chunks(CHUNK)) {
            let bytes = self.seal_with(&data_key, piece, &context(key, number))?;
            blobs.push(Blob { key: key.to_owned(), chunk: number, bytes });
        }
        Ok(blobs)
    }

    /// Opens what [`Self::seal_body`] sealed.
    pub fn open_body(&self, key: &str, chunks: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, VaultError> {
        let (wrapped, pieces) = chunks.split_first().ok_or(VaultError::Broken)?;
        let data_key: [u8; KEY_LEN] =
            open_with(&self.master, wrapped, &context(key, 0))?.as_slice().try_into().map_err(|_| VaultError::Broken)?;
        let data_key = Zeroizing::new(data_key);
        (1..).zip(pieces).map(|(number, piece)| open_with(&data_key, piece, &context(key, number))).collect()
    }

    /// Seals a short value into text that may stand in an event.
    pub fn seal_text(&self, purpose: &str, value: &[u8]) -> Result<String, VaultError> {
        Ok(STANDARD_NO_PAD.encode(self.seal_with(&self.master, value, &context(purpose, 0))?))
    }

    /// Opens what [`Self::seal_text`] sealed.
    pub fn open_text(&self, purpose: &str, sealed: &str) -> Result<Vec<u8>, VaultError> {
        let bytes = STANDARD_NO_PAD.decode(sealed).map_err(|_| VaultError::Broken)?;
        open_with(&self.master, &bytes, &context(purpose, 0))
    }

    /// Nonce, then ciphertext with its tag. Nonces are random; the master key seals few enough values for 96 bits.
    fn seal_with(&self, key: &[u8; KEY_LEN], value: &[u8], context: &[u8]) -> Result<Vec<u8>, VaultError> {
        let nonce = self.random::<NONCE_LEN>()?;
        let cipher = ChaCha20Poly1305::new(Key::from_slice(key));
        let sealed = cipher.encrypt(Nonce::from_slice(&nonce), Payload { msg: value, aad: context }).map_err(|_| VaultError::Broken)?;
        Ok([nonce.as_slice(), &sealed].concat())
    }
}

fn open_with(key: &[u8; KEY_LEN], sealed: &[u8], context: &[u8]) -> Result<Vec<u8>, VaultError> {
    let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN).filter(|(_, rest)| rest.len() >= TAG_LEN).ok_or(VaultError::Broken)?;
    let cipher = ChaCha20Poly1305::new(Key::from_slice(key));
    cipher.decrypt(Nonce::from_slice(nonce), Payload { msg: sealed, aad: context }).map_err(|_| VaultError::Broken)
}

fn context(key: &str, number: u32) -> Vec<u8> {
    [b"kybernis/vault/v1/", key.as_bytes(), b"/", &number.to_be_bytes()].concat()
}

/// Reads 32 bytes of key; makes them, readable by the owner only, when the file is not there.
pub(crate) fn key_file(path: &Path, random: &SystemRandom) -> Result<[u8; KEY_LEN], VaultError> {
    if let Some(key) = read_key(path)? {
        return Ok(key);
    }
    let mut key = [0; KEY_LEN];
    random.fill(&mut key).map_err(|_| VaultError::Random)?;
    files::write_whole(path, &key, files::PRIVATE).map_err(|error| unusable(path, error.to_string()))?;
    Ok(key)
}

fn unusable(path: &Path, reason: String) -> VaultError {
    VaultError::KeyFile { path: path.display().to_string(), reason }
}

fn read_key(path: &Path) -> Result<Option<[u8; KEY_LEN]>, VaultError> {
    let read = files::read(path).map_err(|error| unusable(path, error.to_string()))?;
    let Some(bytes) = read else { return Ok(None) };
    let key = bytes.as_slice().try_into();
    key.map(Some).map_err(|_| unusable(path, format!("holds {} bytes where {KEY_LEN} belong", bytes.len())))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn opened(vault: &Vault, key: &str, blobs: &[Blob]) -> Result<Vec<u8>, VaultError> {
        let chunks: Vec<Vec<u8>> = blobs.iter().map(|blob| blob.bytes.clone()).collect();
        Ok(vault.open_body(key, &chunks)?.concat())
    }

    #[test]
    fn a_body_comes_back_byte_for_byte_and_is_not_readable_at_rest() {
        let folder = tempfile::tempdir().unwrap();
        let vault = Vault::open(folder.path()).unwrap();
        for len in [0, 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7] {
            let body: Vec<u8> = (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect();
            let blobs = vault.seal_body("eff-1/1", &body).unwrap();
            assert_eq!(opened(&vault, "eff-1/1", &blobs).unwrap(), body);
            assert!(len < 32 || !blobs.iter().any(|blob| blob.bytes.windows(32).any(|piece| body.starts_with(piece))));
        }
    }

    #[test]
    fn a_piece_opens_only_in_its_own_place() {
        let folder = tempfile::tempdir().unwrap();
        let vault = Vault::open(folder.path()).unwrap();
        let mut blobs = vault.seal_body("eff-1/1", &vec![1; 3 * CHUNK]).unwrap();
        assert!(opened(&vault, "eff-2/1", &blobs).is_err());
        blobs.swap(1, 2);
        assert!(opened(&vault, "eff-1/1", &blobs).is_err());
    }

    #[test]
    fn the_keys_are_the_owner_s_alone_and_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let sealed = Vault::open(folder.path()).unwrap().seal_text("probe", b"secret").unwrap();
        let mode = fs::metadata(folder.path().join("vault.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(Vault::open(folder.path()).unwrap().open_text("probe", &sealed).unwrap(), b"secret");
        assert!(Vault::open(folder.path()).unwrap().open_text("other", &sealed).is_err());
    }

    #[test]
    fn a_key_that_is_missing_beside_a_journal_is_named_and_not_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let sealed = Vault::open(folder.path()).unwrap().seal_text("probe", b"secret").unwrap();
        for name in ["vault.key", "tenant.key"] {
            let (path, backup) = (folder.path().join(name), folder.path().join("backup"));
            fs::rename(&path, &backup).unwrap();
            let error = Vault::reopen(folder.path()).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("restore the file from the backup"), "{error}");
            assert!(!path.exists(), "{name} was made anew");
            fs::rename(&backup, &path).unwrap();
        }
        assert_eq!(Vault::reopen(folder.path()).unwrap().open_text("probe", &sealed).unwrap(), b"secret");
    }

    #[test]
    fn a_key_file_of_another_length_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("vault.key"), b"short").unwrap();
        assert!(Vault::open(folder.path()).unwrap_err().to_string().contains("vault.key: holds 5 bytes"));
    }
}
