//! The PolicySet in force, as it is handed to sidecars.

use bytes::Bytes;
use kybernis_core::ids::PolicyDigest;
use kybernis_core::policy::{CompiledSet, PolicyError, PolicySet};

/// A set that compiles, named by its digest.
#[derive(Clone, Debug)]
pub struct InForce {
    /// Its name.
    pub digest: PolicyDigest,
    /// The set in JSON, as the sidecars read it.
    pub json: Bytes,
}

impl InForce {
    /// Takes a set, unless one of its expressions or patterns does not compile.
    pub fn new(set: &PolicySet) -> Result<Self, Vec<PolicyError>> {
        let compiled = CompiledSet::compile(set.clone())?;
        // A set is strings, numbers and maps with text keys: writing it cannot fail.
        let json = serde_json::to_vec(set).unwrap_or_default();
        Ok(Self { digest: compiled.digest(), json: json.into() })
    }
}
