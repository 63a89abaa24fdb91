//! Tokens that the ledger's own key signs. On a laptop the supervisor mints them with the key that lies in the data folder (0600);
//! who can read that file is the local user, so their word is recorded as theirs and is not a boundary.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{AuthError, Claims, now};
use crate::vault::{VaultError, key_file};

/// Marks a token of ours, and the form of what follows.
const PREFIX: &str = "kyb1.";

/// The key that signs tokens.
pub struct TokenKey(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey(…)")
    }
}

impl TokenKey {
    /// Reads `auth.key` of a data folder; makes it when it is not there.
    pub fn open(dir: &Path) -> Result<Self, VaultError> {
        Ok(Self(Zeroizing::new(key_file(&dir.join("auth.key"), &ring::rand::SystemRandom::new())?)))
    }

    /// Signs claims.
    pub fn mint(&self, claims: &Claims) -> String {
        // Claims are strings and integers: this cannot fail.
        let body = URL_SAFE_NO_PAD.encode(serde_json::to_vec(claims).unwrap_or_default());
        let tag = self.mac(&body).map(|mac| URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())).unwrap_or_default();
        format!("{PREFIX}{body}.{tag}")
    }

    /// The claims of a token that this key signed and whose time is not over.
    pub fn verify(&self, token: &str) -> Result<Claims, AuthError> {
        let (body, tag) = token.strip_prefix(PREFIX).and_then(|rest| rest.split_once('.')).ok_or(AuthError::Invalid)?;
        let tag = URL_SAFE_NO_PAD.decode(tag).map_err(|_| AuthError::Invalid)?;
        self.mac(body).ok_or(AuthError::Invalid)?.verify_slice(&tag).map_err(|_| AuthError::Invalid)?;
        let claims = URL_SAFE_NO_PAD.decode(body).map_err(|_| AuthError::Invalid)?;
        let claims: Claims = serde_json::from_slice(&claims).map_err(|_| AuthError::Invalid)?;
        if claims.expires <= now() { Err(AuthError::Expired) } else { Ok(claims) }
    }

    fn mac(&self, body: &str) -> Option<Hmac<Sha256>> {
        let mac = Hmac::<Sha256>::new_from_slice(self.0.as_slice()).ok()?;
        Some(mac.chain_update(b"kyb/token/v1/").chain_update(body.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use kybernis_core::ids::{PersonId, TenantId};

    use super::super::Role;
    use super::*;

    fn claims(role: Role) -> Claims {
        let (tenant, subject) = (TenantId::new("default").unwrap(), PersonId::new("local:ada").unwrap());
        Claims { role, tenant, subject, workload: None, expires: 4_000_000_000 }
    }

    fn key() -> (tempfile::TempDir, TokenKey) {
        let folder = tempfile::tempdir().unwrap();
        let key = TokenKey::open(folder.path()).unwrap();
        (folder, key)
    }

    #[test]
    fn a_token_is_read_back_by_the_key_that_signed_it_and_by_no_other() {
        let (folder, key) = key();
        let token = key.mint(&claims(Role::Auditor));
        assert_eq!(TokenKey::open(folder.path()).unwrap().verify(&token), Ok(claims(Role::Auditor)));
        let (_other_folder, other) = self::key();
        assert_eq!(other.verify(&token), Err(AuthError::Invalid));
        let forged = token.replacen("kyb1.", "kyb1.A", 1);
        assert_eq!(key.verify(&forged), Err(AuthError::Invalid));
        assert_eq!(key.verify(""), Err(AuthError::Invalid));
        assert_eq!(key.verify(&claims_expired(&key)), Err(AuthError::Expired));
    }

    fn claims_expired(key: &TokenKey) -> String {
        key.mint(&Claims { expires: 1, ..claims(Role::Admin) })
    }
}
