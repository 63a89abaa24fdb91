//! What an effect is called: keys, meanings, fingerprints and principals, all digests under the tenant's secret.
//!
//! Every HMAC starts with a domain and the length of each field, so that no two different calls can feed it the same bytes.

mod header;
mod principal;
mod target;

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

pub use header::{IdempotencyKey, KeyError, of_headers};
pub use principal::{is_credential, principal};
pub use target::{Target, TargetError};

use crate::ids::{AgentId, EffectId, Fingerprint, KeyDigest, Meaning, Principal, RequestDigest, ToolName};

/// The secret under which one tenant's keys are derived: 32 random bytes that never leave ledger and sidecar.
#[derive(Clone)]
pub struct TenantSecret([u8; 32]);

impl fmt::Debug for TenantSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TenantSecret(…)")
    }
}

impl TenantSecret {
    /// Wraps 32 random bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the one message that hands them to a sidecar.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn mac(&self, domain: &str, fields: &[&[u8]]) -> [u8; 32] {
        // HMAC takes keys of any length, so this cannot fail; the alternative keeps the function total.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else { return [0; 32] };
        mac.update(domain.as_bytes());
        for field in fields {
            mac.update(&(field.len() as u64).to_be_bytes());
            mac.update(field);
        }
        mac.finalize().into_bytes().into()
    }

    /// The key that a tool's own `effect.key` names. Scope: tenant and tool.
    pub fn tool_key(&self, tool: &ToolName, key: &str) -> KeyDigest {
        KeyDigest::from_bytes(self.mac("kyb/key/tool", &[tool.as_str().as_bytes(), key.as_bytes()]))
    }

    /// The key that the caller named. Scope: tenant, agent, method, origin, path.
    pub fn caller_key(&self, agent: &AgentId, method: &str, target: &Target, key: &IdempotencyKey) -> KeyDigest {
        let fields = [agent.as_str(), method, &target.origin(), target.path(), key.expose()];
        KeyDigest::from_bytes(self.mac("kyb/key/caller", &fields.map(str::as_bytes)))
    }

    /// What a call means: method, URL and canonical body, without the principal.
    pub fn meaning(&self, method: &str, target: &Target, body: Fingerprint) -> Meaning {
        let url = target.url();
        let fields: [&[u8]; 3] = [method.as_bytes(), url.as_bytes(), body.as_bytes()];
        Meaning::from_bytes(self.mac("kyb/meaning", &fields))
    }

    /// On whose behalf: an HMAC of one or more identifying texts.
    pub(crate) fn principal_of(&self, parts: &[&[u8]]) -> Principal {
        Principal::from_bytes(self.mac("kyb/principal", parts))
    }

    /// The principal that a tool's own expression names.
    pub fn named_principal(&self, name: &str) -> Principal {
        self.principal_of(&[b"named", name.as_bytes()])
    }

    /// The key that the far side sees: derived, stable over retries, new only after a refusal. 36 visible characters.
    pub fn far_side_key(&self, effect: &EffectId, generation: u32) -> String {
        let mac = self.mac("kyb/far-side", &[effect.as_str().as_bytes(), &generation.to_be_bytes()]);
        format!("kyb-{}", hex::encode(&mac[..16]))
    }
}

/// Longest [`hint`] in bytes: eight characters of two, and fewer of longer ones.
pub const HINT_MAX: usize = 16;

/// The first characters of a key, for people: at most eight, and at most [`HINT_MAX`] bytes. Keys are secrets, so no more is
/// ever shown.
pub fn hint(key: &str) -> String {
    let eight = key.char_indices().nth(8).map_or(key, |(end, _)| key.get(..end).unwrap_or_default());
    crate::text::beginning(eight, HINT_MAX).to_owned()
}

/// What a gate binds: method, URL, principal and the canonical body less its volatile fields.
pub fn request_digest(method: &str, target: &Target, principal: Principal, body: Fingerprint) -> RequestDigest {
    let url = target.url();
    let mut hash = Sha256::new().chain_update("kyb/request");
    let fields: [&[u8]; 4] = [method.as_bytes(), url.as_bytes(), principal.as_bytes(), body.as_bytes()];
    for field in fields {
        hash.update((field.len() as u64).to_be_bytes());
        hash.update(field);
    }
    RequestDigest::from_bytes(hash.finalize().into())
}

/// A fingerprint in the making, for bodies that stream past.
#[derive(Clone, Default)]
pub struct Fingerprinter(Sha256);

impl fmt::Debug for Fingerprinter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprinter")
    }
}

impl Fingerprinter {
    /// Takes the next bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The fingerprint of everything taken in.
    pub fn finish(self) -> Fingerprint {
        Fingerprint::from_bytes(self.0.finalize().into())
    }
}

/// The fingerprint of a whole canonical body.
pub fn fingerprint(canonical: &[u8]) -> Fingerprint {
    Fingerprint::from_bytes(Sha256::digest(canonical).into())
}

#[cfg(test)]
mod tests;
