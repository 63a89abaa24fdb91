//! Who calls, and what they may do: one table of endpoint × role, and tokens that the ledger's own key signs.
//!
//! Default deny. On a laptop the supervisor mints tokens with the key that lies in the data folder (0600); who can read
//! that file is the local user, so their word is recorded as theirs and is not a boundary.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use kybernis_core::ids::{AgentId, PersonId, RunId, TenantId};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::vault::{VaultError, key_file};

/// Marks a token of ours, and the form of what follows.
const PREFIX: &str = "kyb1.";

/// Longest token that is looked at.
const TOKEN_MAX: usize = 8 * 1024;

/// What kind of caller a token speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// What reaches the sidecar's local API.
    Agent,
    /// A sidecar.
    Sidecar,
    /// Reads, and decides gates.
    Approver,
    /// Whatever a person may, so far the same as an approver; it never speaks as a sidecar.
    Admin,
    /// Reads.
    Auditor,
}

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// The gRPC service of sidecars.
    Sidecar,
    /// Runs, events, effects and gates.
    Read,
    /// A person's word on a gate or an effect in doubt.
    DecideGate,
}

impl Role {
    /// The table.
    pub const fn may(self, endpoint: Endpoint) -> bool {
        match endpoint {
            Endpoint::Sidecar => matches!(self, Self::Sidecar),
            Endpoint::Read => matches!(self, Self::Approver | Self::Admin | Self::Auditor),
            Endpoint::DecideGate => matches!(self, Self::Approver | Self::Admin),
        }
    }
}

/// The workload that a sidecar stands beside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Who acts.
    pub agent: AgentId,
    /// The workload's own run.
    pub run: RunId,
    /// Whether somebody named it; else it is implicit.
    #[serde(default)]
    pub explicit_run: bool,
    /// What selectors look at.
    pub labels: BTreeMap<String, String>,
    /// One pod, or one `kybernis run`: has one living sidecar at a time.
    pub instance: String,
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// What kind of caller.
    pub role: Role,
    /// The isolation unit.
    pub tenant: TenantId,
    /// Who: the name that goes on record.
    pub subject: PersonId,
    /// For a sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<Workload>,
    /// Unix seconds.
    pub expires: u64,
}

/// Why a token is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// There is none.
    #[error("no token: send `Authorization: Bearer TOKEN`")]
    Missing,
    /// Not signed by this ledger, or not a token.
    #[error("the token is not one of this ledger's")]
    Invalid,
    /// Past its time.
    #[error("the token has expired")]
    Expired,
    /// The role may not.
    #[error("the token's role may not do this")]
    Forbidden,
}

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
        let (body, tag) = token
            .strip_prefix(PREFIX)
            .filter(|_| token.len() <= TOKEN_MAX)
            .and_then(|rest| rest.split_once('.'))
            .ok_or(AuthError::Invalid)?;
        let tag = URL_SAFE_NO_PAD.decode(tag).map_err(|_| AuthError::Invalid)?;
        self.mac(body).ok_or(AuthError::Invalid)?.verify_slice(&tag).map_err(|_| AuthError::Invalid)?;
        let claims = URL_SAFE_NO_PAD.decode(body).map_err(|_| AuthError::Invalid)?;
        let claims: Claims = serde_json::from_slice(&claims).map_err(|_| AuthError::Invalid)?;
        if claims.expires <= now() { Err(AuthError::Expired) } else { Ok(claims) }
    }

    /// The claims of an `Authorization` header whose role may use `endpoint`.
    pub fn admit(&self, authorization: Option<&str>, endpoint: Endpoint) -> Result<Claims, AuthError> {
        let value = authorization.ok_or(AuthError::Missing)?;
        let (scheme, token) = value.split_once(' ').ok_or(AuthError::Missing)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(AuthError::Missing);
        }
        let claims = self.verify(token.trim())?;
        if claims.role.may(endpoint) { Ok(claims) } else { Err(AuthError::Forbidden) }
    }

    fn mac(&self, body: &str) -> Option<Hmac<Sha256>> {
        let mac = Hmac::<Sha256>::new_from_slice(self.0.as_slice()).ok()?;
        Some(mac.chain_update(b"kyb/token/v1/").chain_update(body.as_bytes()))
    }
}

/// Unix seconds, by which tokens run out.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn a_role_may_what_the_table_says_and_nothing_else() {
        let (_folder, key) = key();
        let may = |role: Role, endpoint| key.admit(Some(&format!("Bearer {}", key.mint(&claims(role)))), endpoint).is_ok();
        for role in [Role::Agent, Role::Sidecar, Role::Approver, Role::Admin, Role::Auditor] {
            assert_eq!(may(role, Endpoint::Sidecar), role == Role::Sidecar, "{role:?}");
            assert_eq!(may(role, Endpoint::Read), matches!(role, Role::Approver | Role::Admin | Role::Auditor), "{role:?}");
            assert_eq!(may(role, Endpoint::DecideGate), matches!(role, Role::Approver | Role::Admin), "{role:?}");
        }
        assert_eq!(key.admit(None, Endpoint::Read), Err(AuthError::Missing));
        assert_eq!(key.admit(Some("Basic eDp5"), Endpoint::Read), Err(AuthError::Missing));
    }
}
