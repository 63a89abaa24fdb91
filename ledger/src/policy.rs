//! The PolicySet in force, as it is handed to sidecars.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kybernis_core::ids::PolicyDigest;
use kybernis_core::policy::{CompiledSet, PolicyError, PolicySet, SecretRef};
use zeroize::Zeroizing;

/// What the set's `secretRef`s name.
pub type Secrets = BTreeMap<SecretRef, Zeroizing<Vec<u8>>>;

/// A set that compiles, named by its digest.
#[derive(Clone)]
pub struct InForce {
    /// Its name.
    pub digest: PolicyDigest,
    /// The set in JSON, as the sidecars read it.
    pub json: Bytes,
    /// What its probes send as their credentials.
    pub secrets: Arc<Secrets>,
}

impl std::fmt::Debug for InForce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InForce").field("digest", &self.digest).field("secrets", &self.secrets.len()).finish_non_exhaustive()
    }
}

impl InForce {
    /// Takes a set, unless one of its expressions or patterns does not compile.
    pub fn new(set: &PolicySet, secrets: Secrets) -> Result<Self, Vec<PolicyError>> {
        let compiled = CompiledSet::compile(set.clone())?;
        // A set is strings, numbers and maps with text keys: writing it cannot fail.
        let json = serde_json::to_vec(set).unwrap_or_default();
        Ok(Self { digest: compiled.digest(), json: json.into(), secrets: Arc::new(secrets) })
    }
}
